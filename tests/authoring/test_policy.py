"""@policy attaches policies to any function, in any order, and wraps nothing."""

import math

import pytest

from toolpost import (
    UNSET,
    BaseTool,
    Breaker,
    Cache,
    Concurrency,
    ConfigurationError,
    GenericUsageCalculator,
    Hints,
    Idempotency,
    Policies,
    RateLimit,
    Retry,
    Screening,
    StandardCircuitBreakerPolicy,
    Timeout,
    Tool,
    ToolExecutor,
    cache_result,
    policy,
)


class Shop(BaseTool):
    @policy(Retry(attempts=2), Idempotency(key_fields=("order",)), Hints(idempotent=True), invalidates=["orders"])
    def place(self, order: str) -> str:
        return order

    @policy(RateLimit(calls=1), RateLimit(calls=5, by="tenant"), Concurrency(calls=2))
    @cache_result(ttl=5)
    @policy(Breaker(failures=3))
    async def find(self, order: str) -> str:
        return order


def policies(name):
    (definition,) = [d for d in Shop().definitions() if d.operation == name]
    return definition


def test_policies_of_a_method_are_those_of_its_operation():
    place = policies("place")

    assert place.policies.retry == Retry(attempts=2)
    assert place.policies.idempotency == Idempotency(key_fields=("order",))
    assert place.policies.invalidates == ("orders",)
    assert place.hints == Hints(idempotent=True)


def test_several_decorators_add_up_in_any_order():
    find = policies("find").policies

    assert find.rate_limit == (RateLimit(calls=1), RateLimit(calls=5, by="tenant"))
    assert find.concurrency == (Concurrency(calls=2),)
    assert (find.cache, find.breaker) == (Cache(ttl_s=5), Breaker(failures=3))


def test_a_tool_takes_policies_as_options_or_by_decorator():
    @policy(Retry(attempts=4))
    @Tool(name="P.One", register=False, breaker=Breaker(failures=7))
    def one(n: int) -> int:
        return n

    made = one.tool_definition.policies
    assert (made.retry, made.breaker) == (Retry(attempts=4), Breaker(failures=7))


def test_objects_of_ones_own_are_taken_by_name():
    class Mine:
        async def execute_with_retry(self, func, tool_name):
            return await func()

    mine = Mine()

    @Tool(name="P.Two", register=False)
    @policy(retry=mine)
    def two(n: int) -> int:
        return n

    assert two.tool_definition.policies.retry is mine


def test_what_one_tool_of_a_function_says_is_not_said_of_another():
    @policy(Hints(read_only=True))
    def look(n: int) -> int:
        return n

    Tool(name="P.First", register=False, cache=Cache(ttl_s=5), runs_in="thread")(look)
    Tool(name="P.Second", register=False)(look)

    policies = look.tool_definition.policies
    assert (policies.cache, policies.runs_in) == (UNSET, "auto")


def test_a_deadline_of_the_tool_counts_and_leaves_that_of_an_attempt():
    @Tool(name="P.Late", register=False, timeout_seconds=9)
    @policy(Timeout(total_s=1, attempt_s=0.5))
    def late(n: int) -> int:
        return n

    @Tool(name="P.Never", register=False, timeout_seconds=None)
    @policy(Timeout(total_s=1))
    def never(n: int) -> int:
        return n

    assert late.tool_definition.policies.timeout == Timeout(total_s=9, attempt_s=0.5)
    assert never.tool_definition.policies.timeout is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: policy(), "@policy is empty"),
        (lambda: policy(5), "@policy takes policies .*got 5"),
        (lambda: policy(Retry(), Retry()), "two policies of the kind Retry"),
        (lambda: policy(Retry(), retry=object()), "two policies for retry"),
    ],
)
def test_what_is_no_policy_is_refused_where_it_stands(make, said):
    with pytest.raises(ConfigurationError, match=said):
        make()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cache", 60),
        ("rate_limit", 10),
        ("rate_limit", (RateLimit(calls=1), 10)),
        ("concurrency", RateLimit(calls=1)),
        ("exclusive", "order"),
        ("idempotency", Idempotency),
        ("breaker", object()),
        ("breaker", StandardCircuitBreakerPolicy),
        ("retry", 3),
        ("usage", GenericUsageCalculator),
        ("invalidates", "orders"),
    ],
)
def test_a_value_of_another_kind_is_refused_where_it_is_given(field, value):
    with pytest.raises(ConfigurationError, match=f"{field} must be"):
        Tool(name="P.Wrong", register=False, **{field: value})


def test_a_calculator_of_an_executor_must_be_one():
    with pytest.raises(ConfigurationError, match="usage must be an object with calculate"):
        ToolExecutor(usage=object())


def test_a_list_of_limits_holds_together_as_a_tuple_does():
    limits = [RateLimit(calls=1), RateLimit(calls=5, by="tenant")]

    assert Policies(rate_limit=limits).rate_limit == tuple(limits)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RateLimit(calls=None), "calls must be a whole number"),
        (lambda: RateLimit(calls=1, burst=1.5), "burst must be a whole number"),
        (lambda: RateLimit(calls=1, per_s=math.inf), "per_s must be a finite number"),
        (lambda: Concurrency(calls=1.5), "calls must be a whole number"),
        (lambda: Timeout(total_s=math.inf), "total_s must be a finite number"),
        (lambda: Cache(max_bytes=None), "max_bytes must be a whole number"),
        (lambda: Idempotency(ttl_s=None), "ttl_s must be a number"),
        (lambda: Breaker(trips_on="timeout"), "trips_on must be a tuple"),
        (lambda: Breaker(failures=2.5), "failures must be a whole number"),
        (lambda: Breaker(error_rate="0.5"), "error_rate must be more than 0"),
        (lambda: Breaker(error_rate=1.5), "error_rate must be above 0 and at most 1"),
        (lambda: Breaker(failures=30, error_rate=0.5), "max_failures must be failures"),
        (lambda: Retry(attempts=2.5), "attempts must be a whole number"),
        (lambda: Retry(on="timeout"), "on must be a tuple"),
        (lambda: Retry(on=(3,)), "on holds 3"),
        (lambda: Retry(wait=3), "wait must be callable"),
        (lambda: Screening(level="most"), "level must be"),
        (lambda: Policies(runs_in="space"), "runs_in must be"),
        (lambda: policy(invalidates="orders"), "invalidates must be a tuple"),
        (lambda: policy(breaker=object()), "breaker must be"),
    ],
)
def test_a_policy_that_cannot_be_right_is_refused_where_it_is_written(make, said):
    with pytest.raises(ConfigurationError, match=said):
        make()
