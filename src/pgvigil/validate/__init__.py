"""The live catalog held against the declared spec."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgvigil.validate.behaviour import self_test
    from pgvigil.validate.catalog import read_early
    from pgvigil.validate.dump import dump_spec
    from pgvigil.validate.expected import Declaration, load_declaration
    from pgvigil.validate.fix_script import fix_sql
    from pgvigil.validate.formats import FORMATS, render
    from pgvigil.validate.load import load_spec
    from pgvigil.validate.owners import require_owner_or_consent
    from pgvigil.validate.places import located
    from pgvigil.validate.reference import Reference, keep_reference
    from pgvigil.validate.report import Finding, Report, Unchecked
    from pgvigil.validate.spec import Spec
    from pgvigil.validate.verdict import check_application_tables, event_triggers, validate

# Imported when asked for: what a verdict does not need, it does not wait for.
_WHERE = {
    "FORMATS": "formats",
    "Declaration": "expected",
    "Finding": "report",
    "Reference": "reference",
    "Report": "report",
    "Spec": "spec",
    "Unchecked": "report",
    "check_application_tables": "verdict",
    "dump_spec": "dump",
    "event_triggers": "verdict",
    "fix_sql": "fix_script",
    "keep_reference": "reference",
    "load_declaration": "expected",
    "load_spec": "load",
    "located": "places",
    "read_early": "catalog",
    "require_owner_or_consent": "owners",
    "render": "formats",
    "self_test": "behaviour",
    "validate": "verdict",
}
__all__ = [
    "FORMATS",
    "Declaration",
    "Finding",
    "Reference",
    "Report",
    "Spec",
    "Unchecked",
    "check_application_tables",
    "dump_spec",
    "event_triggers",
    "fix_sql",
    "keep_reference",
    "load_declaration",
    "load_spec",
    "located",
    "read_early",
    "render",
    "require_owner_or_consent",
    "self_test",
    "validate",
]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
