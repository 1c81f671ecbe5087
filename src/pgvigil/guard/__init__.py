"""Run any migration command under the guarantees of pgvigil's own runner: backup, bounded lock waits, a rehearsal, a
comparison.

The command runs below a supervisor, a process of its own, which ends it when guard itself is killed.
"""
