"""Tells what a call used: bytes, tokens and money."""

from __future__ import annotations

import difflib
import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import orjson

from toolpost.calls.errors import ConfigurationError
from toolpost.calls.policies import UsageCalculator
from toolpost.calls.result import ToolUsage

CHARS_PER_TOKEN: Final = 4
"""A rule of thumb for English prose; code and other scripts need more tokens."""

_log = logging.getLogger("toolpost.usage")
_FLAGS: Final = frozenset(f.name for f in fields(ToolUsage))


class GenericUsageCalculator:
    """Counts the bytes of the JSON text of arguments and result, and attempts and retries."""

    def calculate(self, args: Mapping[str, Any], result: Any, *, tool: str | None = None, **flags: Any) -> ToolUsage:
        """The usage. Without attempts in flags it is 1, or 0 for a result that was not computed now.

        Raises ConfigurationError for a flag that is no field of ToolUsage.
        """
        return _with_flags(ToolUsage(input_bytes=len(_json(args)), output_bytes=len(_json(result))), flags)


def estimate_tokens(text: str) -> int:
    """A guess without a tokenizer: one token for each CHARS_PER_TOKEN characters, rounded up."""
    return -(-len(text) // CHARS_PER_TOKEN)


class TokenUsageCalculator:
    """Counts tokens too: tokens_in of the arguments, tokens_out of the result.

    counter tells how many tokens a text has; hand in a model's own tokenizer for exact numbers. A string
    result is counted as it is, everything else as its JSON text.
    """

    def __init__(self, counter: Callable[[str], int] = estimate_tokens) -> None:
        self._counter = counter

    def calculate(self, args: Mapping[str, Any], result: Any, *, tool: str | None = None, **flags: Any) -> ToolUsage:
        """The usage; see GenericUsageCalculator. Flags tokens_in and tokens_out stand instead of a count."""
        sent, received = _json(args), _json(result)
        usage = ToolUsage(input_bytes=len(sent), output_bytes=len(received))
        if "tokens_in" not in flags:
            usage.tokens_in = self._counter(sent.decode())
        if "tokens_out" not in flags:
            usage.tokens_out = self._counter(result if isinstance(result, str) else received.decode())
        return _with_flags(usage, flags)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a tool costs, in US dollars: for each attempt to run it, and for each 1,000 tokens in and out."""

    per_call_usd: float = 0.0
    per_1k_tokens_in_usd: float = 0.0
    per_1k_tokens_out_usd: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0.0 <= value < math.inf:
                raise ConfigurationError(f"Price: {field.name} must be 0 or more, got {value!r}")

    def of(self, usage: ToolUsage) -> float:
        """The cost of a usage. A result from the cache or of an earlier call was paid for then."""
        if usage.cached_hit or usage.idempotency_reused:
            return 0.0
        tokens = usage.tokens_in * self.per_1k_tokens_in_usd + usage.tokens_out * self.per_1k_tokens_out_usd
        return self.per_call_usd * usage.attempts + tokens / 1000.0


class CostCalculator:
    """Adds cost_usd by a table of prices: tool name -> Price. A tool that is not in it costs default.

    usage counts what the prices are for, by default a TokenUsageCalculator.
    """

    def __init__(
        self,
        prices: Mapping[str, Price],
        default: Price | None = None,
        usage: UsageCalculator | None = None,
    ) -> None:
        self._prices = dict(prices)
        self._default = Price() if default is None else default
        self._usage = TokenUsageCalculator() if usage is None else usage

    def calculate(self, args: Mapping[str, Any], result: Any, *, tool: str | None = None, **flags: Any) -> ToolUsage:
        """The usage with its cost; a flag cost_usd stands instead of the table."""
        usage = self._usage.calculate(args, result, tool=tool, **flags)
        if "cost_usd" in flags:
            return usage
        price = self._default if tool is None else self._prices.get(tool, self._default)
        return replace(usage, cost_usd=price.of(usage))


class _SafeCalculator:
    """A calculator that cannot break a call."""

    def __init__(self, calculator: UsageCalculator) -> None:
        self._calculator = calculator
        self._warned = False

    def calculate(self, args: Mapping[str, Any], result: Any, *, tool: str | None = None, **flags: Any) -> ToolUsage:
        try:
            usage: object = self._calculator.calculate(args, result, tool=tool, **flags)
            if not isinstance(usage, ToolUsage):
                raise TypeError(f"calculate must return a ToolUsage, got {type(usage).__name__}")
            return usage
        except Exception:
            level = logging.DEBUG if self._warned else logging.WARNING
            self._warned = True
            name = type(self._calculator).__name__
            _log.log(level, "%s could not tell the usage of %r", name, tool, exc_info=True)
            return ToolUsage(**{name: value for name, value in flags.items() if name in _FLAGS})


def usage_of(
    calculator: UsageCalculator | None, args: Mapping[str, Any], result: Any, *, tool: str, failed: bool, **flags: Any
) -> ToolUsage:
    """What a call used, by a calculator made safe, or (None) its bytes alone. A call that failed sent nothing out."""
    if calculator is None:
        attempts = flags["attempts"]
        return ToolUsage(
            input_bytes=_size(args),
            output_bytes=0 if failed else _size(result),
            retries=attempts - 1 if attempts > 1 else 0,
            **flags,
        )
    if not failed:
        return calculator.calculate(args, result, tool=tool, **flags)
    return replace(calculator.calculate(args, "", tool=tool, tokens_out=0, **flags), output_bytes=0)


def _size(value: Any) -> int:
    """Bytes of the JSON text, 0 for what has none."""
    try:
        return len(_json(value))
    except (TypeError, ValueError, RecursionError):
        return 0


def safely(calculator: UsageCalculator) -> UsageCalculator:
    """The same calculator; when it raises, or returns no ToolUsage, the usage holds the flags alone.

    The first time is logged as a warning with the traceback, later ones at DEBUG.
    """
    return _SafeCalculator(calculator)


def _with_flags(usage: ToolUsage, flags: dict[str, Any]) -> ToolUsage:
    unknown = flags.keys() - _FLAGS
    if unknown:
        name = min(unknown)
        near = difflib.get_close_matches(name, _FLAGS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; choose from {', '.join(sorted(_FLAGS))}"
        raise ConfigurationError(f"{name!r} is not a field of ToolUsage{hint}")
    reused = flags.get("cached_hit") or flags.get("idempotency_reused")
    attempts = flags.get("attempts", 0 if reused else 1)
    return replace(usage, **{"attempts": attempts, "retries": max(0, attempts - 1), **flags})


def _json(value: Any) -> bytes:
    """The JSON text of a value; what is not JSON stands in it as its string."""
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # an integer beyond 64 bits, or half a surrogate pair
        return json.dumps(value, default=str).encode()
