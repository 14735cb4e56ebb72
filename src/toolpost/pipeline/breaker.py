"""breaker: a call is held back while what stands behind its tool keeps failing."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Literal

from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import (
    CircuitOpenError,
    ConfigurationError,
    RemoteToolError,
    StoreUnavailableError,
    ToolExecutionError,
    ToolTimeoutError,
)
from toolpost.calls.policies import Breaker, given
from toolpost.pipeline.answers import ASIDE_S, answered
from toolpost.pipeline.breaker_policies import cause_of, circuit_policy, counts, does_nothing, refusal
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services
from toolpost.pipeline.steps import stepped, steps
from toolpost.stores import Answer, Circuit, CircuitRules
from toolpost.stores.circuits import CLOSED, Circuits

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from toolpost.pipeline.compile import Handler

MAX_KNOWN = 10_000
"""How many keys are remembered for circuits()."""
PATIENCE_S = 0.5
"""How long a call that has failed waits to be told whether it opened a shared circuit."""
EARLY_S = 1e-3
"""How much before a call's deadline its cancellation is still the deadline's: clocks are rounded."""


def breaker(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
    """Refuse while the circuit is open, else run the call and count how it ends. Not in the chain without a policy."""
    policy = given(tool.policies.over(services.defaults).breaker)
    if policy is None or does_nothing(policy):
        return next
    if isinstance(policy, Breaker):
        watch = _Watch(tool, services, policy, rules_of(policy))
        if policy.shared:
            return _shared(watch, services.state, next)
        return _local(watch, local_circuits(services), next)
    ours = circuit_policy(policy)
    if ours is None:
        return _theirs(tool, policy, next)
    circuits = ours.circuits_for(tool.name, local_circuits(services))
    return _local(_Watch(tool, services, Breaker(), ours.rules), circuits, next)


def rules_of(policy: Breaker) -> CircuitRules:
    """A policy's numbers, as the stores take them."""
    return CircuitRules(
        failures=policy.failures,
        recovery_s=policy.recovery_s,
        half_open_calls=policy.half_open_calls,
        error_rate=policy.error_rate,
        max_failures=policy.max_failures,
        window=policy.window,
    )


class _Watch:
    """What is looked up at registration: whose circuit it is, by which rules, and what counts."""

    def __init__(self, tool: ToolDefinition, services: Services, policy: Breaker, rules: CircuitRules) -> None:
        self.clock = services.clock
        self.name = policy.dependency or tool.name
        self.key = circuit_key(self.name)
        self.by_tenant = policy.by_tenant
        self.rules = rules
        self.trips_on = frozenset(kind.lower() for kind in policy.trips_on)
        self.refuses = policy.when_down == "refuse"
        self.is_shared = policy.shared
        self.known: dict[str, bool] = services.the("breakers", dict)
        if not self.by_tenant:
            self.known[self.key] = policy.shared

    def key_of(self, inv: Invocation) -> str:
        """The key of a call's circuit."""
        return circuit_key(self.name, inv.caller.tenant) if self.by_tenant else self.key

    def refuse(self, inv: Invocation, key: str, circuit: Circuit) -> CircuitOpenError:
        """What to raise for a call that is not admitted."""
        inv.circuit_opened = True
        self.note(inv, "refused", key, circuit)
        return refusal(key, circuit)

    def failed(self, inv: Invocation, raised: BaseException) -> str | None:
        """What to keep as the cause when the failure is one of the dependency; None when it says nothing about it."""
        if not inv.ran and not isinstance(raised, RemoteToolError):  # which may not even have been connected to
            return None
        if isinstance(raised, (asyncio.CancelledError, GeneratorExit)):  # at its deadline settle cancels the call
            limit_s = inv.limit_s
            late = limit_s is not None and self.clock.stopwatch() - inv.started >= limit_s - EARLY_S
            return f"timeout: timed out after {limit_s:g} s" if late and "timeout" in self.trips_on else None
        return cause_of(raised) if counts(raised, self.trips_on) else None

    def told(self, inv: Invocation, key: str, circuit: Circuit) -> None:
        """A failure was reported, and this is how the circuit stands now."""
        if circuit.opened:
            inv.circuit_opened = True
            self.note(inv, "opened the circuit", key, circuit)
        if len(self.known) < MAX_KNOWN:
            self.known[key] = self.is_shared

    def note(self, inv: Invocation, decision: str, key: str, circuit: Circuit) -> None:
        """Explain."""
        if inv.explain is not None:
            more = {"probe": circuit.probe} if circuit.probe else {}
            inv.note("breaker", decision, key=key, state=circuit.state, **more)


def _local(watch: _Watch, circuits: Circuits, next: Handler) -> Handler:
    """A circuit of this process. Only a call that suspends pays for a coroutine."""
    admit, report, rules, key_of = circuits.admit, circuits.report, watch.rules, watch.key_of
    fixed = None if watch.by_tenant else watch.key
    remembered, forced = circuits.remembered, circuits.forced
    standard, next = rules.error_rate is None, stepped(next)

    def handler(inv: Invocation) -> Awaitable[Any]:
        key = key_of(inv) if fixed is None else fixed
        # Of what is in neither there is nothing to ask, and a success is nothing to remember.
        calm = standard and not forced and key not in remembered
        circuit = CLOSED if calm else admit(key, rules)
        if not circuit.admitted:
            raise watch.refuse(inv, key, circuit)
        if inv.explain is not None:
            watch.note(inv, "admitted", key, circuit)
        try:
            work = next(inv)
        except BaseException as raised:
            ended(inv, key, circuit.probe, raised)
            raise
        if work is inv:
            if not calm or key in remembered:
                report(key, rules, True, circuit.probe)
            return inv
        return watched(work, inv, key, circuit.probe)

    async def watched(work: Awaitable[Any], inv: Invocation, key: str, probe: int) -> Any:
        try:
            value = await work
        except BaseException as raised:
            ended(inv, key, probe, raised)
            raise
        report(key, rules, True, probe)
        return value

    def ended(inv: Invocation, key: str, probe: int, raised: BaseException) -> None:
        cause = watch.failed(inv, raised)
        if cause is None:
            report(key, rules, None, probe)
        else:
            watch.told(inv, key, report(key, rules, False, probe, cause))

    return steps(handler)


def _shared(watch: _Watch, state: Any, next: Handler) -> Handler:
    """A circuit in the executor's State: admission is one round trip; that a call succeeded is told without waiting."""
    rules, clock, patience_s = watch.rules, watch.clock, None if watch.refuses else ASIDE_S

    async def handler(inv: Invocation) -> Any:
        key = watch.key_of(inv)
        try:
            circuit: Circuit = await answered(state.admit(key, rules), inv, clock, patience_s)
        except StoreUnavailableError as down:
            if watch.refuses:
                raise StoreUnavailableError(
                    f"the circuit of {key!r} cannot be looked at, so the call was refused: {down.message}"
                ) from down
            if inv.explain is not None:
                inv.note("breaker", "the store is down: the call runs without the policy", key=key)
            return await next(inv)
        if not circuit.admitted:
            raise watch.refuse(inv, key, circuit)
        watch.note(inv, "admitted", key, circuit)
        try:
            value = await next(inv)
        except BaseException as raised:
            await ended(inv, key, circuit.probe, raised)
            raise
        state.report(key, rules, True, circuit.probe)
        return value

    async def ended(inv: Invocation, key: str, probe: int, raised: BaseException) -> None:
        cause = watch.failed(inv, raised)
        if cause is None:
            state.report(key, rules, None, probe)
            return
        answer = state.report(key, rules, False, probe, cause)
        if isinstance(raised, Exception):  # else the call is being stopped, and may wait no more
            with contextlib.suppress(StoreUnavailableError, ToolTimeoutError):
                watch.told(inv, key, await answered(answer, inv, clock, PATIENCE_S))

    return handler


def _theirs(tool: ToolDefinition, policy: Any, next: Handler) -> Handler:
    """A breaker of the author's own runs the call. Whatever it raises without having done so is its refusal."""
    name = tool.name

    async def handler(inv: Invocation) -> Any:
        called = False

        async def run() -> Any:
            nonlocal called
            called = True
            return await next(inv)

        try:
            return await policy.execute_with_breaker(run, name)
        except Exception as raised:
            if called:
                raise
            inv.circuit_opened = True
            if inv.explain is not None:
                inv.note("breaker", "refused", by=type(policy).__name__)
            if isinstance(raised, ToolExecutionError):
                raise
            raise CircuitOpenError(f"the breaker of {name} holds calls back: {cause_of(raised)}") from raised

    return handler


# -- for operators -----------------------------------------------------------------------------------------------------


def local_circuits(services: Services) -> Circuits:
    """The circuits of this process, by key."""
    return services.the("circuits", lambda: Circuits(services.clock.monotonic))


def circuit_key(name: str, tenant: str | None = None) -> str:
    """The key of a circuit: the dependency or tool; behind its tenant, as in "acme|orders", where each has its own."""
    if "|" in name or "%" in name:
        name = name.replace("%", "%25").replace("|", "%7C")
    return name if tenant is None else f"{tenant}|{name}"


def force_circuit(
    services: Services, key: str, state: Literal["open", "closed", ""], *, shared: bool = False
) -> Answer[None]:
    """Hold a circuit open or closed; "" lets it go on by itself, closed and empty."""
    if state not in ("open", "closed", ""):
        raise ConfigurationError(f"a circuit is forced 'open' or 'closed', or let go with '', got {state!r}")
    if shared:
        return services.state.force(key, state)
    local_circuits(services).force(key, state)
    return None


def circuits(services: Services) -> dict[str, Answer[Circuit]]:
    """How the circuits of this executor's tools stand, by key; those of tenants once a call of theirs has failed."""
    local, state = local_circuits(services), services.state
    known: dict[str, bool] = services.the("breakers", dict)
    return {key: state.circuit(key) if shared else local.circuit(key) for key, shared in tuple(known.items())}


__all__ = ["breaker", "circuit_key", "circuits", "force_circuit", "local_circuits", "rules_of"]
