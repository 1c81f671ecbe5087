"""Give advice on a connection that failed, by the words of libpq and the server."""

from __future__ import annotations

import re

_ADVICE = (
    (
        "too many clients|remaining connection slots",
        "The server has no free connection: close some, or try again later.",
    ),
    ("pooler", "Raise the pool's size to four sessions, or connect to the server directly."),
    ("invalid sslmode value", "sslmode is one of disable, allow, prefer, require, verify-ca and verify-full."),
    (
        "server does not support SSL",
        "The server has TLS off (its setting ssl), so sslmode=require and stricter ones cannot be met: turn it on there, or use "
        "sslmode=prefer in the address or PGSSLMODE, which does not encrypt.",
    ),
    (
        "invalid response to SSL negotiation|expected authentication request|invalid length of startup packet",
        "Something other than PostgreSQL answers there: check host and port.",
    ),
    (
        "(?:root|CA) certificate file .*(?:does not exist|could not|No such)|could not (?:read|load) root certificate"
        "|no system CA|weak sslmode",
        "sslmode=verify-ca and verify-full compare the server's certificate with a CA: name its file by sslrootcert=FILE, or the "
        "system's by sslrootcert=system, which goes with verify-full only.",
    ),
    (
        "certificate verify failed|self.signed certificate",
        "The server's certificate is not from a CA in sslrootcert: name the file of its CA there.",
    ),
    (
        "does not match host name",
        "Connect by a name that the server's certificate has; hostaddr=ADDRESS beside host=NAME keeps the address.",
    ),
    (
        "private key file .* has group or world access|private key file .* must be owned",
        "The key has to be yours, and closed to others: chmod 600 FILE.",
    ),
    (
        "certificate (?:file )?.*(?:could not|does not exist|not present)|valid client certificate|private key file",
        "The certificate that the server asks for is named by sslcert=FILE and sslkey=FILE.",
    ),
    (
        "pg_hba.conf .*(?:no encryption|SSL off)",
        "pg_hba.conf on the server may allow encrypted connections only: try sslmode=require. Else its administrator has to add a "
        "line for this user, database and address.",
    ),
    ("pg_hba.conf", "The server's administrator has to add a line to pg_hba.conf for this user, database and address."),
    (
        "channel binding",
        "channel_binding=require needs TLS and a SCRAM password; a pooler in between cannot pass it on.",
    ),
    (
        "definition of service .* not found|service file .* not found",
        "Services are defined in ~/.pg_service.conf, or in the file that PGSERVICEFILE names, each under its [name]: correct the "
        "name, or add it there.",
    ),
    (
        "unrecognized configuration parameter|invalid value for parameter|parameter .* cannot be changed",
        "The address (options=) or PGOPTIONS sets a parameter that this server does not have, or not to this value: remove it.",
    ),
    (
        "unsupported startup parameter",
        "A pooler in between refuses a parameter: remove it from the address and PGOPTIONS, or connect to the server directly.",
    ),
    ("could not translate host name", "The host's name is unknown here: check its spelling."),
    (
        "the database system is (?:starting up|in recovery|shutting down)",
        "Try again when the server accepts connections.",
    ),
    (
        "due to .* timeout",
        "A time limit that the server, the database or the role sets is shorter than the start of a connection takes: raise it, for "
        "instance by ALTER SYSTEM RESET, or by ALTER ROLE or ALTER DATABASE … RESET.",
    ),
    (
        "failed: FATAL: .*(?:could not access file|could not load library|incompatible library|invalid library)",
        "session_preload_libraries or local_preload_libraries of this role, database or server names a library that the server "
        "cannot load: ALTER ROLE or ALTER DATABASE … RESET that setting.",
    ),
    (
        r"failed: \w+: .*CONTEXT: .* function ",
        "A login event trigger of this database may refuse the connection (SELECT evtname FROM pg_event_trigger WHERE evtevent = "
        "'login'); a superuser gets in with PGOPTIONS='-c event_triggers=off'.",
    ),
    (
        "timeout expired|timed out|no answer after",
        "Nothing answers there: check host and port, and firewalls in between.",
    ),
)
_UNKNOWN = "Check that the server is running, and that host and port are right."
# The server's own words, in any language: it is running.
_REFUSED = (r"failed: [^\s:]+: ", "The server refused the connection; its log may say more.")


def advice(words: str) -> str:
    """Return the hint for this failure. The first line of the table whose pattern is in the words has it."""
    return next((hint for signs, hint in (*_ADVICE, _REFUSED) if re.search(signs, words)), _UNKNOWN)
