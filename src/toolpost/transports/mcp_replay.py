"""The newest events of a session's streams, for a client whose connection was let go and who comes back."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mcp.server.streamable_http import EventCallback
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

MOST_STREAMS: Final = 8
MOST_EVENTS: Final = 64
"""How many streams of one session, and events of one stream, are kept; the newest stay."""
MOST_BYTES: Final = 1 << 20
"""How many bytes of them one session keeps, about, beside the newest one."""
MOST_OF_ONE: Final = 1000
"""How many sessions one caller may have open in one process, which has room for ten times as many."""


class RecentEvents:
    """An event store of one session, in memory. Belongs to one event loop."""

    def __init__(self) -> None:
        self._streams: OrderedDict[str, list[tuple[int, Any, int]]] = OrderedDict()
        self._number = self._size = 0

    async def store_event(self, stream_id: str, message: Any) -> str:
        """Keep one; its id, which grows."""
        self._number += 1
        events = self._streams.setdefault(stream_id, [])
        self._streams.move_to_end(stream_id)
        size = _size(message)
        events.append((self._number, message, size))
        self._size += size
        if len(events) > MOST_EVENTS:
            self._size -= events.pop(0)[2]
        while len(self._streams) > MOST_STREAMS or (self._size > MOST_BYTES and len(self._streams) > 1):
            self._size -= sum(one[2] for one in self._streams.popitem(last=False)[1])
        while self._size > MOST_BYTES and len(events) > 1:
            self._size -= events.pop(0)[2]
        return str(self._number)

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        """Send what came after an event on its stream; the stream, None where it is not known any more."""
        from mcp.server.streamable_http import EventMessage

        plain = last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 20
        last = int(last_event_id) if plain else -1
        for stream_id, events in self._streams.items():
            if any(number == last for number, _, _ in events):
                for number, message, _ in list(events):
                    if number > last and message is not None:
                        await send_callback(EventMessage(message, str(number)))
                return stream_id
        return None


def session_manager(server: Any, **options: Any) -> StreamableHTTPSessionManager:
    """The SDK's manager of sessions, with a store of events for each: theirs would be one for all.

    The SDK tells a store the id of a request only, and those of two sessions are the same: with one store a client that
    comes back could be sent what another's call gave (mcp 2.3).
    """
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

    class Manager(StreamableHTTPSessionManager):
        def _admit_session(self, requestor: Any) -> Any:
            """None, which is answered with 503, for a caller who has so many that others would get none (mcp 2.3)."""
            if requestor is not None and sum(one == requestor for one in self._session_owners.values()) >= MOST_OF_ONE:
                return None
            return super()._admit_session(requestor)

        @property
        def event_store(self) -> Any:
            return RecentEvents()

        @event_store.setter
        def event_store(self, store: Any) -> None:
            """The one that the SDK would share is not kept."""

    return Manager(server, **options)


def _size(message: Any) -> int:
    """How many bytes a message has on the wire."""
    return 0 if message is None else len(message.model_dump_json(by_alias=True))


__all__ = ["MOST_OF_ONE", "RecentEvents", "session_manager"]
