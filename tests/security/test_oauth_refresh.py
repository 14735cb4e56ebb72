import asyncio
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.security.oauth_shelf import SECRET, TOOL, grant, manager_of
from tests.services import Oidc
from toolpost.calls.errors import AuthorizationRequiredError, RemoteToolError
from toolpost.calls.oauth import Authorization
from toolpost.security.oauth import AuthorizationManager
from toolpost.security.oauth_kept import Held
from toolpost.stores import open_records
from toolpost.stores.memory_records import MemoryRecords
from toolpost.stores.sqlite import SqliteRecords
from toolpost.testing import FakeClock

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(time.time())


async def test_a_token_is_refreshed_a_minute_before_it_ends(oidc: Oidc, clock: FakeClock) -> None:
    manager = manager_of(oidc, clock=clock)
    first = await grant(manager, oidc)
    clock.advance(3539)

    assert await manager.validate_authorization("alice", TOOL) == first

    clock.advance(1)
    second = await manager.validate_authorization("alice", TOOL)

    assert second.access_token != first.access_token
    assert second.refresh_token != first.refresh_token
    assert second.expires_at == pytest.approx(clock.now() + 3600, abs=1)
    assert second.created_at == first.created_at


async def test_a_short_lived_token_is_not_refreshed_at_once(oidc: Oidc, clock: FakeClock) -> None:
    oidc.set(access_token_s=20)
    manager = manager_of(oidc, clock=clock)
    first = await grant(manager, oidc)

    clock.advance(14)
    assert await manager.validate_authorization("alice", TOOL) == first

    clock.advance(1)
    assert await manager.validate_authorization("alice", TOOL) != first


async def test_tokens_that_ended_at_the_provider_itself_are_renewed_there(oidc: Oidc) -> None:
    oidc.set(access_token_s=1)
    manager = manager_of(oidc)
    first = await grant(manager, oidc)
    await asyncio.sleep(1.1)

    second = await manager.validate_authorization("alice", TOOL)

    assert not oidc.introspect(first.access_token)["active"]
    assert oidc.introspect(second.access_token)["active"]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_of_many_tasks_and_managers_one_asks_the_provider(
    oidc: Oidc, clock: FakeClock, tmp_path: Path, kind: str
) -> None:
    records = open_records("memory://" if kind == "memory" else f"sqlite:///{tmp_path}/records.db", clock=clock)
    if isinstance(records, SqliteRecords):
        records.migrate()
    managers = [manager_of(oidc, clock=clock, records=records) for _ in range(2)]
    await grant(managers[0], oidc)
    clock.advance(3600)
    oidc.set(delay_ms=150)

    granted = await asyncio.gather(*(managers[n % 2].validate_authorization("alice", TOOL) for n in range(20)))

    assert len({one.access_token for one in granted}) == 1
    assert oidc.count("token:refresh_token") == 1
    assert oidc.introspect(granted[0].access_token)["active"]
    records.close()


PROCESS = """
import asyncio, sys
from toolpost.security.oauth import AuthorizationManager
from toolpost.stores.sqlite import SqliteRecords
issuer, client_id, client_secret, redirect_uri, secret_key, url, tool = sys.argv[1:]
records = SqliteRecords(url)
more = {"issuer": issuer, "records": records, "secret_key": secret_key}
manager = AuthorizationManager(client_id, client_secret, redirect_uri, **more)
print("ready", flush=True)
sys.stdin.readline()
async def main():
    found = await asyncio.gather(*(manager.validate_authorization("alice", tool) for _ in range(10)))
    print(*{one.access_token for one in found})
asyncio.run(main())
records.close()
"""


def test_of_two_processes_one_asks_the_provider(oidc: Oidc, tmp_path: Path) -> None:
    oidc.set(access_token_s=1, delay_ms=150)
    url = f"sqlite:///{tmp_path}/records.db"
    records = SqliteRecords(url)
    records.migrate()
    manager = AuthorizationManager(
        oidc.client_id, oidc.client_secret, oidc.redirect_uri, issuer=oidc.issuer, records=records, secret_key=SECRET
    )
    asyncio.run(grant(manager, oidc))
    given = [oidc.issuer, oidc.client_id, oidc.client_secret, oidc.redirect_uri, SECRET, url, TOOL]
    command = [sys.executable, "-c", PROCESS, *given]
    runs = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for run in runs:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
    oidc.set(access_token_s=3600, delay_ms=150)
    time.sleep(1.0)
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("go\n")
        run.stdin.flush()
    tokens = {run.communicate(timeout=20)[0].strip() for run in runs}
    records.close()

    assert len(tokens) == 1
    assert oidc.count("token:refresh_token") == 1
    assert oidc.introspect(tokens.pop())["active"]


async def test_a_refresh_whose_holder_died_is_taken_over(oidc: Oidc, clock: FakeClock) -> None:
    oidc.set(rotate=False)
    records = MemoryRecords(clock=clock)
    manager = manager_of(oidc, clock=clock, records=records)
    await grant(manager, oidc)
    clock.advance(3600)
    oidc.set(rotate=False, delay_ms=5000)
    died = asyncio.create_task(manager.validate_authorization("alice", TOOL))
    await asyncio.sleep(0.1)
    for task in list(manager._grants._running):  # as when its process is killed
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await died
    oidc.set(rotate=False)

    waiting = asyncio.create_task(manager.validate_authorization("alice", TOOL))
    await asyncio.sleep(0.15)
    assert not waiting.done()
    clock.advance(30)

    assert oidc.introspect((await waiting).access_token)["active"]


async def test_a_caller_that_gives_up_does_not_lose_the_new_token(oidc: Oidc, clock: FakeClock) -> None:
    manager = manager_of(oidc, clock=clock)
    await grant(manager, oidc)
    clock.advance(3600)
    oidc.set(delay_ms=200)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(manager.validate_authorization("alice", TOOL), 0.05)

    assert oidc.introspect((await manager.validate_authorization("alice", TOOL)).access_token)["active"]
    assert oidc.count("token:refresh_token") == 1


async def test_a_grant_that_was_ended_at_the_provider_must_be_granted_anew(oidc: Oidc, clock: FakeClock) -> None:
    manager = manager_of(oidc, clock=clock)
    first = await grant(manager, oidc)
    elsewhere = manager_of(oidc, clock=clock)
    await elsewhere._grants.keep(elsewhere._known("default"), "", "alice", _held(first))
    await elsewhere.revoke_authorization_async("alice")
    clock.advance(3600)

    with pytest.raises(AuthorizationRequiredError) as caught:
        await manager.validate_authorization("alice", TOOL)

    assert caught.value.details["why"] == "revoked"
    assert await manager.get_user_authorizations_async("alice") == []


def _held(granted: Authorization) -> Held:
    names = ("provider", "tool_name", "scopes", "access_token", "refresh_token", "expires_at", "created_at")
    return Held(issuer="", **{name: getattr(granted, name) for name in names})  # type: ignore[arg-type]


async def test_one_without_refresh_token_ends_with_its_access_token(oidc: Oidc, clock: FakeClock) -> None:
    manager = manager_of(oidc, clock=clock)
    first = await grant(manager, oidc)
    held = replace(_held(first), refresh_token=None)
    await manager._grants.keep(manager._known("default"), "", "alice", held)

    clock.advance(3599)
    assert await manager.validate_authorization("alice", TOOL)

    clock.advance(1)
    with pytest.raises(AuthorizationRequiredError) as caught:
        await manager.validate_authorization("alice", TOOL)
    assert caught.value.details["why"] == "expired"

    assert await manager.cleanup_expired_authorizations_async() == 2  # the grant, and the flow that made it
    assert await manager.get_user_authorizations_async("alice") == []


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_a_provider_in_trouble_costs_no_grant(oidc: Oidc, clock: FakeClock, status: int) -> None:
    manager = manager_of(oidc, clock=clock)
    first = await grant(manager, oidc)
    oidc.set(fail={"/token": [status, 2]})
    clock.advance(3550)

    assert (await manager.validate_authorization("alice", TOOL)).access_token == first.access_token

    clock.advance(50)
    with pytest.raises(RemoteToolError, match=str(status)) as caught:
        await manager.validate_authorization("alice", TOOL)

    assert caught.value.retryable
    assert caught.value.outcome == "not_run"
    assert (await manager.validate_authorization("alice", TOOL)).access_token != first.access_token


async def test_a_refresh_that_goes_wrong_in_any_way_leaves_no_claim_behind(oidc: Oidc, clock: FakeClock) -> None:
    manager = manager_of(oidc, clock=clock)
    await grant(manager, oidc)
    clock.advance(3600)
    wire = manager._known("default").wire
    token = wire.token

    async def broken(*_: object) -> dict[str, object]:
        raise LookupError("a defect")

    wire.token = broken  # type: ignore[method-assign, assignment]
    with pytest.raises(LookupError):
        await manager.validate_authorization("alice", TOOL)
    wire.token = token  # type: ignore[method-assign]

    assert await asyncio.wait_for(manager.validate_authorization("alice", TOOL), 5)


async def test_what_a_provider_says_of_itself_is_asked_for_before_a_refresh_is_claimed(
    oidc: Oidc, clock: FakeClock
) -> None:
    records = MemoryRecords(clock=clock)
    first = await grant(manager_of(oidc, clock=clock, records=records), oidc)
    later = manager_of(oidc, clock=clock, records=records)  # of another process, which has asked nothing yet
    oidc.set(fail={"/.well-known/openid-configuration": [503, 2]})
    version = records.documents("oauth-grant")[0].version

    clock.advance(3550)
    assert (await later.validate_authorization("alice", TOOL)).access_token == first.access_token
    clock.advance(50)
    with pytest.raises(RemoteToolError, match="no metadata"):
        await later.validate_authorization("alice", TOOL)

    assert records.documents("oauth-grant")[0].version == version
    assert await later.validate_authorization("alice", TOOL)


async def test_a_claim_of_a_clock_that_went_wrong_is_no_claim(oidc: Oidc, clock: FakeClock) -> None:
    manager = manager_of(oidc, clock=clock)
    held = _held(await grant(manager, oidc))
    clock.advance(3600)
    claimed = replace(held, refreshing_until=clock.now() + 86_400)
    await manager._grants.keep(manager._known("default"), "", "alice", claimed)

    assert await asyncio.wait_for(manager.validate_authorization("alice", TOOL), 5)


async def test_a_token_that_was_refused_is_renewed_once_however_many_were_refused_it(
    oidc: Oidc, clock: FakeClock
) -> None:
    manager = manager_of(oidc, clock=clock)
    first, known = await grant(manager, oidc), manager._known("default")
    clock.advance(60)

    renewed = await asyncio.gather(
        *(manager._grants.fresh(known, "", "alice", ["read"], first.access_token) for _ in range(5))
    )

    assert {held.access_token for held in renewed}.isdisjoint({first.access_token})
    assert len({held.access_token for held in renewed}) == 1
    assert oidc.count("token:refresh_token") == 1


async def test_an_api_that_takes_no_token_at_all_costs_a_refresh_now_and_then(oidc: Oidc, clock: FakeClock) -> None:
    manager = manager_of(oidc, clock=clock)
    await grant(manager, oidc)
    known, token = manager._known("default"), ""

    for _ in range(10):
        clock.advance(10)
        token = (await manager._grants.fresh(known, "", "alice", ["read"], token)).access_token

    assert oidc.count("token:refresh_token") == 3


async def test_a_client_that_the_provider_no_longer_knows_costs_no_grant(oidc: Oidc, clock: FakeClock) -> None:
    records = MemoryRecords(clock=clock)
    await grant(manager_of(oidc, clock=clock, records=records), oidc)
    clock.advance(3600)
    wrong = AuthorizationManager(
        oidc.client_id,
        "another secret",
        oidc.redirect_uri,
        issuer=oidc.issuer,
        records=records,
        clock=clock,
        secret_key=SECRET,
    )

    with pytest.raises(RemoteToolError, match="invalid_client") as caught:
        await wrong.validate_authorization("alice", TOOL)

    assert not caught.value.retryable
    assert await manager_of(oidc, clock=clock, records=records).validate_authorization("alice", TOOL)


async def test_what_is_revoked_while_it_is_refreshed_stays_revoked(oidc: Oidc, clock: FakeClock) -> None:
    manager = manager_of(oidc, clock=clock)
    await grant(manager, oidc)
    clock.advance(3600)
    oidc.set(delay_ms=300)
    refreshing = asyncio.create_task(manager.validate_authorization("alice", TOOL))
    await asyncio.sleep(0.1)

    oidc.set(fail={"/token/revocation": [503, 1]})

    revoked = await manager.revoke_authorization_async("alice")

    assert revoked.at_provider is False
    with pytest.raises(AuthorizationRequiredError):
        await refreshing
    assert await manager.get_user_authorizations_async("alice") == []
    assert oidc.count("revocation") == 2  # of both tokens that came when the grant was gone


async def test_revoking_ends_both_tokens_at_the_provider(oidc: Oidc) -> None:
    manager = manager_of(oidc)
    granted = await grant(manager, oidc)
    assert oidc.introspect(str(granted.refresh_token))["active"]

    await manager.revoke_authorization_async("alice")

    assert not oidc.introspect(granted.access_token)["active"]
    assert not oidc.introspect(str(granted.refresh_token))["active"]
    assert oidc.count("revocation") == 2


@pytest.mark.parametrize("old_is_dead", [True, False])
async def test_what_is_granted_anew_while_the_old_is_refreshed_is_what_counts(
    oidc: Oidc, clock: FakeClock, old_is_dead: bool
) -> None:
    manager = manager_of(oidc, clock=clock)
    first = await grant(manager, oidc)
    clock.advance(3600)
    if old_is_dead:
        elsewhere = manager_of(oidc, clock=clock)
        await elsewhere._grants.keep(elsewhere._known("default"), "", "alice", _held(first))
        await elsewhere.revoke_authorization_async("alice")
    flow = await manager.initiate_authorization_async("alice", TOOL, ["read"])
    callback = oidc.login(flow.auth_url)
    oidc.set(delay_ms=400)
    refreshing = asyncio.create_task(manager.validate_authorization("alice", TOOL))
    await asyncio.sleep(0.1)
    oidc.set()

    second = await manager.complete_from_callback(callback, user_id="alice")

    assert (await refreshing).access_token == second.access_token
    assert oidc.introspect(second.access_token)["active"]


async def test_revoking_forgets_even_where_the_provider_cannot_be_told(own_oidc: Oidc) -> None:
    manager = manager_of(own_oidc)
    await grant(manager, own_oidc)
    own_oidc.kill()

    revoked = await manager.revoke_authorization_async("alice")

    assert revoked
    assert revoked.at_provider is False
    assert "cannot be reached" in str(revoked.why)
    with pytest.raises(AuthorizationRequiredError):
        await manager.validate_authorization("alice", TOOL)
