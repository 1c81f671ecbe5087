"""`pgvigil setup`: a new install, or the verdict on one that is there."""

from __future__ import annotations

import argparse

from pgvigil import database, project
from pgvigil.commands.common import options, runs
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.target import named_target

GROUP = Group.SCHEMA
SUMMARY = "build the schema in a new database, or validate the one that is there"


def add_arguments(command: argparse.ArgumentParser) -> None:
    options.add_schema(options.add_database(command))
    # Containers that start together all run it: each but the first waits until the schema is there, on a slow machine too.
    options.add_locks(command, run_lock=True, lock_wait=60)
    command.add_argument(
        "--wait", type=options.seconds, default=0, metavar="SECONDS", help="wait this long for the server to answer"
    )


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.display import reporter
    from pgvigil.embedded import JobsProcess, PersistentServer
    from pgvigil.migration import setup

    target = named_target(arguments)
    embedded = None
    with reporter() as log:
        if target is None:
            embedded = PersistentServer()
            log("starting the embedded server")
            embedded.start()
            target = database.parse_url(embedded.url(), "embedded server")
        outcome = setup.setup(target, runs.options_of(arguments), arguments.wait, log)
    done = f"built, at revision {outcome.end}" if outcome.applied else f"already set up, at revision {outcome.end}"
    print(f"{done}; the schema meets {project.SPEC.name} and every trigger and view works ({outcome.seconds:.1f} s)")
    if embedded:
        url = f'export DATABASE_URL="$({project.command("server", "url")})"'
        print(
            f"\nNext: point your application at this database, which `server stop` stops and `server start` starts:\n  {url}"
        )
    else:
        print("\nNext: point your application at this database.")
    runs.print_waiting(outcome, target)
    if embedded:
        JobsProcess(embedded).start()
        print(
            f"\nThe regular jobs run while this server is up. Their status:\n  {project.command('maintain', 'status')}"
        )
    else:
        runs.print_jobs(target)
    runs.print_looks(target)
    return 0
