"""Places: calls that stop waiting in the very moment in which a place becomes free."""

import asyncio
import time

import pytest

from toolpost.calls.errors import OverloadedError
from toolpost.worker.places import Places


def due_together() -> None:
    """Hold the loop until several timers are due, so that it goes through them in one turn."""
    time.sleep(0.02)


def test_one_that_is_cancelled_as_a_place_becomes_free_leaves_it_to_the_next() -> None:
    async def waited() -> tuple[bool, int, int]:
        places = Places(limit=1, max_waiting=5)
        places.taken = 1
        first, second = (asyncio.create_task(places.wait("Tool", None)) for _ in range(2))
        await asyncio.sleep(0)

        first.cancel()
        places.leave()  # before the first one has noticed
        with pytest.raises(asyncio.CancelledError):
            await first
        await second
        return second.done(), places.taken, places.waiting

    assert asyncio.run(waited()) == (True, 1, 0)


def test_one_whose_time_is_up_as_a_place_becomes_free_is_refused() -> None:
    async def waited() -> tuple[int, int]:
        places = Places(limit=1, max_waiting=5)
        places.taken = 1
        task = asyncio.create_task(places.wait("Tool", 0.01))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.011, places.leave)
        due_together()

        with pytest.raises(OverloadedError, match="no place was free"):
            await task
        return places.taken, places.waiting

    assert asyncio.run(waited()) == (0, 0)


def test_callers_take_turns_whoever_has_how_many_calls() -> None:
    async def waited() -> list[str]:
        places, order = Places(limit=1, max_waiting=10), list[str]()
        places.taken = 1

        async def one(who: str) -> None:
            await places.wait("Tool", None, who)
            order.append(who)
            places.leave()

        tasks = [asyncio.create_task(one(who)) for who in ("ann", "ann", "ann", "bob", "cat", "bob")]
        await asyncio.sleep(0)
        places.leave()
        await asyncio.gather(*tasks)
        assert (places.taken, places.waiting) == (0, 0)
        return order

    assert asyncio.run(waited()) == ["ann", "bob", "cat", "ann", "bob", "ann"]


def test_nobody_can_fill_the_line_against_others() -> None:
    async def waited() -> list[str]:
        places, refused = Places(limit=1, max_waiting=4), list[str]()
        places.taken = 1

        async def one(who: str) -> None:
            try:
                await places.wait("Tool", None, who)
            except OverloadedError:
                refused.append(who)
            else:
                places.leave()

        many = [asyncio.create_task(one("ann")) for _ in range(6)]
        await asyncio.sleep(0)
        others = [asyncio.create_task(one(who)) for who in ("bob", "cat", "bob", "bob")]
        await asyncio.sleep(0)
        assert places.waiting == 4
        places.leave()
        await asyncio.gather(*many, *others)
        assert (places.taken, places.waiting) == (0, 0)
        return refused

    assert sorted(asyncio.run(waited())) == ["ann", "ann", "ann", "ann", "bob", "bob"]


def test_a_call_that_loses_its_place_in_line_as_it_is_cancelled_takes_none_along() -> None:
    async def waited() -> tuple[int, int]:
        places = Places(limit=1, max_waiting=2)
        places.taken = 1
        _, second = (asyncio.create_task(places.wait("Tool", None, "ann")) for _ in range(2))
        await asyncio.sleep(0)
        bob = asyncio.create_task(places.wait("Tool", None, "bob"))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        state = places.taken, places.waiting
        places.leave()
        places.leave()
        await bob
        return state

    assert asyncio.run(waited()) == (1, 2)
