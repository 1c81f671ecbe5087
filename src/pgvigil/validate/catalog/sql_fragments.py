"""The pieces of SQL that the queries of pg_catalog have in common."""

from __future__ import annotations

import re

# FirstNormalObjectId: objects that initdb makes have lower numbers, and pg_dump leaves them out.
NOT_BUILT_IN = 16384

_PIECE = re.compile("⟨([a-z_]+)⟩([^⟨⟩]*)⟨else⟩([^⟨⟩]*)⟨end⟩")


def only_with(kind: str, text: str, otherwise: str = "") -> str:
    """A piece of SQL that `for_kinds` keeps only where a database has such a kind. Pieces may contain pieces."""
    return f"⟨{kind}⟩{text}⟨else⟩{otherwise}⟨end⟩"


def for_kinds(query: str, kinds: frozenset[str]) -> str:
    """The query without the pieces that would find nothing: to plan them takes longer than to run all the rest."""
    while True:
        query, changed = _PIECE.subn(lambda piece: piece[2] if piece[1] in kinds else piece[3], query)
        if not changed:
            return query


def spelt(name: str) -> str:
    """Return SQL that prints a name, in quotes where SQL needs them in all versions.

    A word that is a keyword in some versions only has no quotes.
    """
    plain = f"{name} ~ '^[a-z_][a-z0-9_]*$' AND {name} <> ALL (%(reserved)s::text[])"
    return f"CASE WHEN quote_ident({name}) = {name} OR {plain} THEN {name}::text ELSE quote_ident({name}) END"


def callable_name(name: str) -> str:
    """Return SQL that prints the name of a type or a routine: in quotes if the grammar takes the word for something else."""
    return f"""CASE WHEN {name} = ANY (%(of_grammar)s::text[]) THEN '"' || {name} || '"' ELSE {spelt(name)} END"""


def label(schema: str, shown: str, visible: str) -> str:
    """Return SQL for a name, with its schema unless that is the application's.

    `visible` says whether the name alone means the object: one of pg_catalog goes first. The server prints the same
    schemas in expressions and in types.
    """
    return f"CASE WHEN {schema} = %(schema)s AND {visible} THEN '' ELSE {spelt(schema)} || '.' END || {shown}"


def relation_label(schema: str, relation: str) -> str:
    """Return an expression for the name of `relation`, a row of pg_class. Relations of the server itself begin with pg_."""
    visible = f"(NOT starts_with({relation}.relname::text, 'pg_') OR pg_table_is_visible({relation}.oid) IS NOT FALSE)"
    return label(schema, spelt(f"{relation}.relname"), visible)


def type_label(schema: str, type_: str) -> str:
    return label(schema, callable_name(f"{type_}.typname"), f"pg_type_is_visible({type_}.oid) IS NOT FALSE")


def routine_label(schema: str, routine: str) -> str:
    visible = f"pg_function_is_visible({routine}.oid) IS NOT FALSE"
    return label(schema, callable_name(f"{routine}.proname"), visible)


def no_member(catalog: str, oid: str) -> str:
    """A member of an extension is the extension's business. For objects that initdb has not made."""
    return only_with("member", no_built_in_member(catalog, oid), "true")


def no_built_in_member(catalog: str, oid: str) -> str:
    """The same for any object: plpgsql is an extension that initdb makes."""
    return f"""NOT EXISTS (SELECT FROM pg_depend x WHERE x.classid = '{catalog}'::regclass AND x.objid = {oid} AND x.deptype = 'e')"""


def options_of(array: str, prefix: str = "", *, secrets: bool = True) -> str:
    value = "substr(o, strpos(o, '=') + 1)"
    shown = value if secrets else public("split_part(o, '=', 1)", value)
    pairs = f"json_object_agg('{prefix}' || split_part(o, '=', 1), {shown})"
    return f"CASE WHEN {array} IS NOT NULL THEN (SELECT {pairs} FROM unnest({array}) o) END"


# Names of options and settings whose values are not written down: a spec is kept in a repository.
HIDDEN = "pass|pwd|secret|key|token|credential|auth|private|cookie|salt|sas$|jwt|^pin$"


def public(name: str, value: str) -> str:
    """A value, or that there is one where its name says that it is a secret."""
    return f"CASE WHEN {name} ~* '{HIDDEN}' THEN '(secret)' ELSE {value} END"


def comment_of(catalog: str, oid: str, column: str = "0") -> str:
    """Return a join that reads the comment of an object.

    A call of obj_description() for each of ten thousand objects is slower than all the rest.
    """
    return f"""LEFT JOIN pg_description z ON z.objoid = {oid} AND z.classoid = '{catalog}'::regclass AND z.objsubid = {column}"""


def names_of(numbers: str, relation: str) -> str:
    """Return SQL for the names of columns, in the order of their numbers in an int2vector or int2[]."""
    return f"""(SELECT json_agg({spelt("a.attname")} ORDER BY n.at) FROM unnest({numbers}::int2[]) WITH ORDINALITY n (number, at)
               JOIN pg_attribute a ON a.attrelid = {relation} AND a.attnum = n.number)"""


def routine(oid: str) -> str:
    """The name of a function. The server's own regproc prints it in another way as soon as another of that name is made."""
    return f"""(SELECT {routine_label("rn.nspname", "rp")} FROM pg_proc rp JOIN pg_namespace rn ON rn.oid = rp.pronamespace
               WHERE rp.oid = {oid})"""


def operator(oid: str) -> str:
    """The name of an operator as CREATE OPERATOR takes it."""
    return f"""(SELECT CASE WHEN pg_operator_is_visible(xo.oid) THEN xo.oprname::text
                            ELSE 'OPERATOR(' || {spelt("xn.nspname")} || '.' || xo.oprname || ')' END
               FROM pg_operator xo JOIN pg_namespace xn ON xn.oid = xo.oprnamespace WHERE xo.oid = {oid})"""


def named(catalog: str, prefix: str, oid: str) -> str:
    """The name of an object of a catalog, with its schema unless the name alone means it."""
    return f"""(SELECT CASE WHEN {catalog}_is_visible(no.oid) THEN '' ELSE {spelt("nn.nspname")} || '.' END || {spelt(f"no.{prefix}name")}
               FROM {catalog} no JOIN pg_namespace nn ON nn.oid = no.{prefix}namespace WHERE no.oid = {oid})"""


def collation(oid: str) -> str:
    """The name of a collation, with its schema unless the name alone means it."""
    return f"""(SELECT CASE WHEN pg_collation_is_visible(co.oid) THEN '' ELSE quote_ident(cn.nspname) || '.' END || quote_ident(co.collname)
               FROM pg_collation co JOIN pg_namespace cn ON cn.oid = co.collnamespace WHERE co.oid = {oid})"""


FUNCTION_PATH = f"""CASE p.prokind WHEN 'p' THEN 'procedure ' WHEN 'a' THEN 'aggregate ' WHEN 'w' THEN 'window function ' ELSE 'function ' END
           || {routine_label("n.nspname", "p")} || '(' || array_to_string(ARRAY(
               SELECT format_type(a.type, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY a (type, n) ORDER BY a.n), ', ') || ')'"""
