import asyncio
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings as hypothesis_settings, strategies as st

from tests.security.oauth_shelf import SECRET, TOOL, code_of, grant, manager_of, public_client, state_of
from tests.services import Oidc
from toolpost.calls.errors import (
    AuthorizationRequiredError,
    ConfigurationError,
    RemoteToolError,
    SecretUnavailableError,
    UnauthorizedError,
)
from toolpost.calls.oauth import AuthFlow, Authorization, OAuth
from toolpost.calls.redaction import MOST, Redactor
from toolpost.security.oauth import AuthorizationManager
from toolpost.security.oauth_flows import MOST_PENDING
from toolpost.security.oauth_provider import OAuthProvider
from toolpost.stores.documents import Document
from toolpost.stores.memory_records import MemoryRecords
from toolpost.stores.sqlite import SqliteRecords
from toolpost.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(time.time())


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SqliteRecords]:
    """Records that answer later, as those of other processes do."""
    records = SqliteRecords(f"sqlite:///{tmp_path}/records.db")
    records.migrate()
    yield records
    records.close()


# what is promised by name


def test_a_grant_is_asked_for_and_completed_as_the_document_has_it(oidc: Oidc) -> None:
    manager = AuthorizationManager(
        oauth_client_id=oidc.client_id,
        oauth_client_secret=oidc.client_secret,
        oauth_redirect_uri=oidc.redirect_uri,
        issuer=oidc.issuer,
    )

    flow = manager.initiate_authorization(user_id="user123", tool_name="MyApp.Calculator", scopes=["read", "write"])

    assert isinstance(flow, AuthFlow)
    assert (flow.user_id, flow.tool_name, flow.scopes) == ("user123", "MyApp.Calculator", ["read", "write"])
    assert flow.status == "pending"
    assert flow.expires_at == flow.created_at + 600
    assert not flow.is_expired()

    code = code_of(oidc.login(flow.auth_url, "user123"))
    authorization = asyncio.run(manager.complete_authorization(flow_id=flow.flow_id, authorization_code=code))

    assert isinstance(authorization, Authorization)
    assert (authorization.user_id, authorization.tool_name) == ("user123", "MyApp.Calculator")
    assert authorization.scopes == ["read", "write"]
    assert authorization.expires_at == pytest.approx(time.time() + 3600, abs=30)
    assert not authorization.is_expired()
    assert authorization.has_scope("read")
    assert not authorization.has_scope("admin")
    assert authorization.has_all_scopes(["read", "write"])
    assert not authorization.has_all_scopes(["read", "admin"])
    assert oidc.introspect(authorization.access_token)["sub"] == "user123"

    assert asyncio.run(manager.validate_authorization("user123", "MyApp.Calculator", ["read"])) == authorization
    assert manager.get_user_authorizations("user123") == [authorization]
    assert manager.get_user_authorizations("somebody") == []
    assert manager.revoke_authorization("user123", "MyApp.Calculator")
    assert not manager.revoke_authorization("user123", "MyApp.Calculator")
    with pytest.raises(UnauthorizedError):
        asyncio.run(manager.validate_authorization("user123", "MyApp.Calculator"))


def test_scopes_are_those_of_the_document_unless_the_provider_says_otherwise(oidc: Oidc) -> None:
    manager = manager_of(oidc)

    assert list(manager.get_available_scopes()) == ["read", "write", "admin", "sql", "file", "web"]

    manager.initiate_authorization("alice", TOOL, ["read"])

    assert {"openid", "offline_access", "read"} <= set(manager.get_available_scopes())

    declared = manager_of(oidc, scopes={"mail.read": "Read mail"})

    assert declared.get_available_scopes() == {"mail.read": "Read mail"}
    with pytest.raises(ConfigurationError, match=r"'mail.write' is not one of mail.read"):
        declared.initiate_authorization("alice", TOOL, ["mail.write"])


async def test_inside_an_event_loop_the_methods_that_block_work_too(oidc: Oidc) -> None:
    manager = manager_of(oidc)

    flow = manager.initiate_authorization("alice", TOOL, ["read"])
    await manager.complete_from_callback(oidc.login(flow.auth_url), user_id="alice")

    assert len(manager.get_user_authorizations("alice")) == 1
    assert manager.revoke_authorization("alice").at_provider is True


def test_a_manager_that_does_not_know_where_to_ask_says_so() -> None:
    manager = AuthorizationManager("id", "secret", "https://app.example/callback")

    with pytest.raises(ConfigurationError, match="needs its issuer"):
        manager.initiate_authorization("alice", TOOL, ["read"])


def test_providers_are_found_by_name(oidc: Oidc) -> None:
    with pytest.raises(ConfigurationError, match="no OAuth provider is named 'github'; there are: 'default'"):
        manager_of(oidc).initiate_authorization("alice", TOOL, ["read"], provider="github")


# the flow


async def test_the_request_has_pkce_state_and_nothing_else_that_is_secret(oidc: Oidc) -> None:
    from tests.services.oidc import parameters

    manager = manager_of(oidc, ask_always=("openid",), parameters={"prompt": "consent"}, audience=oidc.audience)

    flow = await manager.initiate_authorization_async("alice", TOOL, ["read"])
    query = parameters(flow.auth_url)

    assert flow.auth_url.startswith(f"{oidc.issuer}/auth?")
    assert query["redirect_uri"] == oidc.redirect_uri
    assert query["code_challenge_method"] == "S256"
    assert len(query["code_challenge"]) == 43
    assert query["scope"] == "openid read"
    assert query["resource"] == oidc.audience
    assert query["prompt"] == "consent"
    assert len(query["nonce"]) >= 32
    assert query["state"].startswith(f"{flow.flow_id}.")
    assert oidc.client_secret not in flow.auth_url
    assert flow.auth_url not in repr(flow)


async def test_two_flows_share_no_state_challenge_or_nonce(oidc: Oidc) -> None:
    from tests.services.oidc import parameters

    manager = manager_of(oidc, ask_always=("openid",))
    flows = [await manager.initiate_authorization_async("alice", TOOL, ["read"]) for _ in range(2)]

    first, second = (parameters(flow.auth_url) for flow in flows)

    assert not {first[name] for name in ("state", "nonce", "code_challenge")} & set(second.values())


async def test_an_answer_is_taken_once(oidc: Oidc, sqlite: SqliteRecords) -> None:
    manager = manager_of(oidc, records=sqlite)
    flow = await manager.initiate_authorization_async("alice", TOOL, ["read"])
    callback = oidc.login(flow.auth_url)

    answers = await asyncio.gather(
        *(manager.complete_from_callback(callback, user_id="alice") for _ in range(10)), return_exceptions=True
    )

    assert sum(isinstance(answer, Authorization) for answer in answers) == 1
    assert sum(isinstance(answer, UnauthorizedError) for answer in answers) == 9
    assert oidc.count("token:authorization_code") == 1
    with pytest.raises(UnauthorizedError, match="is completed: its answer is taken once"):
        await manager.complete_from_callback(callback, user_id="alice")


async def test_a_state_that_was_not_given_out_is_refused_and_spends_nothing(oidc: Oidc) -> None:
    manager = manager_of(oidc)
    flow = await manager.initiate_authorization_async("alice", TOOL, ["read"])
    callback = oidc.login(flow.auth_url)
    secret = flow.auth_url.split(f"{flow.flow_id}.")[1].split("&")[0]

    for other in (callback.replace(secret, "guess"), callback.replace(flow.flow_id, "flow"), callback + "&state=more"):
        with pytest.raises(UnauthorizedError):
            await manager.complete_from_callback(other, user_id="alice")

    assert (await manager.complete_from_callback(callback, user_id="alice")).has_scope("read")


@pytest.mark.parametrize(
    "whose", [{"user_id": "mallory"}, {"user_id": "alice", "tenant": "other"}, {"user_id": "alice", "session_id": "2"}]
)
async def test_an_answer_that_comes_to_another_person_is_refused(oidc: Oidc, whose: dict[str, str]) -> None:
    manager = manager_of(oidc)
    flow = await manager.initiate_authorization_async("alice", TOOL, ["read"], session_id="1")
    callback = oidc.login(flow.auth_url)

    with pytest.raises(UnauthorizedError, match=r"begun (for another user|in another session)"):
        await manager.complete_from_callback(callback, **whose)  # type: ignore[arg-type]

    assert await manager.complete_from_callback(callback, user_id="alice", session_id="1")


async def test_an_answer_of_another_issuer_is_refused_and_one_without_issuer_too(oidc: Oidc) -> None:
    manager = manager_of(oidc)
    flow = await manager.initiate_authorization_async("alice", TOOL, ["read"])
    callback = oidc.login(flow.auth_url)
    before, issuer = callback.split("&iss=")

    with pytest.raises(UnauthorizedError, match="another issuer"):
        await manager.complete_from_callback(f"{before}&iss=https%3A%2F%2Fevil.example", user_id="alice")
    with pytest.raises(UnauthorizedError, match="does not say its issuer"):
        await manager.complete_from_callback(before, user_id="alice")

    assert oidc.count("token:authorization_code") == 0
    assert await manager.complete_from_callback(f"{before}&iss={issuer}", user_id="alice")


async def test_a_flow_begun_with_one_provider_is_not_completed_with_another(oidc: Oidc) -> None:
    records = MemoryRecords()
    manager = manager_of(oidc, records=records)
    flow = await manager.initiate_authorization_async("alice", TOOL, ["read"])
    code = code_of(oidc.login(flow.auth_url))
    moved = AuthorizationManager(
        oidc.client_id,
        oidc.client_secret,
        oidc.redirect_uri,
        authorization_endpoint=f"{oidc.issuer}/auth",
        token_endpoint=f"{oidc.issuer}/token",
        records=records,
        secret_key=SECRET,
    )

    with pytest.raises(UnauthorizedError, match="begun with another provider"):
        await moved.complete_authorization(flow.flow_id, code)

    assert oidc.count("token:authorization_code") == 0


async def test_a_flow_expires(oidc: Oidc, clock: FakeClock) -> None:
    manager = manager_of(oidc, clock=clock)
    flow = await manager.initiate_authorization_async("alice", TOOL, ["read"])
    callback = oidc.login(flow.auth_url)

    clock.advance(600)

    assert flow.is_expired()
    with pytest.raises(UnauthorizedError, match="has expired"):
        await manager.complete_from_callback(callback, user_id="alice")
    assert oidc.count("token:authorization_code") == 0

    clock.advance(3600)

    with pytest.raises(UnauthorizedError, match="no such authorization flow"):
        await manager.complete_from_callback(callback, user_id="alice")


async def test_a_person_may_say_no(oidc: Oidc) -> None:
    manager = manager_of(oidc)
    flow = await manager.initiate_authorization_async("alice", TOOL, ["read"])

    callback = oidc.login(flow.auth_url, deny=True)

    with pytest.raises(UnauthorizedError, match=r"'access_denied' \(the person said no\)"):
        await manager.complete_from_callback(callback, user_id="alice")
    with pytest.raises(UnauthorizedError, match="is denied"):
        await manager.complete_from_callback(callback, user_id="alice")


async def test_only_who_was_asked_may_say_no_or_have_words_of_theirs_shown(oidc: Oidc) -> None:
    manager = manager_of(oidc)
    flow = await manager.initiate_authorization_async("alice", TOOL, ["read"])
    said = "error=access_denied&error_description=Call+0800+12345"

    for state, user in ((f"{flow.flow_id}.guess", "alice"), (state_of(flow.auth_url), "mallory")):
        with pytest.raises(UnauthorizedError) as caught:
            await manager.complete_from_callback(f"https://app.example/cb?{said}&state={state}", user_id=user)

        assert "0800" not in caught.value.message
    assert await manager.complete_from_callback(oidc.login(flow.auth_url), user_id="alice")


async def test_a_tenant_that_is_named_must_be_the_flows(oidc: Oidc) -> None:
    manager = manager_of(oidc)
    flow = await manager.initiate_authorization_async("alice", TOOL, ["read"], tenant="acme")
    code = code_of(oidc.login(flow.auth_url))

    with pytest.raises(UnauthorizedError, match="for another user"):
        await manager.complete_authorization(flow.flow_id, code, tenant="other")

    assert (await manager.complete_authorization(flow.flow_id, code, tenant="acme")).tenant == "acme"


async def test_of_one_persons_flows_the_oldest_give_way(oidc: Oidc, clock: FakeClock) -> None:
    manager = manager_of(oidc, records=MemoryRecords(clock=clock), clock=clock)
    others = await manager.initiate_authorization_async("bob", TOOL, ["read"])
    flows = []
    for n in range(MOST_PENDING + 5):
        clock.advance(1)
        flows.append(await manager.initiate_authorization_async("alice", f"Tool.n{n}", ["read"]))

    with pytest.raises(UnauthorizedError, match="no such authorization flow"):
        await manager.complete_from_callback(oidc.login(flows[4].auth_url), user_id="alice")
    assert await manager.complete_from_callback(oidc.login(flows[5].auth_url), user_id="alice")
    assert await manager.complete_from_callback(oidc.login(others.auth_url, "bob"), user_id="bob")


async def test_a_code_that_was_not_meant_for_this_flow_is_refused_by_pkce(oidc: Oidc) -> None:
    manager = manager_of(oidc)
    mine = await manager.initiate_authorization_async("mallory", TOOL, ["read"])
    theirs = await manager.initiate_authorization_async("alice", TOOL, ["read"])
    stolen = code_of(oidc.login(theirs.auth_url, "alice"))

    with pytest.raises(UnauthorizedError, match="did not take the code"):
        await manager.complete_authorization(mine.flow_id, stolen)

    assert await manager.get_user_authorizations_async("mallory") == []


async def test_a_provider_that_cannot_be_reached_leaves_the_flow_as_it_was(own_oidc: Oidc) -> None:
    manager = manager_of(own_oidc)
    flow = await manager.initiate_authorization_async("alice", TOOL, ["read"])
    own_oidc.kill()

    for _ in range(2):
        with pytest.raises(RemoteToolError, match="cannot be reached"):
            await manager.complete_authorization(flow.flow_id, "a code")


async def test_one_that_fails_meanwhile_spends_the_flow(oidc: Oidc) -> None:
    manager = manager_of(oidc)
    flow = await manager.initiate_authorization_async("alice", TOOL, ["read"])
    callback = oidc.login(flow.auth_url)
    oidc.set(fail={"/token": [503, 1]})

    with pytest.raises(RemoteToolError, match="answered 503") as caught:
        await manager.complete_from_callback(callback, user_id="alice")
    assert caught.value.retryable
    with pytest.raises(UnauthorizedError, match="is failed"):
        await manager.complete_from_callback(callback, user_id="alice")


@pytest.mark.parametrize("how", ["basic", "post", "public"])
async def test_each_kind_of_client_is_known_to_the_provider(oidc: Oidc, how: str) -> None:
    if how == "public":
        manager = public_client(oidc, ask_always=("openid",))
    else:
        manager = manager_of(oidc, ask_always=("openid",))
        if how == "post":
            manager = AuthorizationManager(
                "toolpost-post",
                oidc.client_secret,
                oidc.redirect_uri,
                issuer=oidc.issuer,
                client_auth="post",
                ask_always=("openid",),
            )

    granted = await grant(manager, oidc)

    assert granted.subject == "alice"


async def test_a_provider_without_discovery_is_declared_by_its_endpoints(oidc: Oidc) -> None:
    manager = AuthorizationManager(
        oidc.client_id,
        oidc.client_secret,
        oidc.redirect_uri,
        authorization_endpoint=f"{oidc.issuer}/auth",
        token_endpoint=f"{oidc.issuer}/token",
        revocation_endpoint=f"{oidc.issuer}/token/revocation",
    )
    flow = await manager.initiate_authorization_async("alice", TOOL, ["read"])
    granted = await manager.complete_authorization(flow.flow_id, code_of(oidc.login(flow.auth_url)))

    assert oidc.count("discovery") == 0
    assert (await manager.revoke_authorization_async("alice")).at_provider is True
    assert not oidc.introspect(granted.access_token)["active"]


async def test_what_a_provider_says_of_itself_is_asked_for_once_an_hour(oidc: Oidc, clock: FakeClock) -> None:
    manager = manager_of(oidc, clock=clock)
    for _ in range(3):
        await manager.initiate_authorization_async("alice", TOOL, ["read"])

    assert oidc.count("discovery") == 1

    clock.advance(3600)
    await manager.initiate_authorization_async("alice", TOOL, ["read"])

    assert oidc.count("discovery") == 2


async def test_a_provider_that_calls_itself_something_else_is_not_believed(oidc: Oidc) -> None:
    with pytest.raises(ConfigurationError, match="calls itself"):
        await manager_of(oidc, issuer=f"{oidc.issuer}/").initiate_authorization_async("alice", TOOL, ["read"])


# keeping


async def test_grants_and_flows_outlive_the_process_and_are_sealed(oidc: Oidc, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/records.db"
    records = SqliteRecords(url)
    records.migrate()
    manager = manager_of(oidc, records=records, ask_always=("openid",))
    granted = await grant(manager, oidc)
    flow = await manager.initiate_authorization_async("bob", TOOL, ["read"])
    records.close()

    kept = content_of(tmp_path)
    again = SqliteRecords(url)
    later = manager_of(oidc, records=again)

    for secret in (granted.access_token, str(granted.refresh_token), flow.auth_url, flow.auth_url[-30:]):
        assert secret.encode() not in kept
    assert b"alice" in kept
    assert await later.validate_authorization("alice", TOOL, ["read"]) == granted
    assert (await later.complete_from_callback(oidc.login(flow.auth_url, "bob"), user_id="bob")).user_id == "bob"
    again.close()


def content_of(folder: Path) -> bytes:
    """All bytes of all files."""
    return b"".join(path.read_bytes() for path in folder.iterdir())


def test_durable_records_want_a_secret_key(oidc: Oidc, tmp_path: Path) -> None:
    records = SqliteRecords(f"sqlite:///{tmp_path}/records.db")

    with pytest.raises(ConfigurationError, match="set secret_key"):
        manager_of(oidc, records=records, secret_key=None)

    records.close()


def test_without_a_secret_key_grants_in_memory_come_with_a_warning(
    oidc: Oidc, caplog: pytest.LogCaptureFixture
) -> None:
    manager_of(oidc, secret_key=None)

    assert "there is no secret_key" in caplog.text


async def test_a_key_can_be_changed_while_grants_are_kept(oidc: Oidc) -> None:
    records = MemoryRecords()
    old, new = SECRET, "the secret key after that one"
    for user in ("alice", "bob"):
        await grant(manager_of(oidc, records=records), oidc, user)
    both = manager_of(oidc, records=records, secret_key=new, secret_key_previous=f"{old},an even earlier one")
    only_new = manager_of(oidc, records=records, secret_key=new)

    with pytest.raises(SecretUnavailableError, match="secret_key_previous"):
        await only_new.validate_authorization("alice", TOOL)
    assert await both.validate_authorization("alice", TOOL)

    # Two grants, and the flows that made them.
    assert await both.rotate_secret_key_async() == (4, 0)
    assert await both.rotate_secret_key_async() == (0, 0)
    assert await only_new.validate_authorization("bob", TOOL)
    assert await manager_of(oidc, records=records, secret_key="a third key of none").rotate_secret_key_async() == (
        0,
        4,
    )


async def test_an_earlier_key_may_have_a_comma_in_it(oidc: Oidc) -> None:
    records = MemoryRecords()
    old, older, new = "a key, with a comma in it", " an older one, with a blank", "the secret key after those"
    await grant(manager_of(oidc, records=records, secret_key=older), oidc, "alice")
    await grant(manager_of(oidc, records=records, secret_key=old), oidc, "bob")

    for previous in (orjson.dumps([old, older]).decode(), [old, older]):
        both = manager_of(oidc, records=records, secret_key=new, secret_key_previous=previous)

        assert await both.validate_authorization("alice", TOOL)
        assert await both.validate_authorization("bob", TOOL)


@pytest.mark.parametrize("previous", ["[", '["a key of the right length", 7]', '[{"a": 1}]'])
def test_a_list_of_earlier_keys_that_is_none_is_refused(oidc: Oidc, previous: str) -> None:
    with pytest.raises(ConfigurationError, match="no JSON list"):
        manager_of(oidc, secret_key_previous=previous)


async def test_what_another_process_seals_with_the_earlier_key_meanwhile_is_sealed_anew_too(oidc: Oidc) -> None:
    class Raced(MemoryRecords):
        """As if somebody wrote the row between each reading and the first writing after it."""

        raced = False

        def put_document(self, document: Document, expect: int | None = None) -> int:
            if self.raced:
                self.raced = False
                there = self.document(document.kind, document.key)
                super().put_document(there, there.version)
            return super().put_document(document, expect)

    records = Raced()
    await grant(manager_of(oidc, records=records), oidc)
    new = "the secret key after that one"
    both = manager_of(oidc, records=records, secret_key=new, secret_key_previous=SECRET)
    records.raced = True

    assert await both.rotate_secret_key_async() == (2, 0)
    assert await manager_of(oidc, records=records, secret_key=new).validate_authorization("alice", TOOL)


async def test_what_is_written_next_is_sealed_with_the_newest_key(oidc: Oidc, clock: FakeClock) -> None:
    records = MemoryRecords(clock=clock)
    new = "the secret key after that one"
    await grant(manager_of(oidc, records=records, clock=clock), oidc)
    clock.advance(3600)

    both = manager_of(oidc, records=records, secret_key=new, secret_key_previous=SECRET, clock=clock)
    await both.validate_authorization("alice", TOOL)

    only_new = manager_of(oidc, records=records, secret_key=new, clock=clock)
    assert await only_new.validate_authorization("alice", TOOL)


async def test_a_row_that_is_put_in_anothers_place_is_refused(oidc: Oidc) -> None:
    records = MemoryRecords()
    manager = manager_of(oidc, records=records)
    await grant(manager, oidc, "alice")
    await grant(manager, oidc, "mallory")
    mine, theirs = sorted(records.documents("oauth-grant"), key=lambda one: one.user_id, reverse=True)

    forgeries = [
        mine._replace(body=theirs.body),
        mine._replace(body=theirs.body, user_id=theirs.user_id),
        theirs._replace(key=mine.key),
        mine._replace(tenant="acme"),
        mine._replace(state="github"),
        mine._replace(body=theirs.body[:-1] + bytes([theirs.body[-1] ^ 1])),
        mine._replace(body=b""),
    ]
    for forged in forgeries:
        records.put_document(forged)

        with pytest.raises(SecretUnavailableError):
            await manager.validate_authorization("mallory", TOOL)

    assert manager.grants(user_id="mallory")[0].scopes is None
    assert (await manager.revoke_authorization_async("mallory")).why is not None
    assert (await grant(manager, oidc, "mallory")).user_id == "mallory"


async def test_a_row_that_cannot_be_opened_gives_way_to_a_new_grant(oidc: Oidc) -> None:
    records = MemoryRecords()
    await grant(manager_of(oidc, records=records), oidc)
    lost = manager_of(oidc, records=records, secret_key="another key, as that one is lost")

    with pytest.raises(SecretUnavailableError):
        await lost.validate_authorization("alice", TOOL)

    assert await grant(lost, oidc)
    assert await lost.validate_authorization("alice", TOOL)


async def test_cleaning_forgets_what_has_ended(oidc: Oidc, clock: FakeClock) -> None:
    manager = manager_of(oidc, clock=clock)
    await grant(manager, oidc, "alice")

    assert await manager.cleanup_expired_authorizations_async() == 0

    await manager.initiate_authorization_async("bob", TOOL, ["read"])
    clock.advance(601)

    assert manager.cleanup_expired_authorizations() == 2  # both flows
    assert await manager.validate_authorization("alice", TOOL)


# never another user's

users = st.sampled_from(["alice", "bob", "a", "a:b"])
tenants = st.sampled_from([None, "acme", "a", "b:a"])
steps = st.lists(st.tuples(st.sampled_from(["grant", "refresh", "revoke"]), users, tenants), max_size=12)


@given(steps)
@hypothesis_settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_users_and_tenants_do_nobody_is_given_anothers_token(
    oidc: Oidc, done: list[tuple[str, str, str | None]]
) -> None:
    clock = FakeClock(time.time())
    manager = manager_of(oidc, clock=clock)
    holds: dict[tuple[str, str | None], bool] = {}
    seen: dict[str, tuple[str, str | None]] = {}

    async def check() -> None:
        for what, user, tenant in done:
            if what == "grant":
                await grant(manager, oidc, user, tenant=tenant)
                holds[user, tenant] = True
            elif what == "revoke":
                await manager.revoke_authorization_async(user, tenant=tenant)
                holds[user, tenant] = False
            else:
                clock.advance(3600)
            for one, of in itertools.product(["alice", "bob", "a", "a:b"], [None, "acme", "a", "b:a"]):
                if not holds.get((one, of)):
                    with pytest.raises(AuthorizationRequiredError):
                        await manager.validate_authorization(one, TOOL, tenant=of)
                    continue
                token = (await manager.validate_authorization(one, TOOL, tenant=of)).access_token
                assert oidc.introspect(token)["sub"] == one
                assert seen.setdefault(token, (one, of)) == (one, of)

    asyncio.run(check())


# mistakes


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"client_id": ""}, "needs client_id"),
        ({"redirect_uri": ""}, "needs redirect_uri"),
        ({"issuer": None}, "needs its issuer"),
        ({"issuer": "http://id.example"}, "must be an https URL"),
        ({"issuer": "https://user@id.example"}, "without user and fragment"),
        ({"token_endpoint": "https://id.example/#x"}, "without user and fragment"),
        ({"issuer": "id.example"}, "must be an https URL"),
        ({"client_auth": "jwt"}, "client_auth must be"),
        ({"parameters": {"state": "mine"}}, "must not hold 'state'"),
        ({"ask_always": "openid"}, "must be a list of names"),
        ({"scopes": ["two words"]}, "without blanks"),
    ],
)
def test_a_provider_that_cannot_be_right_is_refused(fields: dict[str, Any], says: str) -> None:
    right = {"client_id": "id", "redirect_uri": "https://app.example/cb", "issuer": "https://id.example"}

    with pytest.raises(ConfigurationError, match=says):
        OAuthProvider(**(right | fields))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"scopes": "read"}, "must be a list"),
        ({"scopes": ("a b",)}, "without blanks"),
        ({"scopes": (1,)}, "without blanks"),
        ({"provider": "two words"}, "provider must be"),
        ({"provider": ""}, "provider must be"),
    ],
)
def test_a_policy_that_cannot_be_right_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        OAuth(**fields)


@pytest.mark.parametrize("user", ["", None, 3])
async def test_a_grant_needs_a_user(oidc: Oidc, user: Any) -> None:
    manager = manager_of(oidc)

    with pytest.raises(UnauthorizedError, match="known user"):
        await manager.initiate_authorization_async(user, TOOL, ["read"])
    with pytest.raises(UnauthorizedError, match="known user"):
        await manager.validate_authorization(user, TOOL)


async def test_nothing_that_is_printed_shows_a_secret(oidc: Oidc) -> None:
    manager = manager_of(oidc)
    granted = await grant(manager, oidc)
    redactor = Redactor()
    manager.hide_by(redactor)
    await manager.validate_authorization("alice", TOOL)

    shown = " ".join(map(repr, (manager, granted, manager.providers, manager.grants())))

    for secret in (granted.access_token, str(granted.refresh_token), oidc.client_secret, SECRET):
        assert secret not in shown
    for secret in (granted.access_token, str(granted.refresh_token), oidc.client_secret):
        assert redactor.shows(secret)


async def test_tokens_push_no_other_secret_out_and_whoever_hides_them_may_go(oidc: Oidc) -> None:
    manager = manager_of(oidc)
    redactor, other = Redactor(), Redactor()
    redactor.add("the-database-password")
    for one in (redactor, other, redactor):
        manager.hide_by(one)
    del one, other

    for n in range(MOST + 10):
        manager._hide(f"a-token-of-some-length-{n:06}")

    assert redactor.shows("the-database-password")
    assert redactor.shows(oidc.client_secret)
    assert [one() for one in manager._redactors if one() is not None] == [redactor]
