"""The stores in memory: bounded, isolated, exact."""

import threading

import pytest
from hypothesis import given, strategies as st

from toolpost.stores.memory import MemoryCache, TokenBuckets, size_of
from toolpost.testing import FakeClock


class TestMemoryCache:
    def test_a_value_that_cannot_be_copied_is_not_kept(self):
        cache = MemoryCache(10, FakeClock().monotonic)

        assert not cache.put("k", threading.Lock(), 60)
        assert cache.get("k") is MemoryCache.MISSING

    @pytest.mark.parametrize("ttl_s", [0, -1])
    def test_a_value_without_a_life_is_not_kept(self, ttl_s):
        cache = MemoryCache(10, FakeClock().monotonic)

        assert not cache.put("k", 1, ttl_s)
        assert len(cache) == 0

    def test_copies_go_in_and_out(self):
        cache = MemoryCache(10, FakeClock().monotonic)
        value = {"a": [1]}
        cache.put("k", value, 60)
        value["a"].append(2)
        cache.get("k")["a"].append(3)

        assert cache.get("k") == {"a": [1]}

    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=200))
    def test_it_is_an_lru_of_its_size(self, steps):
        cache, model = MemoryCache(5, FakeClock().monotonic), {}
        for put, key in steps:
            if put:
                model.pop(key, None)
                model[key] = key
                cache.put(key, key, 60)
                if len(model) > 5:
                    del model[next(iter(model))]
            else:
                expected = model.pop(key, MemoryCache.MISSING)
                if expected is not MemoryCache.MISSING:
                    model[key] = expected
                assert cache.get(key) == expected or cache.get(key) is expected
        assert len(cache) == len(model)

    @given(
        st.lists(st.tuples(st.sampled_from(["put", "get", "drop", "clear"]), st.integers(0, 9), st.integers(0, 900)))
    )
    def test_entries_and_bytes_are_bounded_and_counted_right(self, steps):
        cache = MemoryCache(6, FakeClock().monotonic, max_bytes=4000)
        for what, key, size in steps:
            if what == "put":
                cache.put((f"tool{key % 2}@1", key), ["x" * size], 60)
            elif what == "get":
                cache.get((f"tool{key % 2}@1", key))
            elif what == "clear":
                cache.clear(f"tool{key % 2}@")
            elif (entry := cache.entries.get((f"tool{key % 2}@1", key))) is not None:
                cache.drop((f"tool{key % 2}@1", key), entry)
            assert len(cache) <= 6
            assert cache.bytes == sum(entry.bytes for entry in cache.entries.values()) <= 4000

    def test_the_least_recently_used_makes_room_in_bytes_too(self):
        cache = MemoryCache(100, FakeClock().monotonic, max_bytes=3 * 1400)
        for key in "abc":
            cache.put(key, ["x" * 1000], 60)
        cache.get("a")
        cache.put("d", ["x" * 1000], 60)

        assert list(cache.entries) == ["c", "a", "d"]

    def test_one_value_larger_than_all_the_room_is_not_kept_and_evicts_nothing(self):
        cache = MemoryCache(100, FakeClock().monotonic, max_bytes=2000)
        cache.put("a", 1, 60)

        assert cache.put("b", "x" * 3000, 60) is None
        assert cache.put("c", "x" * 500, 60, max_bytes=499) is None
        assert list(cache.entries) == ["a"]

    @pytest.mark.parametrize(
        ("value", "least"),
        [
            ("x" * 5000, 5000),
            ([{"text": "x" * 5000}], 5000),
            ({"blob": b"x" * 5000}, 5000),
            ((1, {2: {"x" * 5000}}), 5000),
            (type("Thing", (), {})(), 8),
        ],
    )
    def test_the_size_of_a_value_is_not_below_what_it_holds(self, value, least):
        assert least <= size_of(value) < least + 1000

    def test_a_value_that_contains_itself_or_is_very_deep_has_a_size(self):
        loop = [b"x"]
        loop.append(loop)
        deep = [b"x"]
        for _ in range(100_000):
            deep = [deep]

        assert size_of(loop) < 100
        assert size_of(deep) > 1_000_000

    def test_a_long_key_counts(self):
        cache = MemoryCache(10, FakeClock().monotonic)
        cache.put(("tool", ("user", None), b"x" * 5000), 1, 60)

        assert cache.bytes > 5000

    def test_clearing_by_prefix_leaves_the_others(self):
        cache = MemoryCache(10, FakeClock().monotonic)
        for tool in ("A@1", "A@2", "AB@1"):
            cache.put((tool, b"{}"), 1, 60)
        cache.put("text", 1, 60)

        assert cache.clear("A@") == 2
        assert list(cache.entries) == [("AB@1", b"{}"), "text"]
        assert cache.clear() == 2
        assert cache.bytes == 0

    def test_smaller_bounds_take_effect_at_once(self):
        cache = MemoryCache(10, FakeClock().monotonic)
        for key in range(10):
            cache.put(key, "x" * 100, 60)
        cache.resize(10, max_bytes=1000)

        assert list(cache.entries) == [8, 9]

    def test_get_gives_nothing_stale_and_forgets_what_is_gone(self):
        clock = FakeClock()
        cache = MemoryCache(10, clock.monotonic)
        cache.put("k", 1, 10, stale_s=10)
        clock.advance(10)
        assert cache.get("k") is MemoryCache.MISSING
        assert len(cache) == 1

        clock.advance(10)
        assert cache.get("k") is MemoryCache.MISSING
        assert (len(cache), cache.bytes) == (0, 0)

    def test_many_threads_never_see_another_keys_value(self):
        cache = MemoryCache(50, FakeClock().monotonic)
        wrong = []

        def work(seed):
            for n in range(2000):
                key = (seed * n) % 100
                cache.put(key, [key], 60)
                value = cache.get(key)
                if value is not MemoryCache.MISSING and value != [key]:
                    wrong.append((key, value))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in (3, 7, 11, 13)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert wrong == []
        assert len(cache) <= 50


class TestTokenBuckets:
    @pytest.mark.parametrize("way", ["take", "taker", "take_all"])
    def test_a_bucket_that_is_only_ever_refused_is_not_forgotten_and_so_filled(self, way):
        buckets = TokenBuckets(FakeClock().monotonic, max_keys=2)
        quick = buckets.taker(0.001, 1.0)

        def take(key):
            if way == "take":
                return buckets.take(key, rate=0.001, burst=1.0)
            return quick(key) if way == "taker" else buckets.take_all([(key, 0.001, 1.0)])[0]

        assert take("noisy") == 0.0
        for n in range(5):
            assert take(f"user {n}") == 0.0
            assert take("noisy") > 0

    @given(st.lists(st.floats(0, 20), min_size=1, max_size=100), st.integers(1, 10), st.floats(0.1, 5))
    def test_never_more_than_burst_plus_rate_times_time(self, waits, burst, rate):
        clock = FakeClock()
        buckets = TokenBuckets(clock.monotonic)
        granted = 0
        for wait in waits:
            clock.advance(wait)
            granted += buckets.take("k", rate=rate, burst=burst) == 0.0

        assert granted <= burst + rate * sum(waits) + 1e-6

    @given(st.integers(1, 10), st.floats(0.1, 5))
    def test_the_wait_it_names_is_exact(self, burst, rate):
        clock = FakeClock()
        buckets = TokenBuckets(clock.monotonic)
        for _ in range(burst):
            assert buckets.take("k", rate=rate, burst=burst) == 0.0
        wait = buckets.take("k", rate=rate, burst=burst)

        clock.advance(wait * 0.99)
        assert buckets.take("k", rate=rate, burst=burst) > 0
        clock.advance(wait * 0.011)
        assert buckets.take("k", rate=rate, burst=burst) == 0.0

    def test_keys_do_not_share_and_are_bounded_in_number(self):
        buckets = TokenBuckets(FakeClock().monotonic, max_keys=2)
        for key in "abc":
            assert buckets.take(key, rate=1, burst=1) == 0.0

        assert buckets.take("c", rate=1, burst=1) > 0
        assert buckets.take("a", rate=1, burst=1) == 0.0

    def test_threads_together_never_take_more_than_there_is(self):
        buckets = TokenBuckets(FakeClock().monotonic)
        granted = []

        def work():
            for _ in range(200):
                if buckets.take("k", rate=1, burst=100) == 0.0:
                    granted.append(1)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(granted) == 100
