"""The identity of an object, and its path: whatever a name holds, nothing of it is lost or taken for something else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgvigil.validate import load_declaration
from pgvigil.validate.catalog.identifiers import quoted, unquoted
from pgvigil.validate.catalog.object_ref import ON_RELATIONS, ROUTINES, ObjectRef, table

pytestmark = pytest.mark.client_side

EXAMPLES = settings(max_examples=60, deadline=None)
NAMES = st.one_of(
    st.sampled_from(["plain", "a.b", 'quo"te', 'to "x"', "new\nline", "[1]", "back\\slash", "f(x)", " to ", " from ", "on table t", "{schema}", "of x", '"', ".", "ünï"]),
    st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=12),
)  # fmt: skip
SCHEMAS = st.one_of(st.just(""), NAMES.map(quoted))
RELATIONS = st.sampled_from(["table", "view", "sequence", "type", "collation", "statistics"])
PARTS = st.sampled_from(ON_RELATIONS)
ALONE = st.sampled_from(["schema", "extension", "event trigger", "setting", "role"])


def in_schema(schema: str, name: str) -> str:
    return f"{schema}.{quoted(name)}" if schema else quoted(name)


@st.composite
def objects(draw: st.DrawFn) -> ObjectRef:
    schema, relation, name = draw(SCHEMAS), draw(NAMES), draw(NAMES)
    of_relation = ObjectRef.on(draw(PARTS), in_schema(schema, relation), quoted(name))
    arguments = ", ".join(draw(st.lists(st.one_of(st.just("integer"), NAMES.map(quoted)), max_size=3)))
    return draw(
        st.sampled_from(
            [
                ObjectRef(draw(RELATIONS), in_schema(schema, name)),
                of_relation,
                ObjectRef.on("column", in_schema(schema, relation), quoted(name)).owned_sequence,
                ObjectRef(draw(st.sampled_from(ROUTINES)), f"{in_schema(schema, name)}({arguments})"),
                ObjectRef(draw(ALONE), quoted(name)),
                ObjectRef("other", f"opclass {in_schema(schema, name)} USING btree"),
            ]
        )
    )


@EXAMPLES
@given(objects(), NAMES, st.sampled_from(["grant", "revocation"]))
def test_path_of_an_object_leads_back_to_it(ref: ObjectRef, role: str, kind: str) -> None:
    for one in (ref, ref.comment, ObjectRef.right(kind, ref, quoted(role))):
        assert ObjectRef.parse(one.path) == one
        assert str(one) == one.path


@EXAMPLES
@given(SCHEMAS, NAMES, NAMES, PARTS)
def test_part_of_a_relation_is_taken_apart_as_it_was_put_together(
    schema: str, relation: str, name: str, kind: str
) -> None:
    label = in_schema(schema, relation)
    ref = ObjectRef.parse(ObjectRef.on(kind, label, quoted(name)).path)
    assert (ref.kind, ref.schema, ref.relation, unquoted(ref.name)) == (kind, schema, label, name)
    assert ref.within(table(label))
    assert ref.within(ObjectRef("schema", schema))


@EXAMPLES
@given(SCHEMAS, NAMES, NAMES)
def test_sequence_of_a_column_leads_back_to_the_column(schema: str, relation: str, name: str) -> None:
    column = ObjectRef.on("column", in_schema(schema, relation), quoted(name))
    assert ObjectRef.parse(column.owned_sequence.path).column == column
    assert column.owned_sequence.relation == column.relation


@EXAMPLES
@given(SCHEMAS, NAMES, st.lists(NAMES.map(quoted), max_size=3))
def test_signature_of_a_routine_is_no_part_of_its_name(schema: str, name: str, types: list[str]) -> None:
    ref = ObjectRef.parse(f"function {in_schema(schema, name)}({', '.join(types)})")
    assert (ref.schema, unquoted(ref.name), ref.signature) == (schema, name, f"({', '.join(types)})")


@EXAMPLES
@given(objects(), NAMES, st.sampled_from(["grant", "revocation"]))
def test_right_leads_to_its_object_and_its_role(of: ObjectRef, role: str, kind: str) -> None:
    right = ObjectRef.parse(ObjectRef.right(kind, of, quoted(role)).path)
    assert (right.of, unquoted(right.grantee)) == (of, role)
    assert right.within(of)


@EXAMPLES
@given(objects())
def test_comment_leads_to_its_object(ref: ObjectRef) -> None:
    assert ObjectRef.parse(ref.comment.path).commented == ref


@EXAMPLES
@given(st.lists(objects(), max_size=6))
def test_objects_are_sorted_as_their_paths_are(refs: list[ObjectRef]) -> None:
    assert [ref.path for ref in sorted(refs)] == sorted(ref.path for ref in refs)


@EXAMPLES
@given(SCHEMAS, NAMES, NAMES, NAMES)
def test_renamed_relation_renames_what_names_it(schema: str, relation: str, name: str, role: str) -> None:
    old, new = in_schema(schema, relation), in_schema(schema, "renamed")
    column = ObjectRef.on("column", old, quoted(name))
    right = ObjectRef.right("grant", column, quoted(role))
    moved = ObjectRef.on("column", new, quoted(name))

    def change(label: str) -> str:
        return new + label[len(old) :]

    assert column.renamed(change) == moved
    assert column.owned_sequence.renamed(change) == moved.owned_sequence
    assert right.renamed(change) == ObjectRef.right("grant", moved, quoted(role))


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("schema {schema}", "schema app"),
        ("grant on schema {schema} to reader", "grant on schema app to reader"),
        ("default grant in schema {schema} on tables of a to b", "default grant in schema app on tables of a to b"),
        ("comment on schema {schema}", "comment on schema app"),
        ('table "{schema}"', 'table "{schema}"'),
        ('trigger t."schema {schema}"', 'trigger t."schema {schema}"'),
        ("schema {schema}s", "schema {schema}s"),
        ("row security of t", "row security of t"),
    ],
)
def test_report_names_the_schema_of_the_application_and_nothing_else_anew(path: str, shown: str) -> None:
    assert ObjectRef.parse(path).shown_in("app") == shown


def test_declared_table_whose_name_has_a_dot_is_looked_for(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "spec: '1'\nschemas: [pgvigil]\ntables:\n"
        "  '\"a.b\"': {columns: {id: {type: integer}}}\n  pgvigil.c: {columns: {id: {type: integer}}}\n"
    )
    assert load_declaration(spec).scope("public").names == ("a.b",)
