"""Run EXPLAIN ANALYZE for a statement, roll it back, and derive findings from the plan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg.rows import args_row

from pgvigil.database import Target
from pgvigil.diagnostics.plans import plan_catalog, rolled_back
from pgvigil.diagnostics.plans.plan_advice import Finding, Plan, findings
from pgvigil.diagnostics.plans.plan_catalog import Named
from pgvigil.diagnostics.plans.plan_tree import Node, index_scans, tree
from pgvigil.errors import UsageError

# VERBOSE, because only then EXPLAIN prints schemas, and the table of each column.
_EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS, VERBOSE, FORMAT JSON) "
# The same statement planned so that any usable index is cheaper than reading the whole table. It is not run.
_WITHOUT_SEQUENTIAL_SCANS = "EXPLAIN (VERBOSE, FORMAT JSON) "
_SETTINGS = """
SELECT pg_size_bytes(current_setting('work_mem')), current_setting('hash_mem_multiplier')::float, current_setting('block_size')::integer,
       current_setting('server_version_num')::integer
"""


@dataclass(frozen=True)
class Explanation:
    """A result of explain. `row_count` is that of the plan's top node; `plan` is what EXPLAIN printed. Times are milliseconds.

    `within`: the triggers (table, trigger) whose time is included in that of the node that writes one of these tables.
    """

    execution_ms: float
    planning_ms: float
    row_count: int
    findings: tuple[Finding, ...]
    plan: dict[str, Any]
    within: dict[Named, set[Named]] = field(default_factory=dict, repr=False)

    @property
    def sound(self) -> bool:
        """Return true if no finding is a warning."""
        return all(finding.level != "warning" for finding in self.findings)


def explain(target: Target, statement: str, parameters: Sequence[str]) -> Explanation:
    """Run the statement once.

    Raise ConnectError, and the errors of `rolled_back.attempt`, also for a statement without a plan, such as CALL.
    """
    if rolled_back.first_word(statement) == "explain":
        raise UsageError(
            "the statement is an EXPLAIN, and this command runs EXPLAIN itself",
            "Pass the statement without EXPLAIN and its options.",
        )
    with rolled_back.connect(target, "explain") as conn:
        result, _ = rolled_back.attempt(conn, statement, parameters, _EXPLAIN)
        explained = next((one for one in json.loads(result.get_value(0, 0) or b"[]") if "Plan" in one), None)
        if explained is None:
            raise UsageError(
                "the server has no plan for this statement",
                "Explain its query instead; profile measures how long the statement takes.",
            )
        plan = _surroundings(conn, tree(explained["Plan"]))
        triggers = [(one["Relation"], one["Trigger Name"]) for one in explained.get("Triggers", ())]
        within = plan_catalog.triggers_within(conn, triggers) if triggers else {}
        if any(node.kind == "Seq Scan" and node.fields.get("Filter") for node in plan.nodes):
            conn.execute("SET enable_seqscan = off")
            result, _ = rolled_back.attempt(conn, statement, parameters, _WITHOUT_SEQUENTIAL_SCANS)
            others = json.loads(result.get_value(0, 0) or b"[]")
            plan = replace(plan, taken=index_scans([Node(one["Plan"]) for one in others if "Plan" in one]))
    return Explanation(
        execution_ms=explained["Execution Time"],
        planning_ms=explained["Planning Time"],
        row_count=plan.top.rows,
        findings=tuple(findings(plan)),
        plan=explained,
        within=within,
    )


def _surroundings(conn: psycopg.Connection, top: Node) -> Plan:
    scans = [node for node in top.walk() if node.relation]
    tables = plan_catalog.look_up(conn, [node.relation for node in scans if node.relation])
    schemas = {schema for schema, _ in tables}
    indexes = {node.fields["Index Name"] for node in top.walk() if "Index Name" in node.fields}
    roots = plan_catalog.index_roots(conn, [(schema, index) for schema in schemas for index in indexes])
    with conn.cursor(row_factory=args_row(lambda *settings: Plan(top, tables, roots, *settings))) as cursor:
        return cursor.execute(_SETTINGS).fetchall()[0]
