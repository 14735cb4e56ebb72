"""What providers may answer, right and wrong: the tests' own server is too good to say most of it."""

import base64
import contextlib
import hmac
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import httpx
import orjson
import pytest
from hypothesis import given, strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from tests.services.oidc import parameters
from toolpost.calls.errors import (
    ConfigurationError,
    EgressDeniedError,
    RemoteToolError,
    ToolExecutionError,
    UnauthorizedError,
)
from toolpost.calls.oauth import Authorization
from toolpost.security.oauth import AuthorizationManager
from toolpost.security.oauth_identity import key_of, subject_of
from toolpost.security.oauth_kept import Held
from toolpost.security.oauth_provider import OAuthProvider
from toolpost.security.oauth_tokens import LONGEST_S, is_due, received
from toolpost.testing import FakeClock

ISSUER = "https://id.example"
KEY = RSAKey.generate_key(2048, {"kid": "one"})
OTHER = RSAKey.generate_key(2048, {"kid": "one"})
EC = ECKey.generate_key("P-256", {"kid": "two"})
JWKS = {"keys": [KEY.as_dict(private=False), EC.as_dict(private=False), {"kty": "oct", "kid": "s", "k": "c2VjcmV0"}, 7]}
METADATA = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/auth",
    "token_endpoint": f"{ISSUER}/token",
    "jwks_uri": f"{ISSUER}/keys",
}
GOOD = {"access_token": "at-1", "token_type": "Bearer", "expires_in": 60, "refresh_token": "rt-1", "scope": "read"}

Answers = dict[str, Callable[[httpx.Request], httpx.Response]]


def manager_at(answers: Answers, **more: Any) -> AuthorizationManager:
    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path in answers:
            return answers[path](request)
        if path == "/.well-known/openid-configuration":
            return httpx.Response(200, json=METADATA)
        return httpx.Response(200, json=JWKS) if path == "/keys" else httpx.Response(404)

    return AuthorizationManager(
        "client",
        "the client secret",
        "https://app.example/callback",
        issuer=ISSUER,
        transport=lambda: httpx.MockTransport(answer),
        **more,
    )


async def answered(answer: Any, status: int = 200, **more: Any) -> Authorization:
    """Complete a flow with what the token endpoint answers; {nonce} in its ID token is the flow's."""

    def token(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json=answer(nonce) if callable(answer) else answer)

    manager = manager_at({"/token": token}, **more)
    flow = await manager.initiate_authorization_async("alice", "T.x", ["read"])
    nonce = parameters(flow.auth_url).get("nonce", "")
    return await manager.complete_authorization(flow.flow_id, "code")


# tokens


async def test_what_a_token_endpoint_leaves_out_is_as_asked() -> None:
    granted = await answered({"access_token": "at-1", "token_type": "bearer"})

    assert (granted.scopes, granted.expires_at, granted.refresh_token) == (["read"], None, None)
    assert not granted.is_expired()


async def test_without_a_lifetime_a_token_that_can_be_refreshed_is_taken_to_last_an_hour() -> None:
    granted = await answered({"access_token": "at-1", "token_type": "Bearer", "refresh_token": "rt-1"})

    assert granted.expires_at == pytest.approx(time.time() + 3600, abs=5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"access_token": None},
        {"access_token": ""},
        {"access_token": 7},
        {"access_token": "two words"},
        {"access_token": "a\r\nX-Evil: 1"},
        {"access_token": "naïve"},
        {"token_type": "mac"},
        {"token_type": None},
        {"refresh_token": 7},
        {"refresh_token": ""},
        {"scope": ["read"]},
        {"expires_in": "soon"},
        {"expires_in": -1},
        {"expires_in": True},
        {"expires_in": [1]},
    ],
)
async def test_an_answer_with_something_wrong_in_it_is_no_grant(wrong: dict[str, Any]) -> None:
    with pytest.raises(RemoteToolError, match="answered with"):
        await answered(GOOD | wrong)


@pytest.mark.parametrize("answer", [[], "text", None, 7, {"error": "invalid_grant"}, {}])
async def test_an_answer_that_is_none_is_no_grant(answer: Any) -> None:
    with pytest.raises(ToolExecutionError):
        await answered(answer)


values = st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.just(["read"])


@given(st.dictionaries(st.sampled_from([*GOOD, "error"]), values), st.booleans())
def test_no_answer_gets_through_that_is_not_good(answer: dict[str, Any], otherwise_good: bool) -> None:
    if otherwise_good:
        answer = GOOD | answer
    before = Held(provider="default", issuer=ISSUER, tool_name="T.x", scopes=[], access_token="")

    try:
        held = received(answer, before, ["read"], 1000.0)
    except RemoteToolError:
        return

    assert held.access_token == answer["access_token"]
    assert held.access_token.isascii()
    assert " " not in held.access_token
    assert held.expires_at is None or held.expires_at >= 1000.0


@given(st.floats(1, 1e6), st.floats(0, 1e6))
def test_a_token_is_refreshed_in_its_last_quarter_at_the_earliest(lifetime: float, age: float) -> None:
    held = Held(
        provider="default", issuer="", tool_name="", scopes=[], access_token="t", expires_at=lifetime, obtained_at=0.0
    )

    if age < lifetime * 0.75 or age < lifetime - 60:
        assert not is_due(held, age, 60.0)
    if age >= lifetime:
        assert is_due(held, age, 60.0)


# who granted


def id_token(nonce_: str, key: Any = KEY, alg: str = "RS256", **claims: Any) -> str:
    now = int(time.time())
    right = {"iss": ISSUER, "aud": "client", "sub": "alice", "exp": now + 300, "iat": now, "nonce": nonce_}
    given = {name: value for name, value in (right | claims).items() if value is not None}
    return jwt.encode({"alg": alg, "kid": key.kid or "one"}, given, key, algorithms=[alg])


async def identified(make: Callable[[str], str], **more: Any) -> Authorization:
    return await answered(
        lambda nonce: GOOD | {"scope": "openid read", "id_token": make(nonce)}, ask_always=("openid",), **more
    )


async def test_a_good_id_token_says_who_granted() -> None:
    assert (await identified(id_token)).subject == "alice"
    assert (await identified(lambda nonce: id_token(nonce, EC, "ES256"))).subject == "alice"
    assert (await identified(lambda nonce: id_token(nonce, aud=["client", "more"], azp="client"))).subject == "alice"


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"aud": "another"},
        {"aud": ["another"]},
        {"aud": None},
        {"aud": ["client", "another"]},
        {"azp": "another"},
        {"sub": None},
        {"sub": 7},
        {"exp": int(time.time()) - 3600},
        {"exp": None},
        {"iat": int(time.time()) + 3600},
        {"nonce": "another"},
        {"nonce": None},
    ],
)
async def test_an_id_token_with_one_wrong_claim_is_no_grant(wrong: dict[str, Any]) -> None:
    with pytest.raises(UnauthorizedError, match="ID token is not good"):
        await identified(lambda nonce: id_token(nonce, **wrong))


def signed_with_the_public_key(token: str) -> str:
    """The attack on whoever takes a public key for a secret: an HMAC made with it."""
    parts = ['{"alg":"HS256","kid":"one"}', base64.urlsafe_b64decode(token.split(".")[1] + "==").decode()]
    text = b".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=") for part in parts)
    made = hmac.digest(KEY.as_pem(private=False), text, "sha256")
    return f"{text.decode()}.{base64.urlsafe_b64encode(made).rstrip(b'=').decode()}"


async def test_one_that_somebody_else_signed_is_no_grant() -> None:
    forged = [
        lambda nonce: id_token(nonce, OTHER),
        lambda nonce: id_token(nonce, OctKey.import_key("the client secret"), "HS256"),
        lambda nonce: signed_with_the_public_key(id_token(nonce)),
        lambda nonce: "eyJhbGciOiJub25lIn0." + id_token(nonce).split(".")[1] + ".",
        lambda nonce: id_token(nonce)[:-4] + "AAAA",
        lambda nonce: "no token",
        lambda nonce: "naïve.naïve.naïve",
        lambda nonce: "..",
    ]
    for make in forged:
        with pytest.raises(UnauthorizedError, match="ID token is not good"):
            await identified(make)


async def test_one_that_is_there_is_checked_whatever_the_scopes_say() -> None:
    with pytest.raises(UnauthorizedError, match="ID token is not good"):
        await answered(lambda nonce: GOOD | {"scope": "read", "id_token": id_token("another")}, ask_always=("openid",))

    granted = await answered(
        lambda nonce: GOOD | {"scope": "read", "id_token": id_token(nonce)}, ask_always=("openid",)
    )

    assert granted.subject == "alice"


async def test_where_one_was_promised_it_must_be_there() -> None:
    with pytest.raises(RemoteToolError, match="sent no ID token"):
        await answered(GOOD | {"scope": "openid read"}, ask_always=("openid",))


@given(st.text(max_size=200))
def test_no_text_is_taken_for_an_id_token(text: str) -> None:
    with pytest.raises(UnauthorizedError):
        subject_of(text, JWKS, issuer=ISSUER, client_id="client", nonce="n", now=time.time())
    with contextlib.suppress(UnauthorizedError):
        key_of(text)


async def test_a_key_that_is_new_is_fetched() -> None:
    asked: list[str] = []
    signed: dict[str, str] = {}

    def keys(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(200, json={"keys": JWKS["keys"][: len(asked)]})

    def token(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=GOOD | {"scope": "openid read"} | signed)

    clock = FakeClock(time.time())
    manager = manager_at({"/keys": keys, "/token": token}, ask_always=("openid",), clock=clock)
    for make in (id_token, id_token, lambda nonce: id_token(nonce, EC, "ES256")):
        flow = await manager.initiate_authorization_async("alice", "T.x", ["read"])
        signed["id_token"] = make(parameters(flow.auth_url)["nonce"])
        await manager.complete_authorization(flow.flow_id, "code")
        clock.advance(31)

    assert len(asked) == 2


# how it is asked


async def test_the_token_endpoint_is_told_who_asks_and_proves_that_it_began_the_flow() -> None:
    seen: list[httpx.Request] = []

    def token(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=GOOD)

    manager = manager_at({"/token": token}, audience="https://api.example/")
    flow = await manager.initiate_authorization_async("alice", "T.x", ["read"])
    await manager.complete_authorization(flow.flow_id, "the code")

    form = {name: values[0] for name, values in parse_qs(seen[0].content.decode()).items()}
    assert form["grant_type"] == "authorization_code"
    assert form["code"] == "the code"
    assert form["redirect_uri"] == "https://app.example/callback"
    assert form["resource"] == "https://api.example/"
    assert 43 <= len(form["code_verifier"]) <= 128
    assert seen[0].headers["Authorization"] == "Basic Y2xpZW50OnRoZSUyMGNsaWVudCUyMHNlY3JldA=="
    assert "client_secret" not in form


async def test_redirects_of_a_provider_are_not_followed() -> None:
    asked: list[str] = []

    def token(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(307, headers={"Location": "https://evil.example/token"})

    manager = manager_at({"/token": token})
    flow = await manager.initiate_authorization_async("alice", "T.x", ["read"])

    with pytest.raises(RemoteToolError, match="answered 307"):
        await manager.complete_authorization(flow.flow_id, "code")
    assert asked == [f"{ISSUER}/token"]


async def test_an_endless_answer_is_broken_off() -> None:
    with pytest.raises(RemoteToolError, match="answered more than"):
        await answered(GOOD | {"more": "x" * 300_000})


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"issuer": "https://evil.example"}, "calls itself"),
        ({"code_challenge_methods_supported": ["plain"]}, "PKCE with S256"),
        ({"token_endpoint": None}, "does not say its token_endpoint"),
        ({"token_endpoint": "http://id.example/token"}, "must be an https URL"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "must be an https URL"),
        ({"jwks_uri": 7}, "must be a URL"),
        ({"code_challenge_methods_supported": 7}, "PKCE with S256"),
        ({"code_challenge_methods_supported": "S256 plain"}, "PKCE with S256"),
    ],
)
async def test_metadata_that_leads_astray_is_not_believed(metadata: dict[str, Any], says: str) -> None:
    def discovery(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=METADATA | metadata)

    manager = manager_at({"/.well-known/openid-configuration": discovery})

    with pytest.raises(ConfigurationError, match=says):
        await manager.initiate_authorization_async("alice", "T.x", ["read"])


@contextlib.contextmanager
def serving(answer: Callable[[int], Any]) -> Iterator[tuple[int, list[str]]]:
    """A server on this machine, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            data = orjson.dumps(answer(server.server_port))
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Keep the tests' output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port, asked
        server.shutdown()


async def test_a_provider_leads_to_no_place_inside_that_its_declaration_does_not_name() -> None:
    with serving(lambda port: GOOD) as (inside, reached):

        def metadata(port: int) -> dict[str, str]:
            issuer, elsewhere = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{inside}/token"
            return {"issuer": issuer, "authorization_endpoint": f"{issuer}/auth", "token_endpoint": elsewhere}

        with serving(metadata) as (port, asked):
            manager = AuthorizationManager("client", None, "https://app.example/cb", issuer=f"http://127.0.0.1:{port}")
            flow = await manager.initiate_authorization_async("alice", "T.x", ["read"])

            with pytest.raises(EgressDeniedError):
                await manager.complete_authorization(flow.flow_id, "code")

    assert asked == ["/.well-known/openid-configuration"]
    assert reached == []


async def test_a_provider_with_oauths_own_metadata_is_found_too() -> None:
    def metadata(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=METADATA)

    manager = manager_at(
        {
            "/.well-known/openid-configuration": lambda request: httpx.Response(404),
            "/.well-known/oauth-authorization-server": metadata,
        }
    )

    flow = await manager.initiate_authorization_async("alice", "T.x", ["read"])

    assert flow.auth_url.startswith(f"{ISSUER}/auth?")


async def test_an_issuer_without_metadata_is_told() -> None:
    manager = manager_at({"/.well-known/openid-configuration": lambda request: httpx.Response(500)})

    with pytest.raises(RemoteToolError, match="has no metadata at its issuer"):
        await manager.initiate_authorization_async("alice", "T.x", ["read"])


async def test_what_a_provider_says_of_an_error_is_cut_and_scrubbed() -> None:
    described = {"error": "invalid_grant", "error_description": "password=hunter22222 " + "x" * 1000}

    with pytest.raises(UnauthorizedError) as caught:
        await answered(described, 400)

    assert "hunter" not in caught.value.message
    assert len(caught.value.message) < 400


async def test_what_a_provider_says_shows_nothing_of_what_it_was_sent_and_is_on_one_line() -> None:
    sent: dict[str, str] = {}

    def token(request: httpx.Request) -> httpx.Response:
        sent.update({name: values[0] for name, values in parse_qs(request.content.decode()).items()})
        said = {"error": f"bad\r\n{sent['code']}", "error_description": f"no:\n{sent['code_verifier']} {sent['code']}"}
        return httpx.Response(400, json=said)

    manager = manager_at({"/token": token})
    flow = await manager.initiate_authorization_async("alice", "T.x", ["read"])

    with pytest.raises(UnauthorizedError) as caught:
        await manager.complete_authorization(flow.flow_id, "the-secret-code")

    message = caught.value.message
    assert message.endswith("(bad  [hidden]: no: [hidden] [hidden])")
    assert not {sent["code"], sent["code_verifier"]} & set(message.split())


async def test_nor_does_a_refresh_that_is_refused() -> None:
    def token(request: httpx.Request) -> httpx.Response:
        form = parse_qs(request.content.decode())
        if "refresh_token" not in form:
            return httpx.Response(200, json=GOOD | {"refresh_token": "the-refresh-token"})
        return httpx.Response(400, json={"error": "invalid_request", "error_description": form["refresh_token"][0]})

    clock = FakeClock(time.time())
    manager = manager_at({"/token": token}, clock=clock)
    flow = await manager.initiate_authorization_async("alice", "T.x", ["read"])
    await manager.complete_authorization(flow.flow_id, "the-secret-code")
    clock.advance(3600)

    with pytest.raises(RemoteToolError, match=r"invalid_request: \[hidden\]$"):
        await manager.validate_authorization("alice", "T.x")


async def test_a_provider_without_metadata_may_be_declared_with_its_issuer_too() -> None:
    answers: Answers = {
        "/.well-known/openid-configuration": lambda request: httpx.Response(404),
        "/token": lambda request: httpx.Response(200, json=GOOD),
    }
    endpoints = {"authorization_endpoint": f"{ISSUER}/auth", "token_endpoint": f"{ISSUER}/token"}
    manager = manager_at(answers, **endpoints)
    flow = await manager.initiate_authorization_async("alice", "T.x", ["read"])

    with pytest.raises(UnauthorizedError, match="another issuer"):
        await manager.complete_authorization(flow.flow_id, "code", iss="https://evil.example")
    assert await manager.complete_authorization(flow.flow_id, "code", iss=ISSUER)


async def test_an_issuer_that_cannot_be_compared_is_refused_with_what_to_do() -> None:
    manager = AuthorizationManager(
        "client",
        None,
        "https://app.example/callback",
        authorization_endpoint=f"{ISSUER}/auth",
        token_endpoint=f"{ISSUER}/token",
        transport=lambda: httpx.MockTransport(lambda request: httpx.Response(200, json=GOOD)),
    )
    flow = await manager.initiate_authorization_async("alice", "T.x", ["read"])

    with pytest.raises(UnauthorizedError, match=f"{ISSUER}.*declare it with issuer"):
        await manager.complete_authorization(flow.flow_id, "code", iss=ISSUER)


async def test_a_life_beyond_all_dates_is_a_long_one() -> None:
    granted = await answered(GOOD | {"expires_in": 1e300})

    assert granted.expires_at == pytest.approx(time.time() + LONGEST_S, abs=60)


async def test_with_two_providers_an_answer_without_issuer_is_refused_where_one_is_promised() -> None:
    def discovery(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=METADATA | {"authorization_response_iss_parameter_supported": True})

    other = OAuthProvider(client_id="c", redirect_uri="https://app.example/cb", issuer="https://other.example")
    answers: Answers = {
        "/.well-known/openid-configuration": discovery,
        "/token": lambda request: httpx.Response(200, json=GOOD),
    }
    alone, among = manager_at(answers), manager_at(answers, providers={"other": other})

    flow = await alone.initiate_authorization_async("alice", "T.x", ["read"])
    assert await alone.complete_authorization(flow.flow_id, "code")

    flow = await among.initiate_authorization_async("alice", "T.x", ["read"])
    with pytest.raises(UnauthorizedError, match="does not say its issuer"):
        await among.complete_authorization(flow.flow_id, "code")
    assert await among.complete_authorization(flow.flow_id, "code", iss=ISSUER)
