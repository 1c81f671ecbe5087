"""Mount the web application into a Flask application, and monitor its sessions.

Importing this module needs Flask; a2wsgi and pgvigil[web] are needed when the pages are mounted.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import flask
from werkzeug.exceptions import HTTPException

from pgvigil import database

if TYPE_CHECKING:
    from pgvigil.live import Recorder
    from pgvigil.live.monitor import SessionPerformanceMonitor
    from pgvigil.web.access import Principal

_METHODS: Final = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_PRINCIPAL: Final = "pgvigil.principal"  # in the environment of a request; no client can put it there
_OLDER: Final = "/admin/session-monitoring"


class PgvigilFlask:
    """A Flask extension that mounts the web application at `url_prefix` and at /admin/session-monitoring, and monitors `sessions` and `engine`.

    authorize  function without arguments, called in the context of the request: a Principal, or True for an admin, else nobody.
               Without it nothing is mounted
    options    those of pgvigil.web.application()

    With `app` it is set up at once, else by init_app(app, …).
    """

    def __init__(self, app: flask.Flask | None = None, *arguments: Any, **options: Any) -> None:
        self.monitor: SessionPerformanceMonitor | None = None
        if app is not None:
            self.init_app(app, *arguments, **options)

    def init_app(
        self,
        app: flask.Flask,
        recorder: Recorder | None = None,
        sessions: Any = None,
        engine: Any = None,
        *,
        authorize: Callable[[], Principal | bool | None] | None = None,
        database_url: str | None = None,
        url_prefix: str = "/pgvigil",
        **options: Any,
    ) -> None:
        """Set up `app`, see the class.

        The database is `database_url`, else the recorder's. Raise TypeError if pages have neither.
        """
        if sessions is not None or engine is not None:
            from pgvigil.live import initialize_performance_monitoring

            self.monitor = initialize_performance_monitoring(
                app, sessions, engine, recorder=recorder, database_url=database_url
            )
        app.extensions["pgvigil"] = self
        if authorize is None:
            return
        if not url_prefix.startswith("/") or url_prefix.endswith("/"):
            raise ValueError("url_prefix has to begin with a slash, and not to end with one")
        target = recorder.target if recorder is not None else None
        if database_url is not None:
            target = database.parse_url(database_url, "database_url")
        if target is None:
            raise TypeError("PgvigilFlask needs a recorder or a database_url, to know of which database to show")
        mounted = _Mounted(target, authorize, {"recorder": recorder} | options)

        def below_prefix(path: str = "") -> Any:
            return mounted.answer(url_prefix, f"/{path}")

        def as_it_is(path: str) -> Any:
            return mounted.answer("", f"{_OLDER}/{path}")

        app.add_url_rule(f"{url_prefix}/", "pgvigil", below_prefix, methods=_METHODS)
        app.add_url_rule(f"{url_prefix}/<path:path>", "pgvigil_path", below_prefix, methods=_METHODS)
        app.add_url_rule(f"{_OLDER}/<path:path>", "pgvigil_session_monitoring", as_it_is, methods=_METHODS)


class _Mounted:
    """The web application of a process: a forked child makes its own, with a loop of its own."""

    def __init__(self, target: database.Target, authorize: Callable[[], Any], options: dict[str, Any]) -> None:
        self._target, self._authorize, self._options = target, authorize, options
        self._lock = threading.Lock()
        self._made: tuple[int, Callable[..., Any]] | None = None
        os.register_at_fork(after_in_child=self._forget)
        self._middleware()  # what is not installed, and wrong options, are said at the start and not to the first visitor
        self._application()

    def _forget(self) -> None:
        self._lock, self._made = threading.Lock(), None

    def _application(self) -> Any:
        from pgvigil import web

        return web.application(self._target, authorize=_principal, **self._options)

    @staticmethod
    def _middleware() -> Any:
        try:
            from a2wsgi import ASGIMiddleware
        except ModuleNotFoundError as error:
            from pgvigil import project

            raise ModuleNotFoundError(
                f"PgvigilFlask needs the package {error.name} for its pages: {project.install('flask')}",
                name=error.name,
            ) from error
        return ASGIMiddleware

    def _wsgi(self) -> Callable[..., Any]:
        with self._lock:
            if self._made is None:
                self._made = os.getpid(), self._middleware()(self._application())
            return self._made[1]

    def answer(self, prefix: str, path: str) -> Any:
        """Return the response of the web application to the request of this context."""
        environ = dict(flask.request.environ)
        try:
            found = self._authorize()
        except HTTPException as error:  # abort(403); one with an answer of its own, such as a redirect, is that answer
            if error.response is not None or error.code is None:
                raise
            found = error
        if found is True:
            from pgvigil.web.access import Principal

            found = Principal(f"an admin of {flask.current_app.name}"[:100], "admin")
        environ[_PRINCIPAL] = found or None
        environ["SCRIPT_NAME"] = flask.request.environ.get("SCRIPT_NAME", "") + prefix
        environ["PATH_INFO"] = path.encode().decode("latin-1")
        environ["QUERY_STRING"] = quote(
            environ.get("QUERY_STRING", ""), safe="%&=+/?:@!$'()*,;~-._", encoding="latin-1"
        )
        environ.setdefault("REMOTE_PORT", "0")  # without a port there would be no address either
        # Buffered: a client that reads half an answer would leave its task in the loop for ever. No answer is a stream.
        return flask.current_app.response_class.from_app(self._wsgi(), environ, buffered=True)


async def _principal(request: Any) -> Any:
    found = request.scope.get("wsgi_environ", {}).get(_PRINCIPAL)
    if isinstance(found, HTTPException):
        from pgvigil.web.problems import of_status

        raise of_status(found.code or 500)
    return found
