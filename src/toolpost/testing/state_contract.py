"""StateContract: what every State must do, as tests that its author runs."""

from __future__ import annotations

from typing import Any

import pytest

from toolpost.stores import Circuit, CircuitRules, State
from toolpost.testing.claims_contract import Advance, ClaimsContract, at_once, settled


class StateContract(ClaimsContract):
    """Derive a test class from this, with two fixtures, and pytest runs the contract, that of claims included.

    class TestMyState(StateContract):
        @pytest.fixture
        def state(self): ...       # empty
        @pytest.fixture
        def advance(self): ...     # a function: so many seconds pass for the store
    """

    @pytest.fixture
    def state(self) -> State:
        raise NotImplementedError("say which store is meant: override the fixture `state`")

    @pytest.fixture
    def claims(self, state: State) -> State:
        return state

    def rules(self, failures: int = 2, half_open_calls: int = 1, **changes: Any) -> CircuitRules:
        return CircuitRules(failures, 10 * self.unit_s, half_open_calls)._replace(**changes)

    def tripped(self, state: State, rules: CircuitRules, key: str = "c") -> Circuit:
        for _ in range(rules.failures):
            circuit = settled(state.report(key, rules, False, 0, "timeout: too slow"))
        return circuit

    # limits

    def test_a_bucket_grants_its_burst_and_then_names_the_wait(self, state: State, advance: Advance) -> None:
        bucket = ("b", 0.1 / self.unit_s, 3.0)
        answers = [settled(state.take([bucket])) for _ in range(4)]

        assert answers[:3] == [(0.0, -1)] * 3
        assert answers[3][1] == 0
        assert 9 * self.unit_s < answers[3][0] <= 10 * self.unit_s
        advance(answers[3][0])
        assert [settled(state.take([bucket]))[1] for _ in range(2)] == [-1, 0]

    def test_a_token_is_taken_from_all_buckets_or_from_none(self, state: State, advance: Advance) -> None:
        slow, slower, free = (
            ("slow", 0.1 / self.unit_s, 1.0),
            ("slower", 0.05 / self.unit_s, 1.0),
            ("free", 1e-3, 2.0),
        )
        settled(state.take([slow]))
        settled(state.take([slower]))

        wait_s, index = settled(state.take([free, slow, slower]))

        assert index == 2
        assert 19 * self.unit_s < wait_s <= 20 * self.unit_s
        assert [settled(state.take([free]))[1] for _ in range(3)] == [-1, -1, 0]
        advance(20 * self.unit_s)
        assert settled(state.take([slow, slower])) == (0.0, -1)

    def test_no_bucket_at_all_refuses_nobody(self, state: State) -> None:
        assert settled(state.take([])) == (0.0, -1)

    def test_it_says_what_is_left_in_each_bucket_and_takes_nothing(self, state: State, advance: Advance) -> None:
        used, unknown = ("used", 1 / (10 * self.unit_s), 5.0), ("unknown", 1.0, 3.0)
        for _ in range(2):
            settled(state.take([used]))

        first, second = (settled(state.left([used, unknown])) for _ in range(2))
        for _ in range(3):
            settled(state.take([used]))
        [empty] = settled(state.left([used]))
        advance(10 * self.unit_s)
        [later] = settled(state.left([used]))

        assert 3 <= first[0] <= second[0] < 3.9
        assert first[1] == second[1] == 3.0
        assert 0 <= empty < 0.9
        assert 1 <= later < 1.9
        assert settled(state.take([used])) == (0.0, -1)
        assert settled(state.left([("used", 1e-3, 1.0)]))[0] >= 0, "never less than none, whatever the burst is now"
        assert settled(state.left([])) == []

    def test_one_who_is_refused_does_not_stop_another(self, state: State) -> None:
        granted = [settled(state.take([(user, 1e-3, 1.0)]))[1] == -1 for user in ("noisy", "noisy", "quiet")]

        assert granted == [True, False, True]

    def test_many_at_once_never_get_more_than_the_burst(self, state: State) -> None:
        answers = at_once(20, lambda _: [settled(state.take([("b", 1e-3, 30.0)]))[1] for _ in range(3)])

        assert sum(answer.count(-1) for answer in answers) == 30

    def test_no_more_than_limit_are_within(self, state: State) -> None:
        waits = [settled(state.enter("p", holder, 2, 10 * self.unit_s)) for holder in ("a", "b", "c")]

        assert waits[:2] == [0.0, 0.0]
        assert 0 < waits[2] <= 10 * self.unit_s
        settled(state.leave("p", "a"))
        settled(state.leave("p", "never came"))
        settled(state.leave("nobody's", "a"))
        assert settled(state.enter("p", "c", 2, self.unit_s)) == 0.0
        assert settled(state.enter("other", "d", 2, self.unit_s)) == 0.0

    def test_entering_again_renews(self, state: State, advance: Advance) -> None:
        settled(state.enter("p", "a", 1, 3 * self.unit_s))
        advance(2 * self.unit_s)
        renewed = settled(state.enter("p", "a", 1, 3 * self.unit_s))
        advance(2 * self.unit_s)

        assert renewed == 0.0
        assert settled(state.enter("p", "b", 1, 3 * self.unit_s)) > 0
        settled(state.leave("p", "a"))
        assert settled(state.enter("p", "b", 1, 3 * self.unit_s)) == 0.0

    def test_a_place_whose_lease_ended_is_free(self, state: State, advance: Advance) -> None:
        settled(state.enter("p", "a", 1, self.unit_s))
        wait_s = settled(state.enter("p", "b", 1, self.unit_s))
        advance(wait_s)

        assert settled(state.enter("p", "b", 1, self.unit_s)) == 0.0
        assert settled(state.enter("p", "a", 1, self.unit_s)) > 0

    def test_many_who_enter_at_once_are_no_more_than_limit(self, state: State) -> None:
        waits = at_once(30, lambda n: settled(state.enter("p", str(n), 7, 100 * self.unit_s)))

        assert waits.count(0.0) == 7

    # cache

    @pytest.mark.parametrize("value", [b"", b"null", bytes(range(256)) * 50])
    def test_a_value_is_kept_for_its_time(self, state: State, advance: Advance, value: bytes) -> None:
        assert settled(state.put("k", value, 10 * self.unit_s, 5 * self.unit_s))

        fresh = settled(state.get("k"))
        advance(12 * self.unit_s)
        stale = settled(state.get("k"))
        advance(3 * self.unit_s)

        assert fresh is not None
        assert stale is not None
        assert (fresh[0], stale[0], stale[1]) == (value, value, 0.0)
        assert 0 < fresh[1] <= 10 * self.unit_s < fresh[2] <= 15 * self.unit_s
        assert 0 < stale[2] <= 3 * self.unit_s
        assert settled(state.get("k")) is None
        assert settled(state.get("never")) is None

    def test_a_newer_value_replaces_the_older_with_its_tags(self, state: State) -> None:
        [mark] = settled(state.marks(["t"]))
        settled(state.put("k", b"old", 10 * self.unit_s, 0.0, {"t": mark}))
        settled(state.put("k", b"new", 10 * self.unit_s))
        settled(state.void(["t"]))

        assert settled(state.get("k"))[0] == b"new"  # type: ignore[index]

    def test_a_value_without_a_life_is_not_kept(self, state: State) -> None:
        assert not settled(state.put("k", b"v", 0.0))
        assert settled(state.get("k")) is None

    def test_a_deleted_value_is_gone(self, state: State) -> None:
        settled(state.put("k", b"v", 10 * self.unit_s))

        assert [settled(state.delete("k")) for _ in range(2)] == [True, False]
        assert settled(state.get("k")) is None

    def test_a_void_tag_makes_its_entries_invalid_and_no_others(self, state: State) -> None:
        red, blue = settled(state.marks(["red", "blue"]))
        for key, tags in {"both": {"red": red, "blue": blue}, "blue": {"blue": blue}, "none": {}}.items():
            assert settled(state.put(key, b"v", 10 * self.unit_s, 0.0, tags))
        settled(state.void(["red", "never used"]))

        assert settled(state.get("both", ["red", "blue"])) is None
        assert settled(state.get("blue", ["blue"])) is not None
        assert settled(state.get("none")) is not None

    def test_what_was_made_void_while_the_body_ran_is_not_kept(self, state: State) -> None:
        [before] = settled(state.marks(["t"]))
        settled(state.void(["t"]))

        assert not settled(state.put("k", b"v", 10 * self.unit_s, 0.0, {"t": before}))
        assert settled(state.get("k", ["t"])) is None
        [after] = settled(state.marks(["t"]))
        assert after != before
        assert settled(state.put("k", b"v", 10 * self.unit_s, 0.0, {"t": after}))
        assert settled(state.get("k", ["t"])) is not None

    def test_marks_stand_until_their_tag_is_made_void(self, state: State) -> None:
        seen = []
        for _ in range(3):
            marks = settled(state.marks(["a", "b"]))
            assert settled(state.marks(["a", "b"])) == marks
            settled(state.void(["a"]))
            seen.append(marks)

        assert len({a for a, _ in seen}) == 3
        assert len({b for _, b in seen}) == 1
        assert settled(state.marks([])) == []

    def test_clearing_takes_values_by_their_prefix_and_nothing_else(self, state: State) -> None:
        for key in ("a:1", "a:2", "a*", "a[1]", "b:1"):
            settled(state.put(key, b"v", 100 * self.unit_s))
        self.granted(state, "a:claim")
        settled(state.take([("a:bucket", 1e-3, 1.0)]))
        settled(state.enter("a:place", "h", 1, 100 * self.unit_s))
        settled(state.force("a:circuit", "open"))

        assert settled(state.clear("a[")) == 1
        assert settled(state.clear("a*")) == 1
        assert settled(state.clear("a:")) == 2
        assert settled(state.get("b:1")) is not None
        assert settled(state.clear()) == 1
        assert settled(state.get("b:1")) is None
        assert settled(state.lookup("a:claim")) is not None
        assert settled(state.take([("a:bucket", 1e-3, 1.0)]))[1] == 0
        assert settled(state.enter("a:place", "i", 1, self.unit_s)) > 0
        assert settled(state.circuit("a:circuit")).state == "open"

    # circuits

    def test_a_circuit_that_nobody_knows_is_closed(self, state: State) -> None:
        assert settled(state.circuit("c")) == Circuit(True, "closed")
        assert settled(state.admit("c", self.rules())) == Circuit(True, "closed")

    def test_failures_in_a_row_open_it_and_a_success_begins_anew(self, state: State) -> None:
        rules = self.rules(3)
        ends = [settled(state.report("c", rules, ok, 0, f"{n}")) for n, ok in enumerate((False, False, True))]
        opened = self.tripped(state, rules)

        assert [(end.state, end.failures) for end in ends] == [("closed", 1), ("closed", 2), ("closed", 0)]
        assert (opened.state, opened.admitted, opened.failures, opened.cause) == ("open", False, 3, "timeout: too slow")
        assert [end.opened for end in (*ends, opened)] == [False, False, False, True]
        refused = settled(state.admit("c", rules))
        assert (refused.admitted, refused.state, refused.probe, refused.cause) == (
            False,
            "open",
            0,
            "timeout: too slow",
        )
        assert 0 < refused.left_s <= 10 * self.unit_s
        assert settled(state.admit("another", rules)).admitted

    def test_an_end_that_says_nothing_counts_for_nothing(self, state: State) -> None:
        rules = self.rules(2)
        for ok in (False, None, None):
            circuit = settled(state.report("c", rules, ok))

        assert (circuit.state, circuit.failures) == ("closed", 1)

    def test_late_reports_from_before_it_opened_do_not_disturb_it(self, state: State, advance: Advance) -> None:
        rules = self.rules()
        self.tripped(state, rules)
        while_open = settled(state.report("c", rules, True))
        advance(10 * self.unit_s)
        probe = settled(state.admit("c", rules))
        while_half_open = [settled(state.report("c", rules, ok)) for ok in (True, False)]

        assert while_open.state == "open"
        assert probe.probe > 0
        assert [circuit.state for circuit in while_half_open] == ["half_open"] * 2

    def test_half_open_admits_exactly_so_many_probes(self, state: State, advance: Advance) -> None:
        rules = self.rules(half_open_calls=3)
        self.tripped(state, rules)
        advance(10 * self.unit_s)
        answers = at_once(30, lambda _: settled(state.admit("c", rules)))

        probes = [answer.probe for answer in answers if answer.admitted]
        assert len(set(probes)) == 3
        assert min(probes) > 0
        refused = [answer for answer in answers if not answer.admitted]
        assert {(answer.state, answer.probe) for answer in refused} == {("half_open", 0)}
        assert all(0 < answer.left_s <= 10 * self.unit_s for answer in refused)
        for probe in probes[:2]:
            assert settled(state.report("c", rules, True, probe)).state == "half_open"
            assert not settled(state.admit("c", rules)).admitted
        assert settled(state.report("c", rules, True, probes[2])) == Circuit(True, "closed")

    def test_one_probe_that_fails_opens_it_anew(self, state: State, advance: Advance) -> None:
        rules = self.rules(half_open_calls=2)
        self.tripped(state, rules)
        advance(10 * self.unit_s)
        first, second = (settled(state.admit("c", rules)).probe for _ in range(2))
        again = settled(state.report("c", rules, False, first, "unavailable: still"))

        assert (again.state, again.cause, again.opened) == ("open", "unavailable: still", True)
        assert not settled(state.admit("c", rules)).admitted
        advance(10 * self.unit_s)
        third = settled(state.admit("c", rules)).probe
        assert third not in (0, first, second)
        assert settled(state.report("c", rules, False, second)).state == "half_open", (
            "a report of an old probe was heard"
        )
        assert settled(state.report("c", rules, True, second)).state == "half_open"

    def test_a_probe_that_says_nothing_gives_its_place_back(self, state: State, advance: Advance) -> None:
        rules = self.rules()
        self.tripped(state, rules)
        advance(10 * self.unit_s)
        first = settled(state.admit("c", rules)).probe
        given_back = settled(state.report("c", rules, None, first))
        second = settled(state.admit("c", rules))

        assert (given_back.state, given_back.admitted) == ("half_open", True)
        assert second.admitted
        assert second.probe != first

    def test_a_lost_probe_is_replaced_but_still_heard(self, state: State, advance: Advance) -> None:
        rules = self.rules()
        self.tripped(state, rules)
        advance(10 * self.unit_s)
        lost = settled(state.admit("c", rules))
        waiting = settled(state.admit("c", rules))
        advance(10 * self.unit_s)
        replaced = settled(state.admit("c", rules))
        still_one = settled(state.admit("c", rules))

        assert [answer.admitted for answer in (lost, waiting, replaced, still_one)] == [True, False, True, False]
        assert settled(state.report("c", rules, True, lost.probe)).state == "closed"
        assert settled(state.report("c", rules, False, replaced.probe)) == Circuit(True, "closed")

    def test_an_operator_holds_it_open_or_closed(self, state: State, advance: Advance) -> None:
        rules = self.rules()
        settled(state.force("c", "open"))
        advance(100 * self.unit_s)
        held_open = settled(state.admit("c", rules))
        settled(state.force("c", "closed"))
        for _ in range(5):
            held_closed = settled(state.report("c", rules, False))

        assert (held_open.admitted, held_open.state, held_open.forced) == (False, "open", "open")
        assert (held_closed.admitted, held_closed.state, held_closed.forced) == (True, "closed", "closed")
        assert settled(state.circuit("c")) == settled(state.admit("c", rules)) == held_closed
        settled(state.force("c", ""))
        assert settled(state.report("c", rules, False)).failures == 1
        self.tripped(state, rules)
        settled(state.force("c", ""))
        assert settled(state.circuit("c")) == Circuit(True, "closed")

    def test_adaptive_opens_at_its_rate_once_there_are_enough_calls(self, state: State) -> None:
        rules = self.rules(4, error_rate=0.5, max_failures=6, window=8)
        states = [settled(state.report("c", rules, ok)).state for ok in (False, True, False, False)]

        assert states == ["closed", "closed", "closed", "open"]

    def test_adaptive_judges_what_was_well_by_more_calls(self, state: State) -> None:
        rules = self.rules(4, error_rate=0.25, max_failures=8, window=20)
        oks = [True] * 4 + [False] * 4
        circuits = [settled(state.report("c", rules, ok)) for ok in oks]

        assert [circuit.state for circuit in circuits] == ["closed"] * 7 + ["open"]
        assert circuits[-1].failures == 4

    def test_what_adaptive_learned_outlives_an_opening(self, state: State, advance: Advance) -> None:
        rules = self.rules(2, error_rate=0.5, max_failures=40, window=100)
        oks = [True] * 40 + [False] * 40
        opened = [settled(state.report("c", rules, ok)).state for ok in oks].index("open")
        advance(10 * self.unit_s)
        settled(state.report("c", rules, True, settled(state.admit("c", rules)).probe))
        again = [settled(state.report("c", rules, False)).state for _ in range(20)]

        assert opened == 79
        assert again == ["closed"] * 19 + ["open"]

    def test_tools_with_different_rules_may_share_a_circuit(self, state: State, advance: Advance) -> None:
        few, many = self.rules(half_open_calls=1), self.rules(half_open_calls=3)
        self.tripped(state, few)
        advance(10 * self.unit_s)
        probe = settled(state.admit("c", few)).probe

        assert settled(state.report("c", many, True, probe)) == Circuit(True, "closed")

    # all of it

    def test_it_says_where_it_is_and_can_be_reached(self, state: State) -> None:
        assert "://" in state.url
        assert settled(state.ping()) is None

    def test_closing_twice_does_no_harm(self, state: State) -> None:
        settled(state.take([("b", 1.0, 1.0)]))

        state.close()
        state.close()
