"""FakeClock: nothing happens until the test says so."""

import asyncio
import threading
import time

import pytest

from toolpost.testing import FakeClock


async def test_sleepers_wake_in_the_order_of_their_time():
    clock, woken = FakeClock(), []

    async def sleeper(seconds):
        await clock.sleep(seconds)
        woken.append(seconds)

    tasks = [asyncio.ensure_future(sleeper(s)) for s in (3, 1, 2)]
    while clock.waiting < 3:
        await asyncio.sleep(0)
    clock.advance(2)
    for _ in range(5):
        await asyncio.sleep(0)
    assert woken == [1, 2]

    clock.advance(1)
    await asyncio.gather(*tasks)
    assert woken == [1, 2, 3]


async def test_a_cancelled_alarm_stays_silent():
    clock, rung = FakeClock(), []
    alarm = clock.alarm(1, lambda: rung.append(1))
    clock.advance(1)
    alarm.cancel()
    await asyncio.sleep(0)

    assert rung == []


def test_waiting_for_a_lock_ends_when_time_is_moved():
    clock, lock = FakeClock(), threading.Lock()
    lock.acquire()
    answers = []
    waiter = threading.Thread(target=lambda: answers.append(clock.acquire(lock, 5)))
    waiter.start()
    clock.advance(6)
    waiter.join(5)

    assert answers == [False]
    assert clock.acquire(threading.Lock(), None)


def test_time_does_not_go_back_and_all_its_clocks_agree():
    clock = FakeClock(start=100.0)
    clock.advance(2.5)

    assert (clock.now(), clock.monotonic(), clock.stopwatch()) == (102.5, 2.5, 2.5)
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1)


def test_a_pausing_thread_goes_on_when_time_is_moved():
    clock, over = FakeClock(), []
    pausing = threading.Thread(target=lambda: over.append(clock.pause(5)))
    pausing.start()
    while not clock.waiting:
        time.sleep(0.001)
    clock.advance(4)
    pausing.join(0.01)
    assert not over

    clock.advance(1)
    pausing.join(5)
    assert over
    assert not clock.waiting
