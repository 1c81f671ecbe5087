"""The live catalog held against the declared spec."""

from pgvigil.validate.behaviour import self_test
from pgvigil.validate.compare import check_application_tables, validate
from pgvigil.validate.report import Finding, Report, render
from pgvigil.validate.spec import Spec, load_spec

__all__ = [
    "Finding",
    "Report",
    "Spec",
    "check_application_tables",
    "load_spec",
    "render",
    "self_test",
    "validate",
]
