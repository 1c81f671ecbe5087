"""Derive findings from a plan, as sentences: each function here finds one kind.

More than 400 lines: one function for each kind of finding, all over the same nodes of one plan.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from pgvigil.diagnostics.plans.plan_catalog import Named, Table, compared, has_alternatives
from pgvigil.diagnostics.plans.plan_tree import Node
from pgvigil.text import counted

_LARGE: Final = 8 << 20  # bytes that a scan may read without a finding
_MANY_ROWS: Final = 10_000  # removed by a filter
_MANY_LOOPS: Final = 10_000
_FACTOR: Final = 10  # between expected and actual rows
_FEW: Final = 100  # rows: an estimate with an error below this does no harm
_HEAP_FETCHES: Final = 1_000
_SMALL_ERROR: Final = 3  # product of the errors in a node's input: below this the input is not the cause
_ROWS_OF_A_FUNCTION: Final = 1_000  # the planner's default
_CONDITIONS: Final = ("Filter", "Index Cond", "Recheck Cond")


@dataclass(frozen=True)
class Finding:
    """A finding. `finding` is one of the names in docs/profiling.md, `level` warning or note, `node` the part of the plan it is about."""

    finding: str
    level: str
    node: str
    sentence: str
    fix: str | None = None


@dataclass(frozen=True)
class Plan:
    """A plan that was run, and catalog facts about it. `tables` and `index_roots` lack tables that the statement created itself.

    `taken`: for each table the indexes that the planner uses when it avoids sequential scans, and true for those searched by a
    condition on that table alone.
    """

    top: Node
    tables: dict[Named, Table]
    index_roots: dict[Named, str]
    work_mem: int  # bytes
    hash_mem_multiplier: float
    block_size: int
    server_version: int
    taken: dict[Named, dict[str, bool]] = field(default_factory=dict)
    nodes: list[Node] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", [node for node in self.top.walk() if node.loops])

    def table(self, node: Node) -> Table | None:
        """Return the table that the node reads, if the catalog has it."""
        return self.tables.get(node.relation) if node.relation else None

    def name(self, node: Node) -> str:
        """Return the name of the node's table, for a partition its partitioned table; else the name in the plan."""
        table = self.table(node)
        named = (table.root if table else ".".join(filter(None, node.relation))) if node.relation else None
        return named or str(node.fields.get("Alias") or node.kind)

    def label(self, node: Node) -> str:
        """Return a label such as `Seq Scan on public.sessions`."""
        return f"{node.kind} on {self.name(node)}" if node.relation else node.kind


def findings(plan: Plan) -> list[Finding]:
    """Return the findings, warnings first, each kind in the order in which the plan is printed."""
    found = [
        *_sequential_scans(plan),
        *_sorts(plan),
        *_hashes(plan),
        *_temporary_files(plan),
        *_estimates(plan),
        *_filters(plan),
        *_loops(plan),
        *_heap_fetches(plan),
        *_indexes(plan),
    ]
    return sorted(found, key=lambda one: one.level != "warning")


# --- what is read ----------------------------------------------------------------------------------------------------


def _sequential_scans(plan: Plan) -> Iterator[Finding]:
    """Find sequential scans, partitions counted together. A scan that returns most rows is fine: an index would not help it."""
    scans: dict[str, list[Node]] = defaultdict(list)
    for node in plan.nodes:
        if node.kind == "Seq Scan":
            scans[plan.name(node)].append(node)
    for name, nodes in scans.items():
        kept = sum(node.rows for node in nodes)
        thrown = sum(node.total("Rows Removed by Filter") for node in nodes)
        blocks = ("Shared Hit Blocks", "Shared Read Blocks", "Local Hit Blocks", "Local Read Blocks")
        read = sum(node.own_blocks(*blocks) for node in nodes) * plan.block_size
        if read >= _LARGE and thrown >= 9 * max(kept, 1):
            reason, fix = _why_sequential(plan, name, max(nodes, key=lambda node: node.total("Rows Removed by Filter")))
            rows = f"{kept:,} of {kept + thrown:,} rows" if kept else f"none of {counted(thrown, 'row')}"
            sentence = f"sequential scan of {name} reads {size(read)} for {rows}: {reason}"
            yield Finding("sequential_scan", "warning", f"Seq Scan on {name}", sentence, fix)


def _why_sequential(plan: Plan, name: str, node: Node) -> tuple[str, str | None]:
    table, condition = plan.table(node), str(node.fields.get("Filter", ""))
    if not table:
        return f"its condition is {condition}", None
    alias = str(node.fields.get("Alias", ""))
    equal, bounded = compared(condition, alias, table)
    columns = equal + bounded
    taken = plan.taken.get((table.schema, table.name), {})
    serving = [one for one in table.indexes if taken.get(one.name) or (one.name in taken and one.predicate)]
    if serving:
        stale = max(node.fields["Plan Rows"], 1) > _FACTOR * max(node.fields["Actual Rows"], 1)
        return (
            f"the planner did not use {', '.join(f'{one.quoted} {one.definition}' for one in serving)}",
            f"ANALYZE {name};"
            if stale
            else "The planner expects the index to cost more: if the table is in memory, lower random_page_cost.",
        )
    if not columns and has_alternatives(condition):
        return f"each alternative needs its own index in {condition}", None
    if not columns:
        return (
            f"no bare column is equal to, below or above a value in {condition}",
            "Compare the bare column; or create an index on the expression, or for the operator.",
        )
    useless = [one for one in table.indexes if one.first_key in columns]
    if whole := [one for one in useless if not one.predicate and one.definition.startswith("btree")]:
        return (
            f"{', '.join(f'{one.quoted} {one.definition}' for one in whole)} cannot serve {condition}",
            "Compare with a value of the column's own type and collation, or create an index with those of the comparison.",
        )
    but = "".join(f"; {one.quoted} cannot serve this condition: {one.definition}" for one in useless)
    wanted = ", ".join(equal + bounded[:1])  # an index column after a bounded one does not narrow the search
    concurrently = "" if table.is_partition else "CONCURRENTLY "  # a partitioned table does not support it
    return f"no index on {' or '.join(columns)}{but}", f"CREATE INDEX {concurrently}ON {name} ({wanted});"


def _filters(plan: Plan) -> Iterator[Finding]:
    for node in plan.nodes:
        thrown = node.total("Rows Removed by Filter")
        if node.kind != "Seq Scan" and node.relation and thrown >= max(_MANY_ROWS, 9 * node.rows):
            condition, table = str(node.fields.get("Filter", "")), plan.table(node)
            alias = str(node.fields.get("Alias", ""))
            equal, bounded = compared(condition, alias, table) if table else ([], [])
            columns = " and ".join(equal + bounded)
            fix = f"An index that includes {columns} would not read them." if columns else None
            sentence = (
                f"{plan.label(node)} discards {thrown:,} of the {thrown + node.rows:,} rows it reads, by {condition}"
            )
            yield Finding("rows_removed", "warning", plan.label(node), sentence, fix)
        thrown = node.total("Rows Removed by Join Filter")
        if thrown >= max(_MANY_ROWS, 9 * node.rows):
            sentence = f"{node.kind} compares {thrown + node.rows:,} pairs of rows for {node.rows:,}, by {node.fields.get('Join Filter')}"
            fix = "If both sides are compared for equality, they can be hashed, or looked up in an index."
            yield Finding("rows_removed", "warning", node.kind, sentence, fix)


def _heap_fetches(plan: Plan) -> Iterator[Finding]:
    scans: dict[str, list[Node]] = defaultdict(list)
    for node in plan.nodes:
        if node.kind == "Index Only Scan":
            scans[plan.name(node)].append(node)
    for name, nodes in scans.items():
        fetches = round(sum(node.fields.get("Heap Fetches", 0) for node in nodes))
        read = sum(node.rows + node.total("Rows Removed by Filter") for node in nodes)
        if fetches < max(_HEAP_FETCHES, read / 10):
            continue
        tables = [plan.tables[one] for one in {node.relation for node in nodes} if one in plan.tables]
        pages, visible = sum(table.pages for table in tables), sum(table.visible_pages for table in tables)
        known = f"knows {visible * 100 // pages} % of its pages" if pages else "is empty"
        sentence = f"index-only scan of {name} looks up {counted(fetches, 'row')} in the table nevertheless: the visibility map {known}"
        yield Finding("heap_fetches", "warning", f"Index Only Scan on {name}", sentence, f"VACUUM {name};")


def _indexes(plan: Plan) -> Iterator[Finding]:
    used: dict[tuple[str, str], list[Node]] = defaultdict(list)
    for node in plan.nodes:
        if index := node.fields.get("Index Name"):
            scan = node if node.relation else next((above for above in node.up() if above.relation), node)
            schema = scan.relation[0] if scan.relation else ""
            scans = used[plan.name(scan), plan.index_roots.get((schema, index), index)]
            if scan not in scans:  # a bitmap may use the same index twice
                scans.append(scan)
    for (name, index), scans in used.items():
        kind = scans[0].kind
        sentence = f"{kind} on {name} uses {index}, for {counted(sum(scan.rows for scan in scans), 'row')}"
        if kind == "Index Only Scan" and not any(scan.fields.get("Heap Fetches") for scan in scans):
            sentence += " and without the table"
        yield Finding("index_used", "note", f"{kind} on {name}", sentence)


# --- what does not fit into memory -----------------------------------------------------------------------------------


def _sorts(plan: Plan) -> Iterator[Finding]:
    for node in plan.nodes:
        written, length, rows = _sort_space(node)
        if written:
            enough = _megabytes(_in_memory(length, rows, plan.server_version < 150000))
            sentence = (
                f"{node.kind} of {counted(node.children[0].rows, 'row')} writes {size(written)} to disk:"
                f" work_mem is {size(plan.work_mem)}, {enough} is enough"
            )
            yield Finding("sort_on_disk", "warning", node.kind, sentence, f"SET work_mem = '{enough}';")


def _sort_space(node: Node) -> tuple[int, float, float]:
    """Return the bytes on disk, the bytes of a row there, and how many rows one process may have to sort at most in one go."""
    parts = (node.fields, *node.fields.get("Workers", []))
    if node.kind == "Incremental Sort":
        groups = [part.get(f"{name} Groups", {}) for part in parts for name in ("Full-sort", "Pre-sorted")]
        peaks = [
            int(group["Sort Space Disk"]["Peak Sort Space Used"]) << 10
            for group in groups
            if "Sort Space Disk" in group
        ]
        length = node.fields.get("Plan Width", 0) + 12.0
        return sum(peaks), length, max(peaks, default=0) / length
    spaces = [
        (int(part["Sort Space Used"]) << 10, part["Sort Space Type"]) for part in parts if "Sort Space Used" in part
    ]
    # The distribution of rows among processes changes from run to run. For a repeated sort, EXPLAIN reports the last one.
    rows = node.children[0].rows * node.processes / node.loops if spaces else 0
    return sum(used for used, place in spaces if place == "Disk"), sum(used for used, _ in spaces) / max(rows, 1), rows


def _in_memory(length: float, rows: float, rounds_up: bool) -> float:
    """Return the memory for rows of such a length on disk: 24 bytes each in an array, and a chunk with a header, which may be a power of 2.

    Measured on 14 and 18 with rows of 4 to 1,500 bytes: never less than the sort needed.
    """
    length = max(length, 1)
    piece = 2.0 ** math.ceil(math.log2(length + 10)) if rounds_up else length + 16
    return 1.1 * rows * (24 + 16 + piece)


def _hashes(plan: Plan) -> Iterator[Finding]:
    for node in plan.nodes:
        if node.kind == "Hash" and node.fields.get("Hash Batches", 1) > 1:
            batches, peak = node.fields["Hash Batches"], int(node.fields.get("Peak Memory Usage", 0)) << 10
            enough = _megabytes(batches * peak * 1.1 / plan.hash_mem_multiplier)
            sentence = (
                f"Hash of {counted(node.rows, 'row')} is split into {batches} batches on disk:"
                f" work_mem is {size(plan.work_mem)}, {enough} is enough"
            )
            yield Finding("hash_on_disk", "warning", "Hash", sentence, f"SET work_mem = '{enough}';")
        elif spilled := _spilled(node):
            sentence = f"{node.kind} by hash writes {size(spilled)} to disk: its groups do not fit into work_mem, {size(plan.work_mem)}"
            yield Finding("hash_on_disk", "warning", node.kind, sentence, "Double work_mem with SET until it does not.")


def _spilled(node: Node) -> int:
    """Return the bytes that a grouping by hash had on disk."""
    return sum(int(part.get("Disk Usage", 0)) << 10 for part in (node.fields, *node.fields.get("Workers", [])))


def _temporary_files(plan: Plan) -> Iterator[Finding]:
    """Find temporary files of nodes that neither sort nor hash."""
    for node in plan.nodes:
        rows = node.rows + node.total("Rows Removed by Filter")
        written = node.own_blocks("Temp Written Blocks") * plan.block_size
        reported = node.kind in ("Sort", "Incremental Sort", "Hash", "Hash Join") or _spilled(node)
        if written and not reported:
            sentence = f"{node.kind} writes {size(written)} to temporary files: it does not fit into work_mem, {size(plan.work_mem)}"
            fix = f"SET work_mem = '{_megabytes(_in_memory(written / max(rows, 1), rows, True))}';"
            yield Finding("temp_files", "warning", node.kind, sentence, fix)


# --- expected and actual rows ----------------------------------------------------------------------------------------


@dataclass
class _Misjudged:
    """A node with a wrong estimate, although its input was estimated well: the error begins here.

    `top` is the node above it that inherits most of the error, or itself. `reported`: the error does harm, and can be fixed.
    """

    node: Node
    factor: float
    top: Node
    reported: bool

    @property
    def weight(self) -> float:
        expected, came = _expected_and_came(self.top)
        return max(expected, came) * self.top.loops


def _estimates(plan: Plan) -> Iterator[Finding]:
    """Find wrong estimates. Only the deepest nodes are reported: those above inherit the error. Of partitions, the worst one is."""
    worst: dict[tuple[str, str], tuple[float, Finding]] = {}
    for one in _misjudged(plan, plan.top):
        if not one.reported or one.weight < _FEW:
            continue
        node, key = one.node, (one.node.kind, plan.name(one.node))
        sentence = f"{plan.label(node)}: {_in_rows(node)}"
        if one.top is not node:
            sentence += f"; and of {plan.label(one.top)} above it {_in_rows(one.top)}"
        if key not in worst or worst[key][0] < one.factor:
            fix = _statistics(plan, node)
            worst[key] = one.factor, Finding("estimate_off", "warning", plan.label(node), sentence, fix)
    yield from (finding for _, finding in worst.values())


def _in_rows(node: Node) -> str:
    each = " each time" if node.loops > node.processes else ""
    return f"{counted(node.fields['Plan Rows'], 'row')} expected, {node.fields['Actual Rows']:,.0f} actual{each}"


def _expected_and_came(node: Node) -> tuple[float, float]:
    expected, came = (max(float(node.fields.get(name, 0)), 1) for name in ("Plan Rows", "Actual Rows"))
    return expected, came


def _statistics(plan: Plan, node: Node) -> str:
    """Return the advice that improves the planner's estimate of this node."""
    if node.relation:
        table, condition = plan.table(node), " ".join(str(node.fields.get(key, "")) for key in _CONDITIONS)
        fix = f"ANALYZE {plan.name(node)};"
        columns = (
            [one for one in table.columns if re.search(rf"\.{re.escape(one)}(?![\w$])", condition)] if table else []
        )
        if len(columns) > 1:
            fix += " and if columns of its condition depend on each other, CREATE STATISTICS."
        elif condition.strip():
            fix += " and if that does not help, a larger ALTER TABLE … ALTER COLUMN … SET STATISTICS, or CREATE STATISTICS on the expression."
        return fix
    if node.kind in ("Function Scan", "ProjectSet"):
        return "The planner uses the number that the function declares: ALTER FUNCTION … ROWS."
    unknown = sorted({plan.name(scan) for scan in node.walk() if (table := plan.table(scan)) and not table.analyzed})
    if unknown:
        return "The planner has no statistics on the tables it reads: " + " ".join(
            f"ANALYZE {name};" for name in unknown
        )
    errors = 1.0
    for child in node.children:
        expected, came = _expected_and_came(child)
        errors *= max(expected / came, came / expected)
    if errors > _SMALL_ERROR:
        scans = sorted({plan.name(scan) for scan in node.walk() if scan.relation and scan.loops})
        return "Small errors in its inputs multiply: " + " ".join(f"ANALYZE {name};" for name in scans)
    if node.fields.get("Group Key"):
        return "Its input was estimated well, its groups were not: if their columns depend on each other, CREATE STATISTICS (ndistinct)."
    return "Its input was estimated well: the planner lacks statistics on its own condition."


def _misjudged(plan: Plan, node: Node) -> list[_Misjudged]:
    below: list[_Misjudged] = []
    apart: list[_Misjudged] = []  # the rows of a subquery say nothing about the rows above it
    for child in node.children:
        side = child.fields.get("Parent Relationship")
        (apart if side in ("InitPlan", "SubPlan") else below).extend(_misjudged(plan, child))
    expected, came = _expected_and_came(node)
    factor = max(expected / came, came / expected)
    counted = node.loops and node.kind not in ("ModifyTable", "BitmapAnd", "BitmapOr", "Bitmap Index Scan")
    if not counted or factor <= _FACTOR:
        return below + apart
    if below:
        for one in below:
            if max(expected, came) * node.loops > one.weight:
                one.top = node
        return below + apart
    fewer = came < expected
    if _excused(node, fewer):
        return apart
    return [_Misjudged(node, factor, node, not (fewer and _follows(plan, node))), *apart]


def _follows(plan: Plan, node: Node) -> bool:
    """Return true if the error is harmless or no statistics could prevent it: then the nodes above are not to blame either."""
    if "One-Time Filter" in node.fields or any(one.fields.get("Subplans Removed") for one in node.walk()):
        return True
    if any((table := plan.table(one)) and table.is_new for one in node.walk()):
        return True
    if node.kind == "Function Scan" and float(node.fields["Plan Rows"]) <= _ROWS_OF_A_FUNCTION:
        return True
    # There happened to be nothing to combine with.
    return not node.rows and any(child.loops and not child.rows for child in node.children)


def _excused(node: Node, fewer: bool) -> bool:
    """Return true if the node was stopped early or read again: then its number of rows says nothing about the estimate."""
    below = node
    for above in node.up():
        side = below.fields.get("Parent Relationship")
        if above.kind == "Merge Join" and (fewer or side == "Inner"):
            return True
        if fewer and (above.kind == "Limit" or side in ("InitPlan", "SubPlan")):
            return True
        if (
            fewer
            and above.kind == "Nested Loop"
            and side == "Inner"
            and (above.fields.get("Inner Unique") or above.fields.get("Join Type") in ("Semi", "Anti"))
        ):
            return True
        if fewer and above.kind == "Hash Join" and any(not child.rows for child in above.children):
            return True
        if above.kind in ("Sort", "Hash") or above.fields.get("Strategy") in ("Plain", "Hashed"):  # reads all there is
            return False
        below = above
    return False


def _loops(plan: Plan) -> Iterator[Finding]:
    for node in plan.nodes:
        side = node.fields.get("Parent Relationship")
        if node.loops < _MANY_LOOPS or node.parent is None or node.kind == "Memoize":
            continue
        above = next(one for one in node.up() if one.kind != "Memoize")
        if side == "SubPlan":
            what, fix = (
                f"{node.fields.get('Subplan Name', 'SubPlan')} of {plan.label(node.parent)}",
                "Rewrite it as a join, or as one LATERAL that groups.",
            )
        elif above.kind == "Nested Loop" and (side == "Inner" or above is not node.parent):
            what, fix = (
                plan.label(node),
                "A hash join reads each side once: check that the estimates are right and work_mem is large enough.",
            )
        else:
            continue
        share = node.ms / plan.top.ms if plan.top.ms else 0
        sentence = f"{what} runs {'once' if node.loops == 1 else f'{node.loops:,.0f} times'}, {node.ms:,.1f} ms of {plan.top.ms:,.1f} ms"
        yield Finding("many_loops", "warning" if share >= 0.25 else "note", plan.label(node), sentence, fix)


# --- formatting ------------------------------------------------------------------------------------------------------


def size(count: float) -> str:
    """Return a number of bytes with its unit, to two or three digits."""
    units = ["bytes", "kB", "MB", "GB"]
    while count >= 1000 and len(units) > 1:
        count /= 1024
        del units[0]
    return f"{count:.1f} {units[0]}" if count < 10 and units[0] != "bytes" else f"{count:.0f} {units[0]}"


def _megabytes(count: float) -> str:
    return f"{math.ceil(count / 2**20)} MB"
