"""JWTs: only a token that is whole, signed by its issuer, for this service and in its time makes a caller."""

import asyncio
import hashlib
import hmac
import json
import re
import warnings
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.security.tokens_issuer import Issuer, encoded, key, signed
from toolpost import (
    Caller,
    ConfigurationError,
    JwtIssuer,
    JwtVerifier,
    ToolExecutionError,
    UnauthorizedError,
)
from toolpost.security.jwt import MAX_TOKEN
from toolpost.testing import FakeClock

AUDIENCE = "https://tools.example"


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="module")
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="module")
def verifier(issuer: Issuer, clock: FakeClock) -> JwtVerifier:
    return verifier_of(issuer, clock)


def verifier_of(issuer: Issuer, clock: FakeClock, **more: Any) -> JwtVerifier:
    more.setdefault("audience", AUDIENCE)
    return JwtVerifier((JwtIssuer(url=issuer.url, **more),), issuer.fetch, clock)


def verified(verifier: JwtVerifier, token: str) -> Caller:
    return asyncio.run(verifier.verify(token))


def reason(verifier: JwtVerifier, token: str) -> str:
    with pytest.raises(UnauthorizedError) as caught:
        verified(verifier, token)
    told = f"{caught.value!r} {caught.value.message} {caught.value.details}"
    assert not [part for part in token.split(".") if len(part) > 8 and part in told]
    return str(caught.value.details["reason"])


class TestWhatIsGood:
    def test_a_token_makes_a_caller(self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock) -> None:
        token = issuer.token(clock.now(), scope="read  write", roles=["clerk"], sid="s-1")

        assert verified(verifier, token) == Caller(
            user_id="ann", session_id="s-1", scopes=frozenset({"read", "write"}), roles=frozenset({"clerk"})
        )

    @pytest.mark.parametrize(
        ("kind", "size", "algorithm"),
        [
            ("RSA", 2048, "RS512"),
            ("RSA", 2048, "PS256"),
            ("EC", "P-256", "ES256"),
            ("EC", "P-384", "ES384"),
            ("EC", "P-521", "ES512"),
            ("OKP", "Ed25519", "EdDSA"),
            ("OKP", "Ed25519", "Ed25519"),
        ],
    )
    def test_every_algorithm_that_public_keys_have(
        self, kind: str, size: Any, algorithm: str, clock: FakeClock
    ) -> None:
        own = key(kind, size, "k")
        issuer = Issuer(keys=(own,))

        token = issuer.token(clock.now(), by=own, header={"alg": algorithm})

        assert verified(verifier_of(issuer, clock), token).user_id == "ann"
        assert reason(verifier_of(issuer, clock), token[:-8] + "AAAAAAAA") == "bad_signature"

    @pytest.mark.parametrize("typ", [None, "JWT", "at+jwt", "application/at+jwt", "AT+JWT"])
    def test_types_of_access_tokens(
        self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock, typ: str | None
    ) -> None:
        assert verified(verifier, issuer.token(clock.now(), header={"typ": typ}))

    def test_a_token_without_kid_where_there_is_one_key(
        self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock
    ) -> None:
        assert verified(verifier, issuer.token(clock.now(), header={"kid": None}))

    def test_claims_are_found_where_the_issuer_has_them(self, issuer: Issuer, clock: FakeClock) -> None:
        own = verifier_of(
            issuer,
            clock,
            user_claim="preferred_username",
            tenant_claim="org.id",
            scope_claim="scp",
            roles_claim="realm_access.roles",
            user_prefix="kc:",
        )
        token = issuer.token(
            clock.now(),
            preferred_username="Ann",
            org={"id": "acme"},
            scp=["read", "write"],
            realm_access={"roles": ["clerk", "cook"]},
        )

        assert verified(own, token) == Caller(
            user_id="kc:Ann",
            tenant="acme",
            scopes=frozenset({"read", "write"}),
            roles=frozenset({"clerk", "cook"}),
        )

    def test_a_claim_of_exactly_the_name_goes_before_a_path(self, issuer: Issuer, clock: FakeClock) -> None:
        own = verifier_of(issuer, clock, roles_claim="https://example.com/roles", tenant="acme")

        caller = verified(own, issuer.token(clock.now(), **{"https://example.com/roles": "clerk"}))

        assert (caller.roles, caller.tenant) == (frozenset({"clerk"}), "acme")


class TestForgeries:
    @pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", "HS256", "RS1", "ES256K", "RSA-OAEP", "dir"])
    def test_algorithms_that_are_not_for_public_keys(
        self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock, name: str
    ) -> None:
        _, body, mark = issuer.token(clock.now()).split(".")
        forged = encoded({"alg": name, "kid": "r1"})

        assert reason(verifier, f"{forged}.{body}.{mark}") == "bad_algorithm"

    def test_an_empty_signature(self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock) -> None:
        _, body, _ = issuer.token(clock.now()).split(".")

        assert reason(verifier, f"{encoded({'alg': 'none'})}.{body}.") == "malformed"

    @pytest.mark.parametrize("form", ["pem", "der", "n"])
    def test_the_public_key_as_a_shared_secret(
        self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock, form: str
    ) -> None:
        secret = {"pem": issuer.rsa.as_pem(), "der": issuer.rsa.as_der(), "n": issuer.rsa["n"].encode()}[form]
        _, body, _ = issuer.token(clock.now()).split(".")
        text = f"{encoded({'alg': 'HS256', 'kid': 'r1', 'typ': 'JWT'})}.{body}"
        mark = encoded(hmac.digest(secret, text.encode(), hashlib.sha256))

        assert reason(verifier, f"{text}.{mark}") == "bad_algorithm"

    def test_a_secret_that_the_issuer_publishes_by_mistake(self, clock: FakeClock) -> None:
        issuer = Issuer()
        issuer.extra = [{"kty": "oct", "k": encoded(b"x" * 32), "kid": "shared", "alg": "HS256"}]
        text = f"{encoded({'alg': 'HS256', 'kid': 'shared'})}.{issuer.token(clock.now()).split('.')[1]}"
        mark = encoded(hmac.digest(b"x" * 32, text.encode(), hashlib.sha256))

        assert reason(verifier_of(issuer, clock), f"{text}.{mark}") == "bad_algorithm"
        assert reason(verifier_of(issuer, clock), issuer.token(clock.now(), header={"kid": "shared"})) == "unknown_key"

    @pytest.mark.parametrize(
        "kid", ["r2", "../../../../etc/passwd", "r1\0", "R1", "' OR 1=1 --", "https://evil.example/keys", "r1 "]
    )
    def test_a_kid_only_names_one_of_the_issuers_keys(
        self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock, kid: str
    ) -> None:
        assert reason(verifier, issuer.token(clock.now(), header={"kid": kid})) == "unknown_key"

    @pytest.mark.parametrize("kid", [1, ["r1"], {"a": 1}, True, "", "r" * 300])
    def test_a_kid_that_is_no_name(self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock, kid: Any) -> None:
        assert reason(verifier, issuer.token(clock.now(), header={"kid": kid})) == "bad_header"

    def test_a_key_that_the_token_brings_or_points_at_is_never_used(
        self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock
    ) -> None:
        evil = key("RSA", 2048, "evil")
        before = len(issuer.asked)
        brought = {
            "jwk": evil.as_dict(private=False),
            "jku": "https://evil.example/keys",
            "x5u": "https://evil.example/cert",
            "x5c": ["MIIB"],
        }

        for kid in ("r1", "evil"):
            token = issuer.token(clock.now(), by=evil, header={**brought, "kid": kid})
            assert reason(verifier, token) == ("bad_signature" if kid == "r1" else "unknown_key")
        assert verified(verifier, issuer.token(clock.now(), header=brought))
        assert not [url for url in issuer.asked[before:] if "evil" in url]

    @pytest.mark.parametrize(
        "more",
        [
            {"crit": ["exp"], "exp": 1},
            {"crit": []},
            {"crit": ["b64"], "b64": False},
            {"b64": False},
            {"b64": True},
            {"cty": "JWT"},
            {"zip": "DEF"},
            {"enc": "A256GCM"},
            {"typ": "dpop+jwt"},
            {"typ": "logout+jwt"},
            {"typ": ["JWT"]},
        ],
    )
    def test_headers_that_change_what_a_token_is(
        self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock, more: dict[str, Any]
    ) -> None:
        assert reason(verifier, issuer.token(clock.now(), header=more)) == "bad_header"

    def test_every_altered_part_is_noticed(self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock) -> None:
        token = issuer.token(clock.now())
        head, body, mark = token.split(".")
        other = issuer.token(clock.now(), sub="admin").split(".")[1]

        assert reason(verifier, f"{head}.{other}.{mark}") == "bad_signature"
        assert reason(verifier, f"{encoded({'alg': 'RS256', 'kid': 'r1'})}.{body}.{mark}") == "bad_signature"
        assert reason(verifier, f"{head}.{body}.{encoded(b'x' * 256)}") == "bad_signature"

    @pytest.mark.parametrize("mark", [bytes(64), bytes(63), bytes(65), b"\xff" * 64, bytes(31) + b"\1" + bytes(32)])
    def test_a_signature_of_zeros_on_a_curve(self, clock: FakeClock, mark: bytes) -> None:
        curve = key("EC", "P-256", "e1", alg="ES256")
        issuer = Issuer(keys=(curve,))
        text = issuer.token(clock.now(), by=curve).rpartition(".")[0]

        assert reason(verifier_of(issuer, clock), f"{text}.{encoded(mark)}") == "bad_signature"

    def test_the_key_of_another_curve_or_kind(self, clock: FakeClock) -> None:
        wide, narrow = key("EC", "P-384", "k"), key("EC", "P-256", "k")
        issuer = Issuer(keys=(wide,))
        verifier = verifier_of(issuer, clock)

        assert reason(verifier, issuer.token(clock.now(), by=narrow, header={"alg": "ES256"})) == "unknown_key"
        assert reason(verifier, issuer.token(clock.now(), by=Issuer().rsa, header={"kid": "k"})) == "unknown_key"

    def test_a_key_is_used_for_nothing_but_what_it_is_for(self, clock: FakeClock) -> None:
        for marks in ({"use": "enc"}, {"key_ops": ["encrypt"]}, {"alg": "RS512"}):
            named = key("RSA", 2048, "k", **marks)
            spare = key("EC", "P-256", "other", alg="ES256")
            issuer = Issuer(keys=(spare,))
            issuer.extra = [named.as_dict(private=False)]

            token = issuer.token(clock.now(), by=key("RSA", 2048, "k"), header={"alg": "RS256"})

            assert reason(verifier_of(issuer, clock), token) == "unknown_key", marks

    def test_a_weak_key_is_none(self, clock: FakeClock) -> None:
        from cryptography.hazmat.primitives.asymmetric import rsa
        from joserfc.jwk import RSAKey

        with warnings.catch_warnings():  # joserfc's own, of the tests' doing
            warnings.simplefilter("ignore")
            weak = RSAKey.import_key({**_as_jwk(rsa.generate_private_key(65537, 1024)), "kid": "weak"})
        issuer = Issuer()
        issuer.keys.append(weak)

        assert reason(verifier_of(issuer, clock), issuer.token(clock.now(), by=weak)) == "unknown_key"

    def test_keys_that_cannot_be_read_are_left_out(self, clock: FakeClock) -> None:
        issuer = Issuer()
        issuer.extra = [
            None,
            {},
            {"kty": "AKP", "alg": "ML-DSA-44"},
            {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
            {"kty": "RSA", "n": 1},
            {"kty": ["RSA"]},
            {"kty": "EC", "crv": "P-256", "x": encoded(bytes(32)), "y": encoded(bytes(32)), "use": "strange"},
        ]

        assert verified(verifier_of(issuer, clock), issuer.token(clock.now()))

    def test_two_keys_and_a_token_that_names_none(self, clock: FakeClock) -> None:
        issuer = Issuer()
        issuer.keys.append(key("RSA", 2048, "r2"))

        assert reason(verifier_of(issuer, clock), issuer.token(clock.now(), header={"kid": None})) == "unknown_key"

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda token: "",
            lambda token: "x",
            lambda token: token + ".",
            lambda token: f".{token}",
            lambda token: token.replace(".", ".\n", 1),
            lambda token: token + " ",
            lambda token: token + "=",
            lambda token: token.replace(".", "..", 1),
            lambda token: f"{encoded(b'[]')}.{token.partition('.')[2]}",
            lambda token: f"{encoded(b'null')}.{token.partition('.')[2]}",
            lambda token: f"{encoded(bytes([255, 254]))}.{token.partition('.')[2]}",
            lambda token: f"{encoded(b'[' * 3000)}.{token.partition('.')[2]}",
            lambda token: f"{token.split('.')[0]}.{encoded(b'[' * 9000)}.{token.split('.')[2]}",
            lambda token: f"{encoded({'alg': 'RS256'})}A.{token.partition('.')[2]}",
            lambda token: token.replace("e", "é", 1),
        ],
    )
    def test_what_is_no_token(self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock, spoil: Any) -> None:
        assert reason(verifier, spoil(issuer.token(clock.now()))) == "malformed"

    def test_one_spelling_of_a_signature_only(self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock) -> None:
        token = issuer.token(clock.now())  # 256 bytes end in a letter with four bits to spare
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        last = letters.index(token[-1])

        assert reason(verifier, token[:-1] + letters[last + 1]) == "malformed"

    def test_a_token_that_is_encrypted_or_huge(self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock) -> None:
        assert reason(verifier, "a.b.c.d.e") == "encrypted"
        assert reason(verifier, issuer.token(clock.now(), pad="x" * MAX_TOKEN)) == "too_large"
        assert reason(verifier, "a" * 10_000_000) == "too_large"

    @pytest.mark.parametrize(
        ("head", "body"),
        [
            (b'{"alg":"RS256","kid":"r1","kid":"r1"}', None),
            (b'{"alg":"none","alg":"RS256","kid":"r1"}', None),
            (
                None,
                b'{"iss":"https://login.example","sub":"ann","sub":"admin","aud":"https://tools.example","exp":9e9}',
            ),
            (
                None,
                b'{"iss":"https://login.example","sub":"ann","aud":"https://tools.example","exp":9e9,"x":{"a":1,"a":2}}',
            ),
            (None, b'{"iss":"https://login.example","sub":"ann","aud":"https://tools.example","exp":NaN}'),
            (None, b'{"iss":"https://login.example","sub":"ann","aud":"https://tools.example","exp":Infinity}'),
        ],
    )
    def test_a_name_that_stands_twice_or_no_json(
        self, verifier: JwtVerifier, issuer: Issuer, head: bytes | None, body: bytes | None
    ) -> None:
        token = signed(head or {"alg": "RS256", "kid": "r1"}, body or {"iss": issuer.url}, issuer.rsa)

        assert reason(verifier, token) == "malformed"


class TestClaims:
    @pytest.mark.parametrize(
        ("offset_s", "good"), [(-30.1, True), (-1, True), (0, True), (29.9, True), (30, False), (31, False)]
    )
    def test_expiry_to_the_edge_of_the_leeway(
        self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock, offset_s: float, good: bool
    ) -> None:
        token = issuer.token(clock.now(), exp=clock.now() - offset_s)

        assert (verified(verifier, token).user_id == "ann") if good else (reason(verifier, token) == "expired")

    @pytest.mark.parametrize("name", ["nbf", "iat"])
    @pytest.mark.parametrize(("offset_s", "good"), [(-100, True), (30, True), (30.1, False), (1000, False)])
    def test_start_to_the_edge_of_the_leeway(
        self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock, name: str, offset_s: float, good: bool
    ) -> None:
        token = issuer.token(clock.now(), **{name: clock.now() + offset_s})

        assert verified(verifier, token) if good else (reason(verifier, token) == "not_yet_valid")

    @pytest.mark.parametrize("value", ["9999999999", True, [1], {"a": 1}, 10**400, -(10**400), 1e300])
    @pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
    def test_a_time_that_is_none(
        self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock, name: str, value: Any
    ) -> None:
        assert reason(verifier, issuer.token(clock.now(), **{name: value})) == "bad_claim"

    def test_a_token_has_to_expire(self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock) -> None:
        assert reason(verifier, issuer.token(clock.now(), exp=None)) == "missing_claim"

    @pytest.mark.parametrize("audience", [AUDIENCE, [AUDIENCE], ["https://other.example", AUDIENCE]])
    def test_one_of_the_audiences_is_enough(
        self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock, audience: Any
    ) -> None:
        assert verified(verifier, issuer.token(clock.now(), aud=audience))

    @pytest.mark.parametrize(
        ("audience", "why"),
        [
            (None, "wrong_audience"),
            ([], "wrong_audience"),
            ("https://other.example", "wrong_audience"),
            (f"{AUDIENCE}/", "wrong_audience"),
            (AUDIENCE.upper(), "wrong_audience"),
            (f"{AUDIENCE} https://other.example", "wrong_audience"),
            ({AUDIENCE: 1}, "wrong_audience"),
            ([AUDIENCE, 1], "bad_claim"),
            ([[AUDIENCE]], "bad_claim"),
        ],
    )
    def test_a_token_for_another_service(
        self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock, audience: Any, why: str
    ) -> None:
        assert reason(verifier, issuer.token(clock.now(), aud=audience)) == why

    @pytest.mark.parametrize(
        "named",
        [None, "", "https://login.example/", "https://LOGIN.example", "http://login.example", "login.example", 1, []],
    )
    def test_the_issuer_is_compared_as_it_stands(
        self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock, named: Any
    ) -> None:
        assert reason(verifier, issuer.token(clock.now(), iss=named)) == "wrong_issuer"

    @pytest.mark.parametrize(
        ("claims", "why"),
        [
            ({"sub": None}, "missing_claim"),
            ({"sub": ""}, "bad_claim"),
            ({"sub": 7}, "bad_claim"),
            ({"sub": "ann\0"}, "bad_claim"),
            ({"sub": "ann\nroot"}, "bad_claim"),
            ({"sub": "\ud800"}, "bad_claim"),
            ({"roles": ["clerk\x1b"]}, "bad_claim"),
            ({"sub": ["ann"]}, "bad_claim"),
            ({"scope": 7}, "bad_claim"),
            ({"scope": ["read", 7]}, "bad_claim"),
            ({"roles": {"admin": True}}, "bad_claim"),
            ({"roles": [""]}, "bad_claim"),
            ({"roles": ["r"] * 1001}, "bad_claim"),
            ({"sid": 5}, "bad_claim"),
        ],
    )
    def test_claims_that_cannot_be_read_refuse(
        self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock, claims: dict[str, Any], why: str
    ) -> None:
        assert reason(verifier, issuer.token(clock.now(), **claims)) == why

    def test_a_tenant_that_is_asked_for_must_be_there(self, issuer: Issuer, clock: FakeClock) -> None:
        own = verifier_of(issuer, clock, tenant_claim="org")

        assert reason(own, issuer.token(clock.now())) == "missing_claim"
        assert verified(own, issuer.token(clock.now(), org="acme")).tenant == "acme"

    @given(st.text(st.sampled_from("ey.AJ0_-=\n é"), max_size=60) | st.text(max_size=60))
    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_any_text_is_refused_and_nothing_breaks(self, verifier: JwtVerifier, text: str) -> None:
        with pytest.raises(UnauthorizedError):
            verified(verifier, text)

    @given(
        st.dictionaries(
            st.sampled_from(["iss", "aud", "exp", "sub", "nbf", "iat", "scope", "roles", "sid"]),
            st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=5), max_size=3),
        ),
        st.dictionaries(
            st.sampled_from(["alg", "typ", "kid", "jku", "x"]), st.none() | st.text(max_size=5) | st.integers()
        ),
    )
    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_whatever_is_signed_makes_a_caller_or_a_refusal(
        self, verifier: JwtVerifier, issuer: Issuer, clock: FakeClock, claims: Any, header: Any
    ) -> None:
        good = {"iss": issuer.url, "aud": AUDIENCE, "sub": "ann", "exp": clock.now() + 9}
        token = signed({"alg": "RS256", "kid": "r1", **header}, {**good, **claims}, issuer.rsa, "RS256")

        made: Any = None
        try:
            made = verified(verifier, token)
        except ToolExecutionError as raised:
            made = raised
        if isinstance(made, Caller):
            assert made.user_id == {**good, **claims}["sub"]
        else:
            assert re.fullmatch(r"[a-z_]+", made.details["reason"])


class TestSeveralIssuers:
    def test_each_has_its_own_keys_and_namespace(self, clock: FakeClock) -> None:
        one, two = Issuer("https://one.example"), Issuer("https://two.example", keys=(key("RSA", 2048, "r2"),))

        async def fetch(url: str) -> Any:
            return await (one if url.startswith(one.url) else two).fetch(url)

        verifier = JwtVerifier(
            (
                JwtIssuer(url=one.url, audience=AUDIENCE, tenant="one"),
                JwtIssuer(url=two.url, audience=AUDIENCE, tenant="two"),
            ),
            fetch,
            clock,
        )
        by_two = two.token(clock.now(), by=key("RSA", 2048, "r2"))

        assert (verified(verifier, one.token(clock.now())).tenant, verified(verifier, by_two).tenant) == ("one", "two")
        crossed = one.token(clock.now(), by=key("RSA", 2048, "r2"))
        assert reason(verifier, crossed) == "unknown_key"

    @pytest.mark.parametrize(
        ("first", "second", "good"),
        [
            ({}, {}, False),
            ({"tenant": "a"}, {"tenant": "b"}, True),
            ({"tenant": "a"}, {"tenant": "a"}, False),
            ({"tenant": "a"}, {"tenant_claim": "org"}, False),
            ({"user_prefix": "a:"}, {"user_prefix": "b:"}, True),
            ({"user_prefix": "a:"}, {}, False),
            ({"user_prefix": "a:"}, {"user_prefix": "a:b"}, False),
        ],
    )
    def test_users_of_two_must_be_told_apart(
        self, clock: FakeClock, first: dict[str, Any], second: dict[str, Any], good: bool
    ) -> None:
        issuers = (
            JwtIssuer(url="https://one.example", audience="a", **first),
            JwtIssuer(url="https://two.example", audience="a", **second),
        )
        if good:
            assert JwtVerifier(issuers, Issuer().fetch, clock)
            return
        with pytest.raises(ConfigurationError, match="could be taken for one of"):
            JwtVerifier(issuers, Issuer().fetch, clock)

    def test_one_issuer_stands_once_and_there_is_one(self, clock: FakeClock) -> None:
        one = JwtIssuer(url="https://one.example", audience="a")
        with pytest.raises(ConfigurationError, match="is there twice"):
            JwtVerifier((one, one), Issuer().fetch, clock)
        with pytest.raises(ConfigurationError, match="needs an issuer"):
            JwtVerifier((), Issuer().fetch, clock)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"url": "http://login.example"}, "https:// URL"),
        ({"url": "https://"}, "https:// URL"),
        ({"url": "https://user:pw@login.example"}, "https:// URL"),
        ({"url": "http://127.0.0.1.evil.example"}, "https:// URL"),
        ({"url": "file:///etc/passwd"}, "https:// URL"),
        ({"jwks_url": "http://login.example/keys"}, "jwks_url must be an https"),
        ({"audience": ""}, "audience must name this service"),
        ({"audience": ()}, "audience must name this service"),
        ({"algorithms": ("HS256",)}, "not one that is safe"),
        ({"algorithms": ("none",)}, "not one that is safe"),
        ({"algorithms": ()}, "algorithms must be"),
        ({"leeway_s": -1}, "leeway_s must be"),
        ({"leeway_s": 1e9}, "leeway_s must be"),
        ({"tenant": "a", "tenant_claim": "b"}, "not both"),
    ],
)
def test_an_issuer_that_could_not_be_trusted_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        JwtIssuer(**{"url": "https://login.example", "audience": "a", **wrong})


def _as_jwk(private: Any) -> dict[str, str]:
    numbers = private.private_numbers()
    public = numbers.public_numbers
    values = {
        "n": public.n,
        "e": public.e,
        "d": numbers.d,
        "p": numbers.p,
        "q": numbers.q,
        "dp": numbers.dmp1,
        "dq": numbers.dmq1,
        "qi": numbers.iqmp,
    }
    parts = {name: encoded(value.to_bytes((value.bit_length() + 7) // 8, "big")) for name, value in values.items()}
    return {"kty": "RSA", **parts}


def test_the_forger_of_these_tests_signs_what_joserfc_takes(issuer: Issuer, clock: FakeClock) -> None:
    from joserfc import jwt

    token = issuer.token(clock.now())

    assert json.loads(json.dumps(jwt.decode(token, issuer.rsa, ["RS256"], None).claims))["sub"] == "ann"
