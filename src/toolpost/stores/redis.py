"""RedisState: the State that processes share. Every operation is one command, what is asked at once one round trip."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

from redis.exceptions import ClusterDownError, MasterDownError, ReadOnlyError, RedisError

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import ConfigurationError, StoreUnavailableError
from toolpost.stores import Circuit, CircuitRules, Claim, ClaimAsk, ClaimState, Outgoing, public_url
from toolpost.stores.pending import Answer, Batcher, Pending, answer_all
from toolpost.stores.redis_link import RedisLink, Word

T = TypeVar("T")

SCRIPTS = {
    "take": "now take",
    "left": "now left",
    "enter": "now enter",
    "get": "now get",
    "marks": "now marks",
    "put": "now put",
    "claim": "now claims claim",
    "renew": "now renew",
    "finish": "now claims finish",
    "release": "release",
    "lookup": "now claims lookup",
    "forget": "now claims forget",
    "unsettled": "now claims unsettled",
    "circuit": "now circuit",
}
"""Name -> the files that make it, in this order."""

MARK_MS = 24 * 3600 * 1000
LONGEST_S = 10 * 365 * 24 * 3600
WHOLE_SERVER = (ReadOnlyError, MasterDownError, ClusterDownError)
"""Refusals that say nothing about the operation, but that this server serves nobody now."""


class Op(NamedTuple):
    """What is asked of Redis: a command, and what makes the answer of its reply."""

    name: str
    command: tuple[Word, ...]
    answer: Callable[[Any], Any]


class RedisState:
    """State in Redis 5 or later, or what speaks its protocol and runs its scripts.

    One thread owns one connection. It writes what has been asked meanwhile in one go and reads the replies: batches
    counts these round trips. Nothing is tried again, as nobody knows whether the server has done what it did not
    answer. A server that is silent for timeout_s, to connect or to answer, counts as unreachable; until a short pause
    is over every operation then fails at once, with StoreUnavailableError.
    All keys begin with "{prefix}:", so that a cluster keeps them on one node. Claims need a server that evicts nothing
    (maxmemory-policy noeviction), keeps what it was told (appendfsync always) and whose clock does not leap: what it
    forgets may run again, and leases end by its clock.
    Safe from any thread and loop, and in a forked child.
    """

    local = False

    def __init__(
        self, url: str, *, clock: Clock = SYSTEM_CLOCK, prefix: str = "toolpost", timeout_s: float = 2.0
    ) -> None:
        self.url = public_url(url)
        if not prefix or set(prefix) & set("{}"):
            raise ConfigurationError(f"the prefix of keys in Redis must be a name without braces, got {prefix!r}")
        self._prefix = _bytes("{" + prefix + "}:")
        self._numbers, self._open_claims = self._prefix + b"number", self._prefix + b"open"
        self._timeout_s = timeout_s
        self._given_url = url
        self._link = RedisLink(url, timeout_s=timeout_s, scripts=lambda: [text for _, text in self._sources.values()])
        self._clears: set[threading.Thread] = set()
        self._is_guest = False
        self._batcher = Batcher(
            f"redis:{prefix}",
            self._flush,
            interrupt=self._link.interrupt,
            forked=self._forked,
            timeout_s=2 * timeout_s + 1,
            clock=clock,
        )

    def beside(self, prefix: str) -> RedisState:
        """A State with keys of its own over this one's connection, so that what is asked of both is one round trip.

        It ends with this one.
        """
        other = RedisState(self._given_url, prefix=prefix, timeout_s=self._timeout_s)
        other._link, other._batcher, other._is_guest = self._link, self._batcher, True
        return other

    @property
    def batches(self) -> int:
        """Round trips there have been for operations; connecting and clear() have their own."""
        return self._batcher.batches

    # limits

    def take(self, buckets: Sequence[tuple[str, float, float]], /) -> Answer[tuple[float, int]]:
        """Take one token from each bucket (key, rate a second, burst), or from none."""
        return self._run("take", *self._buckets(buckets), _wait_and_index) if buckets else (0.0, -1)

    def left(self, buckets: Sequence[tuple[str, float, float]], /) -> Answer[list[float]]:
        """How many tokens each bucket (key, rate a second, burst) holds now, taking none; burst for an unknown one."""
        return self._run("left", *self._buckets(buckets), _numbers) if buckets else []

    def _buckets(self, buckets: Sequence[tuple[str, float, float]]) -> tuple[list[bytes], list[str]]:
        keys = [self._key(b"bucket:", key) for key, _, _ in buckets]
        return keys, [repr(float(number)) for _, rate, burst in buckets for number in (rate, burst)]

    def enter(self, key: str, holder: str, limit: int, lease_s: float, /) -> Answer[float]:
        """Take one of limit places: 0.0 when had, else the seconds until the oldest lease ends. Again: it renews."""
        words = (_bytes(holder), limit, _us(lease_s))
        return self._run("enter", (self._key(b"place:", key),), words, _seconds)

    def leave(self, key: str, holder: str, /) -> Answer[None]:
        """Give the place back."""
        return self._do("leave", _nothing, b"ZREM", self._key(b"place:", key), _bytes(holder))

    # cache

    def get(self, key: str, tags: Sequence[str] = (), /) -> Answer[tuple[bytes, float, float] | None]:
        """(value, seconds until it is stale, seconds until it is gone), None where there is none or a tag is void."""
        keys = (self._key(b"value:", key), *self._tags(tags))
        return self._run("get", keys, (self._prefix + b"tag:",), _value_with_times)

    def marks(self, tags: Sequence[str], /) -> Answer[list[int]]:
        """A number for each tag, which void() changes and which never comes again."""
        return self._run("marks", (self._numbers, *self._tags(tags)), (MARK_MS,), _integers) if tags else []

    def put(
        self, key: str, value: bytes, ttl_s: float, stale_s: float = 0.0, tags: Mapping[str, int] | None = None, /
    ) -> Answer[bool]:
        """Keep a value, unless one of its tags was made void since its mark was asked for."""
        ttl_us, marks = _us(ttl_s), tags or {}
        if ttl_us <= 0:
            return False
        words = (word for tag, mark in marks.items() for word in (_bytes(tag), mark))
        keys = (self._key(b"value:", key), *self._tags(marks))
        return self._run("put", keys, (value, ttl_us, _us(stale_s), *words), bool)

    def void(self, tags: Sequence[str], /) -> Answer[None]:
        """Make every entry with one of these tags invalid."""
        return self._do("void", _nothing, b"DEL", *self._tags(tags)) if tags else None

    def delete(self, key: str, /) -> Answer[bool]:
        """Forget one value."""
        return self._do("delete", bool, b"UNLINK", self._key(b"value:", key))

    def clear(self, prefix: str = "", /) -> Answer[int]:
        """Forget all values whose key begins so; how many. Takes its time, on a connection of its own."""
        pending: Pending[int] = Pending()
        thread = threading.Thread(target=self._clear, args=(prefix, pending), name="toolpost-redis-clear", daemon=True)
        self._clears.add(thread)
        thread.start()
        return pending

    # circuits

    def admit(self, key: str, rules: CircuitRules, /) -> Answer[Circuit]:
        """Ask whether a call may run."""
        return self._circuit(key, "admit", *_rules(rules))

    def report(
        self, key: str, rules: CircuitRules, ok: bool | None, probe: int = 0, cause: str = "", /
    ) -> Answer[Circuit]:
        """Say how an admitted call ended: True, False, or None (says nothing about the dependency)."""
        return self._circuit(key, "report", *_rules(rules), "" if ok is None else int(ok), probe, _bytes(cause))

    def circuit(self, key: str, /) -> Answer[Circuit]:
        """How a circuit stands, asking nothing of it; admitted says whether a call would be."""
        return self._circuit(key, "look")

    def force(self, key: str, state: Literal["open", "closed", ""], /) -> Answer[None]:
        """Hold a circuit open or closed; "" lets it go on by itself, closed and empty."""
        return self._run("circuit", (self._key(b"circuit:", key), self._numbers), ("force", state), _nothing)

    def _circuit(self, key: str, *words: Word) -> Pending[Circuit]:
        return self._run("circuit", (self._key(b"circuit:", key), self._numbers), words, _a_circuit)

    # claims

    def claim(self, ask: ClaimAsk, /) -> Answer[Claim]:
        """Take the claim, or say how it stands. An in-flight claim whose lease ran out counts as unknown."""
        name = _bytes(ask.key)
        keys = (self._prefix + b"claim:" + name, self._open_claims, self._numbers)
        fingerprint = b"" if ask.fingerprint is None else b"=" + _bytes(ask.fingerprint)
        lease = (_us(ask.lease_s), int(ask.take_over), int(ask.rerun_failed))
        words = (name, fingerprint, _bytes(ask.owner), *lease, _bytes(ask.tool), _bytes(ask.tenant))
        return self._run("claim", keys, words, partial(_a_claim, ask.key))

    def renew(self, held: Sequence[tuple[str, int]], lease_s: float, /) -> Answer[list[bool]]:
        """Lengthen leases of (key, fence), in one go; False for each that is no longer held."""
        if not held:
            return []
        keys = [self._key(b"claim:", key) for key, _ in held]
        words = [word for key, fence in held for word in (_bytes(key), fence)]
        return self._run("renew", (self._open_claims, *keys), (_us(lease_s), *words), _booleans)

    def finish(
        self,
        key: str,
        fence: int,
        state: Literal["done", "failed", "unknown"],
        result: bytes | None,
        ttl_s: float,
        outbox: Sequence[Outgoing] = (),
        /,
    ) -> Answer[bool]:
        """Say how it ended. False when another has taken over; the same finish said again is True."""
        if outbox:
            raise ConfigurationError("redis:// State has no outbox; claims with messages need Records")
        kept = () if result is None else (result,)
        return self._on_claim("finish", key, fence, state, _us(ttl_s), *kept)

    def release(self, key: str, fence: int, /) -> Answer[bool]:
        """Give the claim back: the body never ran."""
        return self._on_claim("release", key, fence)

    def lookup(self, key: str, /) -> Answer[Claim | None]:
        """How a claim stands, taking nothing; None where there is none."""
        return self._run("lookup", (self._key(b"claim:", key),), (), partial(_a_claim_or_none, key))

    def forget(self, key: str, /) -> Answer[bool]:
        """Drop a claim that nobody holds. False when held or not there."""
        return self._on_claim("forget", key)

    def unsettled(self, limit: int = 100, /) -> Answer[list[Claim]]:
        """Claims whose end is unknown, and those in flight whose lease ran out; those silent for longest first."""
        return self._run("unsettled", (self._open_claims,), (self._prefix + b"claim:", limit), _claims)

    def _on_claim(self, script: str, key: str, *words: Word) -> Pending[bool]:
        name = _bytes(key)
        return self._run(script, (self._prefix + b"claim:" + name, self._open_claims), (name, *words), bool)

    def ping(self) -> Answer[None]:
        """Reach the store."""
        return self._do("ping", _nothing, b"PING")

    def close(self) -> None:
        """Do what was asked, then let go of the connection and the thread."""
        if not self._is_guest:
            self._batcher.close()
        for thread in tuple(self._clears):
            thread.join(self._timeout_s)
        if not self._is_guest:
            self._link.close()

    # from an operation to a command

    def _key(self, kind: bytes, key: str) -> bytes:
        return self._prefix + kind + _bytes(key)

    def _tags(self, tags: Sequence[str] | Mapping[str, int]) -> list[bytes]:
        return [self._key(b"tag:", tag) for tag in tags]

    def _do(self, name: str, answer: Callable[[Any], T], *command: Word) -> Pending[T]:
        return self._batcher.submit(Op(name, command, answer))

    def _run(self, script: str, keys: Sequence[bytes], words: Sequence[Word], answer: Callable[[Any], T]) -> Pending[T]:
        return self._do(script, answer, b"EVALSHA", self._sources[script][0], len(keys), *keys, *words)

    @cached_property
    def _sources(self) -> dict[str, tuple[str, str]]:
        """Name of a script -> (its digest, its text)."""
        texts = {name: "\n".join(map(self._part, parts.split())) for name, parts in SCRIPTS.items()}
        return {name: (hashlib.sha1(text.encode()).hexdigest(), text) for name, text in texts.items()}

    def _part(self, name: str) -> str:
        return Path(__file__).with_name(f"{name}.lua").read_text()

    # from commands to answers, in the batcher's thread

    def _flush(self, pendings: list[Pending[Any]]) -> None:
        replies: list[Any] = []
        try:
            self._link.exchange([pending.op.command for pending in pendings], replies)
            for reply in replies:
                if isinstance(reply, WHOLE_SERVER):
                    raise reply
        except (RedisError, OSError) as error:
            self._link.close()
            heard = [pair for pair in zip(pendings, replies, strict=False) if not isinstance(pair[1], Exception)]
            self._hear(heard)
            answer_all([pending for pending, _ in heard])
            raise self._unavailable("cannot be reached", error) from error
        self._hear(zip(pendings, replies, strict=True))

    def _hear(self, replies: Iterable[tuple[Pending[Any], Any]]) -> None:
        for pending, reply in replies:
            if isinstance(reply, Exception):
                pending.error = self._unavailable(f"refused {pending.op.name}", reply)
                pending.error.__cause__ = reply
            else:
                pending.value = pending.op.answer(reply)

    def _unavailable(self, what: str, error: Exception) -> StoreUnavailableError:
        why = str(error).partition(" script: ")[0].partition(", with args ")[0][:200] or type(error).__name__
        return StoreUnavailableError(f"{self.url} {what}: {why}")

    def _forked(self) -> None:
        self._link.let_go()
        self._clears = set()

    def _clear(self, prefix: str, pending: Pending[int]) -> None:
        link = RedisLink(self._given_url, timeout_s=self._timeout_s)
        try:
            pending.value = link.delete(self._key(b"value:", prefix))
        except (RedisError, OSError) as error:
            pending.error = self._unavailable("cannot be reached", error)
            pending.error.__cause__ = error
        finally:
            link.close()
            self._clears.discard(threading.current_thread())
            answer_all([pending])


def _bytes(word: str) -> bytes:
    return word.encode("utf-8", "surrogatepass")


def _text(word: bytes) -> str:
    return word.decode("utf-8", "surrogatepass")


def _us(seconds: float) -> int:
    """Microseconds, which is what scripts count in."""
    return round(min(seconds, LONGEST_S) * 1e6)


def _rules(rules: CircuitRules) -> tuple[Word, ...]:
    rate = "" if rules.error_rate is None else repr(rules.error_rate)
    bounds = (rules.max_failures, rules.window)
    return (rules.failures, _us(rules.recovery_s), rules.half_open_calls, rate, *bounds)


# from a reply to an answer


def _nothing(reply: object) -> None:
    return None


def _seconds(reply: int) -> float:
    return reply / 1e6


def _integers(reply: list[bytes]) -> list[int]:
    return [int(each) for each in reply]


def _numbers(reply: list[bytes]) -> list[float]:
    return [float(each) for each in reply]


def _booleans(reply: list[int]) -> list[bool]:
    return [bool(each) for each in reply]


def _wait_and_index(reply: list[int]) -> tuple[float, int]:
    return reply[0] / 1e6, reply[1]


def _value_with_times(reply: list[Any] | None) -> tuple[bytes, float, float] | None:
    return None if reply is None else (reply[0], reply[1] / 1e6, reply[2] / 1e6)


def _a_circuit(reply: list[Any]) -> Circuit:
    admitted, state, probe, left, cause, failures, forced, opened = reply
    said = (_text(cause), failures, _text(forced), bool(opened))
    return Circuit(bool(admitted), _text(state), probe, left / 1e6, *said)


def _a_claim(key: str, reply: list[Any]) -> Claim:
    state, fence, taken_over, result, left, began, owner, tool, tenant = reply
    times = (left / 1e6, began / 1e6)
    return Claim(
        cast(ClaimState, _text(state)), int(fence), bool(taken_over), result, *times,
        _text(owner), key, _text(tool), _text(tenant),
    )  # fmt: skip


def _a_claim_or_none(key: str, reply: list[Any] | None) -> Claim | None:
    return None if reply is None else _a_claim(key, reply)


def _claims(reply: list[Any]) -> list[Claim]:
    return [_a_claim(_text(key), claim) for key, claim in zip(reply[::2], reply[1::2], strict=True)]
