"""Blobs in memory: the contract, and that nothing is lost for want of room."""

from collections.abc import Iterator

import pytest

from toolpost.calls.errors import ConfigurationError, StoreUnavailableError
from toolpost.stores import Blobs, open_blobs
from toolpost.stores.memory_blobs import MemoryBlobs
from toolpost.testing.blobs_contract import BlobsContract


class TestMemoryBlobs(BlobsContract):
    @pytest.fixture
    def blobs(self) -> Iterator[Blobs]:
        store = open_blobs("memory://")
        yield store
        store.close()


def test_a_blob_that_does_not_fit_is_refused_and_none_is_dropped_for_it() -> None:
    blobs = MemoryBlobs(max_bytes=10)
    first = blobs.put(b"12345678")

    with pytest.raises(StoreUnavailableError, match="holds 8 of at most 10 bytes, so 3 more do not fit"):
        blobs.put(b"abc")

    assert blobs.get(first) == b"12345678"


def test_room_is_counted_once_for_equal_blobs_and_freed_by_delete() -> None:
    blobs = MemoryBlobs(max_bytes=10)
    digest = blobs.put(b"12345678")
    assert blobs.put(b"12345678") == digest

    blobs.delete(digest)
    blobs.delete(digest)

    blobs.put(b"abcdefghij")
    with pytest.raises(StoreUnavailableError):
        blobs.put(b"k")


def test_it_keeps_a_copy_of_what_may_change() -> None:
    blobs = MemoryBlobs()
    data = bytearray(b"before")
    digest = blobs.put(data)

    data[:] = b"after!"

    assert blobs.get(digest) == b"before"


def test_it_has_no_urls_and_says_it_does_not_last() -> None:
    blobs = MemoryBlobs()

    assert blobs.sign(blobs.put(b"x"), 60) is None
    assert (blobs.local, blobs.durable) == (True, False)


def test_a_bound_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="max_bytes must be more than 0, got 0"):
        MemoryBlobs(max_bytes=0)
