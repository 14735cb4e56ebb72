"""validate, screen, authorize, limit, trace: each refuses before the body runs, or watches without touching."""

import asyncio
import logging
from collections import deque
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from toolpost import (
    Access,
    AuthorizerFailedError,
    BaseTool,
    Caller,
    ConfigurationError,
    Decision,
    InputValidationError,
    OutputValidationError,
    PermissionDeniedError,
    RateLimit,
    RateLimiter,
    RateLimitError,
    Screening,
    SecurityError,
    Tool,
    ToolExecutor,
    UnauthorizedError,
    create_tool_call,
    sanitize_input,
)
from toolpost.calls.policies import Policies
from toolpost.pipeline.authorize import authorize
from toolpost.pipeline.invocation import Invocation
from toolpost.testing import FakeClock, executor_for

FRAGMENTS = {"text": {"type": "string"}, "count": {"type": "integer", "default": 2}}


def tool(name="Demo.Echo", parameters=FRAGMENTS, **options):
    ran = []

    def echo(**arguments):
        ran.append(arguments)
        return arguments

    made = Tool(name=name, parameters=parameters, register=False, **options)(echo)
    made.ran = ran
    return made


class TestValidate:
    async def test_defaults_are_applied(self):
        made = tool()
        with executor_for(made) as executor:
            assert await executor.call("Demo.Echo", text="a") == {"text": "a", "count": 2}

    async def test_a_whole_float_is_an_integer(self):
        made = tool()
        with executor_for(made) as executor:
            value = await executor.call("Demo.Echo", text="a", count=3.0)

        assert value["count"] == 3
        assert type(value["count"]) is int

    @pytest.mark.parametrize("count", [True, 1.5, "3", None])
    async def test_what_is_no_integer_is_refused_before_the_body(self, count):
        made = tool()
        with executor_for(made) as executor:
            with pytest.raises(InputValidationError) as caught:
                await executor.call("Demo.Echo", text="a", count=count)

        assert caught.value.errors()[0]["path"] == "/count"
        assert made.ran == []

    async def test_null_is_absent_for_a_caller_that_was_shown_a_strict_schema(self):
        made = tool()
        with executor_for(made) as executor:
            arguments = {"text": "a", "count": None}
            strict = await executor.execute_tool_call(create_tool_call("Demo.Echo", arguments, strict=True))
            plain = await executor.execute_tool_call(create_tool_call("Demo.Echo", arguments))

        assert strict.data == {"text": "a", "count": 2}
        assert plain.status_code == 400

    async def test_a_result_must_fit_what_was_declared(self):
        @Tool(name="Demo.Sum", register=False, returns={"type": "object", "required": ["total"]})
        def total(numbers: list[int]) -> dict:
            return {"total": sum(numbers)} if numbers else {"nothing": True}

        with executor_for(total) as executor:
            assert await executor.call("Demo.Sum", numbers=[1, 2]) == {"total": 3}
            with pytest.raises(OutputValidationError, match="declared schema"):
                await executor.call("Demo.Sum", numbers=[])

    async def test_arguments_are_bounded_in_size_depth_and_count(self):
        made = tool(parameters={"data": {}})
        deep: dict = {}
        for _ in range(80):
            deep = {"in": deep}
        loop: dict = {}
        loop["self"] = loop
        with executor_for(made, max_input_size=1000, max_items=100) as executor:
            for data, kind in [
                ("x" * 1001, "too_large"),
                ("é" * 501, "too_large"),
                ({"k" * 1001: 1}, "too_large"),
                (list(range(200)), "too_large"),
                (deep, "too_deep"),
                (loop, "recursive"),
            ]:
                with pytest.raises(InputValidationError) as caught:
                    await executor.call("Demo.Echo", data=data)
                assert caught.value.errors()[0]["type"] == kind
            shared = ["same"]
            assert await executor.call("Demo.Echo", data=[shared, shared, "x" * 900]) is not None

        assert len(made.ran) == 1

    async def test_many_small_texts_count_together(self):
        made = tool(parameters={f"p{n}": {"type": "string"} for n in range(8)})
        with executor_for(made, max_input_size=1000) as executor:
            await executor.call("Demo.Echo", **{f"p{n}": "x" * 125 for n in range(8)})
            with pytest.raises(InputValidationError, match="larger than 1000 bytes"):
                await executor.call("Demo.Echo", **{f"p{n}": "x" * 126 for n in range(8)})


class TestScreen:
    async def test_text_is_judged_by_the_role_of_its_parameter(self):
        made = tool(parameters={"path": {"type": "string"}, "note": {"type": "string"}})
        with executor_for(made) as executor:
            await executor.call("Demo.Echo", path="docs/a.md", note="see /etc/passwd; it's odd")
            with pytest.raises(SecurityError) as caught:
                await executor.call("Demo.Echo", path="../../etc/passwd", note="fine")

        assert caught.value.details["parameter"] == "path"
        assert "etc/passwd" not in caught.value.message

    async def test_a_declared_role_wins_over_the_name(self):
        made = tool(
            parameters={"path": {"type": "string"}, "note": {"type": "string"}},
            screening=Screening(roles={"path": "text", "note": "path"}),
        )
        with executor_for(made) as executor:
            await executor.call("Demo.Echo", path="../notes/today.txt", note="fine")
            with pytest.raises(SecurityError):
                await executor.call("Demo.Echo", path="fine", note="../notes/today.txt")

    async def test_nested_text_is_judged_too(self):
        made = tool(parameters={"items": {"type": "array"}}, screening=Screening(untrusted=True))
        with executor_for(made) as executor:
            with pytest.raises(SecurityError):
                await executor.call("Demo.Echo", items=[{"a": ["'; DROP TABLE users; --"]}])

    @pytest.mark.parametrize("container", [set, frozenset, tuple, list, deque])
    async def test_text_in_any_container_is_judged(self, container):
        @Tool(name="Demo.Tags", register=False, screening=Screening(untrusted=True))
        def tags(items: list[str]):
            return len(items)

        with executor_for(tags) as executor:
            with pytest.raises(SecurityError):
                await executor.call("Demo.Tags", items=container(["'; DROP TABLE users; --"]))

    async def test_what_can_be_read_only_once_or_is_no_text_is_refused(self):
        @Tool(name="Demo.Odd", register=False, screening=Screening(untrusted=True))
        def odd(items: list[str], text: str = ""):
            return len(items)

        with executor_for(odd) as executor:
            for arguments in ({"items": (x for x in ["a"])}, {"items": [], "text": b"' OR 1=1; DROP TABLE users; --"}):
                with pytest.raises(InputValidationError):
                    await executor.call("Demo.Odd", **arguments)

    async def test_strict_rules_look_at_every_text(self):
        made = tool()
        with executor_for(made) as executor:
            await executor.call("Demo.Echo", text="one; two")
            executor.config.sanitization_rules = "strict"
            with pytest.raises(SecurityError):
                await executor.call("Demo.Echo", text="one; two")
            executor.config.enable_security_checks = False
            await executor.call("Demo.Echo", text="one; two")

    async def test_a_rule_of_ones_own_refuses_with_its_reason(self):
        made = tool()
        with executor_for(made, rules=[lambda value, role: "no shouting" if value.isupper() else None]) as executor:
            await executor.call("Demo.Echo", text="hello")
            with pytest.raises(SecurityError, match="no shouting"):
                await executor.call("Demo.Echo", text="HELLO")

    async def test_a_rule_that_breaks_refuses(self):
        def breaks(value, role):
            raise RuntimeError("broken rule")

        made = tool()
        with executor_for(made, rules=[breaks]) as executor:
            result = await executor.execute_tool_call(create_tool_call("Demo.Echo", {"text": "a"}))

        assert not result.success
        assert made.ran == []

    def test_sanitize_input_widens_what_is_looked_for(self):
        class Search(BaseTool):
            @sanitize_input
            def careful(self, query: str):
                return query

            def plain(self, query: str):
                return query

        with executor_for() as executor:
            search = Search()
            search._executor = executor
            for good in ("O'Brien; and others", "please select one -- thanks"):
                assert search.careful(query=good) == good
            with pytest.raises(SecurityError):
                search.careful(query="<script>alert(1)</script>")
            assert search.run("plain", query="how does <b>bold</b> work?")


class TestAuthorize:
    async def test_a_tool_that_needs_a_user_refuses_strangers(self):
        made = tool(requires_auth=True)
        with executor_for(made) as executor:
            stranger = await executor.execute_tool_call(create_tool_call("Demo.Echo", {"text": "a"}))
            known = await executor.execute_tool_call(create_tool_call("Demo.Echo", {"text": "a"}, user_id="ann"))

        assert (stranger.status_code, stranger.metadata["error_type"]) == (401, "UnauthorizedError")
        assert known.success

    async def test_permissions_must_be_among_the_callers_scopes(self):
        made = tool(permissions=["orders:write"])
        with executor_for(made) as executor:
            call = create_tool_call("Demo.Echo", {"text": "a"}, user_id="ann")
            without = await executor.execute_tool_call(call)
            granted = create_tool_call("Demo.Echo", {"text": "a"}, scopes=frozenset({"orders:write"}))
            with_it = await executor.execute_tool_call(granted)

        assert without.status_code == 403
        assert "orders:write" in without.error
        assert with_it.success

    @pytest.mark.parametrize("verdict", [False, RuntimeError("engine down")])
    async def test_an_authorizer_that_denies_or_breaks_refuses(self, verdict):
        def authorizer(definition, caller, arguments):
            if isinstance(verdict, Exception):
                raise verdict
            return verdict

        made = tool()
        with executor_for(made, authorizer=authorizer) as executor:
            with pytest.raises(PermissionDeniedError) as caught:
                await executor.call("Demo.Echo", text="a")

        denied = verdict is False
        assert caught.value.details["authorizer"] == ("denied" if denied else "failed")
        assert (caught.value.status, caught.value.code) == ((403, "denied") if denied else (503, "authorizer_failed"))
        assert isinstance(caught.value, AuthorizerFailedError) is not denied
        assert "engine down" not in caught.value.message
        assert made.ran == []

    @pytest.mark.parametrize("verdict", [True, None])
    async def test_a_hook_that_has_no_objection_lets_the_call_pass(self, verdict):
        with executor_for(tool(), authorizer=lambda definition, caller, arguments: verdict) as executor:
            assert await executor.call("Demo.Echo", text="a")

    async def test_a_hook_may_give_a_decision(self):
        hook = lambda definition, caller, arguments: Decision(False, "rule-8")  # noqa: E731
        made = tool()
        with executor_for(made, authorizer=hook) as executor, pytest.raises(PermissionDeniedError) as caught:
            await executor.call("Demo.Echo", text="a")

        assert (caught.value.details["rule"], made.ran) == ("rule-8", [])

    @pytest.mark.parametrize("verdict", [0, "", "denied", [], object(), Decision("no")])
    async def test_a_hook_that_gives_anything_else_lets_nothing_pass(self, verdict):
        made = tool()
        with executor_for(made, authorizer=lambda definition, caller, arguments: verdict) as executor:
            with pytest.raises(AuthorizerFailedError):
                await executor.call("Demo.Echo", text="a")

        assert made.ran == []

    @pytest.mark.parametrize("options", [{"requires_auth": True}, {"access": Access(requires_user=True)}])
    async def test_a_user_without_a_name_is_nobody(self, options):
        made = tool(**options)
        with executor_for(made) as executor:
            result = await executor.execute_tool_call(create_tool_call("Demo.Echo", {"text": "a"}, user_id=""))

            assert (result.status_code, made.ran) == (401, [])
            assert executor.get_available_tools(Caller(user_id="")) == []

    def test_what_is_neither_hook_nor_engine_is_refused(self):
        with pytest.raises(ConfigurationError, match="must be callable"):
            ToolExecutor(authorizer=5)

    async def test_a_tool_that_asks_for_nothing_pays_nothing(self):
        services = SimpleNamespace(authorizer=None, policy_engine=None, defaults=Policies())
        next = object()

        assert authorize(tool().tool_definition, services, next) is next

    async def test_asking_for_permissions_takes_no_coroutine(self):
        services = SimpleNamespace(authorizer=None, policy_engine=None, defaults=Policies())
        by_permission = authorize(tool(permissions=["a"]).tool_definition, services, lambda inv: "next")
        by_role = authorize(tool(access=Access(roles=("a",))).tool_definition, services, lambda inv: "next")
        inv = Invocation.of({})
        inv.caller = Caller(scopes=frozenset({"a"}), roles=frozenset({"a"}))

        assert (by_permission(inv), by_role(inv)) == ("next", "next")


class Engine:
    """A policy engine that says what it is told to."""

    name = "house"

    def __init__(self, said, wait_s=0.0):
        self.said, self.wait_s, self.asked = said, wait_s, []

    async def decide(self, definition, caller, arguments):
        self.asked.append((definition.name, caller.user_id, dict(arguments)))
        await asyncio.sleep(self.wait_s)
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


class TestPolicyEngine:
    async def test_it_decides_by_tool_caller_and_arguments(self):
        engine, made = Engine(Decision(True, "rule-7")), tool()
        with executor_for(made, authorizer=engine) as executor:
            call = create_tool_call("Demo.Echo", {"text": "a"}, user_id="ann")
            result = await executor.execute_tool_call(call, explain=True)

        told = next(entry for entry in result.explanation if entry["stage"] == "authorize")
        assert result.success
        assert engine.asked == [("Demo.Echo", "ann", {"text": "a", "count": 2})]
        assert (told["decision"], told["notes"][0]["rule"]) == ("allowed by rule-7", "rule-7")

    async def test_a_denial_names_the_rule_and_the_reason(self):
        made = tool()
        with executor_for(made, authorizer=Engine(Decision(False, "rule-8", "not on Sundays"))) as executor:
            result = await executor.execute_tool_call(create_tool_call("Demo.Echo", {"text": "a"}))

        assert (result.status_code, result.failure.code, result.error) == (403, "denied", "not on Sundays")
        assert result.failure.details == {"authorizer": "denied", "engine": "house", "rule": "rule-8"}
        assert made.ran == []

    @pytest.mark.parametrize("said", [RuntimeError("socket closed"), True, None, Decision("yes"), Decision(1)])
    async def test_one_that_errs_or_says_nothing_refuses_and_is_told_apart(self, said, caplog):
        made = tool()
        with executor_for(made, authorizer=Engine(said)) as executor:
            result = await executor.execute_tool_call(create_tool_call("Demo.Echo", {"text": "a"}))

        assert (result.status_code, result.failure.code, result.failure.retryable) == (503, "authorizer_failed", True)
        assert "the policy engine 'house' failed" in result.error
        assert "socket closed" not in result.error
        assert "authorizer failed: Demo.Echo" in caplog.text
        assert made.ran == []

    async def test_one_that_hangs_is_cut_by_the_calls_deadline(self):
        made = tool()
        with executor_for(made, authorizer=Engine(Decision(True), wait_s=60)) as executor:
            call = create_tool_call("Demo.Echo", {"text": "a"}, deadline_s=0.05)
            result = await executor.execute_tool_call(call)

        assert (result.failure.code, result.failure.outcome) == ("timeout", "not_run")
        assert made.ran == []

    async def test_one_that_hangs_is_cut_by_its_own_patience(self, monkeypatch):
        for module in ("access", "engines"):
            monkeypatch.setattr(f"toolpost.security.{module}.PATIENCE_S", 0.05)
        made = tool()
        with executor_for(made, authorizer=Engine(Decision(True), wait_s=60)) as executor:
            result = await executor.execute_tool_call(create_tool_call("Demo.Echo", {"text": "a"}))

        assert (result.failure.code, made.ran) == ("authorizer_failed", [])
        assert "gave no answer within 0.05 s" in result.error

    def test_an_async_one_decides_blocking_calls(self):
        with executor_for(tool(), authorizer=Engine(Decision(False, "no"))) as executor:
            with pytest.raises(PermissionDeniedError):
                executor.call_sync("Demo.Echo", text="a")

    async def test_the_tools_own_access_is_asked_first(self):
        engine = Engine(Decision(True))
        with executor_for(tool(access=Access(roles=("clerk",))), authorizer=engine) as executor:
            result = await executor.execute_tool_call(create_tool_call("Demo.Echo", {"text": "a"}))

        assert (result.status_code, engine.asked) == (403, [])

    async def test_hook_and_the_engine_of_the_settings_must_agree(self, tmp_path):
        policies = tmp_path / "policies.cedar"
        policies.write_text('permit(principal == User::"ann", action, resource);')
        settings = {"authorizer_policies": policies, "config": {"authorizer": "cedar"}}
        hook = lambda definition, caller, arguments: caller.tenant == "acme"  # noqa: E731
        with executor_for(tool(), authorizer=hook, **settings) as executor:

            async def status(**caller):
                return (
                    await executor.execute_tool_call(create_tool_call("Demo.Echo", {"text": "a"}, **caller))
                ).success

            assert await status(user_id="ann", tenant="acme")
            assert not await status(user_id="ann", tenant="other")
            assert not await status(user_id="bob", tenant="acme")

    async def test_an_async_authorizer_sees_caller_and_arguments(self):
        seen = []

        async def authorizer(definition, caller, arguments):
            seen.append((definition.name, caller.user_id, arguments))

        made = tool()
        with executor_for(made, authorizer=authorizer) as executor:
            await executor.execute_tool_call(create_tool_call("Demo.Echo", {"text": "a"}, user_id="ann"))

        assert seen == [("Demo.Echo", "ann", {"text": "a", "count": 2})]

    def test_an_async_authorizer_works_for_blocking_callers(self):
        async def authorizer(definition, caller, arguments):
            raise UnauthorizedError("who are you?")

        with executor_for(tool(), authorizer=authorizer) as executor, pytest.raises(UnauthorizedError):
            executor.call_sync("Demo.Echo", text="a")


class TestLimit:
    async def test_one_users_excess_never_stops_another(self):
        clock = FakeClock()
        with executor_for(tool(), clock=clock, max_calls_per_minute=2) as executor:

            async def call(user):
                return await executor.execute_tool_call(create_tool_call("Demo.Echo", {"text": "a"}, user_id=user))

            statuses = [(await call(u)).status_code for u in ("ann", "ann", "ann", "bob", "bob", "bob")]
            refused = await call("ann")
            clock.advance(30)
            later = await call("ann")

        assert statuses == [200, 200, 429, 200, 200, 429]
        assert refused.failure.retry_after_s == pytest.approx(30)
        assert "Rate limit exceeded. Too many tool calls per minute" in refused.error
        assert later.success

    async def test_all_users_share_when_not_limited_by_user(self):
        with executor_for(tool(), clock=FakeClock(), max_calls_per_minute=1, rate_limit_by_user=False) as executor:
            first = await executor.execute_tool_call(create_tool_call("Demo.Echo", {"text": "a"}, user_id="ann"))
            second = await executor.execute_tool_call(create_tool_call("Demo.Echo", {"text": "a"}, user_id="bob"))

        assert (first.status_code, second.status_code) == (200, 429)

    async def test_a_tools_own_limit_holds_for_that_tool_only(self):
        narrow = tool("Demo.Narrow", rate_limit=RateLimit(calls=1, per_s=10, by="tool"))
        with executor_for(narrow, tool(), clock=FakeClock()) as executor:
            await executor.call("Demo.Narrow", text="a")
            with pytest.raises(RateLimitError):
                await executor.call("Demo.Narrow", text="a")
            await executor.call("Demo.Echo", text="a")

    async def test_a_call_that_one_limit_refuses_costs_the_other_nothing(self):
        clock = FakeClock()
        both = tool("Demo.Both", rate_limit=RateLimit(calls=5, per_s=3600))
        with executor_for(both, clock=clock, max_calls_per_minute=2) as executor:
            outcomes = []
            for _ in range(7):
                try:
                    await executor.call("Demo.Both", text="a")
                    outcomes.append(True)
                except RateLimitError:
                    outcomes.append(False)
            clock.advance(60)
            await executor.call("Demo.Both", text="a")

        assert outcomes == [True, True] + [False] * 5

    async def test_a_refused_call_costs_no_token(self):
        with executor_for(tool(), clock=FakeClock(), max_calls_per_minute=1) as executor:
            with pytest.raises(InputValidationError):
                await executor.call("Demo.Echo", text=1)
            await executor.call("Demo.Echo", text="a")

    def test_the_limiter_alone_asks_and_counts_apart(self):
        clock = FakeClock()
        limiter = RateLimiter(2, clock=clock)
        for _ in range(2):
            assert limiter.can_execute("ann")
            limiter.record_call("ann")

        assert not limiter.can_execute("ann")
        assert limiter.can_execute("bob")
        clock.advance(30)
        assert limiter.can_execute("ann")

    @pytest.mark.parametrize("calls", [0, -1, True])
    def test_a_limiter_of_nothing_is_refused(self, calls):
        with pytest.raises(ValueError, match="max_calls_per_minute"):
            RateLimiter(calls)


class TestTrace:
    async def test_a_span_is_current_while_the_body_runs_and_sees_its_error(self):
        spans = []

        @contextmanager
        def tracer(definition, invocation):
            spans.append(["open", definition.name])
            try:
                yield
            except Exception as exc:
                spans.append(["error", type(exc).__name__])
                raise
            finally:
                spans.append(["closed"])

        @Tool(name="Demo.Traced", register=False)
        async def traced(fail: bool):
            spans.append(["body"])
            if fail:
                raise ValueError("no")
            return "ok"

        with executor_for(traced, tracer=tracer) as executor:
            await executor.call("Demo.Traced", fail=False)
            with pytest.raises(Exception, match="no"):
                await executor.call("Demo.Traced", fail=True)

        opened = ["open", "Demo.Traced"]
        assert spans == [opened, ["body"], ["closed"], opened, ["body"], ["error", "ValueError"], ["closed"]]

    async def test_a_tracer_that_breaks_is_logged_and_the_call_goes_on(self, caplog):
        def tracer(definition, invocation):
            raise RuntimeError("collector down")

        with executor_for(tool(), tracer=tracer) as executor, caplog.at_level(logging.ERROR, logger="toolpost"):
            assert await executor.call("Demo.Echo", text="a")

        assert "tracer failed: Demo.Echo" in caplog.text
