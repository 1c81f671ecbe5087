"""The live catalog held against the declared spec."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgvigil.validate.catalog.snapshot import read_early
    from pgvigil.validate.diff.reference import Reference, keep_reference
    from pgvigil.validate.owners import require_owner_or_consent
    from pgvigil.validate.repair.fix_script import fix_sql
    from pgvigil.validate.report.formats import FORMATS, render
    from pgvigil.validate.report.model import Finding, Report, Unchecked
    from pgvigil.validate.report.source_lines import with_source_line
    from pgvigil.validate.run import check_application_definitions, check_application_tables, event_triggers, validate
    from pgvigil.validate.selftest import self_test
    from pgvigil.validate.spec.cache import load_declaration
    from pgvigil.validate.spec.declaration import Declaration
    from pgvigil.validate.spec.document import Spec
    from pgvigil.validate.spec.dump import dump_spec
    from pgvigil.validate.spec.loader import load_spec

# Imported when asked for: what a verdict does not need, it does not wait for.
_WHERE = {
    "FORMATS": "report.formats",
    "Declaration": "spec.declaration",
    "Finding": "report.model",
    "Reference": "diff.reference",
    "Report": "report.model",
    "Spec": "spec.document",
    "Unchecked": "report.model",
    "check_application_definitions": "run",
    "check_application_tables": "run",
    "dump_spec": "spec.dump",
    "event_triggers": "run",
    "fix_sql": "repair.fix_script",
    "keep_reference": "diff.reference",
    "load_declaration": "spec.cache",
    "load_spec": "spec.loader",
    "with_source_line": "report.source_lines",
    "read_early": "catalog.snapshot",
    "require_owner_or_consent": "owners",
    "render": "report.formats",
    "self_test": "selftest",
    "validate": "run",
}
__all__ = [
    "FORMATS",
    "Declaration",
    "Finding",
    "Reference",
    "Report",
    "Spec",
    "Unchecked",
    "check_application_definitions",
    "check_application_tables",
    "dump_spec",
    "event_triggers",
    "fix_sql",
    "keep_reference",
    "load_declaration",
    "load_spec",
    "read_early",
    "render",
    "require_owner_or_consent",
    "self_test",
    "validate",
    "with_source_line",
]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
