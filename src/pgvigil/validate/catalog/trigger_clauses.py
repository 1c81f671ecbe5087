"""The clauses of CREATE TRIGGER before and after its table, from the attributes of a trigger."""

from __future__ import annotations

from pgvigil.validate.catalog.snapshot import Attributes


def trigger_head(attributes: Attributes) -> str:
    of = f" OF {', '.join(attributes['update_of'])}" if attributes.get("update_of") else ""
    return f"{attributes['timing']} " + " OR ".join(
        event + (of if event == "UPDATE" else "") for event in attributes["events"]
    )


def trigger_tail(attributes: Attributes) -> str:
    tables = "".join(
        f" {age} TABLE AS {attributes[key]}"
        for age, key in (("OLD", "old_table"), ("NEW", "new_table"))
        if key in attributes
    )
    text = f"FROM {attributes['from']} " if "from" in attributes else ""
    text += f"DEFERRABLE {attributes['deferrable']} " if "deferrable" in attributes else ""
    text += f"REFERENCING{tables} " if tables else ""
    text += f"FOR EACH {attributes['level']}"
    text += f" WHEN ({attributes['when']})" if "when" in attributes else ""
    return f"{text} EXECUTE FUNCTION {attributes['function']}"
