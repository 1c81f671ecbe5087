"""`pgvigil explain`: what is wrong with the plan of a statement."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pgvigil.commands.common import options, output
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.target import required_target
from pgvigil.text import counted, page, print_report

if TYPE_CHECKING:
    from pgvigil.diagnostics.plans.explain import Explanation
    from pgvigil.diagnostics.plans.plan_tree import Node

GROUP = Group.LOOK
SUMMARY = "run a statement once, rolled back, and report what is wrong with its plan; exit 1 if something is"

_STYLES = {"^warning(?= )": "yellow", "^note(?= )": "cyan", "^ {10}fix: .*": "cyan", "█+": "cyan"}


def add_arguments(command: argparse.ArgumentParser) -> None:
    options.add_database(command)
    options.add_statement(command)
    options.add_json(command, "print one JSON document with findings and plan instead of the report")


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.diagnostics.plans import explain, rolled_back

    statement = rolled_back.given(arguments.query, arguments.file, sys.stdin)
    done = explain.explain(required_target(arguments), statement, arguments.param)
    if arguments.json:
        print(output.json_text(_document(done)))
    else:
        print_report(text(done, bars=sys.stdout.isatty()), _STYLES)
    return 0 if done.sound else 1


_BAR = 12  # characters for a node that takes all the time


def _document(explanation: Explanation) -> dict[str, Any]:
    """Return the result for machines."""
    return {name: value for name, value in asdict(explanation).items() if name != "within"}


def text(explanation: Explanation, *, bars: bool) -> str:
    """Return the result for people: the findings, then the plan with each node's share of the time, which `bars` draws as well."""
    from pgvigil.diagnostics.plans.plan_tree import tree

    lines = [
        f"{explanation.execution_ms:,.1f} ms, planned in {explanation.planning_ms:,.1f} ms; {counted(explanation.row_count, 'row')}; rolled back"
    ]
    for finding in explanation.findings:
        lines += ["", f"{finding.level:<10}{finding.sentence}"]
        lines += [f"{'':<10}fix: {finding.fix}"] if finding.fix else []
    lines += ["", f"{'time':>5}{' ' * (_BAR + 2) * bars}{'own ms':>12}{'rows':>14}"]
    top = tree(explanation.plan["Plan"])
    _charge_triggers(top, explanation)
    lines += [_line(node, depth, explanation.execution_ms, bars) for node, depth in _with_depth(top)]
    for trigger in explanation.plan.get("Triggers", ()):
        took, calls = trigger["Time"], trigger["Calls"]
        label = f"trigger {trigger['Trigger Name']} on {trigger['Relation']}"
        lines.append(_columns(took, calls, label, explanation.execution_ms, bars))
    return page(lines)


def _charge_triggers(top: Node, explanation: Explanation) -> None:
    """Subtract the time of triggers that fire within a node from the node's own, because they have lines of their own."""
    for trigger in explanation.plan.get("Triggers", ()):
        tables = explanation.within.get((trigger["Relation"], trigger["Trigger Name"]), set())
        left = float(trigger["Time"])
        for node in top.walk():
            if node.kind == "ModifyTable" and node.relation in tables:
                took = min(left, node.own_ms)
                node.triggers_ms += took
                left -= took


def _with_depth(node: Node, depth: int = 0) -> list[tuple[Node, int]]:
    return [(node, depth), *(one for child in node.children for one in _with_depth(child, depth + 1))]


def _line(node: Node, depth: int, whole: float, bars: bool) -> str:
    label = "  " * depth + node.kind
    if name := node.fields.get("Subplan Name"):
        label = "  " * depth + f"{name}: {node.kind}"
    if node.relation:
        label += f" on {'.'.join(filter(None, node.relation))}"
    if index := node.fields.get("Index Name"):
        label += f" using {index}"
    pages = node.own_blocks("Shared Hit Blocks", "Shared Read Blocks")
    label += f", {counted(pages, 'page')}" if pages else ""
    label += f", {node.loops:,.0f} times" if node.loops > node.processes else "" if node.loops else ", never run"
    return _columns(node.own_ms, node.rows, label, whole, bars)


def _columns(took: float, count: float, label: str, whole: float, bars: bool) -> str:
    share = min(took / whole, 1) if whole else 0
    bar = f"  {'█' * round(_BAR * share):<{_BAR}}" if bars else ""
    return f"{share:>5.0%}{bar}{took:>12,.1f}{count:>14,}  {label}"
