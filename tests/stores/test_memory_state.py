"""The State of one process: it keeps the contract, and its memory is bounded."""

import threading

import pytest

from toolpost.stores import CircuitRules, ClaimAsk, open_state
from toolpost.stores.circuits import Circuits
from toolpost.stores.memory_state import MemoryState
from toolpost.testing import FakeClock
from toolpost.testing.state_contract import StateContract


@pytest.fixture
def clock():
    return FakeClock()


class TestMemoryState(StateContract):
    @pytest.fixture
    def state(self, clock):
        return open_state("memory://", clock=clock)

    @pytest.fixture
    def advance(self, clock):
        return clock.advance


def ask(key, **changes):
    fields = {"fingerprint": None, "owner": "me", "lease_s": 10.0, "ttl_s": 60.0}
    return ClaimAsk(key, **(fields | changes))


def test_answers_are_at_hand_and_cost_no_round_trip():
    state = open_state("memory://")

    assert state.take([("b", 1.0, 1.0)]) == (0.0, -1)
    assert (state.local, state.batches) == (True, 0)


def test_ten_thousand_users_take_no_more_room_than_max_keys(clock):
    state = MemoryState(clock=clock, max_keys=100)

    granted = [state.take([(f"user {n}", 0.001, 1.0)]) == (0.0, -1) for n in range(10_000)]

    assert all(granted)
    assert len(state._buckets._buckets) == 100


def test_values_are_bounded_in_bytes_and_number_and_the_longest_unused_goes(clock):
    state = MemoryState(clock=clock, max_keys=3, max_bytes=100)
    for key in "abc":
        state.put(key, bytes(10), 60)
    state.get("a")
    state.put("d", bytes(10), 60)
    by_number = [key for key in "abcd" if state.get(key)]
    state.put("e", bytes(85), 60)

    assert by_number == ["a", "c", "d"]
    assert [key for key in "abcde" if state.get(key)] == ["d", "e"]
    assert not state.put("f", bytes(101), 60)
    assert [key for key in "abcdef" if state.get(key)] == ["d", "e"]


def test_a_value_too_large_to_keep_does_not_leave_the_older_one(clock):
    state = MemoryState(clock=clock, max_bytes=10)
    state.put("k", b"old", 60)

    assert not state.put("k", bytes(11), 60)
    assert state.get("k") is None


def test_a_mark_dropped_for_room_makes_misses_and_never_brings_back_what_was_void(clock):
    state = MemoryState(clock=clock, max_keys=2)
    [mark] = state.marks(["t"])
    state.put("k", b"v", 60, 0.0, {"t": mark})
    state.marks(["other", "another"])

    assert state.get("k") is None
    assert not state.put("k", b"v", 60, 0.0, {"t": mark})
    assert state.marks(["t"]) != [mark]


def test_claims_whose_time_is_over_do_not_pile_up_and_open_ones_are_never_dropped(clock):
    state = MemoryState(clock=clock)
    for n in range(20):
        state.claim(ask(f"silent {n}", lease_s=1.0))
    for n in range(5_000):
        claim = state.claim(ask(f"done {n}"))
        state.finish(claim.key, claim.fence, "done", None, 1.0)
        clock.advance(0.1)

    assert len(state.claim.__self__._claims) < 100
    assert len(state.unsettled()) == 20


def test_places_that_nobody_gave_back_do_not_pile_up(clock):
    state = MemoryState(clock=clock)
    for n in range(5_000):
        state.enter(f"resource {n}", "holder", 1, 1.0)
        clock.advance(0.1)

    assert len(state.enter.__self__._held) < 100


RULES = CircuitRules(2, 10.0, 1)


def test_a_healthy_circuit_takes_no_room_and_the_others_are_bounded(clock):
    circuits = Circuits(clock.monotonic, max_keys=3)
    for n in range(10):
        circuits.report(f"well {n}", RULES, True)
        circuits.report(f"recovered {n}", RULES, False)
        circuits.report(f"recovered {n}", RULES, True)
    healthy = len(circuits)
    circuits.force("held", "open")
    for n in range(10):
        circuits.report(f"failing {n}", RULES, False)

    assert healthy == 0
    assert len(circuits) == 3
    assert circuits.circuit("failing 9").failures == 1
    assert circuits.circuit("failing 0").failures == 0
    assert circuits.circuit("held").forced == "open"


def test_a_circuit_that_its_probe_closed_takes_no_room(clock):
    circuits = Circuits(clock.monotonic)
    for _ in range(2):
        circuits.report("c", RULES, False)
    clock.advance(10)
    circuits.report("c", RULES, True, circuits.admit("c", RULES).probe)

    assert len(circuits) == 0


def test_threads_on_one_circuit_lose_no_report(clock):
    circuits = Circuits(clock.monotonic)
    rules = CircuitRules(10_000, 10.0, 1)

    def fail():
        for _ in range(500):
            circuits.admit("c", rules)
            circuits.report("c", rules, False)

    threads = [threading.Thread(target=fail) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert circuits.circuit("c").failures == 4_000
