"""Usage: bytes, tokens, cost, and that a calculator which raises is survived."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import pytest

from toolpost.calls.errors import ConfigurationError
from toolpost.calls.result import ToolUsage
from toolpost.telemetry.usage import (
    CostCalculator,
    GenericUsageCalculator,
    Price,
    TokenUsageCalculator,
    UsageCalculator,
    estimate_tokens,
    safely,
)


def test_bytes_are_those_of_the_json_text() -> None:
    usage = GenericUsageCalculator().calculate({"a": 1}, "é")

    assert usage == ToolUsage(input_bytes=len(b'{"a":1}'), output_bytes=len('"é"'.encode()), attempts=1)


@pytest.mark.parametrize("odd", [2**80, "\ud800", {1, 2}, {1: "a"}, b"bytes", math.nan, object()])
def test_what_is_not_json_has_a_size_all_the_same(odd: object) -> None:
    usage = GenericUsageCalculator().calculate({"odd": odd}, odd)

    assert usage.input_bytes > 0
    assert usage.output_bytes > 0


@pytest.mark.parametrize(
    ("flags", "attempts", "retries"),
    [
        ({}, 1, 0),
        ({"attempts": 3}, 3, 2),
        ({"attempts": 3, "retries": 1}, 3, 1),
        ({"cached_hit": True}, 0, 0),
        ({"idempotency_reused": True}, 0, 0),
    ],
)
def test_attempts_and_retries_follow_from_what_is_known(flags: dict[str, Any], attempts: int, retries: int) -> None:
    usage = GenericUsageCalculator().calculate({}, None, **flags)

    assert (usage.attempts, usage.retries) == (attempts, retries)
    assert all(getattr(usage, name) == value for name, value in flags.items())


def test_an_unknown_flag_is_refused_and_the_nearest_known_is_named() -> None:
    with pytest.raises(ConfigurationError, match="'attempt' is not a field of ToolUsage; did you mean 'attempts'"):
        GenericUsageCalculator().calculate({}, None, attempt=1)


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("abc", 1), ("abcd", 1), ("abcde", 2)])
def test_a_token_is_four_characters_by_default(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens
    assert TokenUsageCalculator().calculate({}, text).tokens_out == tokens


def test_tokens_are_counted_by_the_counter_given() -> None:
    texts: list[str] = []

    def counter(text: str) -> int:
        texts.append(text)
        return len(text.split())

    usage = TokenUsageCalculator(counter).calculate({"q": "two words"}, "three more words")

    assert (usage.tokens_in, usage.tokens_out) == (2, 3)
    assert texts == ['{"q":"two words"}', "three more words"]


def test_tokens_known_already_are_not_counted() -> None:
    def counter(text: str) -> int:
        raise AssertionError(f"asked to count {text!r}")

    usage = TokenUsageCalculator(counter).calculate({}, "x", tokens_in=7, tokens_out=9)

    assert (usage.tokens_in, usage.tokens_out) == (7, 9)


def test_a_cost_is_the_price_of_each_attempt_and_of_the_tokens() -> None:
    price = Price(per_call_usd=0.01, per_1k_tokens_in_usd=1.0, per_1k_tokens_out_usd=2.0)
    calculator = CostCalculator({"Web.Search": price})

    usage = calculator.calculate({}, None, tool="Web.Search", attempts=2, tokens_in=500, tokens_out=250)

    assert usage.cost_usd == pytest.approx(2 * 0.01 + 0.5 + 0.5)


def test_a_tool_without_a_price_costs_the_default() -> None:
    calculator = CostCalculator({"Web.Search": Price(per_call_usd=1.0)}, default=Price(per_call_usd=0.25))

    assert calculator.calculate({}, None, tool="Math.Add").cost_usd == 0.25
    assert calculator.calculate({}, None).cost_usd == 0.25
    assert CostCalculator({}).calculate({}, None, tool="Math.Add").cost_usd == 0.0


@pytest.mark.parametrize("flag", ["cached_hit", "idempotency_reused"])
def test_what_was_not_run_now_costs_nothing(flag: str) -> None:
    calculator = CostCalculator({"t": Price(per_call_usd=1.0, per_1k_tokens_out_usd=100.0)})

    assert calculator.calculate({}, "x" * 4000, tool="t", **{flag: True}).cost_usd == 0.0


def test_a_cost_known_already_stands() -> None:
    calculator = CostCalculator({"t": Price(per_call_usd=1.0)})

    assert calculator.calculate({}, None, tool="t", cost_usd=0.5).cost_usd == 0.5


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_a_price_that_is_none_is_refused(wrong: float) -> None:
    with pytest.raises(ConfigurationError, match="per_call_usd must be 0 or more"):
        Price(per_call_usd=wrong)


class Broken:
    """A calculator that raises, or returns something else."""

    def __init__(self, returns: Any = None) -> None:
        self.returns = returns

    def calculate(self, args: Mapping[str, Any], result: Any, *, tool: str | None = None, **flags: Any) -> ToolUsage:
        if self.returns is None:
            raise RuntimeError("no tokenizer")
        return self.returns  # type: ignore[no-any-return]


@pytest.mark.parametrize("broken", [Broken(), Broken(returns={"cost": 1})])
def test_a_calculator_that_breaks_is_survived_and_the_flags_are_kept(
    broken: UsageCalculator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="toolpost.usage")
    calculator = safely(broken)

    usages = [calculator.calculate({}, None, tool="t", attempts=2, not_a_field=1) for _ in range(2)]

    assert usages == [ToolUsage(attempts=2)] * 2
    assert [record.levelname for record in caplog.records] == ["WARNING", "DEBUG"]
    assert "Broken could not tell the usage of 't'" in caplog.text


def test_a_calculator_that_works_is_left_alone() -> None:
    assert safely(GenericUsageCalculator()).calculate({}, None) == GenericUsageCalculator().calculate({}, None)
