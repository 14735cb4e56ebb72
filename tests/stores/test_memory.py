"""The stores in memory: bounded, isolated, exact."""

import threading

import pytest
from hypothesis import given, strategies as st

from toolpost.stores.memory import MemoryCache, TokenBuckets
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
