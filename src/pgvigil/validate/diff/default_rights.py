"""The rights that ALTER DEFAULT PRIVILEGES of an object's own owner gave to it, or took from it, when it was made."""

from __future__ import annotations

import itertools

from pgvigil.owner import OWN_ROLE
from pgvigil.validate.catalog.identifiers import quoted, unquoted
from pgvigil.validate.catalog.object_ref import ObjectRef
from pgvigil.validate.catalog.snapshot import Attributes, Snapshot

_KINDS = {"table": "r", "view": "r", "sequence": "S", "function": "f", "procedure": "f", "type": "T", "schema": "n"}
_WORDS = {"r": "TABLES", "S": "SEQUENCES", "f": "FUNCTIONS", "T": "TYPES", "n": "SCHEMAS"}
_OPTION = " WITH GRANT OPTION"


def owner_of(found: Snapshot, ref: ObjectRef) -> str:
    return str(found.objects.get(ref, {}).get("owned_by", found.owner))


def explained(found: Snapshot, right: ObjectRef, attributes: Attributes) -> str:
    """The statements whose doing the whole of this grant or revocation is. "" where there are none.

    Only defaults of the object's owner come into it: those of others bear on what they make themselves. What a superuser made and
    gave to pgvigil_owner has the superuser's. EXECUTE for PUBLIC is never explained away.
    """
    given = right.kind == "grant"
    what = right.of
    of = _KINDS.get(what.kind) if what else None
    role = found.grantees.get(right, "")
    if what is None or of is None or found.server is None or (given and of == "f" and role == "PUBLIC"):
        return ""
    schema = None if of == "n" else unquoted(what.schema) or found.schema
    owner = owner_of(found, what)
    makers = [owner]
    if owner == OWN_ROLE:
        makers += sorted({whose for _, _, whose, *_, is_super in found.server.default_grants if is_super})
    left, statements = set(attributes["privileges"]), []
    for maker, place in itertools.product(makers, (schema, None)):  # the server adds up both places
        said = {
            privilege + _OPTION * option
            for where, kind, whose, grantee, privilege, option, gives, _ in found.server.default_grants
            if (where, kind, whose, grantee, gives) == (place, of, maker, role, given)
        }
        said |= {privilege.removesuffix(_OPTION) for privilege in said}
        if here := left & said:
            left -= here
            within = f" IN SCHEMA {quoted(unquoted(place))}" if place else ""
            verb, way = ("GRANT", "TO") if given else ("REVOKE", "FROM")
            listed = ", ".join(sorted(privilege.removesuffix(_OPTION) for privilege in here))
            to = role if role == "PUBLIC" else quoted(role)
            option = _OPTION if any(privilege.endswith(_OPTION) for privilege in here) else ""
            statements.append(
                f"ALTER DEFAULT PRIVILEGES FOR ROLE {quoted(maker)}{within} {verb} {listed} ON {_WORDS[of]} {way} {to}"
                f"{option}"
            )
    return "" if left else " and ".join(statements)
