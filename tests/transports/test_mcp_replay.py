"""The events that are kept of a session's streams, and ids that clients make up."""

import asyncio

import pytest
from mcp_types import JSONRPCResponse

from toolpost.transports.mcp_replay import MOST_BYTES, RecentEvents


@pytest.mark.parametrize("made_up", ["²", "9" * 6_000, "-1", "one", ""])
def test_an_id_that_was_never_given_out_leads_to_no_stream(made_up: str) -> None:
    async def asked() -> str | None:
        events = RecentEvents()
        await events.store_event("stream", None)
        return await events.replay_events_after(made_up, lambda event: asyncio.sleep(0))

    assert asyncio.run(asked()) is None


def test_large_answers_are_not_kept_without_end() -> None:
    async def kept() -> list[int]:
        events = RecentEvents()
        for number in range(6):
            large = JSONRPCResponse(jsonrpc="2.0", id=number, result={"text": "x" * (MOST_BYTES // 3)})
            await events.store_event(f"stream {number}", None)
            await events.store_event(f"stream {number}", large)
        return [number for number in range(12) if await events.replay_events_after(str(number + 1), ignored)]

    assert asyncio.run(kept()) == [8, 9, 10, 11]


async def ignored(event: object) -> None:
    """Takes an event that comes again."""
