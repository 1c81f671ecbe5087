"""Run 33 statements through `pgvigil lint` and through squawk: what each finds of those that lock and grow with the
table.

    MIGRATORS_BIN=…/bin scripts/bootstrap.sh test benchmarks/lint_statements.py

The statements, and what PostgreSQL does for each, are in tests/helpers/lint_statements.py; squawk is that of
requirements/migrators.txt, without its rules of style and of timeouts, which are not about one statement.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from helpers.lint_statements import BASE, STATEMENTS, Case  # noqa: E402
from pgvigil.lint import rules, scratch, sources  # noqa: E402
from pgvigil.lint.measure import Bench  # noqa: E402

OF_STYLE = (
    "prefer-robust-stmts,require-timeout-settings,require-lock-timeout,require-statement-timeout,require-concurrent-index-deletion,prefer-bigint-over-int,prefer-bigint-over-smallint,"
    "prefer-identity,prefer-text-field,prefer-timestamp-tz,ban-char-field,ban-drop-column,ban-drop-table,renaming-column,renaming-table,"
    "ban-truncate-cascade,ban-drop-not-null,transaction-nesting,ban-concurrent-index-creation-in-transaction"
)


def ours(case: Case, directory: Path) -> list[str]:
    import psycopg

    base, path = directory / "001.sql", directory / "002.sql"
    base.write_text(BASE)
    path.write_text(case.sql)
    with psycopg.connect(os.environ["LINT_URL"], autocommit=True, prepare_threshold=None) as conn:
        conn.execute("DROP SCHEMA IF EXISTS public, other CASCADE")
        conn.execute("CREATE SCHEMA public")
        bench = Bench(conn, "UTC")
        bench.build(sources.read(base, rules.RULES))
        measured = list(bench.run(sources.read(path, rules.RULES)))
    return [finding.rule for one in measured for finding in rules.findings(one) if finding.severity == "finding"]


def squawk(case: Case, program: Path) -> list[str]:
    words = [str(program), "--reporter", "json", f"--exclude={OF_STYLE}"]
    words += [] if case.sql.startswith("--") else ["--assume-in-transaction"]
    done = subprocess.run(words, input=case.sql + ";", capture_output=True, text=True, check=False)
    return [entry["rule_name"] for entry in json.loads(done.stdout or "[]")]


def main() -> None:
    place = os.environ.get("MIGRATORS_BIN")
    if not place or not (Path(place) / "squawk").is_file():
        raise SystemExit(
            "install requirements/migrators.txt into a virtual environment, and set MIGRATORS_BIN to its bin"
        )
    right = {"lint": [0, 0], "squawk": [0, 0]}
    with scratch.server() as server, tempfile.TemporaryDirectory() as directory:
        os.environ["LINT_URL"] = scratch.address(server)
        print(f"{'statement':48}{'grows':8}{'pgvigil lint':24}squawk")
        for case in STATEMENTS:
            found = {"lint": ours(case, Path(directory)), "squawk": squawk(case, Path(place) / "squawk")}
            for name, said in found.items():
                right[name][0 if case.rule else 1] += bool(said)
            print(
                f"{case.name:48}{'yes' if case.rule else '':8}{', '.join(found['lint']):24}{', '.join(found['squawk'])}"
            )
    growing = sum(bool(case.rule) for case in STATEMENTS)
    for name, (hits, alarms) in right.items():
        print(f"{name}: {hits} of {growing} found, {alarms} false alarms among {len(STATEMENTS) - growing}")


if __name__ == "__main__":
    main()
