"""The signatures of callbacks: by the specification's own vectors and library, and against who would forge one."""

from __future__ import annotations

import base64
import os
import time
from contextlib import AbstractContextManager
from typing import Any

import pytest

from toolpost import ConfigurationError, ToolExecutor, WebhookVerificationError, verify_webhook
from toolpost.testing import executor_for
from toolpost.worker.webhooks import secret_bytes, signed_headers, webhook_keys, webhook_secrets

# Of the specification's libraries (standard-webhooks/standard-webhooks, libraries/python/tests/test_webhooks.py).
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
AT = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
KEY = "a-secret-key-of-some-length"


def headers(**changed: str) -> dict[str, str]:
    named = {"id": ID, "timestamp": str(AT), "signature": SIGNATURE} | changed
    return {f"webhook-{name}": value for name, value in named.items() if value}


def verified(headers: dict[str, str], secrets: Any = SECRET, body: bytes | str = BODY, now: float = AT) -> Any:
    return verify_webhook(body, headers, secrets, now=now)


def with_key() -> AbstractContextManager[ToolExecutor]:
    return executor_for(secret_key=KEY)


def test_a_message_is_signed_as_the_specification_signs_it() -> None:
    assert signed_headers([secret_bytes(SECRET)], ID, AT + 0.9, BODY) == headers()


@pytest.mark.parametrize("body", [BODY, BODY.decode()])
@pytest.mark.parametrize("secret", [SECRET, SECRET.removeprefix("whsec_")])
def test_what_the_specification_signed_is_verified(secret: str, body: bytes | str) -> None:
    assert verified(headers(), secret, body) == {"test": 2432232314}


def test_headers_may_be_written_in_any_case() -> None:
    assert verified({name.title(): value for name, value in headers().items()}) == {"test": 2432232314}


def test_one_good_signature_among_others_is_enough() -> None:
    wrong = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="

    assert verified(headers(signature=f"{wrong} v2,{wrong[3:]} {SIGNATURE} {wrong}"))


@pytest.mark.parametrize("missing", ["id", "timestamp", "signature"])
def test_a_message_without_one_of_the_headers_is_refused_and_told_which(missing: str) -> None:
    with pytest.raises(WebhookVerificationError, match=f"webhook-{missing}"):
        verified(headers(**{missing: ""}))


@pytest.mark.parametrize(
    "changed",
    [
        {"signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OA="},
        {"signature": SIGNATURE[:8]},
        {"signature": "v1,"},
        {"signature": SIGNATURE[3:]},
        {"signature": f"v1a,{SIGNATURE[3:]}"},
        {"signature": SIGNATURE.upper()},
        {"signature": "v1,é"},
        {"signature": f"{SIGNATURE},"},
        {"id": f"{ID}x"},
        {"timestamp": str(AT + 1)},
        {"id": f"{ID}.{AT}", "timestamp": str(AT)},
    ],
)
def test_a_message_that_is_not_as_it_was_signed_is_refused(changed: dict[str, str]) -> None:
    with pytest.raises(WebhookVerificationError, match="not signed with this secret"):
        verified(headers(**changed))


def test_a_body_that_was_altered_is_refused() -> None:
    with pytest.raises(WebhookVerificationError, match="altered"):
        verified(headers(), body=BODY.replace(b" ", b""))


@pytest.mark.parametrize("apart_s", [301, -301])
def test_a_message_of_another_time_is_refused(apart_s: int) -> None:
    with pytest.raises(WebhookVerificationError, match="301 s"):
        verified(headers(), now=AT + apart_s)


@pytest.mark.parametrize("apart_s", [299, -299])
def test_clocks_may_differ_a_little(apart_s: int) -> None:
    assert verified(headers(), now=AT + apart_s)


@pytest.mark.parametrize("timestamp", ["hello", "-1", "1e9", " 1614265330", "١٦١٤٢٦٥٣٣٠", "9" * 5000])
def test_a_time_that_is_none_is_refused(timestamp: str) -> None:
    with pytest.raises(WebhookVerificationError, match="seconds since 1970"):
        verified(headers(timestamp=timestamp))


def test_a_signed_body_that_is_no_json_is_refused() -> None:
    signed = signed_headers([secret_bytes(SECRET)], ID, AT, b"text")

    with pytest.raises(WebhookVerificationError, match="no JSON"):
        verified(signed, body=b"text")


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!!", "whsec_c2hvcnQ=", "whsec_" + "A" * 31])
def test_a_secret_that_is_none_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(ConfigurationError, match="24 bytes") as refused:
        verified(headers(), secret)

    assert not secret or secret == "whsec_" or secret not in str(refused.value)


def test_no_secrets_verify_nothing() -> None:
    with pytest.raises(ConfigurationError, match="needs a secret"):
        verified(headers(), [])


def test_an_id_with_a_full_stop_is_never_sent() -> None:
    with pytest.raises(ValueError, match="without full stops"):
        signed_headers([secret_bytes(SECRET)], "msg.1", AT, BODY)


def test_tenants_and_users_have_secrets_of_their_own() -> None:
    with with_key() as executor:
        whose = [("a", None), ("b", None), ("a", "u"), (None, "a"), (None, "u"), (None, None), ("user a", None)]
        secrets = [webhook_secrets(executor, tenant, user)[0] for tenant, user in whose]

    assert secrets[2] == secrets[0]  # a tenant's users share the tenant's
    assert len(set(secrets)) == len(whose) - 1
    assert all(len(base64.b64decode(secret.removeprefix("whsec_"))) == 32 for secret in secrets)


def test_a_tenant_can_not_sign_for_another() -> None:
    with with_key() as executor:
        forged = signed_headers(webhook_keys(executor, "mallory", None), ID, AT, BODY)

        with pytest.raises(WebhookVerificationError):
            verified(forged, webhook_secrets(executor, "alice", None))


def test_during_a_rotation_old_and_new_receivers_verify_what_is_sent() -> None:
    with with_key() as before:
        old = webhook_secrets(before, "t", None)
    with executor_for(secret_key="another-secret-key-of-some-length", secret_key_previous=KEY) as during:
        signed = signed_headers(webhook_keys(during, "t", None), ID, AT, BODY)
        new, *earlier = webhook_secrets(during, "t", None)

    assert earlier == old
    assert signed["webhook-signature"].count("v1,") == 2
    assert verified(signed, old) == verified(signed, new) == {"test": 2432232314}


def test_without_a_secret_key_there_is_nothing_to_sign_with() -> None:
    with executor_for() as executor:
        assert webhook_keys(executor, "t", None) == []


def test_a_secret_key_that_could_be_guessed_signs_nothing() -> None:
    with executor_for(secret_key="short") as executor, pytest.raises(ConfigurationError, match="16 characters"):
        webhook_keys(executor, "t", None)


def test_keys_of_one_purpose_are_not_those_of_another() -> None:
    with with_key() as executor:
        assert executor.derived_keys("webhooks") != executor.derived_keys("artifact links")


def test_the_specifications_own_library_agrees() -> None:
    if not os.environ.get("CI"):
        pytest.importorskip("standardwebhooks")
    from standardwebhooks.webhooks import Webhook  # type: ignore[import-not-found, unused-ignore]

    with with_key() as executor:
        [secret] = webhook_secrets(executor, "t", None)
        signed = signed_headers(webhook_keys(executor, "t", None), "msg_1", time.time(), BODY)

    assert Webhook(secret).verify(BODY, signed) == {"test": 2432232314}
