"""Test that each error of a spec file is reported with file and line. No server is needed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pgvigil import project
from pgvigil.errors import UsageError
from pgvigil.validate import load_spec
from pgvigil.validate.catalog.object_ref import ObjectRef
from pgvigil.validate.spec.expand import relation_of_right

pytestmark = pytest.mark.client_side

WHOLE = """\
spec: 1
schemas: [pgvigil]
tables:
  parents:
    columns:
      id: {type: bigint, nullable: false}
  children:
    columns:
      id: {type: bigint, nullable: false}
      parent: {type: varchar(50), default: "'x'::character varying"}
    constraints:
      children_pkey: {primary_key: [id]}
      children_fkey: {foreign_key: [parent], references: parents (id)}
      children_check: {check: "parent = ANY ('{a,b}'::text[])"}
    indexes:
      idx_children: {keys: [parent DESC], where: parent IS NOT NULL}
    triggers:
      watch: {timing: AFTER, events: [UPDATE], update_of: [parent], level: ROW, function: pgvigil.watch()}
views:
  family: {reads: [parents, children], columns: {id: bigint}}
functions:
  pgvigil.watch(): {returns: trigger, language: plpgsql}
"""


def spec_file(folder: Path, text: str) -> Path:
    path = folder / "spec.yaml"
    path.write_text(text)
    return path


def test_project_s_own_spec_is_well_formed() -> None:
    spec = load_spec(project.SPEC)
    assert spec.tables["sessions"].columns["session_key"].type == "character varying(255)"
    assert spec.tables["sessions"].columns["is_dormant"].added
    assert "pgvigil.uuid_v7_floor(timestamp with time zone)" in spec.functions


def test_whole_example_is_well_formed(tmp_path: Path) -> None:
    spec = load_spec(spec_file(tmp_path, WHOLE))
    assert list(spec.tables) == ["parents", "children"]
    assert spec.tables["children"].columns["parent"].type == "character varying(50)"


FAULTS = [
    # YAML
    ("spec: 1", "spec: [1", 2, "not valid YAML: "),
    ("  parents:", "\tparents:", 4, "not valid YAML: found character that cannot start any token"),
    ("default: \"'x'", "default: \"'\x01'", 10, "not valid YAML: "),
    ("parents (id)}", "*parents}", 13, "not valid YAML: found undefined alias"),
    # keys
    (
        "nullable: false}\n  children",
        "nulable: false}\n  children",
        6,
        "unknown key 'nulable' in tables.parents.columns.id",
    ),
    ("schemas: [pgvigil]", "schemata: pgvigil", 2, "unknown key 'schemata' in spec.yaml"),
    ("schemas: [pgvigil]\n", "", 1, "spec.yaml lacks schemas"),
    (
        "type: bigint, nullable: false}\n  children",
        "nullable: false}\n  children",
        6,
        "tables.parents.columns.id lacks type",
    ),
    ("keys: [parent DESC], ", "", 16, "an index needs keys, or a definition"),
    ("timing: AFTER, ", "", 18, "tables.children.triggers.watch lacks timing"),
    ("language: plpgsql", "lang: plpgsql", 22, "unknown key 'lang' in functions.pgvigil.watch()"),
    ("reads: [parents, children], ", "", 20, "views.family lacks reads"),
    # doubles
    (
        "      parent: {type",
        "      id: {type: text}\n      parent: {type",
        10,
        "'id' is in tables.children.columns twice, first in line 9",
    ),
    ("  children:", "  parents:", 7, "'parents' is in tables twice, first in line 4"),
    ("  family:", "  parents:", 20, "parents is declared as a table (line 4) and as a view"),
    (
        "functions:\n",
        "functions:\n  pgvigil.f(int): {arguments: [a int], returns: int, language: sql}\n"
        "  pgvigil.f(integer): {arguments: [a int], returns: int, language: sql}\n",
        23,
        "function pgvigil.f(integer) is declared twice",
    ),
    # values
    ("spec: 1", "spec: 2", 1, "spec must be 1, not '2'"),
    ("nullable: false}\n  children", "nullable: 3}\n  children", 6, "must be true or false or any, not '3'"),
    ("schemas: [pgvigil]", "schemas: pgvigil", 2, "schemas must be a list, not 'pgvigil'"),
    (
        "type: bigint, nullable: false}\n  children",
        "type: [bigint]}\n  children",
        6,
        "columns.id.type must be a text, not a list",
    ),
    (
        "type: bigint, nullable: false}\n  children",
        "type: }\n  children",
        6,
        "columns.id.type must be a text, not nothing",
    ),
    (
        "      id: {type: bigint, nullable: false}\n  children",
        "      id: bigint\n  children",
        6,
        "must be a mapping, not 'bigint'",
    ),
    ("timing: AFTER", "timing: after", 18, "timing must be BEFORE or AFTER or INSTEAD OF, not 'after'"),
    ("events: [UPDATE]", "events: [UPDATE, SELECT]", 18, "events[1] must be INSERT or DELETE or UPDATE or TRUNCATE"),
    ("events: [UPDATE]", "events: []", 18, "a trigger needs events"),
    ("events: [UPDATE]", "events: [INSERT]", 18, "update_of needs UPDATE among the events"),
    ("keys: [parent DESC]", "keys: []", 16, "an index needs keys"),
    (
        "{primary_key: [id]}",
        "{primary_key: [id], unique: [id]}",
        12,
        "give one of primary_key, unique, foreign_key, check and definition",
    ),
    ("{primary_key: [id]}", "{added: true}", 12, "give one of primary_key, unique, foreign_key, check and definition"),
    (", references: parents (id)", "", 13, "foreign_key and references go together"),
    ("parents (id)}", "parents}", 13, "references must read `table (column, …)`, not 'parents'"),
    (
        "{primary_key: [id]}",
        "{primary_key: [id], on_delete: CASCADE}",
        12,
        "on_delete and on_update belong to a foreign_key",
    ),
    (
        "[parent], references",
        "[parent], on_delete: cascade, references",
        13,
        "on_delete must be NO ACTION or RESTRICT or ",
    ),
    (
        "children_pkey: {primary_key: [id]}",
        "children_pkey: {primary_key: [id], unless_baselined: true}",
        12,
        "unless_baselined belongs to a check",
    ),
    (
        "function: pgvigil.watch()",
        "function: pgvigil.watch",
        18,
        "function must read `schema.name()`, not 'pgvigil.watch'",
    ),
    ("returns: trigger, ", "", 22, "a function returns something, a procedure nothing"),
    (
        "pgvigil.watch(): {",
        "pgvigil.watch(): {kind: procedure, ",
        22,
        "a function returns something, a procedure nothing",
    ),
    ("  children:\n", "  children:\n    partitions: {names: [_pYYYY]}\n", 7, "partitions need partition_by"),
    (
        "  children:\n",
        "  children:\n    partition_by: RANGE (id)\n    partitions: {names: [_old]}\n",
        9,
        "'_old' does not say when the partition starts",
    ),
    # names are spelt as in SQL
    ("      watch: {", "      Watch: {", 18, "children: Watch is not how SQL spells a name: write '\"Watch\"'"),
    (
        "      id: {type: bigint, nullable: false}\n  children",
        '      id: {type: bigint, nullable: false}\n      "user": {type: text}\n  children',
        7,
        "user is not how SQL spells a name: write '\"user\"'",
    ),
    ("  family:", "  '\"family\"':", 20, "\"family\" is not how SQL spells a name: write 'family'"),
    # what does not fit together
    (
        "{primary_key: [id]}",
        "{primary_key: [ident]}",
        12,
        "constraint children_pkey names column ident, which is not declared",
    ),
    (
        "references: parents (id)",
        "references: grandparents (id)",
        13,
        "references table grandparents, which is not declared",
    ),
    ("references: parents (id)", "references: parents (ident)", 13, "references parents.ident, which is not declared"),
    ("keys: [parent DESC]", "keys: [age DESC]", 16, "index idx_children names column age, which is not declared"),
    (
        "keys: [parent DESC]",
        "keys: [id], include: [age]",
        16,
        "index idx_children names column age, which is not declared",
    ),
    ("keys: [parent DESC]", "optional: true, keys: [id]", 16, "index idx_children is optional, but the table is ours"),
    ("update_of: [parent]", "update_of: [age]", 18, "trigger watch names column age, which is not declared"),
    ("function: pgvigil.watch()", "function: pgvigil.look()", 18, "calls function pgvigil.look, which is not declared"),
    ("reads: [parents,", "reads: [cousins,", 20, "view family reads cousins, which is not declared"),
    ("  children:\n", "  children:\n    rows:\n      - {age: 3}\n", 7, "a row names column age, which is not declared"),
    (
        "nullable: false}\n  children",
        "added: true}\n  children",
        6,
        "id is marked as added, but the whole table is ours",
    ),
    ("  parents:", "  elsewhere.parents:", 4, "schema elsewhere is not among the schemas pgvigil"),
    ("pgvigil.watch(): {", "watch(): {", 22, "function watch() must be in one of the schemas pgvigil"),
    ("pgvigil.watch(): {", "pgvigil.watch: {", 22, "function 'pgvigil.watch' must read `schema.name(type, …)`"),
    ("pgvigil.watch(): {", "pgvigil.watch(): {arguments: [a text], ", 22, "function pgvigil.watch() has 1 arguments"),
]


@pytest.mark.parametrize(("old", "new", "line", "message"), FAULTS, ids=[fault[3] for fault in FAULTS])
def test_fault_is_told_with_file_and_line(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    assert old in WHOLE
    path = spec_file(tmp_path, WHOLE.replace(old, new, 1))
    with pytest.raises(UsageError) as caught:
        load_spec(path)
    assert caught.value.message.startswith(f"{path}:{line}: ")
    assert message in caught.value.message
    assert caught.value.exit_code == 2


def test_unknown_key_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    path = spec_file(tmp_path, WHOLE.replace("reads:", "red:"))
    with pytest.raises(UsageError) as caught:
        load_spec(path)
    assert caught.value.hint.startswith("Keys known here: columns, attributes, kind, reads, security_invoker, ")


def test_empty_file_is_told(tmp_path: Path) -> None:
    path = spec_file(tmp_path, "# nothing\n")
    with pytest.raises(UsageError, match=r"spec.yaml:1: the file is empty"):
        load_spec(path)


def test_second_document_is_told(tmp_path: Path) -> None:
    path = spec_file(tmp_path, WHOLE + "---\nspec: 1\n")
    with pytest.raises(UsageError, match=r"spec.yaml:23: not valid YAML: but found another document"):
        load_spec(path)


def test_file_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(b"spec: 1\nschemas: [\xff]\n")
    with pytest.raises(UsageError, match=r"spec.yaml:2: not UTF-8"):
        load_spec(path)


def test_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none.yaml cannot be read: No such file or directory"):
        load_spec(tmp_path / "none.yaml")


def test_alias_of_itself_is_told(tmp_path: Path) -> None:
    path = spec_file(tmp_path, WHOLE.replace("tables:", "tables: &all\n  again: *all\nviews_:"))
    with pytest.raises(UsageError, match=r"spec.yaml:\d+: "):
        load_spec(path)


def test_fault_of_a_json_file_is_told_too(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    for text, message in (
        ('{"spec": "1",\n "schemas": [}', "spec.json:2: not valid JSON: "),
        ('{"spec": "1", "schemas": [], "tables": {"a": {}, "a": {}}}', "'a' is in tables twice"),
        ('{"spec": "1", "schemas": [], "tabels": {}}', "unknown key 'tabels'"),
        ('{"spec": "1", "schemas": [null]}', "must be a text, not nothing"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=re.escape(message)):
            load_spec(path)


@pytest.mark.parametrize(
    ("grant", "relation"),
    [
        ("on table orders to clerk", "orders"),
        ('on column shop."a\nb".c to "x y"', 'shop."a\nb"'),
        ("on sequence of orders.id from PUBLIC", "orders"),
        ("on function f(integer) to clerk", ""),
    ],
)
def test_a_grant_stands_on_its_relation_whatever_that_is_called(grant: str, relation: str) -> None:
    kind = "revocation" if grant.endswith(" from PUBLIC") else "grant"
    assert relation_of_right(ObjectRef(kind, grant)) == relation
