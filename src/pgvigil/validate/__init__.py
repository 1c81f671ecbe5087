"""Compare the live catalog with the declared spec.

The names are imported when they are asked for, so that a verdict waits for nothing that it does not need. `_WHERE` has
their modules.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgvigil.validate.catalog.snapshot import read_early as read_early
    from pgvigil.validate.diff.reference import Reference as Reference
    from pgvigil.validate.diff.reference import keep_reference as keep_reference
    from pgvigil.validate.diff.reference import reference_of_empty as reference_of_empty
    from pgvigil.validate.owners import require_owner_or_consent as require_owner_or_consent
    from pgvigil.validate.repair.fix_script import fix_sql as fix_sql
    from pgvigil.validate.report.formats import FORMATS as FORMATS
    from pgvigil.validate.report.formats import render as render
    from pgvigil.validate.report.model import Finding as Finding
    from pgvigil.validate.report.model import Report as Report
    from pgvigil.validate.report.model import Unchecked as Unchecked
    from pgvigil.validate.report.source_lines import with_source_line as with_source_line
    from pgvigil.validate.run import check_application_definitions as check_application_definitions
    from pgvigil.validate.run import check_application_tables as check_application_tables
    from pgvigil.validate.run import event_triggers as event_triggers
    from pgvigil.validate.run import validate as validate
    from pgvigil.validate.selftest import self_test as self_test
    from pgvigil.validate.spec.cache import load_declaration as load_declaration
    from pgvigil.validate.spec.declaration import Declaration as Declaration
    from pgvigil.validate.spec.document import Spec as Spec
    from pgvigil.validate.spec.dump import dump_spec as dump_spec
    from pgvigil.validate.spec.loader import load_spec as load_spec

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
    "reference_of_empty": "diff.reference",
    "render": "report.formats",
    "self_test": "selftest",
    "validate": "run",
}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
