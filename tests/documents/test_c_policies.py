"""Document C's policy objects, key generators and factories behave as the document says, under its names."""

import asyncio
import dataclasses

import pytest

from toolpost import (
    CircuitBreakerState,
    ConfigurationError,
    FunctionToolSpec,
    InputValidationError,
    ToolContext,
    ToolError,
)
from toolpost.authoring.parameters import NumericParameter, StringParameter
from toolpost.calls.errors import CircuitOpenError, RateLimitError
from toolpost.calls.policies import BreakerPolicy, RetryPolicy
from toolpost.pipeline.breaker_policies import (
    AdaptiveCircuitBreakerPolicy,
    CircuitBreakerPolicyFactory,
    ICircuitBreakerPolicy,
    NoOpCircuitBreakerPolicy,
    StandardCircuitBreakerPolicy,
)
from toolpost.pipeline.keys import (
    CustomIdempotencyKeyGenerator,
    DefaultIdempotencyKeyGenerator,
    FieldBasedIdempotencyKeyGenerator,
    HashBasedIdempotencyKeyGenerator,
    IdempotencyKeyGeneratorFactory,
    IIdempotencyKeyGenerator,
)
from toolpost.pipeline.retry_policies import (
    CustomRetryPolicy,
    ExponentialBackoffRetryPolicy,
    FixedRetryPolicy,
    IRetryPolicy,
    NoRetryPolicy,
    RetryPolicyFactory,
)
from toolpost.testing import FakeClock


class Skipping(FakeClock):
    """A clock whose sleeps take their time at once, and are noted."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        self.advance(delay_s)


class Service:
    def __init__(self, *ends: BaseException | None) -> None:
        self.ends = list(ends)
        self.calls = 0

    async def call(self):
        self.calls += 1
        end = self.ends[min(self.calls, len(self.ends)) - 1] if self.ends else None
        if end is not None:
            raise end
        return {"status": "success"}


async def fails(policy, service, name="tool1", times=1):
    for _ in range(times):
        with pytest.raises(Exception, match=r".*"):
            await policy.execute_with_breaker(service.call, name)


# -- breakers ----------------------------------------------------------------------------------------------------------


async def test_the_standard_breaker_opens_after_failure_threshold_and_leaves_the_function_alone():
    policy, service = StandardCircuitBreakerPolicy(failure_threshold=3, recovery_timeout=60), Service(Exception("gone"))
    await fails(policy, service, times=3)

    assert policy.get_state("tool1") is CircuitBreakerState.OPEN
    assert policy.get_state("tool1") == "open"
    with pytest.raises(CircuitOpenError, match="Circuit breaker is open"):
        await policy.execute_with_breaker(service.call, "tool1")
    assert service.calls == 3


async def test_the_error_that_trips_it_is_raised_as_it_is():
    error = ConnectionError("refused")
    with pytest.raises(ConnectionError) as caught:
        await StandardCircuitBreakerPolicy(failure_threshold=1).execute_with_breaker(Service(error).call, "tool1")

    assert caught.value is error


async def test_tools_are_apart_and_reset_closes_one_or_all():
    policy = StandardCircuitBreakerPolicy(failure_threshold=1)
    for name in ("tool1", "tool2"):
        await fails(policy, Service(TimeoutError()), name)
    assert policy.get_state("tool3") == "closed"

    policy.reset("tool1")
    assert [policy.get_state(name) for name in ("tool1", "tool2")] == ["closed", "open"]
    policy.reset()
    assert policy.get_state("tool2") == "closed"
    assert await policy.execute_with_breaker(Service().call, "tool2") == {"status": "success"}


async def test_after_recovery_timeout_half_open_max_calls_successes_close_it():
    clock = FakeClock()
    policy = StandardCircuitBreakerPolicy(2, 15, half_open_max_calls=2, clock=clock)
    service = Service(TimeoutError(), TimeoutError(), None)
    await fails(policy, service, times=2)
    clock.advance(14.9)
    await fails(policy, service)
    assert service.calls == 2

    clock.advance(0.1)
    states = [policy.get_state("tool1")]
    for _ in range(2):
        await policy.execute_with_breaker(service.call, "tool1")
        states.append(policy.get_state("tool1"))
    assert states == ["half_open", "half_open", "closed"]


async def test_mistakes_of_the_caller_and_rate_limits_do_not_open_it():
    policy = StandardCircuitBreakerPolicy(failure_threshold=1)
    for error in (InputValidationError("x"), RateLimitError("x"), ToolError("x", code="UNAUTHORIZED")):
        await fails(policy, Service(error))

    assert policy.get_state("tool1") == "closed"


async def test_the_adaptive_breaker_bears_a_low_error_rate_and_opens_at_a_high_one():
    policy = AdaptiveCircuitBreakerPolicy(base_threshold=5, max_threshold=20, error_rate_threshold=0.5, window_size=100)
    rare = Service(*([None] * 9 + [ConnectionError("rare")]) * 10)
    for _ in range(100):
        try:
            await policy.execute_with_breaker(rare.call, "healthy")
        except ConnectionError:
            continue
    assert policy.get_state("healthy") == "closed"

    await fails(policy, Service(ConnectionError("down")), "sick", times=5)
    assert policy.get_state("sick") == "open"


async def test_the_adaptive_breaker_judges_what_was_well_by_more_calls_than_what_is_new():
    def opened_after(policy, service):
        async def go():
            for n in range(1, 200):
                await fails(policy, service, "t")
                if policy.get_state("t") == "open":
                    return n
            return 0

        return go()

    new, old = AdaptiveCircuitBreakerPolicy(window_size=20), AdaptiveCircuitBreakerPolicy(window_size=20)
    for _ in range(50):
        await old.execute_with_breaker(Service().call, "t")

    assert await opened_after(new, Service(ConnectionError())) < await opened_after(old, Service(ConnectionError()))


async def test_the_noop_breaker_never_opens():
    policy, service = NoOpCircuitBreakerPolicy(), Service(Exception("always"))
    await fails(policy, service, times=20)
    policy.reset("tool1")

    assert policy.get_state("tool1") == "closed"
    assert service.calls == 20


@pytest.mark.parametrize(
    ("make", "name", "allowed"),
    [
        (lambda: StandardCircuitBreakerPolicy(failure_threshold=0), "failure_threshold", "at least 1"),
        (lambda: StandardCircuitBreakerPolicy(failure_threshold=2.5), "failure_threshold", "whole number"),
        (lambda: StandardCircuitBreakerPolicy(recovery_timeout=0), "recovery_timeout", "above 0"),
        (lambda: StandardCircuitBreakerPolicy(recovery_timeout=float("inf")), "recovery_timeout", "number"),
        (lambda: StandardCircuitBreakerPolicy(half_open_max_calls=True), "half_open_max_calls", "whole number"),
        (lambda: AdaptiveCircuitBreakerPolicy(base_threshold="5"), "base_threshold", "whole number"),
        (lambda: AdaptiveCircuitBreakerPolicy(base_threshold=9, max_threshold=8), "max_threshold", "at least 9"),
        (lambda: AdaptiveCircuitBreakerPolicy(error_rate_threshold=1.1), "error_rate_threshold", "at most 1"),
        (lambda: AdaptiveCircuitBreakerPolicy(error_rate_threshold=0), "error_rate_threshold", "above 0"),
        (lambda: AdaptiveCircuitBreakerPolicy(window_size=0), "window_size", "at least 1"),
        (lambda: FixedRetryPolicy(max_attempts=0), "max_attempts", "at least 1"),
        (lambda: FixedRetryPolicy(delay_seconds=-1), "delay_seconds", "at least 0"),
        (lambda: FixedRetryPolicy(jitter=None), "jitter", "number"),
        (lambda: FixedRetryPolicy(retryable_exceptions=[ValueError("x")]), "retryable_exceptions", "classes"),
        (lambda: ExponentialBackoffRetryPolicy(base_delay=float("nan")), "base_delay", "at least 0"),
        (lambda: ExponentialBackoffRetryPolicy(max_delay=-1), "max_delay", "at least 0"),
        (lambda: ExponentialBackoffRetryPolicy(multiplier=0.5), "multiplier", "at least 1"),
        (lambda: ExponentialBackoffRetryPolicy(jitter=2), "jitter", "at most 1"),
        (lambda: CustomRetryPolicy("not-a-function"), "retry_func", "must be callable"),
        (lambda: CustomIdempotencyKeyGenerator("not-a-function"), "key_function", "must be callable"),
        (
            lambda: FieldBasedIdempotencyKeyGenerator(include_user_context="yes"),
            "include_user_context",
            "True or False",
        ),
    ],
)
def test_a_wrong_parameter_is_refused_by_name_with_what_is_allowed(make, name, allowed):
    with pytest.raises(ConfigurationError) as caught:
        make()

    assert name in str(caught.value)
    assert allowed in str(caught.value)


def test_the_parameters_have_the_documents_defaults():
    standard, adaptive = StandardCircuitBreakerPolicy(), AdaptiveCircuitBreakerPolicy()
    fixed, growing = FixedRetryPolicy(), ExponentialBackoffRetryPolicy()

    assert (standard.failure_threshold, standard.recovery_timeout, standard.half_open_max_calls) == (5, 30, 1)
    assert (adaptive.base_threshold, adaptive.max_threshold, adaptive.error_rate_threshold) == (5, 20, 0.5)
    assert (adaptive.window_size, adaptive.recovery_timeout) == (100, 30)
    assert (fixed.max_attempts, fixed.delay_seconds, fixed.jitter) == (3, 1.0, 0.0)
    assert (growing.max_attempts, growing.base_delay, growing.max_delay) == (3, 1.0, 60.0)
    assert (growing.multiplier, growing.jitter) == (2.0, 0.1)


# -- retries -----------------------------------------------------------------------------------------------------------


async def test_no_retry_fails_at_once():
    service = Service(TimeoutError("late"))
    with pytest.raises(TimeoutError):
        await NoRetryPolicy().execute_with_retry(service.call, "t")

    assert service.calls == 1
    assert not NoRetryPolicy().should_retry(TimeoutError(), 0)


async def test_fixed_retry_waits_the_same_between_attempts_and_raises_the_last_error():
    clock, last = Skipping(), TimeoutError("third")
    service = Service(TimeoutError("first"), TimeoutError("second"), last)
    with pytest.raises(TimeoutError) as caught:
        await FixedRetryPolicy(max_attempts=3, delay_seconds=0.5, clock=clock).execute_with_retry(service.call, "t")

    assert caught.value is last
    assert (service.calls, clock.slept) == (3, [0.5, 0.5])


async def test_exponential_backoff_waits_as_its_formula_says():
    clock = Skipping()
    policy = ExponentialBackoffRetryPolicy(max_attempts=5, base_delay=1, max_delay=5, jitter=0, clock=clock)
    assert await policy.execute_with_retry(Service(*[ConnectionError()] * 4, None).call, "t") == {"status": "success"}

    assert clock.slept == [1, 2, 4, 5]
    assert [policy.calculate_delay(n) for n in range(4)] == [1, 2, 4, 5]
    assert policy.calculate_delay(5000) == 5


def test_jitter_is_a_share_of_the_wait_or_seconds_and_never_more():
    growing, fixed = ExponentialBackoffRetryPolicy(base_delay=1.0, jitter=0.5), FixedRetryPolicy(jitter=0.5)
    for policy in (growing, fixed):
        delays = [policy.calculate_delay(0) for _ in range(50)]
        assert min(delays) >= 0.5
        assert max(delays) <= 1.5
        assert len(set(delays)) > 1
    assert min(FixedRetryPolicy(delay_seconds=0, jitter=9).calculate_delay(0) for _ in range(50)) == 0


async def test_only_what_passes_is_retried_unless_classes_are_named():
    for policy, error, calls in (
        (FixedRetryPolicy(delay_seconds=0), ValueError("x"), 1),
        (FixedRetryPolicy(delay_seconds=0), asyncio.TimeoutError(), 3),  # noqa: UP041
        (FixedRetryPolicy(delay_seconds=0), ToolError("x", retryable=True), 3),
        (FixedRetryPolicy(delay_seconds=0, retryable_exceptions=[ValueError]), ValueError("x"), 3),
        (FixedRetryPolicy(delay_seconds=0, retryable_exceptions=[ValueError]), TimeoutError(), 1),
    ):
        service = Service(error)
        with pytest.raises(type(error)):
            await policy.execute_with_retry(service.call, "t")
        assert service.calls == calls


async def test_retry_after_is_honoured_and_cancellation_never_retried():
    clock = Skipping()
    policy = ExponentialBackoffRetryPolicy(jitter=0, clock=clock)
    await policy.execute_with_retry(Service(RateLimitError("x", retry_after_s=9), None).call, "t")
    assert clock.slept == [9]

    service = Service(asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await policy.execute_with_retry(service.call, "t")
    assert service.calls == 1


async def test_a_custom_function_is_asked_after_each_failure_with_its_number():
    asked = []

    async def my_retry_logic(func, attempt, last_exception):
        asked.append((attempt, str(last_exception)))
        if attempt >= 5:
            raise last_exception
        return await func()

    service = Service(TimeoutError("1"), TimeoutError("2"), TimeoutError("3"), None)
    assert await CustomRetryPolicy(my_retry_logic).execute_with_retry(service.call, "t") == {"status": "success"}
    assert asked == [(1, "1"), (2, "2"), (3, "3")]

    asked.clear()
    service = Service(TimeoutError("late"))
    with pytest.raises(TimeoutError):
        await CustomRetryPolicy(my_retry_logic).execute_with_retry(service.call, "t")
    assert (len(asked), service.calls) == (5, 5)


async def test_a_custom_function_that_never_stops_is_stopped():
    async def forever(func, attempt, last_exception):
        return await func()

    service = Service(TimeoutError("late"))
    with pytest.raises(TimeoutError):
        await CustomRetryPolicy(forever).execute_with_retry(service.call, "t")

    assert service.calls == 10


async def test_breaker_and_retry_objects_work_around_each_other():
    breaker, retry = StandardCircuitBreakerPolicy(failure_threshold=3), FixedRetryPolicy(2, 0)
    service = Service(TimeoutError("late"))
    for _ in range(3):
        with pytest.raises((TimeoutError, CircuitOpenError)):
            await retry.execute_with_retry(lambda: breaker.execute_with_breaker(service.call, "t"), "t")

    assert service.calls == 3


# -- factories ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def factories():
    """The three factories; what a test registers is forgotten after it."""
    kept = [
        (CircuitBreakerPolicyFactory, "_policies"),
        (RetryPolicyFactory, "_policies"),
        (IdempotencyKeyGeneratorFactory, "_generators"),
    ]
    before = [dict(getattr(factory, name)) for factory, name in kept]
    yield [factory for factory, _ in kept]
    for (factory, name), was in zip(kept, before, strict=True):
        getattr(factory, name).clear()
        getattr(factory, name).update(was)


def test_factories_know_the_documents_names(factories):
    breakers, retries, keys = factories

    assert [type(breakers.get_policy(name)) for name in ("standard", "adaptive", "noop")] == [
        StandardCircuitBreakerPolicy,
        AdaptiveCircuitBreakerPolicy,
        NoOpCircuitBreakerPolicy,
    ]
    assert [type(retries.get_policy(name)) for name in ("none", "fixed", "exponential")] == [
        NoRetryPolicy,
        FixedRetryPolicy,
        ExponentialBackoffRetryPolicy,
    ]
    assert [type(keys.get_generator(name)) for name in ("default", "field_based", "hash_based")] == [
        DefaultIdempotencyKeyGenerator,
        FieldBasedIdempotencyKeyGenerator,
        HashBasedIdempotencyKeyGenerator,
    ]
    assert isinstance(breakers.get_policy(), StandardCircuitBreakerPolicy)
    assert isinstance(retries.get_policy(), NoRetryPolicy)
    assert isinstance(keys.get_generator(), DefaultIdempotencyKeyGenerator)


async def test_two_policies_from_a_factory_share_no_state_and_take_options(factories):
    breakers, retries, _ = factories
    one, other = breakers.create("standard", failure_threshold=1), breakers.get_policy("standard", failure_threshold=1)
    await fails(one, Service(TimeoutError()))

    assert (one.get_state("tool1"), other.get_state("tool1")) == ("open", "closed")
    assert retries.create("fixed", max_attempts=7).max_attempts == 7


def test_factories_refuse_unknown_names_and_options_with_those_there_are(factories):
    breakers, retries, keys = factories

    with pytest.raises(ValueError, match="Unknown circuit breaker policy: 'nonexistent'; there are adaptive, noop"):
        breakers.get_policy("nonexistent")
    with pytest.raises(ValueError, match="Unknown retry policy: 'nonexistent'; there are exponential, fixed, none"):
        retries.get_policy("nonexistent")
    with pytest.raises(ValueError, match="Unknown idempotency key generator: 'nonexistent'; there are default"):
        keys.get_generator("nonexistent")
    with pytest.raises(ConfigurationError, match="failure_treshold"):
        breakers.create("standard", failure_treshold=3)


def test_what_is_registered_is_found_again_as_it_is(factories):
    class MyCircuitBreaker(ICircuitBreakerPolicy):
        async def execute_with_breaker(self, func, tool_name):
            return await func()

    class MyRetryPolicy(IRetryPolicy):
        async def execute_with_retry(self, func, tool_name):
            return await func()

    class MyKeyGenerator(IIdempotencyKeyGenerator):
        def generate_key(self, args, ctx, spec):
            return "my-custom-key"

    breakers, retries, keys = factories
    mine = MyCircuitBreaker(), MyRetryPolicy(), MyKeyGenerator()
    breakers.register("mine", mine[0])
    retries.register("mine", mine[1])
    keys.register("mine", mine[2])

    assert (breakers.get_policy("mine"), retries.get_policy("mine"), keys.get_generator("mine")) == mine
    for factory, what in ((breakers, "execute_with_breaker"), (retries, "execute_with_retry"), (keys, "generate_key")):
        with pytest.raises(ConfigurationError, match=what):
            factory.register("broken", object())


def test_the_documents_interfaces_are_ours():
    for policy in (StandardCircuitBreakerPolicy(), AdaptiveCircuitBreakerPolicy(), NoOpCircuitBreakerPolicy()):
        assert isinstance(policy, ICircuitBreakerPolicy)
    for policy in (NoRetryPolicy(), FixedRetryPolicy(), ExponentialBackoffRetryPolicy(), CustomRetryPolicy(print)):
        assert isinstance(policy, IRetryPolicy)
    assert BreakerPolicy.execute_with_breaker.__name__ == "execute_with_breaker"
    assert RetryPolicy.execute_with_retry.__name__ == "execute_with_retry"


# -- key generators ----------------------------------------------------------------------------------------------------


@pytest.fixture
def spec():
    made = FunctionToolSpec(
        id="payment-v1",
        tool_name="process_payment",
        description="Pay.",
        parameters=[
            StringParameter(name="transaction_id", description="which", required=True),
            NumericParameter(name="amount", description="how much", required=True),
        ],
    )
    made.idempotency.key_fields = ["transaction_id"]
    return made


ARGS = {"transaction_id": "tx-456", "amount": 100}
ANN, BOB = ToolContext(user_id="ann"), ToolContext(user_id="bob")
GENERATORS = [
    DefaultIdempotencyKeyGenerator(),
    FieldBasedIdempotencyKeyGenerator(),
    HashBasedIdempotencyKeyGenerator(algorithm="sha512"),
]


@pytest.mark.parametrize("generator", GENERATORS)
def test_only_key_fields_tell_calls_apart_where_there_are_some(generator, spec):
    same = generator.generate_key({**ARGS, "amount": 500}, ANN, spec)

    assert generator.generate_key(ARGS, ANN, spec) == same
    assert generator.generate_key({**ARGS, "transaction_id": "tx-457"}, ANN, spec) != same
    spec.idempotency.key_fields = None
    assert generator.generate_key(ARGS, ANN, spec) != generator.generate_key({**ARGS, "amount": 500}, ANN, spec)


@pytest.mark.parametrize("generator", GENERATORS)
def test_a_missing_key_field_is_an_error_and_never_a_shared_key(generator, spec):
    with pytest.raises(InputValidationError, match="'transaction_id' is missing"):
        generator.generate_key({"amount": 1}, ANN, spec)


@pytest.mark.parametrize("generator", GENERATORS)
def test_users_tenants_tools_and_versions_are_apart(generator, spec):
    other = spec.model_copy(update={"tool_name": "refund"})
    newer = spec.model_copy(update={"version": "2.0.0"})
    keys = {
        generator.generate_key(ARGS, ctx, which)
        for ctx in (None, ANN, BOB, dataclasses.replace(ANN, tenant_id="t"))
        for which in (spec, other, newer)
    }

    assert len(keys) == 12


def test_use_case_2_a_key_works_across_sessions(spec):
    generator = HashBasedIdempotencyKeyGenerator(include_user_context=True, include_session_context=False)
    one, other = (generator.generate_key(ARGS, dataclasses.replace(ANN, session_id=s), spec) for s in ("s1", "s2"))

    assert one == other
    assert one != generator.generate_key(ARGS, BOB, spec)


def test_keys_are_hex_digests_of_the_algorithms_length(spec):
    assert len(DefaultIdempotencyKeyGenerator().generate_key(ARGS, ANN, spec)) == 64
    assert len(bytes.fromhex(HashBasedIdempotencyKeyGenerator("sha512").generate_key(ARGS, ANN, spec))) == 64


def test_a_custom_function_sees_arguments_context_and_spec(spec):
    generator = CustomIdempotencyKeyGenerator(
        lambda args, ctx, spec: f"{spec.id}:{ctx.user_id}:{args['transaction_id']}"
    )

    assert generator.generate_key(ARGS, ANN, spec) == "payment-v1:ann:tx-456"
