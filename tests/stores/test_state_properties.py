"""Buckets, circuits and claims against models that share nothing with them, over memory and Redis, at any schedule."""

import asyncio
import itertools
import threading
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.stores.stepped_redis import SteppedRedis
from toolpost.stores import Circuit, CircuitRules, ClaimAsk, open_state
from toolpost.stores.memory_state import MemoryState
from toolpost.stores.redis_link import RedisLink
from toolpost.testing import FakeClock
from toolpost.testing.claims_contract import settled

_names = itertools.count()
searching = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


class SteppedMemory(MemoryState):
    def __init__(self):
        clock = FakeClock()
        super().__init__(clock=clock)
        self.advance = clock.advance


@pytest.fixture(params=["memory", "redis"])
def state(request):
    """A State with advance(seconds). Examples share it, each under keys of its own."""
    store = SteppedMemory() if request.param == "memory" else SteppedRedis(request.getfixturevalue("redis_url"))
    yield store
    store.close()


# buckets: waits and lives are whole seconds and more, as keys in Redis expire by the real clock


@searching
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40)), min_size=1, max_size=60),
    st.integers(1, 6),
    st.sampled_from([0.02, 0.05, 0.1]),
)
def test_no_stretch_of_time_grants_more_than_burst_plus_rate_times_its_length(state, steps, burst, rate):
    example, now, granted = next(_names), 0, {}
    for key, wait_s in steps:
        state.advance(wait_s)
        now += wait_s
        left_s, index = settled(state.take([(f"{example} {key}", rate, burst)]))
        if index < 0:
            granted.setdefault(key, []).append(now)
        else:
            assert 0 < left_s <= 1 / rate + 1e-6

    for times in granted.values():
        for i, j in itertools.combinations_with_replacement(range(len(times)), 2):
            assert j - i + 1 <= burst + rate * (times[j] - times[i]) + 1e-6


@searching
@given(
    st.lists(st.tuples(st.sets(st.sampled_from("abc"), min_size=1), st.integers(0, 40)), min_size=1, max_size=40),
    st.fixed_dictionaries({key: st.integers(1, 3) for key in "abc"}),
)
def test_buckets_taken_together_are_as_full_as_a_model_says(state, steps, bursts):
    example, rate = next(_names), 0.03125  # a power of two, so that levels are exact
    levels = {key: float(burst) for key, burst in bursts.items()}
    for keys, wait_s in steps:
        state.advance(wait_s)
        levels = {key: min(bursts[key], level + wait_s * rate) for key, level in levels.items()}
        names = sorted(keys)
        waits = [max(0.0, (1 - levels[key]) / rate) for key in names]
        buckets = [(f"{example} {key}", rate, bursts[key]) for key in names]
        assert settled(state.left(buckets)) == pytest.approx([levels[key] for key in names], abs=1e-5)
        left_s, index = settled(state.take(buckets))

        assert left_s == pytest.approx(max(waits), abs=1e-5)
        assert index == (waits.index(max(waits)) if max(waits) else -1)
        if index < 0:
            for key in names:
                levels[key] -= 1


def test_threads_over_two_connections_never_get_more_than_the_servers_time_allows(redis_url):
    states = [open_state(redis_url, prefix="p") for _ in range(2)]
    rate, burst, granted = 500.0, 20.0, []

    def hammer(state):
        for _ in range(40):
            asked = [state.take([("b", rate, burst)]) for _ in range(5)]
            granted.append(sum(pending.wait()[1] < 0 for pending in asked))

    threads = [threading.Thread(target=hammer, args=(states[n % 2],)) for n in range(6)]
    begin = server_time(redis_url)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed_s = server_time(redis_url) - begin

    assert burst <= sum(granted) <= burst + rate * elapsed_s
    for state in states:
        state.close()


def server_time(url):
    link = RedisLink(url, timeout_s=5.0)
    [[seconds, microseconds]] = link.exchange([(b"TIME",)])
    link.close()
    return int(seconds) + int(microseconds) / 1e6


# circuits


@dataclass
class CircuitModel:
    """A circuit as a story: everything that happened since it last closed, told from the beginning when it is asked.

    Written from the rules in circuits.py alone, without regard for cost.
    """

    ends: list = field(default_factory=list)  # (ok, rules) of calls while it was closed, since it was last empty
    threshold: int = 0  # at the last closing
    opened: tuple | None = None  # (until, cause, failures)
    probing: bool = False
    probes: list = field(default_factory=list)  # [number, lost at], those not reported
    good: int = 0
    places: int = 1
    forced: str = ""

    def failures(self):
        adaptive = [end for end in self.ends if end[1].error_rate is not None]
        return sum(not ok for ok in self.window()) if adaptive else self.in_a_row()

    def in_a_row(self):
        row = 0
        for ok, rules in self.ends:
            if rules.error_rate is None:
                row = 0 if ok else row + 1
        return row

    def window(self):
        kept = []
        for ok, rules in self.ends:
            if rules.error_rate is not None:
                kept = [*kept, ok][-rules.window :]
        return kept

    def end(self, now, ok, rules, cause):
        self.ends.append((ok, rules))
        if rules.error_rate is None:
            trips = self.in_a_row() >= rules.failures
        else:
            window = self.window()
            least = min(rules.failures, rules.window)
            most = max(least, min(rules.max_failures, rules.window))
            within = max(least, min(self.threshold, most))
            rate = window.count(False) / len(window)
            trips = not ok and rate >= rules.error_rate and len(window) >= within
            if trips:
                self.threshold = max(least, within // 2)
            elif rate <= rules.error_rate / 2:
                self.threshold = min(most, within + 1)
            else:
                self.threshold = within
        if trips:
            self.open(now, rules, cause)

    def open(self, now, rules, cause):
        self.opened = (now + rules.recovery_s, cause, self.failures())
        self.probing, self.probes, self.good = False, [], 0

    def close(self):
        self.ends, self.opened = [], None
        self.probing, self.probes, self.good, self.places = False, [], 0, 1

    def live(self, now):
        return [lost for _, lost in self.probes if lost > now]

    def show(self, now, admitted=None, probe=0):
        if self.forced:
            return Circuit(self.forced == "closed", self.forced, forced=self.forced)
        if self.opened is None:
            return Circuit(True, "closed", failures=self.failures())
        until, cause, failures = self.opened
        if now < until:
            return Circuit(False, "open", 0, until - now, cause, failures)
        room = not self.probing or len(self.live(now)) + self.good < self.places
        left_s = 0 if room or probe else min(self.live(now)) - now
        return Circuit(room if admitted is None else admitted, "half_open", probe, left_s, cause, failures)

    def admit(self, now, rules, number):
        if self.forced or self.opened is None or now < self.opened[0]:
            return self.show(now)
        self.probing, self.places = True, rules.half_open_calls
        if self.good >= self.places:
            self.close()
            return self.show(now)
        if len(self.live(now)) + self.good >= self.places:
            return self.show(now, admitted=False)
        self.probes.append((number, now + rules.recovery_s))
        return self.show(now, admitted=True, probe=number)

    def report(self, now, rules, ok, probe, cause):
        before = self.opened
        shown = self.reported(now, rules, ok, probe, cause)
        return shown._replace(opened=self.opened not in (None, before))

    def reported(self, now, rules, ok, probe, cause):
        mine = [each for each in self.probes if each[0] == probe]
        if self.forced or ok is None:
            self.probes = [each for each in self.probes if each not in mine]
        elif probe == 0:
            if self.opened is None:
                self.end(now, ok, rules, cause)
        elif mine:
            self.probes.remove(mine[0])
            if not ok:
                self.open(now, rules, cause)
            else:
                self.good += 1
                if self.good >= self.places:
                    self.close()
        return self.show(now)

    def force(self, state):
        self.__init__()
        self.forced = state


RULES = st.sampled_from(
    [
        CircuitRules(2, 10.0, 1),
        CircuitRules(3, 20.0, 3),
        CircuitRules(1, 10.0, 2),
        CircuitRules(3, 10.0, 2, 0.5, 6, 8),
        CircuitRules(2, 20.0, 1, 0.25, 4, 5),
        CircuitRules(9, 10.0, 1, 0.75, 20, 4),
        CircuitRules(2, 10.0, 1, 0.25, 20, 12),
    ]
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.sampled_from([1, 5, 10, 20])),
        st.tuples(st.just("call"), st.sampled_from([True, False, False, None])),
        st.tuples(st.just("calls"), st.lists(st.booleans(), min_size=4, max_size=12)),
        st.tuples(st.just("admit"), st.none()),
        st.tuples(st.just("late"), st.sampled_from([True, False, None])),
        st.tuples(st.just("probe"), st.tuples(st.integers(0, 5), st.sampled_from([True, True, False, None]))),
        st.tuples(st.just("force"), st.sampled_from(["open", "closed", "", ""])),
    ),
    max_size=60,
)


@settings(parent=searching, max_examples=250)
@given(RULES, RULES, st.booleans(), STEPS)
def test_a_circuit_does_what_an_independent_model_does(state, rules, other_rules, mixed, steps):
    """call: ask, and report when admitted. late, calls: report without a probe. mixed: two tools share the circuit."""
    key, model, now, numbers = f"circuit {next(_names)}", CircuitModel(), 0.0, []
    given_out = {}  # the store's number of a probe -> the model's
    turn = itertools.cycle([rules, other_rules] if mixed else [rules])

    def agree(real, expected):
        if expected.probe:
            assert real.probe not in (0, *given_out)
            given_out[real.probe] = expected.probe
            numbers.append(real.probe)
        assert real._replace(probe=bool(real.probe), left_s=round(real.left_s, 3)) == expected._replace(
            probe=bool(expected.probe), left_s=round(expected.left_s, 3)
        )
        return real

    def report(ok, probe):
        real = settled(state.report(key, now_rules, ok, probe, f"cause at {now}"))
        agree(real, model.report(now, now_rules, ok, given_out.get(probe, 0) if probe else 0, f"cause at {now}"))

    for number, (step, value) in enumerate(steps, 1):
        now_rules = next(turn)
        if step == "advance":
            state.advance(value)
            now += value
        elif step == "force":
            settled(state.force(key, value))
            model.force(value)
        elif step == "late":
            report(value, 0)
        elif step == "probe":
            if numbers:
                report(value[1], numbers[value[0] % len(numbers)])
        elif step == "calls":
            for ok in value:
                report(ok, 0)
        else:
            real = agree(settled(state.admit(key, now_rules)), model.admit(now, now_rules, number))
            if step == "call" and real.admitted:
                report(value, real.probe)
        agree(settled(state.circuit(key)), model.show(now))


def test_however_many_probes_are_lost_no_more_than_the_places_are_out_at_once(state):
    rules = CircuitRules(1, 10.0, 2)
    settled(state.report("c", rules, False))
    out = []
    for _ in range(200):
        state.advance(5)
        out.append([c.admitted for c in (settled(state.admit("c", rules)) for _ in range(5))].count(True))

    assert all(sum(pair) <= 2 for pair in itertools.pairwise(out))
    assert sum(out) >= 190


# claims


@dataclass
class ClaimModel:
    """What a key stands for, by the contract's words alone."""

    rows: dict = field(default_factory=dict)

    def standing(self, key, now):
        row = self.rows.get(key)
        if row is None or (row["over"] is not None and row["over"] <= now):
            self.rows.pop(key, None)
            return None
        return "unknown" if row["state"] == "in_flight" and row["until"] <= now else row["state"]

    def claim(self, key, fingerprint, take_over, rerun_failed, lease_s, now):
        """(state, taken over)"""
        standing = self.standing(key, now)
        row = self.rows.get(key)
        if row and None not in (row["print"], fingerprint) and row["print"] != fingerprint:
            return "mismatch", False
        free = standing is None or (standing == "unknown" and take_over) or (standing == "failed" and rerun_failed)
        if not free:
            return standing, False
        kept = row["print"] if standing == "unknown" and fingerprint is None else fingerprint
        self.rows[key] = {"state": "in_flight", "until": now + lease_s, "over": None, "print": kept, "result": None}
        return "granted", standing == "unknown"


CLAIM_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.sampled_from([1, 10, 30])),
        st.tuples(
            st.just("claim"),
            st.tuples(st.sampled_from(["f", "f", "g", None]), st.booleans(), st.booleans(), st.sampled_from([10, 30])),
        ),
        st.tuples(
            st.just("finish"),
            st.tuples(st.integers(0, 3), st.sampled_from(["done", "failed", "unknown"]), st.sampled_from([b"r", None])),
        ),
        st.tuples(st.just("renew"), st.integers(0, 3)),
        st.tuples(st.just("release"), st.integers(0, 3)),
        st.tuples(st.just("forget"), st.none()),
    ),
    max_size=50,
)


@settings(parent=searching, max_examples=150)
@given(st.lists(st.sampled_from("ab"), min_size=50, max_size=50), CLAIM_STEPS)
def test_claims_do_what_an_independent_model_does(state, keys, steps):
    """A fence's age: 0 is the newest granted for the key, 1 the one before; old ones must change nothing."""
    example, model, now, fences = next(_names), ClaimModel(), 0, {}
    for letter, (step, value) in zip(keys, steps, strict=False):
        key = f"{example} {letter}"
        granted = fences.setdefault(key, [])
        standing = model.standing(key, now)
        row = model.rows.get(key)

        def fence_of(age, granted=granted):
            return granted[-1 - age] if age < len(granted) else -1

        if step == "advance":
            state.advance(value)
            now += value
        elif step == "claim":
            fingerprint, take_over, rerun_failed, lease_s = value
            ask = ClaimAsk(key, fingerprint, "me", lease_s, 60.0, take_over, rerun_failed)
            claim = settled(state.claim(ask))
            expected, taken_over = model.claim(key, *value, now)
            assert claim.state == expected
            if claim.state == "granted":
                assert claim.taken_over == taken_over
                assert not granted or claim.fence > granted[-1]
                granted.append(claim.fence)
            else:
                assert claim.fence == granted[-1]
            assert claim.result == (row["result"] if claim.state in ("done", "failed") else None)
        elif step == "finish":
            age, end, result = value
            held = row is not None and age == 0
            again = held and row["state"] in ("done", "failed")
            expected = held and (not again or (row["state"], row["result"]) == (end, result))
            assert settled(state.finish(key, fence_of(age), end, result, 20.0)) == expected
            if expected and not again:
                row |= {"state": end, "result": result, "over": None if end == "unknown" else now + 20}
        elif step == "renew":
            held = row is not None and value == 0 and row["state"] == "in_flight"
            assert settled(state.renew([(key, fence_of(value))], 30.0)) == [held]
            if held:
                row["until"] = now + 30
        elif step == "release":
            held = row is not None and value == 0 and row["state"] == "in_flight"
            assert settled(state.release(key, fence_of(value))) == held
            if held:
                del model.rows[key]
        else:
            free = standing not in (None, "in_flight")
            assert settled(state.forget(key)) == free
            if free:
                del model.rows[key]
        found = settled(state.lookup(key))
        assert (found and found.state) == model.standing(key, now)

    mine = [claim.key for claim in settled(state.unsettled(10_000)) if claim.key.startswith(f"{example} ")]
    assert sorted(mine) == sorted(key for key in list(model.rows) if model.standing(key, now) == "unknown")


def test_two_hundred_threads_and_as_many_tasks_get_one_claim_in_memory():
    state = open_state("memory://")
    ask = ClaimAsk("k", None, "me", 60.0, 60.0)

    async def tasks():
        return await asyncio.gather(*[asyncio.to_thread(state.claim, ask) for _ in range(200)])

    found = []
    gate = threading.Barrier(201)
    threads = [threading.Thread(target=lambda: (gate.wait(), found.append(state.claim(ask)))) for _ in range(200)]
    for thread in threads:
        thread.start()
    gate.wait()
    found += asyncio.run(tasks())
    for thread in threads:
        thread.join()

    assert sorted(claim.state for claim in found) == ["granted"] + ["in_flight"] * 399
