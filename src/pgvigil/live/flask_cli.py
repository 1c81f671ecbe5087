"""The requests of a Flask application as the monitor sees them, and `flask session-monitoring`.

The commands read what all workers have reported. They are processes of their own, which count nothing and report
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from pgvigil import database
from pgvigil.errors import PgvigilError, UsageError
from pgvigil.live import monitor_metrics, monitor_workers
from pgvigil.live.own_transaction import refuse_superuser
from pgvigil.live.patching import Undo
from pgvigil.text import visible

if TYPE_CHECKING:
    import psycopg

    from pgvigil.live.monitor import SessionPerformanceMonitor

GROUP: Final = "session-monitoring"
_REQUEST: Final = "pgvigil.request"  # in the environment of a request, its id


def connect(app: Any, monitor: SessionPerformanceMonitor) -> Undo:
    """Watch the requests of a Flask application, and add the commands to it. Return the undo."""
    from flask import request

    def begin() -> None:
        request.environ[_REQUEST] = monitor.start_request_monitoring(f"{request.method} {request.endpoint}")

    def end(_error: BaseException | None = None) -> None:
        monitor.end_request_monitoring(request.environ.pop(_REQUEST, None))

    # Not by app.before_request(), which refuses an application that has begun to answer, and knows no way back. First before all
    # others, so that what they do counts; last after all others, because Flask runs these in reverse.
    app.before_request_funcs.setdefault(None, []).insert(0, begin)
    app.teardown_request_funcs.setdefault(None, []).insert(0, end)
    group = commands(monitor)
    app.cli.add_command(group)
    app.extensions["pgvigil_monitor"] = monitor

    def undo() -> None:
        app.before_request_funcs[None].remove(begin)
        app.teardown_request_funcs[None].remove(end)
        if app.cli.commands.get(GROUP) is group:
            del app.cli.commands[GROUP]
        app.extensions.pop("pgvigil_monitor", None)

    return undo


def commands(monitor: SessionPerformanceMonitor) -> click.Group:
    """Return `session-monitoring` with its commands, for an application that is monitored."""

    @contextmanager
    def connection() -> Iterator[psycopg.Connection[Any]]:
        reporter = monitor.reporter
        try:
            if reporter is None:
                raise UsageError(
                    "this application does not report to a database, so what its workers count cannot be read here",
                    "Give initialize_performance_monitoring() a database_url or a recorder; or look at this process alone: --this-process.",
                )
            with closing(database.open_connection(reporter.target, "session-monitoring")) as opened:
                refuse_superuser(opened)
                yield opened
        except PgvigilError as error:
            click.echo(f"error: {visible(error.message)}", err=True)
            if error.hint:
                click.echo(f"hint: {visible(error.hint)}", err=True)
            raise click.exceptions.Exit(error.exit_code) from error

    def found(this_process: bool) -> list[monitor_workers.Application]:
        if this_process:
            return [monitor.as_application()]
        with connection() as opened:
            seen = monitor_workers.read(opened, monitor.application)
        assert monitor.reporter is not None  # noqa: S101 - there was a connection to its database
        return [one for one in seen if one.reported_by == monitor.reporter.target.user] or seen

    this_process = click.option("--this-process", is_flag=True, help="this process alone, instead of all workers")

    def form(default: str) -> Callable[[Any], Any]:
        return click.option("--format", "form", type=click.Choice(["json", "text"]), default=default, show_default=True)

    @click.group(GROUP, help="Show the SQLAlchemy sessions of all workers.")
    def group() -> None:
        if monitor.reporter is not None:
            monitor.reporter.abandon()  # a command is not a worker

    @group.command()
    @this_process
    @form("text")
    def status(this_process: bool, form: str) -> None:
        """Show workers, health, open sessions, pool."""
        seen = found(this_process)
        click.echo(monitor_workers.as_json(seen[0].document()) if form == "json" else monitor_workers.status_text(seen))

    @group.command()
    @this_process
    def summary(this_process: bool) -> None:
        """The metrics in words."""
        click.echo(monitor_workers.summary_text(found(this_process)))

    @group.command()
    @this_process
    @form("text")
    def metrics(this_process: bool, form: str) -> None:
        """Show all metrics."""
        seen = found(this_process)
        click.echo(
            monitor_workers.as_json(seen[0].document()) if form == "json" else monitor_workers.metrics_text(seen)
        )

    @group.command()
    @this_process
    @form("text")
    @click.option(
        "--threshold",
        type=click.FloatRange(min=0, min_open=True),
        default=monitor_metrics.SLOW_SECONDS,
        show_default=True,
        metavar="SECONDS",
        help="an operation that takes longer is slow",
    )
    @click.pass_context
    def alerts(context: click.Context, this_process: bool, form: str, threshold: float) -> None:
        """Print the alerts; exit code 1 if there is one."""
        alerts = monitor_workers.alerts_of(found(this_process), threshold)
        document = monitor_workers.alerts_document(alerts)
        click.echo(monitor_workers.as_json(document) if form == "json" else monitor_workers.alerts_text(alerts))
        context.exit(1 if alerts else 0)

    @group.command("enable-periodic-logging")
    @click.option(
        "--interval",
        type=float,
        default=300,
        show_default=True,
        metavar="SECONDS",
        help="between two summaries; 0: none",
    )
    def enable_periodic_logging(interval: float) -> None:
        """Have each worker log its summary."""
        with connection() as opened:
            click.echo(monitor_workers.set_logging(opened, monitor.application, interval))

    return group
