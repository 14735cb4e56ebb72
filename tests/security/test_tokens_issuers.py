"""Where the keys of issuers come from: asked rarely, kept for a while, never at the whim of who sends tokens."""

import asyncio
import base64
import dataclasses
import hashlib
import json
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from tests.security.tokens_issuer import Issuer, key, served
from tests.services.oidc import Oidc, parameters
from toolpost import (
    Access,
    ApiKeys,
    AuthorizerFailedError,
    Caller,
    ConfigurationError,
    JwtIssuer,
    JwtVerifier,
    Tool,
    ToolExecutor,
    UnauthorizedError,
    create_tool_call,
)
from toolpost.security.key_sets import KEPT_S, LONGEST_S, MAX_BYTES, PAUSE_S, SHORTEST_S, STALE_S, Fetched, max_age_s
from toolpost.testing import FakeClock, executor_for

AUDIENCE = "https://tools.example"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


def verifier_of(issuer: Issuer, clock: FakeClock, fetch: Any = None, **more: Any) -> JwtVerifier:
    return JwtVerifier((JwtIssuer(url=issuer.url, audience=AUDIENCE, **more),), fetch or issuer.fetch, clock)


async def refusal(verifier: JwtVerifier, token: str) -> str:
    """The reason of a 401, or of a 503 in capitals; nothing for a token that is good."""
    try:
        await verifier.verify(token)
    except UnauthorizedError as refused:
        return str(refused.details["reason"])
    except AuthorizerFailedError as failed:
        return str(failed.details["reason"]).upper()
    return ""


class TestAsking:
    async def test_keys_are_found_by_the_openid_configuration_once(self, issuer: Issuer, clock: FakeClock) -> None:
        verifier = verifier_of(issuer, clock)

        for _ in range(20):
            assert await refusal(verifier, issuer.token(clock.now())) == ""

        assert issuer.asked == [f"{issuer.url}/.well-known/openid-configuration", issuer.jwks_url]

    async def test_a_named_address_is_asked_directly(self, issuer: Issuer, clock: FakeClock) -> None:
        assert await refusal(verifier_of(issuer, clock, jwks_url=issuer.jwks_url), issuer.token(clock.now())) == ""
        assert issuer.asked == [issuer.jwks_url]

    async def test_a_token_that_is_wrong_before_its_key_is_looked_for_asks_nobody(
        self, issuer: Issuer, clock: FakeClock
    ) -> None:
        verifier = verifier_of(issuer, clock)

        await refusal(verifier, issuer.token(clock.now(), iss="https://evil.example"))
        await refusal(verifier, issuer.token(clock.now(), header={"crit": ["x"]}))

        assert issuer.asked == []

    async def test_a_new_key_is_found_and_unknown_ones_cannot_flood_the_issuer(
        self, issuer: Issuer, clock: FakeClock
    ) -> None:
        verifier = verifier_of(issuer, clock, jwks_url=issuer.jwks_url)
        await verifier.verify(issuer.token(clock.now()))

        for index in range(200):
            assert await refusal(verifier, issuer.token(clock.now(), header={"kid": f"k{index}"})) == "unknown_key"
        assert len(issuer.asked) == 1

        clock.advance(PAUSE_S)
        for index in range(200):
            assert await refusal(verifier, issuer.token(clock.now(), header={"kid": f"k{index}"})) == "unknown_key"
        assert len(issuer.asked) == 2

        issuer.keys = [key("RSA", 2048, "r2")]
        clock.advance(PAUSE_S)
        assert await refusal(verifier, issuer.token(clock.now(), by=issuer.keys[0])) == ""
        assert await refusal(verifier, issuer.token(clock.now())) == "unknown_key"
        assert len(issuer.asked) == 3

    @pytest.mark.parametrize(
        ("max_age", "kept"),
        [(None, KEPT_S), (0.0, SHORTEST_S), (5.0, SHORTEST_S), (120.0, 120.0), (1e12, LONGEST_S)],
    )
    async def test_keys_are_asked_for_anew_when_the_issuer_says_so(
        self, issuer: Issuer, clock: FakeClock, max_age: float | None, kept: float
    ) -> None:
        issuer.max_age_s = max_age
        verifier = verifier_of(issuer, clock, jwks_url=issuer.jwks_url)

        await verifier.verify(issuer.token(clock.now()))
        clock.advance(kept - 1)
        await verifier.verify(issuer.token(clock.now()))
        assert len(issuer.asked) == 1
        clock.advance(1)
        await verifier.verify(issuer.token(clock.now()))
        assert len(issuer.asked) == 2

    async def test_a_key_that_was_withdrawn_is_refused_after_that(self, issuer: Issuer, clock: FakeClock) -> None:
        verifier = verifier_of(issuer, clock)
        await verifier.verify(issuer.token(clock.now()))

        issuer.keys = [key("RSA", 2048, "r2")]
        clock.advance(KEPT_S)

        assert await refusal(verifier, issuer.token(clock.now())) == "unknown_key"


class TestOutages:
    async def test_an_issuer_that_is_away_is_no_refusal_of_the_token(self, issuer: Issuer, clock: FakeClock) -> None:
        issuer.down = True
        verifier = verifier_of(issuer, clock)

        for _ in range(50):
            assert await refusal(verifier, issuer.token(clock.now())) == "ISSUER_UNREACHABLE"
        assert len(issuer.asked) == 1

        issuer.down = False
        clock.advance(PAUSE_S)
        assert await refusal(verifier, issuer.token(clock.now())) == ""

    async def test_known_keys_go_on_for_an_hour(self, issuer: Issuer, clock: FakeClock) -> None:
        verifier = verifier_of(issuer, clock)
        await verifier.verify(issuer.token(clock.now()))
        issuer.down = True

        clock.advance(KEPT_S + STALE_S - 1)
        assert await refusal(verifier, issuer.token(clock.now())) == ""
        assert await refusal(verifier, issuer.token(clock.now(), header={"kid": "new"})) == "ISSUER_UNREACHABLE"
        clock.advance(1)
        assert await refusal(verifier, issuer.token(clock.now())) == "ISSUER_UNREACHABLE"

    async def test_one_request_serves_all_who_wait_on_any_loop(self, issuer: Issuer, clock: FakeClock) -> None:
        started, go = asyncio.Event(), asyncio.Event()

        async def slow(url: str) -> Fetched:
            started.set()
            await go.wait()
            return await issuer.fetch(url)

        verifier = verifier_of(issuer, clock, slow, jwks_url=issuer.jwks_url)
        tasks = [asyncio.create_task(refusal(verifier, issuer.token(clock.now()))) for _ in range(50)]
        await started.wait()
        elsewhere = asyncio.create_task(
            asyncio.to_thread(lambda: asyncio.run(refusal(verifier, issuer.token(clock.now()))))
        )
        await asyncio.sleep(0.05)
        go.set()

        assert set(await asyncio.gather(*tasks, elsewhere)) == {""}
        assert len(issuer.asked) == 1

    async def test_who_asks_for_all_may_be_cancelled(self, issuer: Issuer, clock: FakeClock) -> None:
        started, go = asyncio.Event(), asyncio.Event()

        async def slow(url: str) -> Fetched:
            started.set()
            await go.wait()
            return await issuer.fetch(url)

        verifier = verifier_of(issuer, clock, slow, jwks_url=issuer.jwks_url)
        leader = asyncio.create_task(refusal(verifier, issuer.token(clock.now())))
        await started.wait()
        others = [asyncio.create_task(refusal(verifier, issuer.token(clock.now()))) for _ in range(5)]
        await asyncio.sleep(0)
        others[0].cancel()
        leader.cancel()
        await asyncio.sleep(0)
        go.set()

        assert await asyncio.gather(*others[1:]) == [""] * 4
        assert len(issuer.asked) == 1

    async def test_callers_that_hang_up_cannot_have_the_issuer_asked_more_often(
        self, issuer: Issuer, clock: FakeClock
    ) -> None:
        asked = 0

        async def slow(url: str) -> Fetched:
            nonlocal asked
            asked += 1
            await asyncio.sleep(0.01)
            return await issuer.fetch(url)

        verifier = verifier_of(issuer, clock, slow, jwks_url=issuer.jwks_url)
        for number in range(20):
            caller = asyncio.create_task(refusal(verifier, issuer.token(clock.now(), header={"kid": f"none-{number}"})))
            await asyncio.sleep(0.002)
            caller.cancel()

        assert await refusal(verifier, issuer.token(clock.now())) == ""
        assert asked == 1

    def test_a_loop_that_ends_while_it_asks_leaves_nobody_waiting(self, issuer: Issuer, clock: FakeClock) -> None:
        asked = 0

        async def first_hangs(url: str) -> Fetched:
            nonlocal asked
            asked += 1
            if asked == 1:
                await asyncio.Event().wait()
            return await issuer.fetch(url)

        async def leave(verifier: JwtVerifier) -> None:
            asyncio.ensure_future(verifier.verify(issuer.token(clock.now())))  # noqa: RUF006
            await asyncio.sleep(0.01)

        verifier = verifier_of(issuer, clock, first_hangs, jwks_url=issuer.jwks_url)
        asyncio.run(leave(verifier))

        assert asyncio.run(refusal(verifier, issuer.token(clock.now()))) == ""
        assert asked == 2

    async def test_an_issuer_that_hangs_is_cut(
        self, issuer: Issuer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("toolpost.security.key_sets.PATIENCE_S", 0.05)

        async def hangs(url: str) -> Fetched:
            await asyncio.Event().wait()
            raise AssertionError

        assert await refusal(verifier_of(issuer, clock, hangs), issuer.token(clock.now())) == "ISSUER_UNREACHABLE"

    @pytest.mark.parametrize(
        "answer",
        [
            Fetched(500, b"{}"),
            Fetched(302, b""),
            Fetched(200, b"<html>"),
            Fetched(200, b"[]"),
            Fetched(200, b"{}"),
            Fetched(200, b'{"keys": []}'),
            Fetched(200, b'{"keys": {}}'),
            Fetched(200, b'{"keys": [{"kty": "oct", "k": "AAAA"}]}'),
            Fetched(200, b" " * (MAX_BYTES + 1)),
            Fetched(200, b"[" * 100_000),
        ],
    )
    async def test_an_answer_without_keys_is_an_outage(self, issuer: Issuer, clock: FakeClock, answer: Fetched) -> None:
        async def fetch(url: str) -> Fetched:
            return answer

        verifier = verifier_of(issuer, clock, fetch, jwks_url=issuer.jwks_url)

        assert await refusal(verifier, issuer.token(clock.now())) == "ISSUER_UNREACHABLE"

    @pytest.mark.parametrize("status", [203, 302, 404, 500])
    async def test_keys_in_an_answer_that_is_no_success_are_none(
        self, issuer: Issuer, clock: FakeClock, status: int
    ) -> None:
        async def fetch(url: str) -> Fetched:
            return (await issuer.fetch(url))._replace(status=status)

        verifier = verifier_of(issuer, clock, fetch, jwks_url=issuer.jwks_url)

        assert await refusal(verifier, issuer.token(clock.now())) == "ISSUER_UNREACHABLE"

    @pytest.mark.parametrize("named", ["https://login.example/", "https://evil.example", None])
    async def test_a_configuration_of_another_issuer_is_not_followed(
        self, issuer: Issuer, clock: FakeClock, named: Any
    ) -> None:
        issuer.issuer_in_document = named

        assert await refusal(verifier_of(issuer, clock), issuer.token(clock.now())) == "ISSUER_UNREACHABLE"
        assert len(issuer.asked) == 1

    @pytest.mark.parametrize("where", ["http://login.example/keys", "file:///etc/passwd", "//x", None, 1])
    async def test_keys_are_fetched_where_nobody_can_change_them_on_the_way(
        self, issuer: Issuer, clock: FakeClock, where: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Issuer, "jwks_url", where)

        assert await refusal(verifier_of(issuer, clock), issuer.token(clock.now())) == "ISSUER_UNREACHABLE"
        assert len(issuer.asked) == 1


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", None),
        ("public, max-age=300", 300.0),
        ('Max-Age="60"', 60.0),
        ("no-store", 0.0),
        ("max-age=300, no-cache", 0.0),
        ("s-maxage=9", None),
        ("max-age=-5", None),
    ],
)
def test_the_age_that_an_answer_may_have(header: str, expected: float | None) -> None:
    assert max_age_s(header) == expected


class TestSettings:
    async def test_keys_rotate_over_real_http_through_the_egress_guard(self) -> None:
        clock = FakeClock()
        with (
            served(Issuer()) as issuer,
            executor_for(
                clock=clock, jwt_issuer=issuer.url, jwt_audience=AUDIENCE, jwt_roles_claim="realm.roles"
            ) as executor,
        ):
            caller = await executor.authenticator.caller(
                f"Bearer {issuer.token(clock.now(), scope='read', realm={'roles': ['clerk']})}"
            )
            issuer.keys = [key("EC", "P-256", "e1", alg="ES256")]
            clock.advance(PAUSE_S)
            rotated = await executor.authenticator.caller(f"Bearer {issuer.token(clock.now(), by=issuer.keys[0])}")

        assert caller == Caller(user_id="ann", scopes=frozenset({"read"}), roles=frozenset({"clerk"}))
        assert rotated.user_id == "ann"

    async def test_a_redirect_to_other_keys_is_not_followed(self) -> None:
        clock = FakeClock()
        with (
            served(Issuer()) as issuer,
            executor_for(
                clock=clock, jwt_issuer=issuer.url, jwt_audience=AUDIENCE, jwt_jwks_url=f"{issuer.url}/moved"
            ) as executor,
        ):
            with pytest.raises(AuthorizerFailedError):
                await executor.authenticator.caller(f"Bearer {issuer.token(clock.now())}")

        assert issuer.asked == ["/moved"]

    async def test_api_keys_and_tokens_work_side_by_side(self) -> None:
        clock = FakeClock()
        with (
            served(Issuer()) as issuer,
            executor_for(clock=clock, jwt_issuer=issuer.url, jwt_audience=AUDIENCE) as executor,
        ):
            secret = executor.api_keys.create(user_id="bob").secret

            assert (await executor.authenticator.caller(f"Bearer {secret}")).user_id == "bob"
            assert (await executor.authenticator.caller(f"Bearer {issuer.token(clock.now())}")).user_id == "ann"

    def test_an_issuer_without_an_audience_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="tokens for any other service would be accepted"):
            ToolExecutor(jwt_issuer="https://login.example")

    def test_an_issuer_that_anybody_on_the_way_could_play_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="https"):
            ToolExecutor(jwt_issuer="http://login.example", jwt_audience="a")

    async def test_other_settings_hold_for_the_next_caller(self) -> None:
        clock = FakeClock()
        with (
            served(Issuer()) as issuer,
            executor_for(clock=clock, jwt_issuer=issuer.url, jwt_audience=AUDIENCE) as executor,
        ):
            token = f"Bearer {issuer.token(clock.now())}"
            assert await executor.authenticator.caller(token)

            executor.config.jwt_audience = "https://other.example"

            with pytest.raises(UnauthorizedError):
                await executor.authenticator.caller(token)
            with pytest.raises(ConfigurationError):
                executor.config.jwt_audience = None
            assert executor.config.jwt_audience == "https://other.example"

    def test_without_settings_there_are_api_keys(self) -> None:
        with executor_for() as executor:
            assert isinstance(executor.api_keys, ApiKeys)


class TestOidc:
    """Against a certified OpenID provider."""

    def token(self, oidc: Oidc, scope: str = "openid read write", **more: str) -> dict[str, Any]:
        """Log alice in and exchange the code for tokens."""
        verifier = "v" * 64
        asked = {
            "client_id": "toolpost-public",
            "response_type": "code",
            "redirect_uri": oidc.redirect_uri,
            "scope": scope,
            "state": "s",
            "code_challenge": challenge_of(verifier),
            "code_challenge_method": "S256",
            **more,
        }
        callback = oidc.login(f"{oidc.url}/auth?{urlencode(asked)}", "alice")
        exchange = {
            "grant_type": "authorization_code",
            "client_id": "toolpost-public",
            "code": parameters(callback)["code"],
            "redirect_uri": oidc.redirect_uri,
            "code_verifier": verifier,
            **more,
        }
        with urlopen(Request(f"{oidc.url}/token", urlencode(exchange).encode()), timeout=10) as answer:
            return json.loads(answer.read())  # type: ignore[no-any-return]

    async def test_a_users_access_token_makes_the_caller_of_a_call(self, oidc: Oidc) -> None:
        @Tool(name="Notes.Write", register=False, access=Access(scopes=("write",)))
        def write(text: str) -> str:
            return text

        tokens = await asyncio.to_thread(self.token, oidc, resource=oidc.audience)
        reader = await asyncio.to_thread(self.token, oidc, "openid read", resource=oidc.audience)
        with executor_for(write, jwt_issuer=oidc.issuer, jwt_audience=oidc.audience) as executor:
            statuses = []
            for one in (tokens, reader):
                caller = await executor.authenticator.caller(f"Bearer {one['access_token']}")
                assert caller.user_id == "alice"
                call = create_tool_call("Notes.Write", {"text": "a"}, **dataclasses.asdict(caller))
                statuses.append((await executor.execute_tool_call(call)).status_code)
                assert executor.get_available_tools(caller) == (["Notes.Write"] if one is tokens else [])

        assert statuses == [200, 403]

    async def test_what_is_not_for_this_service_is_refused(self, oidc: Oidc) -> None:
        tokens = await asyncio.to_thread(self.token, oidc, resource=oidc.audience)
        with executor_for(jwt_issuer=oidc.issuer, jwt_audience="https://other.example/") as executor:
            for name in ("access_token", "id_token"):
                with pytest.raises(UnauthorizedError) as caught:
                    await executor.authenticator.caller(f"Bearer {tokens[name]}")
                assert caught.value.details["reason"] == "wrong_audience"

    async def test_an_opaque_token_is_no_jwt(self, oidc: Oidc) -> None:
        tokens = await asyncio.to_thread(self.token, oidc)
        with executor_for(jwt_issuer=oidc.issuer, jwt_audience=oidc.audience) as executor:
            with pytest.raises(UnauthorizedError) as caught:
                await executor.authenticator.caller(f"Bearer {tokens['access_token']}")

        assert caught.value.details["reason"] == "malformed"


def challenge_of(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
