"""Parse a plan of EXPLAIN (ANALYZE, BUFFERS, VERBOSE, FORMAT JSON) into a tree whose nodes have their own shares.

EXPLAIN includes the times and pages of all nodes below in a node, prints times and rows as averages of its loops, and
places a subplan under the node that declares it, although another node runs it and includes its cost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

from pgvigil.diagnostics.plans.plan_catalog import Named, conjuncts


class Node:
    """A node of a plan that was run."""

    def __init__(self, fields: dict[str, Any], parent: Node | None = None) -> None:
        self.fields = fields
        self.parent = parent
        self.children = [Node(child, self) for child in fields.get("Plans", ())]
        self.paid: list[Node] = []  # the subplans included in its times and pages; set by `tree`
        self.triggers_ms = 0.0  # time of triggers that fire within it, which EXPLAIN lists separately too

    @property
    def kind(self) -> str:
        """Return the node type, such as `Seq Scan`."""
        return str(self.fields["Node Type"])

    @property
    def loops(self) -> float:
        """Return how often the node was started, by all processes together; 0: never."""
        return float(self.fields.get("Actual Loops", 0))

    @property
    def rows(self) -> int:
        """Return the rows it produced, in all loops together."""
        return self.total("Actual Rows")

    @property
    def relation(self) -> tuple[str, str] | None:
        """Return schema and name of the table it reads."""
        name = self.fields.get("Relation Name")
        return (self.fields.get("Schema", ""), name) if name else None

    def total(self, field: str) -> int:
        """Return the total of a field that is an average of the loops."""
        return round(float(self.fields.get(field, 0)) * self.loops)

    def up(self) -> Iterator[Node]:
        """Yield the nodes above it, the nearest first."""
        if self.parent:
            yield self.parent
            yield from self.parent.up()

    def walk(self) -> Iterator[Node]:
        """Yield the node and all nodes below it, in printed order."""
        yield self
        for child in self.children:
            yield from child.walk()

    @cached_property
    def processes(self) -> float:
        """Return how many processes ran it at a time: a Gather's workers run the nodes below it, and usually the leader does too."""
        if not self.parent:
            return 1
        if self.parent.kind in ("Gather", "Gather Merge") and self.parent.loops and not self.is_subplan:
            return max(self.loops / self.parent.loops, 1)
        return self.parent.processes

    @property
    def is_subplan(self) -> bool:
        """Return true for a subplan that runs once, when its value is first needed."""
        return self.fields.get("Parent Relationship") == "InitPlan"

    @property
    def ms(self) -> float:
        """Return the elapsed time, including all nodes below."""
        return float(self.fields.get("Actual Total Time", 0)) * self.loops / self.processes

    @property
    def own_ms(self) -> float:
        """Return the elapsed time without the nodes below, and without the triggers that fire within it."""
        return max(self.ms - sum(part.ms for part in self._parts) - self.triggers_ms, 0)

    def own_blocks(self, *fields: str) -> int:
        """Return the pages by those fields, without the nodes below."""
        whole, parts = ([n.fields.get(f, 0) for n in nodes for f in fields] for nodes in ([self], self._parts))
        return max(int(sum(whole) - sum(parts)), 0)

    @property
    def _parts(self) -> list[Node]:
        return [child for child in self.children if not child.is_subplan] + self.paid

    def _asks(self, subplan: Node) -> bool:
        name = str(subplan.fields.get("Subplan Name", ""))
        if name.startswith("CTE "):
            return bool(self.loops) and self.fields.get("CTE Name") == name.removeprefix("CTE ")
        # Up to 16 it is InitPlan 1 (returns $0), and $0 in an expression; from 17 on InitPlan 1, and (InitPlan 1).col1.
        signs = [rf"{re.escape(sign)}\b" for sign in re.findall(r"\$\d+", name)] or [rf"\({re.escape(name)}\)"]
        values = " ".join(str(value) for key, value in self.fields.items() if key not in ("Plans", "Subplan Name"))
        return bool(self.loops) and re.search("|".join(signs), values) is not None


def tree(plan: dict[str, Any]) -> Node:
    """Return the plan's top node."""
    top = Node(plan)
    for subplan in top.walk():
        if subplan.is_subplan and subplan.parent:
            within = set(map(id, subplan.walk()))
            payers = [
                node
                for node in top.walk()
                if id(node) not in within and node.ms + 0.01 >= subplan.ms and node._asks(subplan)
            ]
            (payers[0] if payers else subplan.parent).paid.append(subplan)
    return top


def index_scans(tops: Iterable[Node]) -> dict[Named, dict[str, bool]]:
    """Return for each table the indexes that the plans use, and true for those searched by a condition on that table alone."""
    used: dict[Named, dict[str, bool]] = {}
    for top in tops:
        aliases = {str(node.fields["Alias"]) for node in top.walk() if "Alias" in node.fields}
        for node in top.walk():
            scan = node if node.relation else next((above for above in node.up() if above.relation), None)
            if scan and scan.relation and (index := node.fields.get("Index Name")):
                others = [re.escape(alias) for alias in aliases - {scan.fields.get("Alias")}]
                joins = re.compile(rf'(?<![\w$.])(?:"?(?:{"|".join(others)})"?)\.' if others else r"(?!)")
                condition = str(node.fields.get("Index Cond", ""))
                alone = bool(condition) and any(not joins.search(part) for part in conjuncts(condition))
                scans = used.setdefault(scan.relation, {})
                scans[index] = scans.get(index, False) or alone
    return used
