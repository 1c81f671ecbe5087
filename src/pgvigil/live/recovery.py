"""Give access to objects whose session is gone: they are attached again, and that is counted.

An object without changes is merged without asking the database; one with changes is merged with them; where neither can
be done it is loaded again by its identity.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import inspect
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.orm.exc import DetachedInstanceError, UnmappedInstanceError

from pgvigil.live.monitor import get_performance_monitor

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession  # it needs greenlet, which not every application has

T = TypeVar("T")
AnySession = Session | scoped_session[Any]


def ensure_attached(instance: T, session: AnySession) -> T:
    """Return `instance` if it is in this session, else an object of the same identity that is.

    Raise UnmappedInstanceError for anything but a mapped object, ValueError for one that was never in the database or
    is in another session that is open, and what SQLAlchemy raises where it cannot be loaded.
    """
    state = _state(instance)
    if instance in session:
        return instance
    if state.identity is None:
        raise ValueError(
            f"this {type(instance).__name__} was never in the database, so it cannot be attached again: use session.add()"
        )
    if state.session is not None:
        raise ValueError(f"this {type(instance).__name__} is in another session, which is open: use that, or close it")
    monitor, began = get_performance_monitor(), perf_counter()
    attached: T | None = None
    try:
        attached = _attach(instance, state, session)
    finally:
        monitor.record_detached_instance_recovery(
            type(instance).__name__, perf_counter() - began, success=attached is not None
        )
    if attached is None:
        raise DetachedInstanceError(
            f"the {type(instance).__name__} with identity {state.identity} is in the database no more"
        )
    monitor.record_session_reattachment(type(instance).__name__)
    return attached


def _state(instance: object) -> Any:
    state = inspect(instance, raiseerr=False)
    if state is None or not hasattr(state, "identity"):
        raise UnmappedInstanceError(instance)
    return state


def _attach(instance: T, state: Any, session: AnySession) -> T | None:
    try:
        # With load=True what is old in the object would be written over what others have stored since.
        merged: T = session.merge(instance, load=state.modified)
    except (InvalidRequestError, DetachedInstanceError):
        return session.get(type(instance), state.identity)
    return merged


def safe_access(instance: object, attribute: str, default: Any = None, *, session: AnySession | None = None) -> Any:
    """An attribute of an object that may be detached; `default` where it cannot be had. With a session, the object is attached
    to that if need be.
    """
    try:
        return getattr(instance, attribute, default)
    except DetachedInstanceError:
        if session is None:
            get_performance_monitor().record_detached_instance_recovery(type(instance).__name__, success=False)
            return default
    try:
        return getattr(ensure_attached(instance, session), attribute, default)
    except (SQLAlchemyError, ValueError):
        return default


def safe_relationship_access(
    instance: object, relationship: str, default: Any = None, *, session: AnySession | None = None
) -> Any:
    """The same for a relationship: where it cannot be loaded, an empty list if it is one of many objects and no default is given."""
    if default is None and (state := inspect(instance, raiseerr=False)) is not None and hasattr(state, "mapper"):
        known = state.mapper.relationships.get(relationship)
        default = [] if known is not None and known.uselist else None
    return safe_access(instance, relationship, default, session=session)


async def async_ensure_attached(instance: T, session: AsyncSession) -> T:
    """Return the same as `ensure_attached`, for an AsyncSession."""
    return await session.run_sync(lambda inner: ensure_attached(instance, inner))


async def async_safe_access(instance: object, attribute: str, default: Any = None, *, session: AsyncSession) -> Any:
    """Return the same as `safe_access`.

    Attributes that must be loaded are loaded within the session, where there is a greenlet to wait in.
    """
    if instance in session:
        return await session.run_sync(lambda _: getattr(instance, attribute, default))
    return await session.run_sync(lambda inner: safe_access(instance, attribute, default, session=inner))
