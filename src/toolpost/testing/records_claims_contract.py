"""RecordsClaimsContract: what Records do with claims besides what ClaimsContract says, and how tests ask a store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from toolpost.calls.errors import InputValidationError
from toolpost.stores import Answer, ClaimAsk, Pending, Records
from toolpost.testing.claims_contract import Advance, ClaimsContract

ASK = ClaimAsk("key", "fingerprint", "me", lease_s=30.0, ttl_s=3600.0, tool="Math.add", tenant="acme")
YEARS_S = 3e8


def said(answer: Answer[Any]) -> Any:
    """The answer, waited for where it is on its way. For threads."""
    return answer.wait() if isinstance(answer, Pending) else answer


async def told(answer: Answer[Any]) -> Any:
    """The same for tasks."""
    return await answer if isinstance(answer, Pending) else answer


def refusal(act: Callable[[], Answer[Any]]) -> str:
    """The message of the InputValidationError that an operation fails with."""
    try:
        answer = said(act())
    except InputValidationError as error:
        return error.message
    raise AssertionError(f"it was not refused but answered {answer!r}")


def at_once(acts: Sequence[Callable[[], Answer[Any]]]) -> list[Any]:
    """What operations answer that as many threads ask for at the same moment."""
    answers: list[Any] = [None] * len(acts)
    gate = threading.Barrier(len(acts))

    def run(index: int) -> None:
        gate.wait()
        answers[index] = said(acts[index]())

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


class RecordsClaimsContract(ClaimsContract):
    """What Records promise of claims beyond what every store of claims does: see RecordsContract."""

    @pytest.fixture
    def claims(self, records: Records) -> Records:
        return records

    @pytest.fixture
    def advance(self, records: Records) -> Advance:
        return lambda seconds: self.age(records, seconds)

    def age(self, records: Any, seconds: float) -> None:
        """Make everything in the store older by so much."""
        raise NotImplementedError("say how time passes for the store: override age()")

    def test_other_arguments_are_a_mismatch_however_the_claim_stands(self, records: Records) -> None:
        other = ASK._replace(fingerprint="other", take_over=True)
        held = said(records.claim(ASK))
        mismatches = [said(records.claim(other))]
        said(records.finish("key", held.fence, "unknown", None, 60.0))
        mismatches.append(said(records.claim(other)))
        said(records.finish("key", held.fence, "done", b"1", 60.0))
        mismatches.append(said(records.claim(other)))

        assert [(claim.state, claim.result) for claim in mismatches] == [("mismatch", None)] * 3

    def test_after_its_lease_a_claim_is_unknown_and_taken_over_only_by_who_says_so(self, records: Records) -> None:
        first = said(records.claim(ASK))
        early = said(records.claim(ASK._replace(take_over=True)))
        self.age(records, 31)

        plain = said(records.claim(ASK))
        taken = said(records.claim(ASK._replace(take_over=True, owner="you")))

        assert early.state == "in_flight"
        assert (plain.state, plain.fence, plain.owner) == ("unknown", first.fence, "me")
        assert (taken.state, taken.taken_over) == ("granted", True)
        assert taken.fence > first.fence
        assert said(records.lookup("key")).owner == "you"

    def test_a_takeover_without_a_fingerprint_keeps_the_one_that_was_there(self, records: Records) -> None:
        said(records.claim(ASK))
        self.age(records, 31)
        said(records.claim(ASK._replace(take_over=True, fingerprint=None)))

        assert said(records.claim(ASK._replace(fingerprint="other"))).state == "mismatch"

    def test_what_was_taken_over_is_closed_to_the_old_holder(self, records: Records) -> None:
        old = said(records.claim(ASK)).fence
        self.age(records, 31)
        new = said(records.claim(ASK._replace(take_over=True))).fence

        assert said(records.finish("key", old, "done", b"late", 60.0)) is False
        assert said(records.renew([("key", old), ("key", new), ("none", 1)], 30.0)) == [False, True, False]
        assert said(records.release("key", old)) is False
        assert said(records.lookup("key")).state == "in_flight"
        assert said(records.finish("key", new, "done", b"new", 60.0)) is True
        assert said(records.finish("key", old, "done", b"late", 60.0)) is False
        assert said(records.lookup("key")).result == b"new"

    def test_a_lease_that_ran_out_refuses_neither_finish_nor_renewal(self, records: Records) -> None:
        fence = said(records.claim(ASK)).fence
        self.age(records, 1000)

        assert said(records.renew([("key", fence)], 30.0)) == [True]
        assert said(records.claim(ASK)).state == "in_flight"
        self.age(records, 1000)
        assert said(records.finish("key", fence, "done", b"late", 60.0)) is True
        assert said(records.claim(ASK)).state == "done"

    def test_a_result_is_given_back_byte_for_byte_until_its_time_is_over(self, records: Records) -> None:
        result = bytes(range(256))
        fence = said(records.claim(ASK)).fence
        said(records.finish("key", fence, "done", result, 60.0))
        self.age(records, 59)
        kept = said(records.claim(ASK._replace(take_over=True)))
        self.age(records, 2)

        fresh = said(records.claim(ASK._replace(fingerprint="other")))

        assert (kept.state, kept.result, kept.fence) == ("done", result, fence)
        assert (fresh.state, fresh.taken_over, fresh.result) == ("granted", False, None)
        assert fresh.fence > fence

    def test_a_result_may_be_none_empty_or_large(self, records: Records) -> None:
        for key, result in {"none": None, "empty": b"", "large": b"\0x" * 500_000}.items():
            fence = said(records.claim(ASK._replace(key=key))).fence
            said(records.finish(key, fence, "done", result, 60.0))

            assert said(records.lookup(key)).result == result
            assert said(records.finish(key, fence, "done", result, 60.0)) is True

    def test_an_unknown_end_stays_until_it_is_settled(self, records: Records) -> None:
        fence = said(records.claim(ASK)).fence
        said(records.finish("key", fence, "unknown", b"hint", 60.0))
        self.age(records, YEARS_S)

        plain = said(records.claim(ASK))
        taken = said(records.claim(ASK._replace(take_over=True)))

        assert (plain.state, plain.result) == ("unknown", b"hint")
        assert (taken.state, taken.taken_over) == ("granted", True)

    def test_the_same_finish_said_again_is_true_and_changes_nothing(self, records: Records) -> None:
        fence = said(records.claim(ASK)).fence
        said(records.finish("key", fence, "done", b"1", 60.0))

        assert said(records.finish("key", fence, "done", b"1", 9999.0)) is True
        assert said(records.finish("key", fence, "done", b"2", 60.0)) is False
        assert said(records.finish("key", fence, "failed", b"1", 60.0)) is False
        assert said(records.finish("key", fence, "unknown", b"1", 60.0)) is False
        self.age(records, 61)
        assert said(records.lookup("key")) is None

    def test_a_fence_is_never_used_twice_also_after_a_sweep(self, records: Records) -> None:
        fences = []
        for end in ("release", "expire", "forget", "sweep", "take over", "last"):
            claim = said(records.claim(ASK._replace(take_over=True)))
            fences.append(claim.fence)
            if end == "release":
                said(records.release("key", claim.fence))
            elif end == "take over":
                self.age(records, 31)
            elif end != "last":
                said(records.finish("key", claim.fence, "done", None, 60.0))
                if end == "forget":
                    said(records.forget("key"))
                else:
                    self.age(records, 100)
                    if end == "sweep":
                        self.swept(records)

        assert fences == sorted(set(fences))

    def swept(self, records: Any) -> int:
        """Have expired claims dropped, where the store does that when told."""
        return int(said(records.sweep())["claims"])

    async def test_of_two_hundred_tasks_with_one_key_one_is_granted(self, records: Records) -> None:
        claims = await asyncio.gather(*(told(records.claim(ASK)) for _ in range(200)))

        assert sorted(claim.state for claim in claims) == ["granted"] + ["in_flight"] * 199
        assert len({claim.fence for claim in claims}) == 1

    def test_of_two_hundred_threads_with_one_key_one_is_granted(self, records: Records) -> None:
        claims = at_once([lambda: records.claim(ASK)] * 200)

        assert sorted(claim.state for claim in claims) == ["granted"] + ["in_flight"] * 199

    def test_of_two_hundred_threads_one_takes_over(self, records: Records) -> None:
        said(records.claim(ASK))
        self.age(records, 31)

        claims = at_once([lambda: records.claim(ASK._replace(take_over=True))] * 200)

        assert sorted(claim.state for claim in claims) == ["granted"] + ["in_flight"] * 199

    async def test_many_keys_at_once_are_each_granted_and_finished(self, records: Records) -> None:
        keys = [f"key-{number}" for number in range(700)]

        claims = await asyncio.gather(*(told(records.claim(ASK._replace(key=key))) for key in keys))
        answers = await asyncio.gather(
            *(told(records.finish(c.key, c.fence, "done", c.key.encode(), 60.0)) for c in claims)
        )
        found = await asyncio.gather(*(told(records.lookup(key)) for key in keys))

        assert len({claim.fence for claim in claims}) == 700
        assert set(answers) == {True}
        assert [claim.result for claim in found] == [key.encode() for key in keys]

    async def test_one_text_that_cannot_be_kept_fails_alone(self, records: Records) -> None:
        keys = ["a", "b\0", "c", "\ud800", "e"]

        async def ask(key: str) -> Any:
            return await told(records.claim(ASK._replace(key=key)))

        answers = await asyncio.gather(*(ask(key) for key in keys), return_exceptions=True)

        assert [getattr(answer, "state", type(answer)) for answer in answers] == [
            "granted",
            InputValidationError,
            "granted",
            InputValidationError,
            "granted",
        ]
