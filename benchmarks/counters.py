"""The cost of a session's counters for a writer of context_history: ours against no counters, and against the obvious
ones. Each of them refuses the rows of an archived session: ours once a statement, the others by the row trigger that the
other tables of a session have.

    scripts/bootstrap.sh test benchmarks/counters.py [--bindir DIR …] [--rounds 7] [--seconds 2]

`obvious` is a row per session that a row trigger updates in place. Single rows go to one of 100,000 sessions at random,
or all to one session (where an updated row makes its writers queue); the bulk statement adds 100,000 rows to 1,000
sessions.
"""

from __future__ import annotations

from hot_path import Suite, main
from session_designs import SESSIONS

WITHOUT = """
    DROP TRIGGER count_added_context ON context_history;
    DROP TRIGGER count_changed_context ON context_history;
    DROP TRIGGER count_removed_context ON context_history;
    CREATE OR REPLACE TRIGGER guard_archived_session BEFORE INSERT OR UPDATE OR DELETE ON context_history
        FOR EACH ROW EXECUTE FUNCTION pgvigil.guard_archived_session();
"""
OBVIOUS = """
    CREATE TABLE obvious_counters (session_id uuid PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
        context_count bigint NOT NULL, total_tokens bigint NOT NULL, total_content_bytes bigint NOT NULL) WITH (fillfactor = 70);
    CREATE FUNCTION obvious_count() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO obvious_counters VALUES (NEW.session_id, 1, coalesce(NEW.tokens_used, 0), octet_length(NEW.content))
        ON CONFLICT (session_id) DO UPDATE
        SET context_count = obvious_counters.context_count + 1, total_tokens = obvious_counters.total_tokens + EXCLUDED.total_tokens,
            total_content_bytes = obvious_counters.total_content_bytes + EXCLUDED.total_content_bytes;
        RETURN NULL;
    END $$;
    CREATE TRIGGER obvious_count AFTER INSERT ON context_history FOR EACH ROW EXECUTE FUNCTION obvious_count();
"""
ADD = """INSERT INTO context_history (session_id, sequence_number, context_type, content, tokens_used)
    SELECT id, {number}, 'message', 'some words of context', 7 FROM sessions"""
INSERT = ADD.format(number=":k").replace("\n    ", " ")
SUITE = Suite(
    designs={"without": "--\n" + WITHOUT, "ours": "-- as set up", "obvious": "--\n" + WITHOUT + OBVIOUS},
    past={},
    single={
        "single row": f"\\set n random(1, {SESSIONS})\n\\set k random(1000, 2000000000)\n{INSERT} WHERE session_key = :n;\n",
        "one session": f"\\set k random(1000, 2000000000)\n{INSERT} WHERE session_key = '7' ON CONFLICT DO NOTHING;\n",
    },
    bulk={"bulk": ADD.format(number="n") + " CROSS JOIN generate_series(1, 100) n WHERE session_key::numeric <= 1000"},
    rest="SELECT 1",
    base="without",
)

if __name__ == "__main__":
    main(SUITE, __doc__)
