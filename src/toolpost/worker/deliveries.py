"""Deliveries: takes callbacks from the outbox and sends them, signed, until a receiver has them or it is hopeless."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from toolpost.calls.errors import StoreUnavailableError, ToolExecutionError
from toolpost.stores import Outgoing
from toolpost.worker.callbacks import KIND
from toolpost.worker.delivery_lanes import HELD, Lanes
from toolpost.worker.delivery_log import Attempt, Delivery, DeliveryLog, DeliveryState, with_attempt
from toolpost.worker.keeping import had
from toolpost.worker.webhooks import signed_headers, webhook_keys

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor
    from toolpost.worker.delivery_requests import DeliveryRequests, Outcome

logger = logging.getLogger("toolpost.callbacks")

DELAYS_S: Final = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""Between one attempt and the next: ten in 76 hours, as the Standard Webhooks specification proposes."""
SPREAD: Final = 0.2
"""By how much of itself a delay is longer at most, so that what failed together is not tried together again."""
LEASE_S: Final = 60.0
"""How long a message is one process's: three times what a request takes at most."""
POLL_S: Final = 1.0
MOST_HELD: Final = 256
"""Messages that wait in memory, each of up to a quarter of a megabyte."""
GONE: Final = 410


class _Taken(NamedTuple):
    """A message that this process holds. late_at: when, by the monotonic clock, it must not be begun any more."""

    number: int
    message: Outgoing
    late_at: float


class Deliveries:
    """Sends the callbacks of one executor, on one event loop; any number of processes may do so beside each other.

    A message is sent at least once: who is killed between a request and its note of it leaves it to be sent again, with
    the same webhook-id. concurrency is how many requests are under way at a time; one host, and one tenant, has a part
    of them at most. counts: how many were delivered, failed, disabled, put off (retried, or early) or no longer needed
    (dropped).
    """

    def __init__(
        self,
        executor: ToolExecutor,
        *,
        concurrency: int = 64,
        per_host: int = 8,
        per_owner: int = 32,
        poll_s: float = POLL_S,
        lease_s: float = LEASE_S,
        requests: DeliveryRequests | None = None,
    ) -> None:
        self._executor, self._clock = executor, executor.clock
        self._log = DeliveryLog(executor)
        most = {"host": per_host, "owner": per_owner, "all": concurrency}
        self._lanes: Lanes[_Taken] = Lanes(executor.clock, most, patience_s=lease_s / 3)
        self._most_held, self._poll_s, self._lease_s = min(concurrency * HELD, MOST_HELD), poll_s, lease_s
        self._requests = requests
        self._running: set[asyncio.Task[None]] = set()
        self._bell, self._ended = asyncio.Event(), asyncio.Event()
        self._ended.set()
        self._stopping = self._away = False
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        """Take and send until drain() is called, or the task is cancelled."""
        self._ended.clear()
        try:
            async with asyncio.TaskGroup() as group:
                while not self._stopping:
                    room = self._most_held - self._lanes.held
                    taken = await self._take(room) if room > 0 else []
                    for one in taken:
                        self._start(group, one)
                    if not taken or len(taken) < room:
                        await self._rest()
                for one in self._lanes.give_up():
                    self._give_back(one)
        finally:
            if self._requests is not None:
                await self._requests.close()
            self._ended.set()

    def wake(self) -> None:
        """Look into the outbox now: something was put there."""
        self._bell.set()

    async def drain(self, timeout_s: float | None = None) -> bool:
        """Take no more, and wait for what is under way; what is not over after timeout_s is given back.

        Whether all was over.
        """
        self._stopping = True
        self._bell.set()
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        except TimeoutError:
            for task in self._running:
                task.cancel()
            await self._ended.wait()
            return False
        return True

    # -- taking -------------------------------------------------------------------------------------------------------

    async def _take(self, room: int) -> list[_Taken]:
        late_at = self._clock.monotonic() + self._lease_s * 0.6  # so that who begins then is done before it ends
        try:
            taken = await had(self._executor.records.take_outbox(room, self._lease_s, [KIND]))
        except StoreUnavailableError as error:
            if not self._away:
                logger.warning("callbacks wait for their store: %s", error.message)
            self._away = True
            return []
        self._away = False
        return [_Taken(number, message, late_at) for number, message, _ in taken]

    async def _rest(self) -> None:
        """Wait until there is a reason to look again: a bell, a free place, or time."""
        if not self._stopping:
            alarm = self._clock.alarm(self._poll_s, self._bell.set)
            try:
                await self._bell.wait()
            finally:
                alarm.cancel()
        self._bell.clear()

    def _start(self, group: asyncio.TaskGroup, taken: _Taken) -> None:
        """Send it if there is a place, or when there is one; if not soon, its place here is better for another."""
        lanes = (("host", _host_of(taken.message.dest)), ("owner", _owner_of(taken.message)), ("all", ""))
        wait_s = self._lanes.enter(lanes, taken)
        if wait_s is None:
            return
        if wait_s > 0:
            group.create_task(self._later(taken.number, wait_s))
            return
        task = group.create_task(self._sent(taken.number, taken.message))
        self._running.add(task)
        begun = self._clock.monotonic()

        def ended(task: asyncio.Task[None]) -> None:
            self._running.discard(task)
            now = self._clock.monotonic()
            for one in self._lanes.leave(lanes, now - begun):
                if self._stopping or now > one.late_at:
                    self._give_back(one)
                else:
                    self._start(group, one)
            self._bell.set()

        task.add_done_callback(ended)

    async def _later(self, number: int, wait_s: float) -> None:
        with contextlib.suppress(StoreUnavailableError):  # then its lease says when
            await had(self._executor.records.defer_outbox([number], wait_s))

    def _give_back(self, taken: _Taken) -> None:
        """Leave it to whoever takes it next. What is asked for here is done, though nobody waits for it."""
        with contextlib.suppress(StoreUnavailableError):
            self._executor.records.defer_outbox([taken.number], 0.0)

    # -- sending ------------------------------------------------------------------------------------------------------

    async def _sent(self, number: int, message: Outgoing) -> None:
        """One message on its way, once. Nothing that goes wrong with it reaches the others."""
        try:
            await self._deliver(number, message)
        except asyncio.CancelledError:
            self._give_back(_Taken(number, message, 0.0))
            raise
        except ToolExecutionError as error:
            logger.warning(
                "a callback of call %s is tried again in %g s: %s", message.key, self._lease_s, error.message
            )
        except Exception:
            logger.exception("a callback of call %s is tried again in %g s", message.key, self._lease_s)

    async def _deliver(self, number: int, message: Outgoing) -> None:
        delivery = await self._log.begin(message)
        now = self._clock.now()
        if delivery is None:
            await had(self._executor.records.sent([number]))
            self.counts["dropped"] += 1
        elif delivery.next_at is not None and delivery.next_at > now:
            await had(self._executor.records.defer_outbox([number], delivery.next_at - now))
            self.counts["early"] += 1
        elif await self._log.is_disabled(message.dest, delivery.tenant, delivery.user_id):
            skipped = Attempt(at=now, turn=delivery.turn, error="the endpoint is disabled; nothing was sent")
            await self._end(number, message, delivery, skipped, "disabled")
        else:
            await self._attempt(number, message, delivery, now)

    async def _attempt(self, number: int, message: Outgoing, delivery: Delivery, now: float) -> None:
        begun = self._clock.stopwatch()
        outcome = await self._request(message, delivery)
        attempt = Attempt(
            at=now,
            turn=delivery.turn,
            status=outcome.status,
            error=outcome.error,
            elapsed_ms=round((self._clock.stopwatch() - begun) * 1000.0, 3),
        )
        await self._settle(number, message, delivery, attempt, outcome)

    async def _request(self, message: Outgoing, delivery: Delivery) -> Outcome:
        from toolpost.worker.delivery_requests import DeliveryRequests, Outcome

        if self._requests is None:
            self._requests = DeliveryRequests(self._executor)
        try:
            keys = webhook_keys(self._executor, delivery.tenant, delivery.user_id)
        except ToolExecutionError as error:
            return Outcome(None, f"it cannot be signed: {error.message}")
        if not keys:
            return Outcome(None, "it cannot be signed: there is no secret_key")
        about = {"content-type": message.headers["content-type"], "user-agent": "toolpost-callbacks"}
        if "traceparent" in message.headers:
            about["traceparent"] = message.headers["traceparent"]
        signed = signed_headers(keys, delivery.id, self._clock.now(), message.body)
        return await self._requests.send(message.dest, {**about, **signed}, message.body)

    async def _settle(
        self, number: int, message: Outgoing, delivery: Delivery, attempt: Attempt, outcome: Outcome
    ) -> None:
        if outcome.error is None:
            await self._end(number, message, delivery, attempt, "delivered")
        elif outcome.status == GONE:
            await self._log.disable(message.dest, delivery.tenant, delivery.user_id)
            await self._end(number, message, delivery, attempt, "disabled")
        elif (wait_s := self._wait_s(delivery, outcome)) is None:
            await self._bury(message, delivery, attempt)
            await self._end(number, message, delivery, attempt, "failed")
        else:
            next_at = self._clock.now() + wait_s
            # First this: whoever dies in between is a note short, and not a lease late.
            await had(self._executor.records.defer_outbox([number], wait_s))
            await self._log.change(
                delivery, lambda now: with_attempt(now, attempt, "pending", next_at=next_at, error=attempt.error)
            )
            self._count("retried")

    def _wait_s(self, delivery: Delivery, outcome: Outcome) -> float | None:
        """How long until the next attempt; None when this was the last."""
        before = sum(1 for attempt in delivery.attempts if attempt.turn == delivery.turn)
        if before >= len(DELAYS_S):
            return None
        wait_s = DELAYS_S[before]
        return max(wait_s + self._clock.jitter(wait_s * SPREAD), outcome.retry_after_s or 0.0)

    async def _end(
        self,
        number: int,
        message: Outgoing,
        delivery: Delivery,
        attempt: Attempt,
        state: DeliveryState,
    ) -> None:
        """Write how it ended, then take it from the outbox: who dies in between finds it ended."""
        await self._log.change(delivery, lambda now: with_attempt(now, attempt, state, error=attempt.error))
        await had(self._executor.records.sent([number]))
        self._count(state)
        if state != "delivered":
            logger.warning(
                "the callback of call %s to %s is %s: %s", message.key, _host_of(message.dest), state, attempt.error
            )

    def _count(self, state: str) -> None:
        self.counts[state] += 1
        self._executor.figures.delivery(state)

    async def _bury(self, message: Outgoing, delivery: Delivery, attempt: Attempt) -> None:
        """Keep what could not be sent as a dead letter. It names no task, as redriving it would run that again."""
        await had(
            self._executor.records.bury(
                reason="callback_failed",
                payload=message.body,
                src=(f"callback:{delivery.id}", delivery.turn, 0),
                error=f"the callback of call {delivery.call_id} to {_host_of(message.dest)}: {attempt.error}",
            )
        )


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).netloc.rpartition("@")[2].lower()
    except ValueError:  # whatever wrote it: it fails as any other that cannot be sent, and alone
        return ""


def _owner_of(message: Outgoing) -> str:
    tenant = message.headers.get("tenant")
    return f"tenant {tenant}" if tenant else f"user {message.headers.get('user', '')}"
