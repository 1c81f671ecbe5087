"""The 33 statements, each with what PostgreSQL does for it: for the tests of lint, and for the comparison with squawk
(benchmarks/).
"""

from __future__ import annotations

from dataclasses import dataclass

BASE = """
CREATE SCHEMA other;
CREATE TABLE other."Odd ""name" (id int, "The value" text);
CREATE TABLE customers (id int PRIMARY KEY, mail text, name varchar(50));
CREATE TABLE orders (id int PRIMARY KEY, customer int, state varchar(10), total int NOT NULL, made timestamp, note text, slot int4range);
CREATE INDEX orders_state ON orders (state);
CREATE UNIQUE INDEX orders_note ON orders (note);
ALTER TABLE orders ADD CONSTRAINT has_customer CHECK (customer IS NOT NULL);
ALTER TABLE orders ADD CONSTRAINT late CHECK (total < 1000000) NOT VALID;
CREATE TABLE events (id int, kind text) PARTITION BY RANGE (id);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (10);
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (10) TO (20);
"""
ALONE = "-- pgvigil: no-transaction\n"


@dataclass(frozen=True)
class Case:
    """A statement and its expected finding: `rule` and `table`, none where nothing grows with the table.

    `instead` are words of the safe rewrite.
    """

    name: str
    sql: str
    rule: str = ""
    table: str = "orders"
    instead: tuple[str, ...] = ()


STATEMENTS = (
    # Thirteen that hold a lock against writers for a time that grows with the table.
    Case("add a column with a volatile default", "ALTER TABLE orders ADD COLUMN seen timestamptz DEFAULT clock_timestamp()", "rewrite", instead=("without a default",)),
    Case("add an identity column", "ALTER TABLE orders ADD COLUMN nr bigint GENERATED ALWAYS AS IDENTITY", "rewrite", instead=("plain column",)),
    Case("add a stored generated column", "ALTER TABLE orders ADD COLUMN twice int GENERATED ALWAYS AS (total * 2) STORED", "rewrite", instead=("trigger",)),
    Case("set not null", "ALTER TABLE orders ALTER COLUMN state SET NOT NULL", "full-read", instead=("CHECK (state IS NOT NULL) NOT VALID;", "VALIDATE CONSTRAINT state_not_null;", "SET NOT NULL, DROP CONSTRAINT")),
    Case("shorten a varchar", "ALTER TABLE customers ALTER COLUMN name TYPE varchar(20)", "rewrite", "customers", ("CHECK (length(name) <= n)",)),
    Case("int to bigint", "ALTER TABLE orders ALTER COLUMN total TYPE bigint", "rewrite", instead=("swap the names",)),
    Case("add a check", "ALTER TABLE orders ADD CONSTRAINT positive CHECK (total > 0)", "full-read", instead=("NOT VALID;", "VALIDATE CONSTRAINT positive;")),
    Case("add a foreign key", "ALTER TABLE orders ADD FOREIGN KEY (customer) REFERENCES customers", "full-read", instead=("REFERENCES customers NOT VALID;", "VALIDATE CONSTRAINT orders_customer_fkey;")),
    Case("create an index", "CREATE INDEX by_total ON orders (total)", "full-read", instead=("CREATE INDEX CONCURRENTLY by_total ON orders (total);",)),
    Case("create a unique index", "CREATE UNIQUE INDEX one_mail ON customers (mail)", "full-read", "customers", ("CREATE UNIQUE INDEX CONCURRENTLY one_mail ON customers (mail);",)),
    Case("add a unique constraint", "ALTER TABLE customers ADD CONSTRAINT one_mail UNIQUE (mail)", "full-read", "customers", ("CREATE UNIQUE INDEX CONCURRENTLY one_mail ON customers (mail)", "UNIQUE USING INDEX one_mail;")),
    Case("cluster", "CLUSTER orders USING orders_state", "rewrite", instead=("pg_repack",)),
    Case("reindex", "REINDEX TABLE orders", "rewrite", instead=("REINDEX TABLE CONCURRENTLY orders;",)),
    # Twenty that neither rewrite a table nor read one in full under such a lock.
    Case("add a column", "ALTER TABLE orders ADD COLUMN extra int"),
    Case("add a column with a constant default", "ALTER TABLE orders ADD COLUMN extra int NOT NULL DEFAULT 5"),
    Case("add a column with the time of the statement", "ALTER TABLE orders ADD COLUMN extra timestamptz DEFAULT now()"),
    Case("drop a column", "ALTER TABLE orders DROP COLUMN note"),
    Case("rename a column", "ALTER TABLE orders RENAME COLUMN note TO remark"),
    Case("set a default", "ALTER TABLE orders ALTER COLUMN total SET DEFAULT 0"),
    Case("drop not null", "ALTER TABLE orders ALTER COLUMN total DROP NOT NULL"),
    Case("lengthen a varchar", "ALTER TABLE orders ALTER COLUMN state TYPE varchar(20)"),
    Case("varchar to text", "ALTER TABLE customers ALTER COLUMN name TYPE text"),
    Case("timestamp to timestamptz in UTC", "ALTER TABLE orders ALTER COLUMN made TYPE timestamptz"),
    Case("set not null where a check proves it", "ALTER TABLE orders ALTER COLUMN customer SET NOT NULL"),
    Case("add a check not valid", "ALTER TABLE orders ADD CONSTRAINT positive CHECK (total > 0) NOT VALID"),
    Case("add a foreign key not valid", "ALTER TABLE orders ADD FOREIGN KEY (customer) REFERENCES customers NOT VALID"),
    Case("validate a constraint", "ALTER TABLE orders VALIDATE CONSTRAINT late"),
    Case("create an index concurrently", f"{ALONE}CREATE INDEX CONCURRENTLY by_total ON orders (total)"),
    Case("unique by an index that is there", "ALTER TABLE orders ADD CONSTRAINT one_note UNIQUE USING INDEX orders_note"),
    Case("drop an index concurrently", f"{ALONE}DROP INDEX CONCURRENTLY orders_state"),
    Case("create a table with a foreign key", "CREATE TABLE lines (id int PRIMARY KEY, of int REFERENCES orders)"),
    Case("change a row by its key", "UPDATE orders SET state = 'new' WHERE id = 7"),
    Case("truncate", "TRUNCATE orders"),
)  # fmt: skip
