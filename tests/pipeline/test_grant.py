import asyncio
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.protected_api import ProtectedApi
from tests.services import Oidc
from toolpost import (
    Authorization,
    AuthorizationManager,
    AuthorizationRequiredError,
    BaseTool,
    Cache,
    ConfigurationError,
    HttpToolSpec,
    Idempotency,
    OAuth,
    OAuthProvider,
    Tool,
    ToolContext,
    ToolExecutor,
    ToolRegistry,
    ToolResult,
    create_tool_call,
    policy,
)
from toolpost.stores.memory_records import MemoryRecords
from toolpost.stores.postgres import PostgresRecords
from toolpost.testing import FakeClock

READ = OAuth(scopes=("read",))
SECRET = "a-secret-key-of-the-tests-long-enough"


@pytest.fixture
def api(oidc: Oidc) -> Iterator[ProtectedApi]:
    with ProtectedApi(oidc) as api:
        yield api


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(time.time())


@pytest.fixture
def manager(oidc: Oidc, clock: FakeClock) -> AuthorizationManager:
    return manager_of(oidc, clock)


def manager_of(oidc: Oidc, clock: FakeClock, **more: Any) -> AuthorizationManager:
    return AuthorizationManager(
        oidc.client_id,
        oidc.client_secret,
        oidc.redirect_uri,
        issuer=oidc.issuer,
        clock=clock,
        secret_key=SECRET,
        **more,
    )


@pytest.fixture
def executor(manager: AuthorizationManager, api: ProtectedApi) -> Iterator[ToolExecutor]:
    with executor_of(manager, api) as executor:
        yield executor


def executor_of(manager: AuthorizationManager, api: ProtectedApi, **settings: Any) -> ToolExecutor:
    return ToolExecutor(registry=ToolRegistry(), authorization=manager, egress_private=(api.place,), **settings)


def inbox(api: ProtectedApi, policy: OAuth = READ, **more: Any) -> HttpToolSpec:
    """An HTTP tool that sends its caller's token to the API."""
    return HttpToolSpec(
        id="inbox",
        tool_name="Mail.Inbox",
        description="Reads the inbox.",
        url=api.url,
        method="get",
        parameters=[],
        oauth=policy,
        **more,
    )


@Tool(name="Mail.Token", description="Tells whose token it has.", parameters={}, oauth=READ, register=False)
async def token(ctx: ToolContext) -> str:
    return await ctx.token()


async def call(executor: ToolExecutor, tool: str, user: str | None = "alice", **fields: Any) -> ToolResult:
    return await executor.execute_tool_call(create_tool_call(tool, {}, user_id=user, **fields))


def refusal(result: ToolResult) -> dict[str, Any]:
    assert result.failure is not None
    assert result.failure.code == "authorization_required", result.failure
    return result.failure.details


async def granted(
    executor: ToolExecutor, oidc: Oidc, user: str = "alice", tool: str = "Mail.Inbox", **fields: Any
) -> None:
    """Go where the refusal of a call leads, and grant what is asked."""
    url = refusal(await call(executor, tool, user, **fields))["authorization_url"]
    await executor.authorizations.complete_from_callback(oidc.login(url, user), user_id=user, **fields)


async def test_a_call_is_refused_with_a_url_and_runs_with_its_users_own_token_once_that_is_granted(
    executor: ToolExecutor, oidc: Oidc, api: ProtectedApi
) -> None:
    executor.add(inbox(api).define())

    first = await call(executor, "Mail.Inbox")

    assert first.status_code == 401
    assert first.status == "rejected"
    asked = refusal(first)
    assert asked["authorization_url"] in str(first.error)
    assert {name: asked[name] for name in ("provider", "scopes", "missing", "why")} == {
        "provider": "default",
        "scopes": ["read"],
        "missing": ["read"],
        "why": "missing",
    }
    assert api.tokens == []

    callback = oidc.login(asked["authorization_url"], "alice")
    await executor.authorizations.complete_from_callback(callback, user_id="alice")
    second = await call(executor, "Mail.Inbox")

    assert second.data["body"] == {"owner": "alice"}


async def test_a_token_is_refreshed_before_it_ends_and_refused_everywhere_once_it_is_revoked(
    executor: ToolExecutor, oidc: Oidc, api: ProtectedApi, clock: FakeClock
) -> None:
    executor.add(inbox(api).define())
    await granted(executor, oidc)
    await call(executor, "Mail.Inbox")

    clock.advance(3600 - 30)
    result = await call(executor, "Mail.Inbox")

    assert result.data["body"] == {"owner": "alice"}
    assert len(set(api.tokens)) == 2
    assert oidc.count("token:refresh_token") == 1

    revoked = await executor.authorizations.revoke_authorization_async("alice")

    assert (revoked.found, revoked.at_provider) == (True, True)
    assert refusal(await call(executor, "Mail.Inbox"))["why"] == "missing"
    assert [oidc.introspect(token)["active"] for token in api.tokens] == [False, False]


async def test_an_api_that_wants_signed_tokens_for_itself_gets_them(
    oidc: Oidc, api: ProtectedApi, clock: FakeClock
) -> None:
    manager = manager_of(oidc, clock, audience=oidc.audience)
    with executor_of(manager, api) as executor:
        executor.add(inbox(api).define())
        await granted(executor, oidc)

        result = await call(executor, "Mail.Inbox")

    assert result.data["body"] == {"owner": "alice"}
    assert api.tokens[0].count(".") == 2


async def test_a_body_asks_for_the_token_of_its_caller(executor: ToolExecutor, oidc: Oidc) -> None:
    executor.add(token)
    await granted(executor, oidc, tool="Mail.Token")

    tokens: list[str] = []

    @Tool(name="Mail.Use", description="Uses its token.", parameters={}, oauth=READ, register=False)
    async def use(ctx: ToolContext) -> str:
        tokens.append(await ctx.token())
        return "used"

    executor.add(use)
    result = await call(executor, "Mail.Use")

    assert result.data == {"result": "used"}
    assert oidc.introspect(tokens[0])["sub"] == "alice"


async def test_a_long_body_is_given_a_token_that_is_still_good(
    executor: ToolExecutor, oidc: Oidc, clock: FakeClock
) -> None:
    seen: list[str] = []

    @Tool(
        name="Mail.Long", description="Takes long.", parameters={}, oauth=READ, register=False, timeout_seconds=100_000
    )
    async def long(ctx: ToolContext) -> str:
        seen.append(await ctx.token())
        clock.advance(3600)
        seen.append(await ctx.token())
        return "done"

    executor.add(long)
    await granted(executor, oidc, tool="Mail.Long")
    result = await call(executor, "Mail.Long")

    assert result.success, result.error
    assert len(set(seen)) == 2


async def test_no_result_shows_a_token(oidc: Oidc, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    records = MemoryRecords(clock=clock)
    elsewhere = manager_of(oidc, clock, records=records)
    flow = await elsewhere.initiate_authorization_async("alice", "Mail.Token", ["read"])
    known = await elsewhere.complete_from_callback(oidc.login(flow.auth_url), user_id="alice")
    manager = manager_of(oidc, clock, records=records)
    with ToolExecutor(registry=ToolRegistry(), authorization=manager) as executor:
        executor.add(token)

        result = await call(executor, "Mail.Token")

    assert result.success, result.error
    assert known.access_token not in str(result.to_dict())
    assert known.access_token not in caplog.text
    assert str(known.refresh_token) not in caplog.text
    assert oidc.client_secret not in caplog.text


async def test_an_answer_that_shows_the_first_token_of_all_shows_none(
    oidc: Oidc, api: ProtectedApi, clock: FakeClock
) -> None:
    def public_client() -> AuthorizationManager:
        declared = {"issuer": oidc.issuer, "records": records, "secret_key": SECRET, "clock": clock}
        return AuthorizationManager("toolpost-public", None, oidc.redirect_uri, **declared)

    api.echoes, records = True, MemoryRecords(clock=clock)
    elsewhere = public_client()
    flow = await elsewhere.initiate_authorization_async("alice", "Mail.Inbox", ["read"])
    await elsewhere.complete_from_callback(oidc.login(flow.auth_url), user_id="alice")
    with executor_of(public_client(), api) as executor:
        executor.add(inbox(api).define())

        result = await call(executor, "Mail.Inbox")

    assert len(api.tokens[0]) > 20
    assert result.data["body"] == {"authorization": "Bearer [hidden]"}


async def test_the_log_does_not_show_where_a_grant_is_given(
    executor: ToolExecutor, api: ProtectedApi, caplog: pytest.LogCaptureFixture
) -> None:
    executor.add(inbox(api).define())

    asked = refusal(await call(executor, "Mail.Inbox"))

    assert "Mail.Inbox refused (authorization_required)" in caplog.text
    assert asked["authorization_url"] not in caplog.text
    assert "state=" not in caplog.text


async def test_no_tool_has_scopes_asked_for_that_its_provider_is_declared_without(oidc: Oidc, clock: FakeClock) -> None:
    with ToolExecutor(registry=ToolRegistry(), authorization=manager_of(oidc, clock, scopes=["mail.read"])) as executor:
        executor.add(token)

        result = await call(executor, "Mail.Token")

    assert "scope 'read' is not one of mail.read" in str(result.error)
    assert "code_challenge" not in str(result.to_dict())


# a token that is not taken


async def revoked_elsewhere(manager: AuthorizationManager) -> None:
    """Have the provider end a grant, and nobody told of it."""
    known = manager._known("default")
    held = (await manager._grants.of_user("", "alice"))[0]
    await known.wire.revoke(await known.endpoints(), str(held.refresh_token), "refresh_token")


@pytest.mark.parametrize("method", ["get", "post"])
async def test_a_token_that_the_api_does_not_take_is_renewed_and_the_request_sent_again(
    executor: ToolExecutor, oidc: Oidc, api: ProtectedApi, clock: FakeClock, method: str
) -> None:
    definition = inbox(api).define()
    executor.add(replace(definition, body=replace(definition.body, method=method)))
    await granted(executor, oidc)
    await call(executor, "Mail.Inbox")
    api.refuses.update(api.tokens)
    clock.advance(60)

    result = await call(executor, "Mail.Inbox")

    assert result.success, result.error
    assert result.data["body"] == {"owner": "alice"}
    assert len(api.tokens) == 3
    assert len(set(api.tokens)) == 2
    assert result.attempts == 1


async def test_where_it_cannot_be_renewed_the_caller_is_sent_to_grant_anew(
    executor: ToolExecutor, oidc: Oidc, api: ProtectedApi, clock: FakeClock
) -> None:
    executor.add(inbox(api).define())
    await granted(executor, oidc)
    await revoked_elsewhere(executor.authorizations)
    clock.advance(60)

    result = await call(executor, "Mail.Inbox")

    assert refusal(result)["why"] == "revoked"
    assert refusal(result)["authorization_url"].startswith(oidc.issuer)
    assert result.failure is not None
    assert result.failure.outcome == "not_run"
    await granted(executor, oidc)
    assert (await call(executor, "Mail.Inbox")).success


async def test_a_token_that_can_never_be_renewed_is_not_used_for_ever(
    executor: ToolExecutor, oidc: Oidc, api: ProtectedApi, clock: FakeClock
) -> None:
    executor.add(inbox(api).define())
    await granted(executor, oidc)
    manager = executor.authorizations
    await revoked_elsewhere(manager)
    held = (await manager._grants.of_user("", "alice"))[0]
    lasting = replace(held, refresh_token=None, expires_at=None)
    await manager._grants.keep(manager._known("default"), "", "alice", lasting)
    clock.advance(60)

    assert refusal(await call(executor, "Mail.Inbox"))["why"] == "revoked"
    assert len(await manager.get_user_authorizations_async("alice")) == 1


async def test_an_api_that_takes_no_token_is_asked_twice_and_no_more(
    executor: ToolExecutor, oidc: Oidc, api: ProtectedApi, clock: FakeClock
) -> None:
    executor.add(inbox(api).define())
    await granted(executor, oidc)
    clock.advance(60)
    api.takes = False

    results = [await call(executor, "Mail.Inbox") for _ in range(3)]

    for result in results:
        assert result.failure is not None
        assert (result.failure.code, result.failure.details["token_error"]) == ("upstream_failed", "invalid_token")
    assert api.answered == 4
    assert oidc.count("token:refresh_token") == 1
    assert len(await executor.authorizations.get_user_authorizations_async("alice")) == 1


async def test_a_body_may_ask_for_another_token_than_the_one_that_was_refused(
    executor: ToolExecutor, oidc: Oidc, clock: FakeClock
) -> None:
    seen: list[str] = []

    @Tool(name="Mail.Again", description="Asks again.", parameters={}, oauth=READ, register=False)
    async def again(ctx: ToolContext) -> str:
        seen.extend([await ctx.token(), await ctx.token(fresh=True), await ctx.token(), await ctx.token(fresh=True)])
        return "done"

    executor.add(again)
    await granted(executor, oidc, tool="Mail.Again")
    clock.advance(60)

    result = await call(executor, "Mail.Again")

    assert result.success, result.error
    assert seen[0] != seen[1] == seen[2] == seen[3]


async def test_a_grant_that_ends_during_a_call_is_asked_for_with_a_url_too(
    executor: ToolExecutor, oidc: Oidc, clock: FakeClock
) -> None:
    @Tool(name="Mail.Late", description="Late.", parameters={}, oauth=READ, register=False, timeout_seconds=100_000)
    async def late(ctx: ToolContext) -> str:
        await executor.authorizations.revoke_authorization_async("alice")
        clock.advance(3600)
        return await ctx.token()

    executor.add(late)
    await granted(executor, oidc, tool="Mail.Late")

    asked = refusal(await call(executor, "Mail.Late"))

    assert asked["authorization_url"].startswith(oidc.issuer)


async def test_a_token_goes_over_no_way_that_others_can_read(executor: ToolExecutor) -> None:
    spec = HttpToolSpec(
        id="open",
        tool_name="Mail.Open",
        description="Sends its token in the open.",
        url="http://mail.example/inbox",
        method="get",
        parameters=[],
        oauth=READ,
    )
    executor.add(spec.define())

    with pytest.raises(ConfigurationError, match="must be https"):
        await executor.call("Mail.Open")


async def test_a_missing_scope_is_asked_for_besides_those_granted_already(
    executor: ToolExecutor, oidc: Oidc, api: ProtectedApi
) -> None:
    @Tool(name="Mail.Send", description="Sends.", parameters={}, oauth=OAuth(scopes=("write",)), register=False)
    async def send(ctx: ToolContext) -> str:
        return " ".join(oidc.introspect(await ctx.token())["scope"].split())

    executor.add(inbox(api).define())
    executor.add(send)
    await granted(executor, oidc)

    asked = refusal(await call(executor, "Mail.Send"))

    assert (asked["why"], asked["scopes"], asked["missing"]) == ("insufficient_scope", ["write"], ["write"])
    assert "scope=read+write&" in asked["authorization_url"]

    await granted(executor, oidc, tool="Mail.Send")

    assert (await call(executor, "Mail.Send")).data == {"result": "read write"}
    assert (await call(executor, "Mail.Inbox")).success


async def test_what_a_person_leaves_out_stays_missing(executor: ToolExecutor, oidc: Oidc, api: ProtectedApi) -> None:
    executor.add(inbox(api, OAuth(scopes=("read", "write"))).define())
    url = refusal(await call(executor, "Mail.Inbox"))["authorization_url"]

    granted = await executor.authorizations.complete_from_callback(oidc.login(url, "alice", ["read"]), user_id="alice")

    assert granted.scopes == ["read"]
    assert refusal(await call(executor, "Mail.Inbox"))["missing"] == ["write"]


async def test_a_pending_flow_is_handed_out_again_to_the_same_person_alone(
    executor: ToolExecutor, api: ProtectedApi, clock: FakeClock
) -> None:
    executor.add(inbox(api).define())
    executor.add(token)

    async def flow(tool: str = "Mail.Inbox", user: str = "alice", **more: Any) -> str:
        return str(refusal(await call(executor, tool, user, **more))["flow_id"])

    first = await flow()

    assert await flow() == first
    assert len({first, await flow(user="bob"), await flow("Mail.Token"), await flow(tenant="acme")}) == 4

    clock.advance(550)

    assert await flow() != first


@pytest.mark.parametrize("user", [None, ""])
async def test_nobody_gets_in_without_a_name(executor: ToolExecutor, api: ProtectedApi, user: str | None) -> None:
    executor.add(inbox(api).define())

    result = await call(executor, "Mail.Inbox", user=user)

    assert result.failure is not None
    assert result.failure.code == "unauthenticated"


async def test_a_grant_is_one_users_of_one_tenant(executor: ToolExecutor, oidc: Oidc, api: ProtectedApi) -> None:
    executor.add(inbox(api).define())
    await granted(executor, oidc, "alice", tenant="acme")

    assert (await call(executor, "Mail.Inbox", "alice", tenant="acme")).data["body"] == {"owner": "alice"}
    for user, tenant in (("alice", None), ("alice", "other"), ("bob", "acme")):
        assert refusal(await call(executor, "Mail.Inbox", user, tenant=tenant))["why"] == "missing"


async def test_a_body_gets_no_token_that_its_tool_does_not_declare(executor: ToolExecutor, oidc: Oidc) -> None:
    @Tool(name="Mail.Sly", description="Declares nothing.", parameters={}, register=False)
    async def sly(ctx: ToolContext) -> str:
        return await ctx.token()

    @Tool(name="Mail.Other", description="Wants another's.", parameters={}, oauth=READ, register=False)
    async def other(ctx: ToolContext) -> str:
        return await ctx.token("github")

    executor.add([sly, other])
    await granted(executor, oidc, tool="Mail.Other")

    for tool, declared in (("Mail.Sly", "none"), ("Mail.Other", "'default'")):
        result = await call(executor, tool)

        assert not result.success
        assert f"declares {declared}" in str(result.error)


async def test_several_providers_have_a_grant_each(oidc: Oidc, own_oidc: Oidc, clock: FakeClock) -> None:
    def declared(server: Oidc) -> OAuthProvider:
        return OAuthProvider(
            client_id=server.client_id,
            client_secret=server.client_secret,
            redirect_uri=server.redirect_uri,
            issuer=server.issuer,
        )

    manager = AuthorizationManager(providers={"a": declared(oidc), "b": declared(own_oidc)}, clock=clock)

    class Both(BaseTool):
        @policy(OAuth(scopes=("read",), provider="a"))
        async def from_a(self, ctx: ToolContext) -> bool:
            return bool(oidc.introspect(await ctx.token("a"))["active"])

        @policy(OAuth(scopes=("read",), provider="b"))
        async def from_b(self, ctx: ToolContext) -> bool:
            return bool(own_oidc.introspect(await ctx.token("b"))["active"])

    with ToolExecutor(registry=ToolRegistry(), authorization=manager) as executor:
        executor.add(Both())
        await granted(executor, oidc, tool="Both.from_a")

        assert (await call(executor, "Both.from_a")).data is True
        assert refusal(await call(executor, "Both.from_b"))["provider"] == "b"

        await granted(executor, own_oidc, tool="Both.from_b")

        assert (await call(executor, "Both.from_b")).data is True


def test_callers_that_block_are_refused_and_served_alike(executor: ToolExecutor, oidc: Oidc) -> None:
    class Mail(BaseTool):
        @policy(READ)
        def size(self, ctx: ToolContext) -> int:
            return len(ctx.token_sync())

    tool = Mail()
    executor.add(tool)

    with pytest.raises(AuthorizationRequiredError) as caught:
        executor.execute(tool, "size", user_id="alice")

    assert caught.value.url is not None
    asyncio.run(executor.authorizations.complete_from_callback(oidc.login(caught.value.url), user_id="alice"))

    assert executor.execute(tool, "size", user_id="alice") == 43


async def test_a_provider_that_is_down_is_told_apart_from_one_that_was_not_asked(
    own_oidc: Oidc, clock: FakeClock
) -> None:
    manager = manager_of(own_oidc, clock)
    with ToolExecutor(registry=ToolRegistry(), authorization=manager) as executor:
        executor.add(token)
        await granted(executor, own_oidc, tool="Mail.Token")
        own_oidc.kill()
        clock.advance(3600)

        ended = await call(executor, "Mail.Token")

        assert ended.failure is not None
        assert (ended.failure.code, ended.failure.outcome) == ("upstream_failed", "not_run")
        assert ended.failure.retryable

        never_granted = await call(executor, "Mail.Token", "bob")

        assert never_granted.failure is not None
        assert never_granted.failure.code == "authorization_required"  # where its endpoints are is known by then


async def test_results_of_one_user_are_never_anothers(manager: AuthorizationManager, oidc: Oidc) -> None:
    @Tool(name="Mail.Who", description="Says who.", parameters={}, oauth=READ, register=False, cache=Cache(per="user"))
    async def who(ctx: ToolContext) -> str:
        return str(oidc.introspect(await ctx.token())["sub"])

    with ToolExecutor(registry=ToolRegistry(), authorization=manager, enable_cache=True) as executor:
        executor.add(who)
        for user in ("alice", "bob"):
            await granted(executor, oidc, user, "Mail.Who")

        for user in ("alice", "bob", "alice", "bob"):
            assert (await call(executor, "Mail.Who", user)).data == {"result": user}

        await executor.authorizations.revoke_authorization_async("alice")

        assert refusal(await call(executor, "Mail.Who", "alice"))["why"] == "missing"


async def test_a_stale_result_is_renewed_with_the_grant_of_its_caller(
    oidc: Oidc, api: ProtectedApi, clock: FakeClock
) -> None:
    with executor_of(manager_of(oidc, clock), api, enable_cache=True, clock=clock) as executor:
        definition = inbox(api).define()
        policies = replace(definition.policies, cache=Cache(per="user", ttl_s=10, stale_s=100))
        executor.add(replace(definition, policies=policies))
        await granted(executor, oidc)
        await call(executor, "Mail.Inbox")
        clock.advance(20)

        await call(executor, "Mail.Inbox")
        for _ in range(200):
            if api.answered == 2:
                break
            await asyncio.sleep(0.01)

    assert len(api.tokens) == 2
    assert all(api.tokens)


@pytest.mark.parametrize(
    ("policies", "says"),
    [
        ({"cache": Cache(per="global")}, "Cache(per='user')"),
        ({"cache": Cache(per="tenant")}, "Cache(per='user')"),
        ({"idempotency": Idempotency(include_user=False)}, "Idempotency(include_user=True)"),
    ],
)
async def test_what_would_hand_results_to_others_is_refused(
    executor: ToolExecutor, policies: dict[str, Any], says: str
) -> None:
    @Tool(name="Mail.Leaky", description="Leaks.", parameters={}, oauth=READ, register=False, **policies)
    async def leaky(ctx: ToolContext) -> str:
        return "private"

    executor.add(leaky)

    with pytest.raises(ConfigurationError, match=says.replace("(", r"\(").replace(")", r"\)")):
        await executor.call("Mail.Leaky")


async def test_without_a_provider_a_call_says_what_to_set() -> None:
    with ToolExecutor(registry=ToolRegistry()) as executor:
        executor.add(token)

        result = await call(executor, "Mail.Token")

        assert "set oauth_issuer" in str(result.error)
        with pytest.raises(ConfigurationError, match="set oauth_issuer"):
            _ = executor.authorizations


def settings_of(oidc: Oidc, **more: Any) -> dict[str, Any]:
    return {
        "oauth_issuer": oidc.issuer,
        "oauth_client_id": oidc.client_id,
        "oauth_client_secret": oidc.client_secret,
        "oauth_redirect_uri": oidc.redirect_uri,
        **more,
    }


async def test_settings_make_the_manager_and_durable_records_want_a_key(oidc: Oidc, tmp_path: Path) -> None:
    settings = settings_of(oidc, records_url=f"sqlite:///{tmp_path}/records.db")
    with pytest.raises(ConfigurationError, match="set secret_key"):
        ToolExecutor(settings)

    with ToolExecutor({**settings, "secret_key": SECRET}, registry=ToolRegistry()) as executor:
        executor.add(token)
        await granted(executor, oidc, tool="Mail.Token")
    with ToolExecutor({**settings, "secret_key": SECRET}, registry=ToolRegistry()) as executor:
        executor.add(token)

        assert (await call(executor, "Mail.Token")).success


async def test_settings_that_are_references_are_what_they_stand_for(
    oidc: Oidc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"CLIENT_SECRET_OF_THE_TEST": oidc.client_secret, "KEY_OF_THE_TEST": SECRET}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    url = f"sqlite:///{tmp_path}/records.db"
    secret, key = (f"secret://env/{name}" for name in values)
    settings = settings_of(oidc, records_url=url, oauth_client_secret=secret)
    with ToolExecutor({**settings, "secret_key": key}, registry=ToolRegistry()) as executor:
        executor.add(token)
        await granted(executor, oidc, tool="Mail.Token")

    for opens in ({"secret_key": SECRET}, {"secret_key": "another one, set later on", "secret_key_previous": key}):
        with ToolExecutor({**settings, **opens}, registry=ToolRegistry()) as executor:
            executor.add(token)

            result = await call(executor, "Mail.Token")

            assert result.success, result.error


async def test_grants_in_memory_outlive_a_change_of_settings_without_a_key(oidc: Oidc) -> None:
    with ToolExecutor(settings_of(oidc), registry=ToolRegistry()) as executor:
        executor.add(token)
        await granted(executor, oidc, tool="Mail.Token")
        before = executor.authorizations

        executor.config.egress_allowed_hosts = ("mail.example",)

        assert executor.authorizations is not before
        assert (await call(executor, "Mail.Token")).success


@pytest.mark.parametrize("blocking", [False, True])
def test_the_journey_in_postgresql(oidc: Oidc, postgres_url: str, clock: FakeClock, blocking: bool) -> None:
    async def one_of_many(executor: ToolExecutor) -> None:
        url = refusal(await call(executor, "Mail.Token"))["authorization_url"]
        callback = oidc.login(url, "alice")
        answers = await asyncio.gather(
            *(executor.authorizations.complete_from_callback(callback, user_id="alice") for _ in range(5)),
            return_exceptions=True,
        )
        assert sum(isinstance(answer, Authorization) for answer in answers) == 1
        clock.advance(3600)
        results = await asyncio.gather(*(call(executor, "Mail.Token") for _ in range(10)))
        assert all(result.success for result in results), [result.error for result in results]
        assert oidc.count("token:refresh_token") == 1
        assert oidc.count("token:authorization_code") == 1

    async def by_methods_that_block(executor: ToolExecutor) -> None:
        manager = executor.authorizations
        flow = manager.initiate_authorization("alice", "Mail.Token", ["read"])
        await manager.complete_from_callback(oidc.login(flow.auth_url, "alice"), user_id="alice")
        assert len(manager.get_user_authorizations("alice")) == 1
        assert manager.rotate_secret_key() == (0, 0)
        assert [row.provider for row in manager.grants()] == ["default"]

    records = PostgresRecords(postgres_url)
    with ToolExecutor(registry=ToolRegistry(), authorization=manager_of(oidc, clock, records=records)) as executor:
        executor.add(token)
        asyncio.run((by_methods_that_block if blocking else one_of_many)(executor))

        assert executor.authorizations.revoke_authorization("alice").at_provider is True
        assert executor.authorizations.get_user_authorizations("alice") == []
    records.close()


async def test_a_header_of_ones_own_does_not_stand_beside_the_token(executor: ToolExecutor, api: ProtectedApi) -> None:
    executor.add(inbox(api, headers={"authorization": "Bearer mine"}).define())

    with pytest.raises(ConfigurationError, match="header Authorization is filled"):
        await executor.call("Mail.Inbox")


async def test_the_chain_of_a_tool_without_oauth_has_no_grant(executor: ToolExecutor) -> None:
    @Tool(name="Plain", description="Needs nothing.", parameters={}, register=False)
    async def plain() -> int:
        return 1

    executor.add([plain, token])

    result = await executor.execute_tool_call(create_tool_call("Plain", {}), explain=True)
    stage = next(one for one in result.explanation or [] if one["stage"] == "grant")

    assert stage["decision"] == "not in the chain"


async def test_explaining_names_the_provider_and_its_scopes(executor: ToolExecutor, oidc: Oidc) -> None:
    executor.add(token)
    await granted(executor, oidc, tool="Mail.Token")

    result = await executor.execute_tool_call(create_tool_call("Mail.Token", {}, user_id="alice"), explain=True)
    stage = next(one for one in result.explanation or [] if one["stage"] == "grant")

    assert stage["decision"] == "granted"
    assert stage["notes"][0] | {"decision": ""} == {"decision": "", "provider": "default", "scopes": ["read"]}
