"""BlobsContract: what every Blobs store must do. Subclass it and give it a fixture; needs pytest and hypothesis."""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from toolpost.calls.clock import SYSTEM_CLOCK
from toolpost.calls.errors import ConfigurationError
from toolpost.stores import Blobs
from toolpost.stores.pending import Pending

PATIENCE_S = 30.0


def got(answer: Any) -> Any:
    """What an operation gives, however it gives it."""
    return answer.wait(SYSTEM_CLOCK, PATIENCE_S) if isinstance(answer, Pending) else answer


class BlobsContract:
    """The suite. The fixture blobs gives an open store that nobody else writes to; it closes it."""

    @pytest.fixture
    def blobs(self) -> Blobs:
        raise NotImplementedError("give the store under test")

    def test_any_bytes_come_back_equal_and_ranges_equal_slices(self, blobs: Blobs) -> None:
        @settings(max_examples=25)
        @given(data=st.binary(max_size=2000), start=st.integers(0, 2100), length=st.none() | st.integers(0, 2100))
        def holds(data: bytes, start: int, length: int | None) -> None:
            digest = got(blobs.put(data))

            assert got(blobs.get(digest)) == data
            assert got(blobs.get(digest, start, length)) == data[start : None if length is None else start + length]
            assert got(blobs.size(digest)) == len(data)

        holds()

    def test_a_blob_is_named_by_its_sha_256(self, blobs: Blobs) -> None:
        assert got(blobs.put(b"toolpost")) == hashlib.sha256(b"toolpost").hexdigest()

    def test_a_put_said_again_changes_nothing(self, blobs: Blobs) -> None:
        first = got(blobs.put(b"once"))

        assert got(blobs.put(b"once")) == first
        assert got(blobs.get(first)) == b"once"

    def test_what_was_never_put_is_none(self, blobs: Blobs) -> None:
        nobodys = hashlib.sha256(b"nobody put this").hexdigest()

        assert got(blobs.get(nobodys)) is None
        assert got(blobs.get(nobodys, 3, 4)) is None
        assert got(blobs.get(nobodys, 0, 0)) is None
        assert got(blobs.size(nobodys)) is None
        assert got(blobs.delete(nobodys)) is False

    def test_a_deleted_blob_is_gone_and_its_neighbour_stays(self, blobs: Blobs) -> None:
        gone, stays = got(blobs.put(b"gone")), got(blobs.put(b"stays"))

        assert got(blobs.delete(gone)) is True
        assert got(blobs.get(gone)) is None
        assert got(blobs.delete(gone)) is False
        assert got(blobs.get(stays)) == b"stays"

    def test_ten_megabytes_come_back_whole_and_in_part(self, blobs: Blobs) -> None:
        data = b"".join(n.to_bytes(4, "big") for n in range(2_500_000))

        digest = got(blobs.put(data))

        assert got(blobs.get(digest)) == data
        assert got(blobs.get(digest, 8_000_000, 1_000_000)) == data[8_000_000:9_000_000]
        assert got(blobs.get(digest, 9_999_990)) == data[-10:]

    @pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n", "/" * 64])
    def test_what_is_no_digest_is_refused(self, blobs: Blobs, name: str) -> None:
        for operation in (blobs.get, blobs.size, blobs.delete):
            with pytest.raises(ConfigurationError, match="64 lower-case hex digits"):
                got(operation(name))

    def test_a_range_that_is_none_is_refused(self, blobs: Blobs) -> None:
        digest = got(blobs.put(b"range"))

        for start, length in ((-1, None), (0, -1)):
            with pytest.raises(ConfigurationError, match="a range begins at 0 or later"):
                got(blobs.get(digest, start, length))

    async def test_tasks_put_and_get_at_the_same_time(self, blobs: Blobs) -> None:
        async def journey(n: int) -> bool:
            data = b"%d" % n * 1000
            answer = blobs.put(data)
            digest = await answer if isinstance(answer, Pending) else answer
            back = blobs.get(digest)
            return (await back if isinstance(back, Pending) else back) == data

        assert all(await asyncio.gather(*(journey(n) for n in range(40))))

    def test_threads_put_one_blob_at_the_same_time(self, blobs: Blobs) -> None:
        with ThreadPoolExecutor(8) as pool:
            digests = set(pool.map(lambda _: got(blobs.put(b"all the same")), range(16)))

        assert len(digests) == 1
        assert got(blobs.get(digests.pop())) == b"all the same"

    def test_a_signed_url_is_for_what_has_a_digest(self, blobs: Blobs) -> None:
        with pytest.raises(ConfigurationError, match="64 lower-case hex digits"):
            got(blobs.sign("nonsense", 60))

    def test_it_says_where_it_is_and_can_be_reached(self, blobs: Blobs) -> None:
        assert "://" in blobs.url
        assert got(blobs.ping()) is None
