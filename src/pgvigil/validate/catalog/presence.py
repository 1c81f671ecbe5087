"""The kinds of objects that a database holds: other kinds are not queried.

Planning is half of the work of a snapshot, and most of what can be planned is for kinds that hardly any database has. One
cheap question first: its answers come from the ends of indexes by oid, or from tables that are then empty.
"""

from __future__ import annotations

from collections.abc import Collection

from pgvigil.validate.catalog.sql_fragments import NOT_BUILT_IN


def _made(catalog: str, condition: str = "", oid: str = "oid") -> str:
    return f"EXISTS (SELECT FROM {catalog} WHERE {oid} >= {NOT_BUILT_IN}{condition and ' AND ' + condition})"


_ASKED = {
    "access_method": _made("pg_am"),
    "aggregate": _made("pg_aggregate", oid="aggfnoid"),
    "cast": _made("pg_cast"),
    "collation": _made("pg_collation"),
    "column_rights": _made("pg_attribute", "attacl IS NOT NULL", "attrelid"),
    "conversion": _made("pg_conversion"),
    "default_rights": "EXISTS (SELECT FROM pg_default_acl)",
    "dependent": "EXISTS (SELECT FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND deptype = 'x')",
    "event_trigger": "EXISTS (SELECT FROM pg_event_trigger)",
    "foreign_data_wrapper": "EXISTS (SELECT FROM pg_foreign_data_wrapper)",
    "function": _made("pg_proc"),
    "language": _made("pg_language"),
    "member": f"EXISTS (SELECT FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e' AND objid >= {NOT_BUILT_IN})",
    "named_not_null": "current_setting('server_version_num')::integer >= 180000",
    "opclass": _made("pg_opclass"),
    "operator": _made("pg_operator"),
    "opfamily": _made("pg_opfamily"),
    "policy": "EXISTS (SELECT FROM pg_policy)",
    "relation_rights": _made("pg_class", "relacl IS NOT NULL"),
    "rule": _made("pg_rewrite", "rulename <> '_RETURN'"),
    "setting": "EXISTS (SELECT FROM pg_db_role_setting)",
    "statistics": "EXISTS (SELECT FROM pg_statistic_ext)",
    "transform": _made("pg_transform"),
    "trigger": "EXISTS (SELECT FROM pg_trigger WHERE NOT tgisinternal OR tgparentid <> 0)",
    "ts_config": _made("pg_ts_config"),
    "ts_dict": _made("pg_ts_dict"),
    "ts_parser": _made("pg_ts_parser"),
    "ts_template": _made("pg_ts_template"),
    # An array has this function for its input, and no other type can.
    "type_base": _made("pg_type", "typtype = 'b' AND typinput <> 'array_in'::regproc"),
    "type_composite": _made("pg_class", "relkind = 'c'"),
    "type_domain": _made("pg_type", "typtype = 'd'"),
    "type_other": _made("pg_type", "(typtype = 'e' OR NOT typisdefined)"),
    "type_range": _made("pg_range", oid="rngtypid"),
    "type_rights": _made("pg_type", "typacl IS NOT NULL"),
}
# Asked for in one place, for several kinds.
_TOGETHER = {
    "server": ("foreign_data_wrapper",),
    "user_mapping": ("foreign_data_wrapper",),
    "type": ("type_base", "type_composite", "type_domain", "type_other", "type_range"),
    "on_relation": ("policy", "rule", "statistics", "foreign_data_wrapper"),
    "rights": ("relation_rights", "column_rights", "foreign_data_wrapper"),
}
ASKED = frozenset(_ASKED)
ALL = frozenset([*_ASKED, *_TOGETHER, "everywhere", "named"])

# Each kind, or NULL.
PRESENT = f"ARRAY[{', '.join(f'CASE WHEN {there} THEN {kind!r} END' for kind, there in _ASKED.items())}]"


def kinds_to_ask_for(
    present: Collection[str | None], own: Collection[str], *, everywhere: bool, named: bool
) -> frozenset[str]:
    """The limits of the queries. `named`: relations are asked for by their names, as our own spec does."""
    if any(schema.startswith("pg_") or schema == "information_schema" for schema in own):
        kinds = set(ALL)  # holds what initdb has made, which PRESENT leaves out
    else:
        kinds = {kind for kind in present if kind}
        kinds |= {kind for kind, parts in _TOGETHER.items() if not kinds.isdisjoint(parts)}
    return frozenset(
        kinds - {"everywhere", "named"} | ({"everywhere"} if everywhere else set()) | ({"named"} if named else set())
    )
