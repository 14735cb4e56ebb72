"""API keys: shown once, known by a hash, refused when wrong, ended or of others; and what verifying costs the store."""

import asyncio
import hashlib
import re
import string
from typing import Any

import orjson
import pytest
from hypothesis import given, strategies as st

from toolpost import ApiKeys, Authenticator, AuthorizerFailedError, Caller, ConfigurationError, UnauthorizedError
from toolpost.security.api_keys import CACHED, FELT_AFTER_S, KEPT_S, KIND, PATTERN, USED_EVERY_S, checksum, parse
from toolpost.stores import open_records
from toolpost.stores.memory_records import MemoryRecords
from toolpost.testing import FakeClock


class CountingRecords(MemoryRecords):
    """Records that count what is asked of them."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self.reads = self.writes = 0

    def document(self, kind: str, key: str, /) -> Any:
        self.reads += 1
        return super().document(kind, key)

    def put_document(self, document: Any, expect: int | None = None, /) -> int:
        self.writes += 1
        return super().put_document(document, expect)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def records(clock: FakeClock) -> CountingRecords:
    return CountingRecords(clock)


@pytest.fixture
def keys(records: CountingRecords, clock: FakeClock) -> ApiKeys:
    return ApiKeys(records, clock)


def verified(keys: ApiKeys, secret: str) -> Caller:
    return asyncio.run(keys.caller(secret))


def reason(keys: ApiKeys, secret: str) -> str:
    with pytest.raises(UnauthorizedError) as caught:
        asyncio.run(keys.caller(secret))
    assert secret == "" or secret not in f"{caught.value!r}{caught.value.message}{caught.value.details}"
    return str(caught.value.details["reason"])


def test_a_key_speaks_for_whom_it_was_made(keys: ApiKeys) -> None:
    new = keys.create(user_id="ann", tenant="acme", scopes=["read", "pay"], roles=["Team Lead"], name="laptop")

    assert verified(keys, new.secret) == Caller(
        user_id="ann", tenant="acme", scopes=frozenset({"read", "pay"}), roles=frozenset({"Team Lead"})
    )


def test_without_a_user_it_speaks_for_one_of_its_own(keys: ApiKeys) -> None:
    one, other = keys.create(), keys.create()

    assert verified(keys, one.secret).user_id == f"key-{one.key.id}"
    assert verified(keys, one.secret) != verified(keys, other.secret)


def test_a_key_has_the_form_that_scanners_look_for_and_256_random_bits(keys: ApiKeys) -> None:
    made = [keys.create().secret for _ in range(50)]

    assert all(re.fullmatch(r"tp_[0-9A-Za-z]{16}_[0-9A-Za-z]{49}", one) for one in made)
    assert len({one[20:63] for one in made}) == 50
    assert set("".join(one[20:63] for one in made)) == set(string.ascii_letters + string.digits)
    assert 62**43 > 2**256


def test_only_a_hash_is_kept_and_nothing_shows_the_key(keys: ApiKeys, records: CountingRecords) -> None:
    new = keys.create(user_id="ann")

    document = records.document(KIND, new.key.id)
    assert document is not None
    assert new.secret[20:] not in repr(document)
    assert orjson.loads(document.body)["hash"] == hashlib.sha256(new.secret.encode()).hexdigest()
    assert new.secret not in f"{new!r}{new.key!r}{keys.list()!r}"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda secret: "",
        lambda secret: secret[:-1],
        lambda secret: secret[:-7],
        lambda secret: secret + "0",
        lambda secret: secret[:-1] + ("0" if secret[-1] != "0" else "1"),
        lambda secret: secret[:30] + ("a" if secret[30] != "a" else "b") + secret[31:],
        lambda secret: secret[:25] + secret[26] + secret[25] + secret[27:] if secret[25] != secret[26] else secret[:-1],
        lambda secret: secret.replace("tp_", "TP_"),
        lambda secret: secret + "\n",
        lambda secret: "\ud800" * 69,
        lambda secret: secret[:-6] + "é" * 6,
    ],
)
def test_what_is_no_key_is_known_without_asking_the_store(keys: ApiKeys, records: CountingRecords, spoil: Any) -> None:
    secret = keys.create().secret

    assert reason(keys, spoil(secret)) == "malformed"
    assert records.reads == 0


def test_a_secret_that_is_another_is_refused_though_its_checksum_is_right(keys: ApiKeys) -> None:
    secret = keys.create().secret
    head = secret[:20] + "A" * 43

    assert parse(head + checksum(head)) == secret[3:19]
    assert reason(keys, head + checksum(head)) == "unknown_key"
    assert verified(keys, secret)


def test_the_secret_of_one_key_opens_no_other(keys: ApiKeys) -> None:
    mine, theirs = keys.create(tenant="mine"), keys.create(tenant="theirs")
    head = theirs.secret[:20] + mine.secret[20:63]

    assert reason(keys, head + checksum(head)) == "unknown_key"


def test_a_hash_is_of_no_use_under_another_id(keys: ApiKeys, records: CountingRecords) -> None:
    mine, admin = keys.create(user_id="me"), keys.create(user_id="admin")
    document = records.document(KIND, admin.key.id)
    stolen = records.document(KIND, mine.key.id)
    assert document is not None
    assert stolen is not None
    records.put_document(document._replace(body=stolen.body))
    head = admin.secret[:20] + mine.secret[20:63]

    assert reason(keys, head + checksum(head)) == "unknown_key"


def test_an_unknown_id_is_refused(keys: ApiKeys) -> None:
    head = "tp_" + "0" * 16 + "_" + "A" * 43

    assert reason(keys, head + checksum(head)) == "unknown_key"


def test_an_expired_key_is_refused_and_listed_for_a_while(keys: ApiKeys, clock: FakeClock) -> None:
    new = keys.create(expires_in_s=100)
    assert verified(keys, new.secret)

    clock.advance(100)

    assert reason(keys, new.secret) == "expired"
    assert [key.state for key in keys.list()] == ["expired"]
    clock.advance(KEPT_S)
    assert keys.list() == []
    assert reason(keys, new.secret) == "unknown_key"


def test_a_revoked_key_is_refused_at_once_where_it_was_revoked(keys: ApiKeys) -> None:
    new = keys.create()
    assert verified(keys, new.secret)

    assert keys.revoke(new.key.id) is True

    assert reason(keys, new.secret) == "revoked"
    assert keys.revoke(new.key.id) is False
    assert [key.state for key in keys.list()] == ["revoked"]


def test_a_revocation_elsewhere_is_felt_within_the_stated_time(
    keys: ApiKeys, records: CountingRecords, clock: FakeClock
) -> None:
    new = keys.create()
    assert verified(keys, new.secret)

    ApiKeys(records, clock).revoke(new.key.id)

    clock.advance(FELT_AFTER_S - 0.01)
    assert verified(keys, new.secret)
    clock.advance(0.01)
    assert reason(keys, new.secret) == "revoked"


@pytest.mark.parametrize("end", ["revoke", "rotate"])
def test_a_key_that_was_being_read_as_it_ended_is_not_kept_as_it_was(clock: FakeClock, end: str) -> None:
    class Slow(MemoryRecords):
        meanwhile: Any = None

        def document(self, kind: str, key: str, /) -> Any:
            found = super().document(kind, key)
            done, self.meanwhile = self.meanwhile, None
            if done is not None:
                done()
            return found

    records = Slow(clock=clock)
    keys = ApiKeys(records, clock)
    new = keys.create()
    records.meanwhile = lambda: getattr(keys, end)(new.key.id)
    verified(keys, new.secret)

    assert reason(keys, new.secret) == "revoked"


def test_noting_that_a_key_was_used_never_undoes_a_revocation(
    keys: ApiKeys, records: CountingRecords, clock: FakeClock
) -> None:
    new = keys.create()
    other = ApiKeys(records, clock)
    asyncio.run(other._fetched(new.key.id))  # the other process has read it, and not yet noted its use

    keys.revoke(new.key.id)
    assert verified(other, new.secret)  # which notes the use

    assert [key.state for key in keys.list()] == ["revoked"]
    assert reason(ApiKeys(records, clock), new.secret) == "revoked"


def test_calls_read_the_store_every_few_seconds_and_write_once_an_hour(
    keys: ApiKeys, records: CountingRecords, clock: FakeClock
) -> None:
    secret = keys.create().secret
    records.reads = records.writes = 0

    for _ in range(1000):
        verified(keys, secret)
    assert (records.reads, records.writes) == (1, 1)

    clock.advance(FELT_AFTER_S)
    verified(keys, secret)
    assert (records.reads, records.writes) == (2, 1)

    clock.advance(USED_EVERY_S)
    verified(keys, secret)
    verified(keys, secret)
    assert (records.reads, records.writes) == (3, 2)
    assert keys.list()[0].last_used_at == clock.now()


def test_the_cache_is_bounded(keys: ApiKeys) -> None:
    for _ in range(CACHED + 20):
        verified(keys, keys.create().secret)

    assert len(keys._cache) == CACHED


def test_rotation_gives_the_same_rights_and_ends_the_old_key(keys: ApiKeys, clock: FakeClock) -> None:
    old = keys.create(user_id="ann", tenant="acme", scopes=["read"], expires_in_s=1000)
    clock.advance(10)

    new = keys.rotate(old.key.id)

    assert new is not None
    assert verified(keys, new.secret) == verified_caller(old.key)
    assert new.key.expires_at == old.key.expires_at
    assert reason(keys, old.secret) == "revoked"
    assert keys.rotate(old.key.id) is None


def verified_caller(key: Any) -> Caller:
    return key.caller  # type: ignore[no-any-return]


def test_rotation_may_leave_the_old_key_for_a_while(keys: ApiKeys, clock: FakeClock) -> None:
    old = keys.create()
    new = keys.rotate(old.key.id, overlap_s=60)

    assert new is not None
    assert verified(keys, old.secret).user_id == verified(keys, new.secret).user_id
    clock.advance(61)
    assert reason(keys, old.secret) == "expired"
    assert verified(keys, new.secret)


def test_a_tenant_sees_and_ends_its_own_keys_only(keys: ApiKeys) -> None:
    mine, theirs = keys.create(tenant="mine"), keys.create(tenant="theirs")

    assert [key.id for key in keys.list(tenant="mine")] == [mine.key.id]
    assert keys.show(theirs.key.id, tenant="mine") is None
    assert keys.revoke(theirs.key.id, tenant="mine") is False
    assert keys.rotate(theirs.key.id, tenant="mine") is None
    assert verified(keys, theirs.secret).tenant == "theirs"


def test_more_keys_than_a_page_are_listed(keys: ApiKeys) -> None:
    made = sorted(keys.create(user_id="ann").key.id for _ in range(1100))
    keys.create(user_id="bob")

    assert [key.id for key in keys.list(user_id="ann")] == made


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"scopes": "read"}, "scopes must be a list"),
        ({"scopes": ["read write"]}, "a scope has no spaces"),
        ({"roles": [""]}, "roles must be a list of names"),
        ({"expires_in_s": 0}, "more than 0"),
        ({"expires_in_s": float("nan")}, "more than 0"),
        ({"user_id": ""}, "user_id must be text"),
    ],
)
def test_a_key_that_could_not_be_meant_is_not_made(keys: ApiKeys, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        keys.create(**wrong)


def test_a_store_that_is_away_is_no_refusal_of_the_key(keys: ApiKeys) -> None:
    secret = keys.create().secret
    away = ApiKeys(open_records("postgresql://nobody@127.0.0.1:1/none"))

    with pytest.raises(AuthorizerFailedError) as caught:
        verified(away, secret)

    assert (caught.value.status, caught.value.retryable) == (503, True)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_keys_are_kept_in_databases(kind: str, tmp_path: Any, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path}/r.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    first, second = open_records(url), open_records(url)
    try:
        new = ApiKeys(first).create(user_id="ann", tenant="acme", scopes=["read"])

        assert verified(ApiKeys(second), new.secret).user_id == "ann"
        assert ApiKeys(second).revoke(new.key.id)
        assert reason(ApiKeys(first), new.secret) == "revoked"
    finally:
        first.close()
        second.close()


@given(st.text(max_size=80) | st.from_regex(PATTERN, fullmatch=True))
def test_nothing_but_a_key_parses(text: str) -> None:
    found = parse(text)

    assert found is None or (text[3:19] == found and text[-6:] == checksum(text[:-6]))


class TestAuthenticator:
    async def test_a_key_comes_as_bearer_or_as_api_key(self, keys: ApiKeys) -> None:
        secret = keys.create(user_id="ann").secret
        authenticator = Authenticator(keys)

        for header in (f"Bearer {secret}", f"bearer  {secret} ", f"ApiKey {secret}", f"APIKEY {secret}"):
            assert (await authenticator.caller(header)).user_id == "ann"

    @pytest.mark.parametrize(
        ("header", "why"),
        [
            (None, "missing"),
            ("", "missing"),
            ("  ", "missing"),
            ("Basic YTpi", "unsupported_scheme"),
            ("Bearer", "unsupported_token"),
            ("Bearer a.b.c", "unsupported_token"),
            ("ApiKey a.b.c", "malformed"),
            ("Bearer tp_x", "malformed"),
        ],
    )
    async def test_what_is_none_is_refused_with_its_reason(self, keys: ApiKeys, header: str | None, why: str) -> None:
        with pytest.raises(UnauthorizedError) as caught:
            await Authenticator(keys).caller(header)

        assert caught.value.details == {"reason": why}
