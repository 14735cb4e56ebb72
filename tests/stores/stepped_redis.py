"""A RedisState whose server's clock stands still until a test moves it: only where now.lua reads TIME differs."""

import itertools

from toolpost.stores.redis import RedisState
from toolpost.stores.redis_link import RedisLink

_prefixes = itertools.count()


class SteppedRedis(RedisState):
    """Moved by advance(seconds). Keys still expire by the real clock, so lifetimes must be seconds at least."""

    def __init__(self, url: str) -> None:
        self.prefix = f"stepped{next(_prefixes)}"
        super().__init__(url, prefix=self.prefix)
        self._moment_us = 1_750_000_000_000_000
        self._mover = RedisLink(url, timeout_s=5.0)
        self.advance(0)

    def advance(self, seconds: float) -> None:
        self._moment_us += round(seconds * 1e6)
        self._mover.exchange([(b"SET", f"{{{self.prefix}}}:test clock", self._moment_us)])

    def close(self) -> None:
        super().close()
        self._mover.close()

    def _part(self, name: str) -> str:
        text = super()._part(name)
        return text.replace("redis.call('TIME')", f"{{0, redis.call('GET', '{{{self.prefix}}}:test clock')}}")
