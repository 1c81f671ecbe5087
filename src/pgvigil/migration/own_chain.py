"""The chain of pgvigil itself: scripts/migrations, recorded by Alembic and in pgvigil.migrations, beside the session
application's tables.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import psycopg

from pgvigil import project
from pgvigil.database import Target
from pgvigil.errors import PreconditionError
from pgvigil.migration import apply, files, ledger, preflight, unfit
from pgvigil.migration.chain import Chain, Run
from pgvigil.migration.change import Change
from pgvigil.migration.concurrent_indexes import quoted
from pgvigil.migration.files import Migration
from pgvigil.migration.ledger import State
from pgvigil.migration.trace import Trace
from pgvigil.owner import OWN_ROLE, confine, owner_of, rows
from pgvigil.planned_code import planned_code
from pgvigil.progress import Reporter
from pgvigil.shipped import require_shipped
from pgvigil.validate import (
    Declaration,
    Reference,
    Report,
    keep_reference,
    load_declaration,
    load_spec,
    reference_of_empty,
    validate,
)

if TYPE_CHECKING:
    from pgvigil.validate.catalog.snapshot import Snapshot


class OwnChain(Chain):
    staged = True
    application_tables = preflight.APPLICATION_TABLES
    reference: Snapshot | None = None  # of a database that was empty

    @property
    def spec_name(self) -> str:  # type: ignore[override]
        return project.SPEC.name

    def load(self) -> list[Migration]:
        return files.load(project.MIGRATIONS)

    def groups(self, migrations: list[Migration]) -> list[list[Migration]]:
        return files.groups(migrations)

    def declaration(self) -> Declaration:
        return load_declaration(project.SPEC)

    def open(
        self, conn: psycopg.Connection, asked_schema: str | None, migrations: list[Migration], accepted: Collection[str]
    ) -> tuple[str, State, list[str]]:
        require_shipped(conn)
        state = ledger.read(conn)
        schema = state.schema or asked_schema or "public"
        if found := list(planned_code(conn, (), schema, preflight.APPLICATION_TABLES)):
            raise PreconditionError(
                f"reading the application's tables would run functions of others with the rights of {conn.info.user}: {'; '.join(found)}",
                "Migrate as the owner of the tables, or drop these indexes or constraints first. Nothing was changed.",
            )
        if asked_schema and asked_schema != schema:
            raise PreconditionError(
                f'pgvigil watches schema "{schema}" in this database, not "{asked_schema}"', "Leave --schema out."
            )
        if not preflight.one(conn, "SELECT count(*) FROM pg_namespace WHERE nspname = %s", schema):
            raise PreconditionError(
                f'there is no schema "{schema}" in database "{conn.info.dbname}"', "Check --schema."
            )
        if not state.entries and preflight.one(conn, "SELECT to_regnamespace('pgvigil') IS NOT NULL"):
            raise PreconditionError(
                "there is a schema pgvigil, but no ledger in it: something else, or a restore that was cut short, made it",
                "Look at what it holds (\\dn+ pgvigil, \\dt pgvigil.*) and drop or rename it.",
            )
        if (owner := owner_of(conn, schema)).is_other:
            confine(conn, owner.name)  # what is made here is the owner's at once
        warnings = ledger.compare(state, migrations, accepted)
        preflight.require_all_rows(conn, schema)
        apply.pin(conn, schema)
        return schema, state, warnings

    def read(self, conn: psycopg.Connection) -> State:
        return ledger.read(conn)

    def require_ready(self, run: Run, log: Reporter) -> None:
        conn, schema = run.conn, run.schema
        if not run.state.entries:
            if not preflight.application_tables(conn, schema):
                raise PreconditionError(
                    f'schema "{schema}" of database "{conn.info.dbname}" has none of the session application\'s tables '
                    f"({', '.join(preflight.APPLICATION_TABLES)})",
                    "Is this the right database and --schema? A new, empty database is built by pgvigil setup.",
                )
            preflight.require_application(conn, schema)
            unfit.require_fit(conn, schema)
        if run.pending:
            preflight.require_rights(conn, schema)
            preflight.require_room(conn, schema, {m.name[4:] for m in run.applied})
            for warning in preflight.warnings(conn, schema):
                log(f"warning: {warning}")

    def begin(self, run: Run, target: Target, log: Reporter) -> None:
        pass

    def begin_empty(self, conn: psycopg.Connection, schema: str) -> None:
        """Make the reference here if there can be no scratch database for it: most servers that one rents give nobody the right."""
        self.reference = reference_of_empty(conn, self.declaration(), project.INIT_SQL, schema)

    def require_rehearsal(self, pending: list[Migration]) -> None:
        pass

    def apply_group(self, conn: psycopg.Connection, change: Change, trace: Trace) -> None:
        apply.apply_group(conn, change, trace)

    def require_reversible(self, to_revert: list[Migration]) -> None:
        pass

    def reverts_at_once(self, to_revert: list[Migration]) -> bool:
        return bool(to_revert)

    def accept(self, run: Run, accepted: Collection[str]) -> None:
        ledger.accept(run.conn, owner_of(run.conn, run.schema), run.migrations, accepted)

    def index_names(self, schema: str) -> tuple[Collection[str], Collection[str]]:
        spec = load_spec(project.SPEC)
        names = [index for table in spec.tables.values() for index in (*table.indexes, *table.constraints)]
        ours = [
            name if "." in name else f"{quoted(schema)}.{name}" for name, table in spec.tables.items() if table.ours
        ]
        return names, ours

    def verdict(self, conn: psycopg.Connection, target: Target, schema: str) -> Report:
        """Compare also what the spec does not spell out. The reference is stored for roles that may only read."""
        declared = self.declaration()
        reference = self.reference
        if reference is None:
            made = Reference(target, lambda: conn, lambda: declared, project.INIT_SQL, lambda _: schema)
            reference, _ = made.outcome()
        if reference:
            keep_reference(conn, reference, project.INIT_SQL)
        return validate(conn, declared, schema, reference=reference)

    def warnings(self, conn: psycopg.Connection) -> list[str]:
        found = rows(
            conn,
            "warning text",
            """SELECT format('%s.%s holds %L, which is not in its list (%s %s): the list stays open until the rows are changed and CALL pgvigil.validate_value_checks() is run',
                             table_name, column_name, value, rows_found, CASE rows_found WHEN 1 THEN 'row' ELSE 'rows' END) FROM pgvigil.tolerated_values
               UNION ALL
               SELECT format('%s was there in another shape: it is kept whole as pgvigil.legacy_%s, and %s of its %s rows are now in %s%s',
                             table_name, table_name, rows_adopted, coalesce(rows_found::text, '?'), table_name,
                             CASE WHEN rows_adopted < rows_found THEN '; the others break its constraints' ELSE '' END)
               FROM pgvigil.displaced_tables
               UNION ALL
               SELECT format('table %s had the name of a view of pgvigil: it is kept whole as pgvigil.%s', substr(c.relname, 8), c.relname)
               FROM pg_class c WHERE c.relnamespace = 'pgvigil'::regnamespace AND c.relkind = 'r' AND starts_with(c.relname, 'legacy_')
                 AND NOT EXISTS (SELECT FROM pgvigil.displaced_tables t WHERE 'legacy_' || t.table_name = c.relname)""",
        )
        return [warning for (warning,) in found]

    def waiting_jobs(self, conn: psycopg.Connection) -> tuple[str, ...]:
        """The jobs that do nothing before the owner of the tables has accepted what they would do."""
        if not preflight.one(conn, "SELECT to_regclass('pgvigil.jobs') IS NOT NULL"):
            return ()
        query = (
            "SELECT job FROM pgvigil.jobs WHERE enabled AND needs_consent AND accepted_at IS NULL ORDER BY since, job"
        )
        return tuple(job for (job,) in rows(conn, "job text", query))

    def left_by_revert(self, conn: psycopg.Connection, schema: str) -> list[str]:
        """Return the tables that a superuser owned under names of ours and pgvigil_owner owns now. pgvigil does not return them: whoever had the rights of
        that role may have hung code on it, in an index or a rule, which would run as the superuser from then on.
        """
        found = conn.execute(
            """SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname), (SELECT pg_catalog.quote_ident(r.rolname) FROM pg_catalog.pg_roles r WHERE r.oid = 10)
               FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition AND c.relowner = pg_catalog.to_regrole(%s)
               ORDER BY 1""",
            (schema, OWN_ROLE),
        ).fetchall()
        return [
            f"{name} belongs to {OWN_ROLE}: where a superuser had it, look at what hangs on it (\\d+ {name}), then as one:"
            f" ALTER TABLE {name} OWNER TO {superuser};"
            for name, superuser in found
        ]

    def command(self, *words: str, schema: str | None = None, option: str = "") -> str:
        return project.command(*words, schema=schema, option=option)
