import pytest
from hypothesis import given, strategies as st

from toolpost.calls.errors import ConfigurationError, SecretUnavailableError
from toolpost.security.vault import Vault

OLD = "an old key, long enough to be one"
NEW = "a new key, long enough to be one"
PLACE = ("oauth-grant", "key", "tenant", "alice")
parts = st.lists(st.text(max_size=8), min_size=1, max_size=4)


@given(st.binary(max_size=200), parts)
def test_what_is_sealed_for_a_place_opens_there(plain: bytes, place: list[str]) -> None:
    vault = Vault([NEW])

    assert vault.open(vault.seal(plain, *place), *place) == plain


@given(parts, parts)
def test_it_opens_in_no_other_place(place: list[str], other: list[str]) -> None:
    vault = Vault([NEW])
    sealed = vault.seal(b"secret", *place)

    if place != other:
        with pytest.raises(SecretUnavailableError, match="altered, or belongs elsewhere"):
            vault.open(sealed, *other)


@given(st.data())
def test_no_byte_of_it_can_be_changed(data: st.DataObject) -> None:
    vault = Vault([NEW])
    sealed = bytearray(vault.seal(b"secret", *PLACE))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))

    with pytest.raises(SecretUnavailableError):
        vault.open(bytes(sealed), *PLACE)


@given(st.binary(max_size=60))
def test_what_was_never_sealed_does_not_open(junk: bytes) -> None:
    with pytest.raises(SecretUnavailableError):
        Vault([NEW]).open(junk, *PLACE)


def test_the_same_is_never_sealed_alike() -> None:
    vault = Vault([NEW])

    assert vault.seal(b"secret", *PLACE) != vault.seal(b"secret", *PLACE)


def test_an_earlier_key_opens_and_the_newest_seals() -> None:
    before, both, after = Vault([OLD]), Vault([NEW, OLD]), Vault([NEW])
    sealed = before.seal(b"secret", *PLACE)

    assert both.open(sealed, *PLACE) == b"secret"
    assert both.is_stale(sealed)

    again = both.seal(b"secret", *PLACE)

    assert not both.is_stale(again)
    assert after.open(again, *PLACE) == b"secret"
    with pytest.raises(SecretUnavailableError, match="secret_key_previous"):
        after.open(sealed, *PLACE)


def test_neither_plain_text_nor_key_is_in_what_is_kept_or_shown() -> None:
    vault = Vault([NEW])
    sealed = vault.seal(b"the token", *PLACE)

    assert b"token" not in sealed
    assert NEW.encode() not in sealed
    assert NEW not in repr(vault)


@pytest.mark.parametrize("keys", [[], ["short"], [NEW, "short"]])
def test_a_key_that_could_be_guessed_is_refused(keys: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="secret_key"):
        Vault(keys)


def test_a_random_key_opens_nothing_of_another_process() -> None:
    sealed = Vault.random().seal(b"secret", *PLACE)

    with pytest.raises(SecretUnavailableError):
        Vault.random().open(sealed, *PLACE)
