"""ClaimsContract: what every store of claims must do, as tests that its author runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from toolpost.stores import Answer, Claim, ClaimAsk, Claims, ClaimState, Outgoing
from toolpost.stores.pending import Pending

T = TypeVar("T")
Advance = Callable[[float], None]


def settled(answer: Answer[T]) -> T:
    """The value of an answer, waiting for it where it is on its way."""
    return answer.wait(timeout_s=30) if isinstance(answer, Pending) else answer


def at_once(count: int, act: Callable[[int], T]) -> list[T]:
    """What act(0) to act(count - 1) gave, each called by a thread of its own, all let loose together."""
    gate = threading.Barrier(count)

    def run(number: int) -> T:
        gate.wait()
        return act(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


class ClaimsContract:
    """Derive a test class from this, with two fixtures, and pytest runs the contract.

    claims: a store without any claim. advance: a function that lets so many seconds pass for the store, or waits for
    so long. unit_s is what the tests take for a short time; where advance() really waits, make it as short as the
    store's clock and its answers allow.
    """

    unit_s: float = 1.0

    @pytest.fixture
    def claims(self) -> Claims:
        raise NotImplementedError("say which store is meant: override the fixture `claims`")

    @pytest.fixture
    def advance(self) -> Advance:
        raise NotImplementedError("say how time passes for the store: override the fixture `advance`")

    def ask(self, key: str = "k", **changes: Any) -> ClaimAsk:
        fields: dict[str, Any] = {
            "fingerprint": "f",
            "owner": "me",
            "lease_s": 10 * self.unit_s,
            "ttl_s": 100 * self.unit_s,
        }
        return ClaimAsk(key, **(fields | {"tool": "Shop.buy", "tenant": "acme"} | changes))

    def granted(self, claims: Claims, key: str = "k", **changes: Any) -> Claim:
        claim = settled(claims.claim(self.ask(key, **changes)))
        assert claim.state == "granted"
        return claim

    def finish(self, claims: Claims, claim: Claim, state: Any = "done", result: bytes | None = b"r") -> bool:
        return settled(claims.finish(claim.key, claim.fence, state, result, 100 * self.unit_s))

    def test_a_claim_that_nobody_has_is_granted(self, claims: Claims) -> None:
        claim = self.granted(claims)

        assert (claim.key, claim.owner, claim.tool, claim.tenant) == ("k", "me", "Shop.buy", "acme")
        assert claim.fence > 0
        assert claim.began_at > 1_000_000_000
        assert not claim.taken_over

    def test_a_claim_that_is_held_is_in_flight_for_others(self, claims: Claims) -> None:
        held = self.granted(claims)

        second = settled(claims.claim(self.ask(owner="other", take_over=True)))

        assert (second.state, second.fence, second.owner) == ("in_flight", held.fence, "me")
        assert 0 < second.left_s <= 10 * self.unit_s

    def test_of_many_who_claim_at_once_one_is_granted(self, claims: Claims) -> None:
        states = at_once(50, lambda n: settled(claims.claim(self.ask(owner=str(n)))).state)

        assert sorted(states) == ["granted"] + ["in_flight"] * 49

    def test_other_arguments_under_the_same_key_are_a_mismatch(self, claims: Claims, advance: Advance) -> None:
        held = self.granted(claims)
        others = self.ask(fingerprint="g", take_over=True)

        in_flight = settled(claims.claim(others))
        self.finish(claims, held, "failed")
        over = settled(claims.claim(others))

        assert (in_flight.state, over.state, over.result) == ("mismatch", "mismatch", None)
        assert settled(claims.claim(self.ask(fingerprint="f"))).state == "granted"

    def test_without_a_fingerprint_any_arguments_are_right(self, claims: Claims) -> None:
        self.finish(claims, self.granted(claims, fingerprint=None))

        assert settled(claims.claim(self.ask(fingerprint="f"))).state == "done"
        assert settled(claims.claim(self.ask(fingerprint=None))).state == "done"

    @pytest.mark.parametrize("result", [b"", b'{"ok":true}', bytes(range(256)), None])
    def test_what_is_done_gives_its_result_byte_for_byte(self, claims: Claims, result: bytes | None) -> None:
        claim = self.granted(claims)

        assert self.finish(claims, claim, "done", result)

        again = settled(claims.claim(self.ask(owner="other")))
        assert (again.state, again.result, again.fence, again.taken_over) == ("done", result, claim.fence, False)

    def test_what_failed_may_run_again_or_is_told_as_was_asked(self, claims: Claims) -> None:
        first = self.granted(claims)
        self.finish(claims, first, "failed", b"why")

        told = settled(claims.claim(self.ask(rerun_failed=False)))
        again = settled(claims.claim(self.ask()))

        assert (told.state, told.result) == ("failed", b"why")
        assert (again.state, again.taken_over, again.result) == ("granted", False, None)
        assert again.fence > first.fence
        assert self.finish(claims, again, "done", None)
        assert settled(claims.claim(self.ask())).result is None

    @pytest.mark.parametrize("end", ["done", "failed"])
    def test_what_has_ended_is_forgotten_after_its_time(self, claims: Claims, advance: Advance, end: Any) -> None:
        first = self.granted(claims)
        settled(claims.finish("k", first.fence, end, b"r", 3 * self.unit_s))
        advance(self.unit_s)
        before = settled(claims.lookup("k"))
        advance(2 * self.unit_s)

        assert before is not None
        assert settled(claims.lookup("k")) is None
        assert self.granted(claims, fingerprint="new").fence > first.fence

    def test_a_silent_holder_leaves_an_unknown_end(self, claims: Claims, advance: Advance) -> None:
        first = self.granted(claims, lease_s=self.unit_s)
        advance(self.unit_s)

        refused = settled(claims.claim(self.ask()))
        taken = settled(claims.claim(self.ask(take_over=True)))

        assert (refused.state, refused.fence) == ("unknown", first.fence)
        assert (taken.state, taken.taken_over) == ("granted", True)
        assert taken.fence > first.fence

    def test_a_claim_in_flight_or_unknown_is_never_forgotten_by_itself(self, claims: Claims, advance: Advance) -> None:
        silent = self.granted(claims, "silent", lease_s=self.unit_s, ttl_s=self.unit_s)
        told = self.granted(claims, "told", ttl_s=self.unit_s)
        settled(claims.finish("told", told.fence, "unknown", None, self.unit_s))
        advance(5 * self.unit_s)

        assert settled(claims.lookup("silent"))[:2] == ("unknown", silent.fence)  # type: ignore[index]
        assert settled(claims.lookup("told"))[:2] == ("unknown", told.fence)  # type: ignore[index]

    def test_a_renewed_lease_begins_anew(self, claims: Claims, advance: Advance) -> None:
        claim = self.granted(claims, lease_s=3 * self.unit_s)
        advance(2 * self.unit_s)
        renewed = settled(claims.renew([("k", claim.fence)], 3 * self.unit_s))
        advance(2 * self.unit_s)

        assert renewed == [True]
        assert settled(claims.claim(self.ask(take_over=True))).state == "in_flight"

    def test_renewing_says_of_each_claim_whether_it_is_still_held(self, claims: Claims, advance: Advance) -> None:
        late = self.granted(claims, "late", lease_s=self.unit_s)
        lost = self.granted(claims, "lost", lease_s=self.unit_s)
        done = self.granted(claims, "done")
        self.finish(claims, done)
        advance(self.unit_s)
        self.granted(claims, "lost", take_over=True)

        held = [("late", late.fence), ("lost", lost.fence), ("done", done.fence), ("never", 1)]

        assert settled(claims.renew(held, 10 * self.unit_s)) == [True, False, False, False]
        assert settled(claims.lookup("late")).state == "in_flight"  # type: ignore[union-attr]
        assert settled(claims.renew([], 10 * self.unit_s)) == []

    def test_a_lease_that_ran_out_does_not_refuse_a_finish(self, claims: Claims, advance: Advance) -> None:
        claim = self.granted(claims, lease_s=self.unit_s)
        advance(3 * self.unit_s)

        assert self.finish(claims, claim)
        assert settled(claims.lookup("k")).state == "done"  # type: ignore[union-attr]

    def test_a_write_under_an_old_fence_changes_nothing(self, claims: Claims, advance: Advance) -> None:
        old = self.granted(claims, lease_s=self.unit_s)
        advance(self.unit_s)
        new = self.granted(claims, take_over=True)

        assert not self.finish(claims, old)
        assert not settled(claims.release("k", old.fence))
        assert settled(claims.lookup("k")).fence == new.fence  # type: ignore[union-attr]
        assert self.finish(claims, new, "done", b"new")
        assert not self.finish(claims, old, "done", b"old")
        assert settled(claims.lookup("k")).result == b"new"  # type: ignore[union-attr]

    @pytest.mark.parametrize("end", ["done", "failed", "unknown"])
    def test_the_same_finish_said_again_is_true_and_another_is_not(self, claims: Claims, end: ClaimState) -> None:
        claim = self.granted(claims)
        result = None if end == "unknown" else b"r"

        assert [self.finish(claims, claim, end, result) for _ in range(2)] == [True, True]
        if end != "unknown":
            assert not self.finish(claims, claim, "failed" if end == "done" else "done", b"other")
        assert settled(claims.lookup("k")).state == end  # type: ignore[union-attr]

    def test_who_said_unknown_may_still_learn_how_it_ended(self, claims: Claims) -> None:
        claim = self.granted(claims)
        self.finish(claims, claim, "unknown", None)
        unknown = settled(claims.claim(self.ask()))

        assert unknown.state == "unknown"
        assert self.finish(claims, claim, "done", b"r")
        assert settled(claims.claim(self.ask())).state == "done"
        assert settled(claims.unsettled()) == []

    def test_finishing_what_is_not_there_is_false(self, claims: Claims) -> None:
        assert not settled(claims.finish("never", 1, "done", b"", self.unit_s))

    def test_a_claim_given_back_is_free_and_its_fence_is_used_up(self, claims: Claims) -> None:
        first = self.granted(claims)

        assert settled(claims.release("k", first.fence))
        assert settled(claims.lookup("k")) is None
        assert not settled(claims.release("k", first.fence))
        assert not self.finish(claims, first)
        assert self.granted(claims, fingerprint="other").fence > first.fence

    def test_giving_back_after_a_takeover_leaves_it_free(self, claims: Claims, advance: Advance) -> None:
        self.granted(claims, lease_s=self.unit_s)
        advance(self.unit_s)
        taken = self.granted(claims, take_over=True)

        assert settled(claims.release("k", taken.fence))
        assert not self.granted(claims).taken_over

    @pytest.mark.parametrize("said", ["nothing", "unknown"])
    def test_its_holder_may_give_back_a_claim_of_unknown_end(self, claims: Claims, advance: Advance, said: str) -> None:
        claim = self.granted(claims, lease_s=self.unit_s)
        if said == "unknown":
            self.finish(claims, claim, "unknown", None)
        else:
            advance(self.unit_s)
        assert settled(claims.lookup("k")).state == "unknown"  # type: ignore[union-attr]

        wrong = settled(claims.release("k", claim.fence + 1))
        right = [settled(claims.release("k", claim.fence)) for _ in range(2)]

        assert (wrong, right) == (False, [True, False])
        assert settled(claims.lookup("k")) is None
        assert settled(claims.unsettled()) == []
        again = self.granted(claims, fingerprint="other")
        assert (again.taken_over, again.fence > claim.fence) == (False, True)

    def test_what_was_said_with_an_unknown_end_goes_when_it_is_settled(self, claims: Claims) -> None:
        claim = self.granted(claims)

        hints = [self.finish(claims, claim, "unknown", hint) for hint in (b"hint", b"hint", b"other")]
        unknown = settled(claims.lookup("k"))
        ends = [self.finish(claims, claim, "done", None) for _ in range(2)]

        assert unknown is not None
        assert (hints, unknown.state, unknown.result) == ([True, True, False], "unknown", b"hint")
        assert ends == [True, True]
        assert settled(claims.lookup("k")).result is None  # type: ignore[union-attr]

    def test_an_old_and_a_new_holder_who_end_at_once_are_told_apart(self, claims: Claims, advance: Advance) -> None:
        old = self.granted(claims, lease_s=self.unit_s)
        advance(self.unit_s)
        new = self.granted(claims, take_over=True)
        unknown = self.granted(claims, "other")

        kept_s = 100 * self.unit_s
        claims.lookup("k")  # while a store does this, the others gather
        answers = [
            claims.finish("k", old.fence, "done", b"old", kept_s),
            claims.finish("k", new.fence, "done", b"new", kept_s),
            claims.finish("other", unknown.fence, "unknown", None, kept_s),
            claims.finish("other", unknown.fence, "done", b"known", kept_s),
        ]

        assert [settled(answer) for answer in answers] == [False, True, True, True]
        assert settled(claims.lookup("k")).result == b"new"  # type: ignore[union-attr]
        assert settled(claims.lookup("other")).result == b"known"  # type: ignore[union-attr]

    def test_what_has_ended_cannot_be_given_back(self, claims: Claims) -> None:
        claim = self.granted(claims)
        self.finish(claims, claim)

        assert not settled(claims.release("k", claim.fence))
        assert settled(claims.lookup("k")).state == "done"  # type: ignore[union-attr]

    def test_looking_takes_nothing(self, claims: Claims) -> None:
        absent = settled(claims.lookup("k"))
        self.granted(claims)
        there = settled(claims.lookup("k"))

        assert absent is None
        assert there is not None
        assert (there.state, there.owner, there.key, there.tool, there.tenant) == (
            "in_flight", "me", "k", "Shop.buy", "acme",
        )  # fmt: skip

    def test_an_operator_may_forget_what_nobody_holds(self, claims: Claims, advance: Advance) -> None:
        self.granted(claims, "held", lease_s=100 * self.unit_s)
        self.granted(claims, "silent", lease_s=self.unit_s)
        self.finish(claims, self.granted(claims, "told"), "unknown", None)
        self.finish(claims, self.granted(claims, "done"))
        advance(self.unit_s)

        forgotten = {key: settled(claims.forget(key)) for key in ("held", "silent", "told", "done", "never")}

        assert forgotten == {"held": False, "silent": True, "told": True, "done": True, "never": False}
        assert settled(claims.unsettled()) == []
        assert settled(claims.lookup("silent")) is None
        assert not self.granted(claims, "silent").taken_over

    def test_what_is_unsettled_is_listed_oldest_first(self, claims: Claims, advance: Advance) -> None:
        for key in ("one", "two", "three"):
            self.granted(claims, key, lease_s=self.unit_s)
            advance(0.1 * self.unit_s)
        self.granted(claims, "held", lease_s=100 * self.unit_s)
        self.finish(claims, self.granted(claims, "done", lease_s=self.unit_s))
        advance(2 * self.unit_s)
        self.finish(claims, self.granted(claims, "told"), "unknown", None)

        listed = settled(claims.unsettled())

        assert [(claim.key, claim.state) for claim in listed] == [
            (k, "unknown") for k in ("one", "two", "three", "told")
        ]
        assert {(claim.owner, claim.tool, claim.tenant) for claim in listed} == {("me", "Shop.buy", "acme")}
        assert [claim.key for claim in settled(claims.unsettled(2))] == ["one", "two"]

    def test_a_fence_is_never_used_twice_for_a_key(self, claims: Claims, advance: Advance) -> None:
        fences = []
        for _ in range(3):
            released = self.granted(claims)
            settled(claims.release("k", released.fence))
            silent = self.granted(claims, lease_s=self.unit_s)
            advance(self.unit_s)
            done = self.granted(claims, take_over=True)
            self.finish(claims, done)
            settled(claims.forget("k"))
            fences += [released.fence, silent.fence, done.fence]

        assert fences == sorted(set(fences))

    def test_keys_may_hold_any_text(self, claims: Claims) -> None:
        keys = ["", "a b", "a:b", "ä\U0001f600", "{a}", "*", "a\n", "'; drop table", "x" * 500]
        fences = {key: self.granted(claims, key).fence for key in keys}

        assert {key: settled(claims.lookup(key)).fence for key in keys} == fences  # type: ignore[union-attr]

    def test_messages_without_an_outbox_are_refused(self, claims: Claims) -> None:
        if hasattr(claims, "take_outbox"):
            pytest.skip("this store has an outbox")
        claim = self.granted(claims)

        with pytest.raises(ValueError, match="outbox"):
            settled(claims.finish("k", claim.fence, "done", b"", 1.0, (Outgoing("mail", "a", "k", b""),)))

        assert settled(claims.lookup("k")).state == "in_flight"  # type: ignore[union-attr]

    def test_answers_can_be_awaited_on_any_loop(self, claims: Claims) -> None:
        async def claim(key: str) -> Claim:
            answer = claims.claim(self.ask(key))
            return await answer if isinstance(answer, Pending) else answer

        async def both() -> list[str]:
            return [claim.state for claim in await asyncio.gather(claim("a"), claim("b"))]

        assert [asyncio.run(both()), asyncio.run(both())] == [["granted"] * 2, ["in_flight"] * 2]
