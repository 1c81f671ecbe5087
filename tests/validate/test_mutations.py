"""Test that each single defect is found, under the name of its object, and that nothing else is reported."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from cases import Case, load
from conftest import PROJECT, Connection, Database, Run
from pgvigil.validate import dump_spec, fix_sql, load_declaration, validate

DATA = PROJECT / "tests/data"
ALL = load(DATA / "mutations.sql")
CASES = [case for case in ALL if not case.remarked("on")]
OF_ANY_SCHEMA = [case for case in ALL if case.remarked("on")]
KINDS = ("missing", "different", "invalid", "disabled", "unexpected")

# What a case calls, and what it would be laborious to write out: the definition as the server prints it, with a change.
STRANGER = """
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'a_stranger') THEN CREATE ROLE a_stranger; END IF;
END $$;
"""
TOOLS = """
CREATE SCHEMA mutate;
CREATE FUNCTION mutate.changed(text, old text, new text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF strpos($1, old) = 0 THEN RAISE '% does not stand in %', old, $1; END IF;
    RETURN replace($1, old, new);
END $$;
CREATE FUNCTION mutate.function(name regprocedure, old text, new text, anew boolean DEFAULT false) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    definition text := mutate.changed(pg_get_functiondef(name), old, new);
    was record;
    made oid;
BEGIN
    SELECT p.pronamespace, p.proname, p.proowner::regrole AS owner,
           NOT EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0) AS closed INTO was
    FROM pg_proc p WHERE p.oid = name;
    IF anew THEN EXECUTE format('DROP ROUTINE %s', name); END IF;
    EXECUTE definition;
    IF anew THEN
        SELECT p.oid INTO STRICT made FROM pg_proc p WHERE (p.pronamespace, p.proname) = (was.pronamespace, was.proname);
        EXECUTE format('ALTER ROUTINE %s OWNER TO %s', made::regprocedure, was.owner);
        IF was.closed THEN EXECUTE format('REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC', made::regprocedure); END IF;
    END IF;
END $$;
CREATE FUNCTION mutate.view(name regclass, old text, new text, anew boolean DEFAULT false) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    view text := name;
    definition text := mutate.changed(pg_get_viewdef(name), old, new);
    options text := (SELECT 'WITH (' || array_to_string(reloptions, ', ') || ')' FROM pg_class WHERE oid = name);
    rights text := (SELECT string_agg(format('GRANT SELECT ON %s TO %I', view, rolname), ';')
                    FROM pg_class, aclexplode(relacl) a, pg_roles r WHERE pg_class.oid = name AND r.oid = a.grantee AND r.oid <> relowner);
    owner text := (SELECT relowner::regrole FROM pg_class WHERE oid = name);
    comment text := obj_description(name, 'pg_class');
BEGIN
    IF anew THEN EXECUTE format('DROP VIEW %s', view); END IF;
    EXECUTE format('CREATE OR REPLACE VIEW %s %s AS %s', view, options, definition);
    IF anew THEN EXECUTE format('ALTER VIEW %2$s OWNER TO %4$s; %1$s; COMMENT ON VIEW %2$s IS %3$L', rights, view, comment, owner); END IF;
END $$;
"""


def runnable(repair: str) -> str:
    """Return the repair in one transaction, with the statements that are commented out because they delete data."""
    repair = re.sub("^(BEGIN|COMMIT);$", "", repair.replace(" CONCURRENTLY", ""), flags=re.MULTILINE)
    return re.sub("^-- (DROP|ALTER)", r"\1", repair, flags=re.MULTILINE)


def named(findings: list[dict[str, str]]) -> set[str]:
    return {f"{finding['kind']} {finding['object']}" for finding in findings}


@pytest.mark.in_full
@pytest.mark.one_between
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.slow(first=25)
def test_single_defect_is_found_under_its_name_and_repaired(
    case: Case, shared: Database, uncommitted: Connection, call: Run
) -> None:
    expected = {f"{kind} {path}" for kind in KINDS for path in case.remarked(kind)}
    uncommitted.execute(STRANGER + TOOLS + case.sql)
    found = call("pgvigil", "validate", "--format", "json", "--database-url", shared.url)
    assert found.stdout, found.stderr
    findings = json.loads(found.stdout)["findings"]
    beside = named(findings)
    follows = case.remarked("perhaps")
    beside -= {one for one in beside - expected if any(fnmatchcase(one, pattern) for pattern in follows)}
    assert sorted(beside) == sorted(expected)
    assert found.returncode == 1
    if not case.remarked("by"):
        repair = findings[0]["fix"]
        if len(findings) > 1:  # in an order that works
            repair = call("pgvigil", "validate", "--fix-sql", "--database-url", shared.url).stdout
        assert repair
        uncommitted.execute(runnable(repair))
        again = call("pgvigil", "validate", "--format", "json", "--database-url", shared.url)
        assert named(json.loads(again.stdout)["findings"]) == set()


@pytest.mark.in_full
@pytest.mark.slow
def test_single_defect_of_any_schema_has_one_root_cause_and_its_repair_is_accepted(
    database: Database, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    database.execute((DATA / "any_schema.sql").read_text())
    knows_icu = database.execute("SELECT 1 FROM pg_collation WHERE collname = 'und-x-icu'")  # not every build does
    path = tmp_path / "spec.yaml"
    with database.connect(autocommit=False) as conn:
        conn.execute(STRANGER)
        path.write_text(dump_spec(conn, []))
        spec = load_declaration(path)
        conn.commit()
        for case in OF_ANY_SCHEMA:
            if case.since > database.server.major or ("icu" in case.sql and not knows_icu):
                continue
            with subtests.test(case=case.name):
                conn.execute(case.sql.encode())
                report = validate(conn, spec, "public")
                expected = {f"{kind} {path}" for kind in KINDS for path in case.remarked(kind)}
                found = {f"{finding.kind} {finding.object}" for finding in report.findings}
                follows = case.remarked("perhaps")
                assert {one for one in found if not any(fnmatchcase(one, of) for of in follows)} | expected == expected
                assert expected <= found
                if not case.remarked("by"):
                    conn.execute(runnable(fix_sql(report)).encode())
                    assert validate(conn, spec, "public").findings == ()
            conn.rollback()


def test_each_case_says_what_must_be_found() -> None:
    for case in ALL:
        words = {word for word, _ in case.warnings}
        assert words <= {"from", "perhaps", "by", "on", *KINDS}, case.name
        assert words & set(KINDS), case.name
    assert len({case.name for case in ALL}) == len(ALL)
