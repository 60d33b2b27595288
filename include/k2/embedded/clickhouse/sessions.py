"""Sessions: handles that outlive a request, for temporary tables and SET statements."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from k2.embedded.clickhouse.exceptions import SESSION_IS_LOCKED, SESSION_NOT_FOUND, query_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from k2.embedded.clickhouse.engine import Engine, Handle
    from k2.embedded.clickhouse.requests import QueryRequest, SessionChoice


@dataclass
class Session:
    """A handle, and the settings that requests brought along, with what they replaced."""

    handle: Handle
    expires: float
    busy: bool = False
    applied: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, str | None] = field(default_factory=dict)

    def prepare(self, settings: Mapping[str, str], database: str | None) -> None:
        """Make the request's settings hold, and no longer those of earlier requests."""
        gone = [name for name in self.applied if name not in settings]
        self.handle.reset({name: self.replaced.pop(name) for name in gone})
        for name in gone:
            del self.applied[name]
        new = {name: value for name, value in settings.items() if self.applied.get(name) != value}
        unknown = [name for name in new if name not in self.replaced]
        if unknown:
            changed = self.handle.changed_settings()
            self.replaced |= {name: changed.get(name) for name in unknown}
        self.handle.apply(new, database)
        self.applied |= new

    def forget(self) -> None:
        """After a SET statement: what the session holds now is the user's own."""
        self.applied.clear()
        self.replaced.clear()


class Sessions:
    """All sessions of a server. `clock` gives seconds and only grows."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    @contextmanager
    def handle(self, request: QueryRequest, keyword: str) -> Iterator[Handle]:
        """A handle for a request, at the request's settings: that of its session, or a fresh one.

        Raises QueryError for an unknown or busy session, an unknown setting or database.
        """
        if request.session is None:
            handle = self._engine.open_handle()
            try:
                handle.apply(request.settings, request.database)
                yield handle
            finally:
                handle.close()
            return
        session = self._take(request.session)
        try:
            session.prepare(request.settings, request.database)
            yield session.handle
            if keyword == "SET":
                session.forget()
        finally:
            self._give_back(session, request.session)

    def _take(self, choice: SessionChoice) -> Session:
        with self._lock:
            self._expire()
            session = self._sessions.get(choice.id)
            if session is None and choice.must_exist:
                raise query_error(SESSION_NOT_FOUND, f"Session {choice.id} not found.")
            if session is None:
                session = Session(self._engine.open_handle(), self._clock())
                self._sessions[choice.id] = session
            if session.busy:
                raise query_error(
                    SESSION_IS_LOCKED, f"Session {choice.id} is locked by a concurrent client."
                )
            session.busy = True
            return session

    def _give_back(self, session: Session, choice: SessionChoice) -> None:
        with self._lock:
            session.busy = False
            session.expires = self._clock() + choice.timeout
            if choice.close_after:
                self._sessions.pop(choice.id).handle.close()

    def _expire(self) -> None:
        now = self._clock()
        for name, session in list(self._sessions.items()):
            if not session.busy and session.expires < now:
                del self._sessions[name]
                session.handle.close()

    def close(self) -> None:
        """Close all sessions."""
        with self._lock:
            for session in self._sessions.values():
                session.handle.close()
            self._sessions.clear()
