"""The web application: query executions, the session monitor, health and metrics, as one ASGI application.

`pgvigil.web.application(...)` needs the packages of pgvigil[web]; they are imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgvigil.web.access import Principal, tokens, trusted_proxy
    from pgvigil.web.app import application
else:
    _HOMES = {"application": "app", "Principal": "access", "tokens": "access", "trusted_proxy": "access"}

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        try:
            return getattr(import_module(f"pgvigil.web.{_HOMES[name]}"), name)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("pgvigil"):
                raise
            from pgvigil import project

            raise ModuleNotFoundError(
                f"pgvigil.web needs the package {error.name}: {project.install('web')}", name=error.name
            ) from error


__all__ = ["Principal", "application", "tokens", "trusted_proxy"]
