"""The body of pgvigil.set_default_expiry(), which pgvigil.compile_default_expiry() writes from the rows of
pgvigil.retention_policies.
"""

from __future__ import annotations

import json
import re
from functools import cache

from pgvigil import project

_TEMPLATE = re.compile(r"CREATE FUNCTION pgvigil\.compile_default_expiry\(\).*?\$body\$(.*?)\$body\$", re.DOTALL)
_TIMES, _HOURS = "%1$L", "%2$s"
_ANY_TIMES = r"(?:'(?:[^'\\]|'')*'|E'(?:[^'\\]|''|\\\\)*')"


@cache
def _template() -> str:
    text = (project.MIGRATIONS / "006_lifecycle.sql").read_text().replace("\r\n", "\n")
    found = _TEMPLATE.search(text)
    if found is None:
        raise ValueError("006_lifecycle.sql has no body of pgvigil.set_default_expiry()")
    return found[1]


def body(hours: dict[str, int]) -> str:
    """Return the body for policies, `{"standard": 24, …}` in hours, letter by letter as the database writes it."""
    times = ", ".join(f'{json.dumps(policy, ensure_ascii=False)}: "{hours[policy]} hours"' for policy in sorted(hours))
    literal = "'{" + times.replace("'", "''") + "}'"
    if "\\" in literal:
        literal = "E" + literal.replace("\\", "\\\\")
    values = {_TIMES: literal, _HOURS: str(hours["standard"])}
    return re.sub(r"%\d\$[Ls]", lambda found: values[found[0]], _template())


def is_body(text: str) -> bool:
    """Say whether it is the body for some policies, whichever their names and times are."""
    pattern = re.escape(_template())
    pattern = pattern.replace(re.escape(_TIMES), _ANY_TIMES).replace(re.escape(_HOURS), "[0-9]+")
    return re.fullmatch(pattern, text) is not None
