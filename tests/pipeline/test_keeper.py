"""Keeper: leases are renewed, a lost claim is noticed, an end that could not be told is told later."""

import threading

import pytest

from toolpost.calls.clock import SYSTEM_CLOCK
from toolpost.calls.errors import StoreUnavailableError
from toolpost.pipeline.keeper import Keeper
from toolpost.stores import Claim, ClaimAsk, Pending
from toolpost.stores.pending import answer_all


def given(value=None, error=None):
    """An answer that is there."""
    pending = Pending()
    pending.value, pending.error = value, error
    answer_all([pending])
    return pending


ASK = ClaimAsk("k", None, "me/1", 30.0, 60.0)


class Claims:
    """A stand-in for a store: it says what the test wants, and writes down what it was asked."""

    def __init__(self):
        self.renewed = []
        self.released = []
        self.seen = threading.Event()
        self.held = True
        self.stands = None

    def renew(self, held, lease_s):
        self.renewed.append((list(held), lease_s))
        self.seen.set()
        return given([self.held for _ in held])

    def lookup(self, key):
        return given(self.stands)

    def release(self, key, fence):
        self.released.append((key, fence))
        self.seen.set()
        return given(True)


@pytest.fixture
def claims():
    return Claims()


@pytest.fixture
def keeper(claims):
    made = Keeper(claims, SYSTEM_CLOCK)
    yield made
    made.close()


def test_all_held_claims_are_renewed_in_one_go(claims, keeper):
    held = [keeper.hold(f"k{n}", n, 0.03) for n in range(3)]

    assert claims.seen.wait(5)
    for one in held:
        keeper.drop(one)
    together = [asked for asked, _ in claims.renewed if len(asked) == 3]
    assert together
    assert together[0] == [("k0", 0), ("k1", 1), ("k2", 2)]


def test_a_claim_that_another_took_over_is_told_once(claims, keeper):
    lost = threading.Event()
    claims.held = False
    held = keeper.hold("k", 1, 0.03)
    held.on_lost = lost.set

    assert lost.wait(5)
    assert held.lost


def test_a_dropped_claim_is_told_nothing(claims, keeper):
    told = []
    held = keeper.hold("k", 1, 30.0)
    held.on_lost = lambda: told.append(1)
    keeper.drop(held)
    claims.held = False

    keeper._renew()

    assert told == []
    assert claims.renewed == []


def test_an_end_is_told_again_until_the_store_takes_it(keeper):
    answers = [given(error=StoreUnavailableError("away")), given(error=StoreUnavailableError("away")), given(True)]
    told = threading.Event()
    asked = []

    def ask():
        asked.append(1)
        answer = answers.pop(0)
        if not answers:
            told.set()
        return answer

    keeper.tell("k", 1, ask)

    assert told.wait(10)
    while keeper.untold:
        threading.Event().wait(0.01)
    assert len(asked) == 3


def test_the_lease_is_kept_while_an_end_is_untold(claims, keeper):
    held = keeper.hold("k", 1, 0.03)
    keeper.tell_again("k", 1, lambda: given(error=StoreUnavailableError("away")))
    keeper.drop(held)
    claims.seen.clear()

    assert claims.seen.wait(5)
    assert claims.renewed[-1][0] == [("k", 1)]


@pytest.mark.parametrize(("state", "released"), [("granted", [("k", 7)]), ("in_flight", [])])
def test_a_claim_that_nobody_waits_for_any_more_is_given_back(claims, keeper, state, released):
    late = Pending()
    keeper.abandon(late, ASK)
    late.value = Claim(state, fence=7, key="k")
    answer_all([late])

    while keeper._abandoned:
        threading.Event().wait(0.01)
    if released:
        assert claims.seen.wait(5)
    assert claims.released == released


@pytest.mark.parametrize(
    ("stands", "released"),
    [
        (Claim("in_flight", fence=9, key="k", owner="me/1"), [("k", 9)]),
        (Claim("unknown", fence=9, key="k", owner="me/1"), [("k", 9)]),  # its lease ran out meanwhile
        (Claim("in_flight", fence=9, key="k", owner="me/2"), []),
        (Claim("done", fence=9, key="k", owner="me/1"), []),
        (None, []),
    ],
)
def test_a_claim_whose_grant_was_lost_with_the_connection_is_looked_for_and_given_back(
    claims, keeper, stands, released
):
    claims.stands = stands
    lost = Pending()
    lost.sent, lost.error = True, StoreUnavailableError("cut")
    answer_all([lost])

    keeper.abandon(lost, ASK)

    while keeper._abandoned or keeper._doubtful:
        threading.Event().wait(0.01)
    if released:
        assert claims.seen.wait(5)
    assert claims.released == released


def test_nothing_is_looked_for_that_was_never_sent(claims, keeper):
    refused = Pending()
    refused.error = StoreUnavailableError("away")
    answer_all([refused])

    keeper.abandon(refused, ASK)
    keeper._give_back()

    assert keeper._doubtful == {}


def test_its_thread_ends_when_there_is_nothing_to_keep(keeper):
    held = keeper.hold("k", 1, 0.03)
    thread = keeper._thread
    keeper.drop(held)

    thread.join(5)

    assert not thread.is_alive()
