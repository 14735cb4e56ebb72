"""explain: what each stage decided about one call, by which rule, and its microseconds; in a chain of its own."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import Rejected, ToolExecutionError
from toolpost.calls.policies import given
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services

if TYPE_CHECKING:
    from toolpost.pipeline.compile import Handler, Stage

FIELDS = {
    "limit": ("rate_limit", "concurrency", "exclusive"),
    "once": ("idempotency",),
    "cache": ("cache", "invalidates"),
    "breaker": ("breaker",),
    "retry": ("retry",),
    "timeout": ("timeout",),
    "settle": ("timeout",),
    "screen": ("screening",),
    "authorize": ("access",),
    "grant": ("oauth",),
    "approve": ("approval",),
    "spend": ("approval",),
}
"""Stage -> the policies it acts on."""


class Visit:
    """One stage of one call: how long it took with all that is inside it, how often it was entered, how it left."""

    __slots__ = ("entered", "ended", "inside_us", "left", "took_us")

    def __init__(self) -> None:
        self.entered = 0
        self.took_us = self.inside_us = 0.0
        self.left: BaseException | None = None
        self.ended = False


def timed(name: str, handler: Handler, services: Services, inner: str | None) -> Handler:
    """The handler, measured: inner is the stage (or runner) inside it, whose time is not its own."""
    stopwatch = services.clock.stopwatch

    async def measured(inv: Invocation) -> Any:
        visits: dict[str, Visit] = inv.visits if inv.visits is not None else {}
        visit = visits.setdefault(name, Visit())
        visit.entered += 1
        inside = visits.get(inner) if inner is not None else None
        before = inside.took_us if inside is not None else 0.0
        started = stopwatch()
        try:
            work: Any = handler(inv)
            value = inv.value if work is inv else await work
            visit.left, visit.ended = None, True
            return value
        except BaseException as raised:
            visit.left = raised
            raise
        finally:
            visit.took_us += (stopwatch() - started) * 1e6
            inside = visits.get(inner) if inner is not None else None
            visit.inside_us += (inside.took_us - before) if inside is not None else 0.0

    return measured


def explained(tool: ToolDefinition, services: Services, order: tuple[Stage, ...], runner: Handler) -> Handler:
    """The chain of a tool with every stage measured. Its stages share state with the plain chain's."""
    handler, inner = timed("runner", runner, services, None), "runner"
    present: list[tuple[str, str]] = [("runner", _body(tool))]
    absent: list[str] = []
    for stage in reversed(order):
        name = stage.__name__
        made = stage(tool, services, handler)
        if made is handler:
            absent.append(name)
            continue
        if name != "settle":  # settle measures itself: it must hand out what the executor drives
            handler, inner = timed(name, made, services, inner), name
        else:
            handler = made
        present.append((name, rule_of(name, tool, services)))
    rules = dict(present)
    names = [stage.__name__ for stage in order] + ["runner"]

    async def telling(inv: Invocation) -> Any:
        inv.explain, inv.visits = [], {}
        started = services.clock.stopwatch()
        try:
            return await handler(inv)
        finally:
            total_us = (services.clock.stopwatch() - started) * 1e6
            inv.explanation = services.redactor.value(_told(inv, names, rules, absent, total_us))

    return telling


def _body(tool: ToolDefinition) -> str:
    kind = type(tool.body).__name__.removesuffix("Body").lower()
    return f"{kind}, runs in {tool.policies.runs_in}" if kind == "function" else kind


def _told(
    inv: Invocation, names: list[str], rules: dict[str, str], absent: list[str], total_us: float
) -> list[dict[str, Any]]:
    """One entry a stage, in order: stage, decision, rule, us (its own time), and what it noted."""
    visits = inv.visits or {}
    told = []
    outer_us = next((visits[name].took_us for name in names if name in visits), 0.0)
    for index, name in enumerate(names):
        entry: dict[str, Any] = {"stage": name}
        if name in absent:
            told.append({**entry, "decision": "not in the chain", "rule": "nothing to do for this tool"})
            continue
        notes = [note for note in inv.explain or () if note["stage"] == name]
        entry["rule"] = rules[name]
        if name == "settle":
            entry.update(decision="settled", us=round(max(0.0, total_us - outer_us), 1))
        elif name not in visits:
            told.append({**entry, "decision": "not reached"})
            continue
        else:
            visit = visits[name]
            inner = next((visits[inner] for inner in names[index + 1 :] if inner in visits), None)
            own = visit.left if inner is None or inner.left is not visit.left else None
            entry["decision"] = _decision(visit, inner is not None, own, name)
            entry["us"] = round(max(0.0, visit.took_us - visit.inside_us), 1)
            if visit.entered > 1:
                entry["entered"] = visit.entered
            if own is not None:
                entry["error"] = _error(own)
        if name == "cache" and not notes and inv.source == "cache":
            entry["decision"] = "hit"  # which pays for no note
        if notes:
            entry["decision"] = "; ".join(dict.fromkeys(note["decision"] for note in notes))
            entry["notes"] = [{k: v for k, v in note.items() if k != "stage"} for note in notes]
        told.append(entry)
    return told


def _decision(visit: Visit, reached: bool, own: BaseException | None, name: str) -> str:
    """In one word. own is an error of the stage itself, not one that it let through."""
    if name == "runner":
        return "ran" if visit.left is None else "failed"
    if own is not None:
        return "refused" if isinstance(own, Rejected) else "failed"
    return "passed" if reached else "answered"


def _error(raised: BaseException) -> str:
    if isinstance(raised, ToolExecutionError):
        return f"{raised.code}: {raised.message}"
    return type(raised).__name__


def rule_of(name: str, tool: ToolDefinition, services: Services) -> str:
    """What a stage goes by for a tool, in a few words."""
    policies = tool.policies.over(services.defaults)
    if name == "validate":
        parameters = tool.parameters.get("properties", {})
        return f"schema of {len(parameters)} parameters" + (" and of the result" if tool.output_check else "")
    if name == "screen":
        return f"level {services.security_level}"
    if name == "authorize":
        rules = ["a known user"] if tool.requires_auth else []
        rules += [f"permission {name!r}" for name in tool.permissions]
        access = given(policies.access)
        rules += [shown(access)] if access is not None else []
        rules += ["the executor's authorizer"] if services.authorizer else []
        rules += [f"the engine {getattr(services.policy_engine, 'name', '')!r}"] if services.policy_engine else []
        return ", ".join(rules)
    said = []
    for field in FIELDS.get(name, ()):
        value: Any = getattr(policies, field)
        value = value if field == "invalidates" else given(value)
        for one in value if isinstance(value, tuple) else (value,):
            if one is not None:
                said.append(one if isinstance(one, str) else shown(one))
    if name == "limit" and (general := given(services.defaults.rate_limit)) and shown(general) not in said:
        said.append(shown(general))
    return ", ".join(said)


def shown(policy: object) -> str:
    """A policy with what differs from its defaults: Retry(attempts=3)."""
    if not is_dataclass(policy):
        return type(policy).__name__
    kind = type(policy)
    told = [
        f"{f.name}={_short(getattr(policy, f.name))}" for f in fields(policy) if getattr(policy, f.name) != f.default
    ]
    return f"{kind.__name__}({', '.join(told)})"


def _short(value: object) -> str:
    if callable(value):
        return str(getattr(value, "__name__", type(value).__name__))
    return repr(value)


__all__ = ["explained", "rule_of", "shown", "timed"]
