"""Blobs in S3: the contract against a real server, its credentials, and a server that dies or says nothing."""

import os
import time
from collections.abc import Iterator
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

import pytest

from tests.services import S3
from toolpost.calls.errors import ConfigurationError, EngineError, StoreUnavailableError
from toolpost.stores import Blobs, open_blobs
from toolpost.stores.s3 import S3Blobs
from toolpost.testing import FakeClock
from toolpost.testing.blobs_contract import BlobsContract, got


def url_of(s3: S3, bucket: str, *, prefix: str = "p/q", secret: str | None = None) -> str:
    keys = f"{quote(s3.access_key, safe='')}:{quote(secret or s3.secret_key, safe='')}@"
    return f"s3://{keys}{bucket}/{prefix}?endpoint={quote(s3.url, safe='')}&region={s3.region}"


class TestS3Blobs(BlobsContract):
    @pytest.fixture
    def blobs(self, s3: S3, s3_bucket: str) -> Iterator[Blobs]:
        store = open_blobs(url_of(s3, s3_bucket))
        yield store
        store.close()


@pytest.fixture
def blobs(s3: S3, s3_bucket: str) -> Iterator[S3Blobs]:
    store = S3Blobs(url_of(s3, s3_bucket))
    yield store
    store.close()


def test_a_blob_is_an_object_under_the_prefix(blobs: S3Blobs, s3: S3, s3_bucket: str) -> None:
    digest = got(blobs.put(b"object"))

    assert s3.keys(s3_bucket) == [f"p/q/sha256/{digest[:2]}/{digest[2:]}"]


def test_without_a_prefix_blobs_begin_at_the_bucket(s3: S3, s3_bucket: str) -> None:
    blobs = S3Blobs(url_of(s3, s3_bucket, prefix=""))

    digest = got(blobs.put(b"object"))

    assert s3.keys(s3_bucket) == [f"sha256/{digest[:2]}/{digest[2:]}"]
    blobs.close()


def test_a_signed_url_gives_the_bytes_to_whoever_has_it(blobs: S3Blobs) -> None:
    signed = got(blobs.sign(got(blobs.put(b"for all to read")), 60))

    with urlopen(signed, timeout=10) as answer:
        assert answer.read() == b"for all to read"


@pytest.mark.parametrize("ttl_s", [0, -1, 604801])
def test_a_signature_that_cannot_be_is_refused(blobs: S3Blobs, ttl_s: float) -> None:
    with pytest.raises(ConfigurationError, match="at most 604800 seconds"):
        blobs.sign("a" * 64, ttl_s)


def test_credentials_come_from_the_environment_where_the_url_has_none(
    s3: S3, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    blobs = S3Blobs(f"s3://{s3_bucket}?endpoint={quote(s3.url, safe='')}&region={s3.region}")

    assert got(blobs.get(got(blobs.put(b"environment")))) == b"environment"
    blobs.close()


def test_a_wrong_secret_is_an_error_that_does_not_show_it(strict_s3: S3, s3_bucket: str) -> None:
    blobs = S3Blobs(url_of(strict_s3, s3_bucket, secret="hunter2"))

    with pytest.raises(StoreUnavailableError, match="SignatureDoesNotMatch") as caught:
        got(blobs.ping())

    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in blobs.url
    blobs.close()


@pytest.mark.parametrize("operation", ["put", "get", "ping"])
def test_a_bucket_that_is_not_there_is_an_error_not_a_missing_blob(s3: S3, operation: str) -> None:
    blobs = S3Blobs(url_of(s3, "no-such-bucket-here"))

    with pytest.raises(StoreUnavailableError, match="NoSuchBucket"):
        got({"put": lambda: blobs.put(b"x"), "get": lambda: blobs.get("a" * 64), "ping": blobs.ping}[operation]())
    blobs.close()


def test_a_damaged_blob_is_an_error_that_names_it(blobs: S3Blobs, s3: S3, s3_bucket: str) -> None:
    import obstore

    digest = got(blobs.put(b"precious"))
    obstore.put(blobs._store, f"sha256/{digest[:2]}/{digest[2:]}", b"PRECIOUS")

    with pytest.raises(EngineError, match=f"blob {digest} in .* is damaged"):
        got(blobs.get(digest))


@pytest.fixture
def own_s3() -> Iterator[tuple[S3, str]]:
    try:
        S3.find()
    except Exception as missing:
        pytest.skip(str(missing))
    with S3() as server:
        yield server, server.new_bucket()


def test_a_dead_server_is_an_error_and_the_store_recovers_with_it(own_s3: tuple[S3, str]) -> None:
    server, bucket = own_s3
    clock = FakeClock()
    blobs = S3Blobs(url_of(server, bucket), clock=clock, timeout_s=2)
    digest = got(blobs.put(b"survivor"))

    server.kill()
    with pytest.raises(StoreUnavailableError, match=f"s3://toolpost@{bucket}/p/q cannot be used"):
        got(blobs.put(b"during"))
    with pytest.raises(StoreUnavailableError):  # at once, as the gate is shut
        got(blobs.get(digest))
    server.restart()
    if server.lenient:
        server.expect(200, "PUT", f"/{bucket}")
    clock.advance(10)

    if server.keeps_data:
        assert got(blobs.get(digest)) == b"survivor"
    assert got(blobs.get(got(blobs.put(b"after")))) == b"after"
    blobs.close()


def test_a_server_that_says_nothing_is_given_up_after_the_timeout(own_s3: tuple[S3, str]) -> None:
    server, bucket = own_s3
    blobs = S3Blobs(url_of(server, bucket), timeout_s=0.5)
    got(blobs.ping())

    server.freeze()
    try:
        with pytest.raises(StoreUnavailableError, match="cannot be used"):
            got(blobs.put(b"into the void"))
    finally:
        server.thaw()
    blobs.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_refused_instead_of_waiting_forever(blobs: S3Blobs) -> None:
    got(blobs.ping())
    child = os.fork()
    if not child:
        try:
            blobs.ping().wait(timeout_s=10)
        except StoreUnavailableError as error:
            os._exit(0 if "forked after S3 was used" in str(error) else 2)
        os._exit(1)

    until = time.monotonic() + 20
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < until:
        time.sleep(0.01)
    if not ended[0]:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended == (child, 0)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3:///no/bucket", "need a URL such as s3://bucket"),
        ("s3://bucket?endpoint=http://192.0.2.1:9000", "is http and not on this machine"),
        ("s3://bucket?endpoint=http://example.com", "is http and not on this machine"),
        ("s3://bucket?endpoint=http://localhost.example.com", "is http and not on this machine"),
        ("s3://bucket?colour=red", "no option 'colour'; there are endpoint, region, allow_http"),
        ("s3://key@bucket", "a key needs its secret"),
        ("s3://bucket?allow_http=yes", "allow_http must be true or false"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        open_blobs(url)


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:9", "http://[::1]:9", "http://localhost:9", "http://example.com&allow_http=true"]
)
def test_http_is_for_this_machine_or_on_request(endpoint: str) -> None:
    blobs = open_blobs(f"s3://key:secret@bucket?endpoint={endpoint}")

    assert blobs.url == "s3://key@bucket"
    assert urlsplit(blobs.url).password is None
    blobs.close()
