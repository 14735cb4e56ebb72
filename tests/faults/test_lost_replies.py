"""Replies that are lost with their connection: the store did what it was asked, and its caller cannot know."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.fleet import charge, until
from tests.faults.lossy import Lossy
from tests.faults.shop import tool_of
from tests.faults.worker import made
from toolpost.testing import executor_for

ONCE = {
    "idempotency": {"key_fields": ("order",), "in_flight": "refuse"}
}  # the lease is long: no test waits for its end


@pytest.fixture(params=["redis", "postgres"])
def server_url(request):
    """A server of either kind."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def lossy(server_url):
    """A proxy before it."""
    with Lossy(server_url) as proxy:
        yield proxy


def settings(url):
    """Those of an executor whose claims live there."""
    return {"state_url" if url.startswith("redis") else "records_url": url}


def test_a_claim_whose_grant_was_lost_is_given_back_as_nothing_ran(server_url, lossy, effects):
    here, there = (tool_of(effects, name, **ONCE) for name in ("here", "there"))
    with executor_for(here, **settings(lossy.url)) as ours, executor_for(there, **settings(server_url)) as others:
        assert ours.execute_sync(made(charge("first"))).success
        lossy.lose()
        refused = ours.execute_sync(made(charge("o")))
        assert lossy.lost.is_set()
        assert (refused.failure.code, refused.failure.outcome) == ("store_unavailable", "not_run")

        result = until(lambda: (r := others.execute_sync(made(charge("o")))).success and r, what="the claim")

    assert (result.source, result.data["process"]) == ("run", "there")
    assert len(effects.seen("begin", order="o")) == 1


@pytest.mark.parametrize("manner", ["async", "blocking"])
def test_a_result_whose_receipt_was_lost_is_given_and_told_again(server_url, lossy, effects, manner):
    effects.shut("here")
    here, there = tool_of(effects, "here", manner=manner, only="o", **ONCE), tool_of(effects, "there", **ONCE)
    with executor_for(here, **settings(lossy.url)) as ours, executor_for(there, **settings(server_url)) as others:
        assert ours.execute_sync(made(charge("first"))).success
        with ThreadPoolExecutor(1) as threads:
            call = threads.submit(ours.execute_sync, made(charge("o")))
            until(lambda: effects.seen("begin", order="o"), what="the body")
            lossy.lose()
            effects.open("here")
            result = call.result()
        assert lossy.lost.is_set()

        again = until(lambda: (r := others.execute_sync(made(charge("o")))).success and r, what="the replay")

    assert result.success
    assert (again.source, again.data) == ("replay", result.data)
    assert len(effects.seen("begin", order="o")) == 1
