"""ToolExecutor: its face for both kinds of callers, its settings while it runs, its life."""

import asyncio
import gc
import threading
import weakref

import pytest

from toolpost import (
    BaseTool,
    ConfigurationError,
    DuplicateToolError,
    ExecutorConfig,
    InputValidationError,
    OverloadedError,
    SecurityError,
    Tool,
    ToolExecutor,
    ToolNotFoundError,
    ToolRegistry,
    ToolTimeoutError,
    create_tool_call,
    get_executor,
)
from toolpost.pipeline.invocation import Invocation
from toolpost.testing import executor_for


class Adder(BaseTool):
    def add(self, a: int, b: int) -> int:
        return int(a) + b

    async def add_async(self, a: int, b: int) -> int:
        await asyncio.sleep(0)
        return a + b


@Tool(name="Adder.Free", register=False)
def free(a: int, b: int) -> int:
    return a + b


class TestCallers:
    def test_a_blocking_caller_runs_sync_and_async_operations(self):
        with executor_for() as executor:
            assert executor.execute(Adder(), "add", a=1, b=2) == 3
            assert executor.execute(Adder(), "add_async", a=1, b=2) == 3

    async def test_an_awaiting_caller_does_too(self):
        with executor_for() as executor:
            assert await executor.execute_async(Adder(), "add", a=1, b=2) == 3
            assert await executor.execute_async(Adder(), "add_async", a=1, b=2) == 3

    async def test_blocking_on_an_async_operation_inside_a_loop_is_refused_with_the_way_out(self):
        with executor_for() as executor, pytest.raises(ConfigurationError, match="await run_async"):
            executor.execute(Adder(), "add_async", a=1, b=2)

    async def test_blocking_on_a_sync_operation_inside_a_loop_works(self):
        with executor_for() as executor:
            assert executor.execute(Adder(), "add", a=1, b=2) == 3

    def test_one_executor_serves_many_loops_one_after_the_other(self):
        with executor_for() as executor:
            tool = Adder()
            for n in range(5):
                assert asyncio.run(executor.execute_async(tool, "add_async", a=n, b=0)) == n
                assert asyncio.run(executor.execute_async(tool, "add", a=n, b=0)) == n

    def test_one_executor_serves_many_threads_and_loops_at_once(self):
        with executor_for() as executor:
            tool, wrong = Adder(), []

            def work(base):
                async def calls():
                    for n in range(50):
                        operation = "add_async" if n % 2 else "add"
                        if await executor.execute_async(tool, operation, a=base, b=n) != base + n:
                            wrong.append((base, n))

                asyncio.run(calls())

            threads = [threading.Thread(target=work, args=(base,)) for base in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

            assert wrong == []
            assert executor.get_metrics()["requests"] == 300

    def test_any_object_with_public_methods_is_a_tool(self):
        class Plain:
            def greet(self, name: str):
                return f"hello {name}"

        class Slotted:
            __slots__ = ("__weakref__",)

            def greet(self, name: str):
                return f"hi {name}"

        with executor_for() as executor:
            assert executor.execute(Plain(), "greet", name="ann") == "hello ann"
            assert executor.execute(Slotted(), "greet", name="ann") == "hi ann"

    @pytest.mark.parametrize("wrong", ["Adder.add", Adder, None, create_tool_call("x", {})])
    def test_what_is_no_tool_object_is_refused_with_the_way_out(self, wrong):
        with executor_for() as executor, pytest.raises(ConfigurationError):
            executor.execute(wrong, "add", a=1, b=2)


class TestAdd:
    def test_every_style_and_form_is_taken(self):
        with executor_for() as executor:
            names = [d.name for d in executor.add([Adder, free, Tool(name="Third", register=False)(lambda: 1)])]

            assert names == ["Adder.add", "Adder.add_async", "Adder.Free", "Third"]
            assert executor.call_sync("Adder.add", a=1, b=2) == 3
            assert executor.get_available_tools() == sorted(names)
            assert executor.get_tool_info("Adder.add")["parameters"]["required"] == ["a", "b"]

    def test_a_name_that_is_taken_is_refused_unless_replaced(self):
        with executor_for(free) as executor:
            other = Tool(name="Adder.Free", register=False)(lambda: "other")
            with pytest.raises(DuplicateToolError):
                executor.add(other)
            assert executor.call_sync("Adder.Free", a=1, b=2) == 3

            executor.add(other, replace=True)
            assert executor.call_sync("Adder.Free") == "other"

    @pytest.mark.parametrize(
        "wrong", [len, 5, None, object(), "no_such_module_here:x", "json:nothing_there", "nameless"]
    )
    def test_what_is_no_tool_is_refused(self, wrong):
        from toolpost import ToolExecutionError

        with executor_for() as executor, pytest.raises(ToolExecutionError):
            executor.add(wrong)

    def test_executors_do_not_share_what_was_added_to_one(self):
        with executor_for(free), ToolExecutor() as other:
            with pytest.raises(ToolNotFoundError):
                other.call_sync("Adder.Free", a=1, b=2)


class TestSettings:
    def test_a_dict_keywords_and_a_config_all_work(self):
        with ToolExecutor({"cache_size": 5}, timeout=3) as executor:
            assert (executor.config.cache_size, executor.config.timeout) == (5, 3)
        with ToolExecutor(ExecutorConfig(cache_size=6)) as executor:
            assert executor.config.cache_size == 6
        with ToolExecutor(default_timeout=7) as executor:
            assert executor.config.timeout == 7

    @pytest.mark.parametrize(
        "wrong", [{"cache_sise": 1}, {"cache_size": 0}, {"timeout": "soon"}, {"max_workers": True}]
    )
    def test_wrong_settings_are_value_errors(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ToolExecutor(wrong)

    def test_what_is_no_config_at_all_is_refused(self):
        with pytest.raises(ConfigurationError, match="config must be a dict"):
            ToolExecutor([("cache_size", 1)])

    def test_what_cannot_be_done_is_refused_rather_than_ignored(self):
        with pytest.raises(ConfigurationError):
            ToolExecutor({"cache_backend": "redis"})

    def test_a_remote_client_is_refused_rather_than_ignored(self):
        with pytest.raises(ConfigurationError, match="locally"):
            ToolExecutor(arcade_client=object())

    def test_a_change_takes_effect_on_the_next_call(self):
        class Slow(BaseTool):
            async def wait(self):
                await asyncio.get_running_loop().create_future()

        with executor_for() as executor:
            tool = Slow()
            executor.config.timeout = 0.02
            with pytest.raises(ToolTimeoutError):
                executor.execute(tool, "wait")

    def test_a_change_that_is_wrong_changes_nothing(self):
        with executor_for(cache_size=5) as executor:
            with pytest.raises(ValueError, match="cache_size"):
                executor.config.cache_size = -1
            with pytest.raises(ValueError, match="cache_siz"):
                executor.config.cache_siz = 1
            with pytest.raises(ValueError, match="redis"):
                executor.config.cache_backend = "redis"

            assert (executor.config.cache_size, executor.config.cache_backend) == (5, "memory")

    def test_more_workers_are_there_at_once(self):
        with executor_for(max_workers=1) as executor:
            executor.config.max_workers = 64

            assert executor._thread_pool._max_workers == 64

    def test_tools_named_in_the_settings_are_loaded(self, tmp_path, monkeypatch):
        (tmp_path / "plugged_tools.py").write_text(
            "from toolpost import Tool\n@Tool(name='Plugged.In', register=False)\ndef plugged():\n    return 'in'\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))

        with executor_for(plugins=["plugged_tools:plugged"]) as executor:
            assert executor.call_sync("Plugged.In") == "in"


class TestHealth:
    async def test_both_documents_keys_are_there(self):
        with executor_for(free) as executor:
            health = await executor.health_check()

        assert (health["status"], health["healthy"], health["tools"]) == ("healthy", True, 1)
        assert {"thread_pool_active", "cache_enabled", "metrics_available", "active_threads", "timestamp"} <= set(
            health
        )

    async def test_a_closed_executor_is_unhealthy_and_refuses_sync_bodies(self):
        with executor_for() as executor:
            pass

        assert (await executor.health_check())["status"] == "unhealthy"
        with pytest.raises(OverloadedError):
            executor.execute(Adder(), "add", a=1, b=2)


class TestClosing:
    @pytest.mark.parametrize("before", [False, True])
    async def test_every_way_in_is_refused_after_closing(self, before):
        spare = Tool(name="Spare", register=False)(lambda: 1)
        tool = Adder()
        with executor_for(free, spare) as executor:
            if before:
                executor.call_sync("Adder.Free", a=1, b=2)
                await executor.execute_async(tool, "add_async", a=1, b=2)
        definition = free.tool_definition

        for awaited in (
            lambda: executor.execute_async(tool, "add", a=1, b=2),
            lambda: executor.execute_async(tool, "add_async", a=1, b=2),
            lambda: executor.execute_batch(tool, [{"op": "add_async", "kwargs": {"a": 1, "b": 2}}]),
            lambda: executor.call("Adder.Free", a=1, b=2),
            lambda: executor.run_definition(definition, Invocation.of({"a": 1, "b": 2})),
        ):
            with pytest.raises(OverloadedError, match="the executor is closed; make another"):
                await awaited()
        for blocking in (
            lambda: executor.call_sync("Adder.Free", a=1, b=2),
            lambda: executor.execute(tool, "add", a=1, b=2),
        ):
            with pytest.raises(OverloadedError, match="the executor is closed; make another"):
                blocking()
        result = await executor.execute_tool_call(create_tool_call("Adder.Free", {"a": 1, "b": 2}))
        assert (result.status_code, result.success) == (503, False)

    def test_a_blocking_call_of_an_async_body_is_refused_after_closing(self):
        with executor_for() as executor:
            assert executor.execute(Adder(), "add_async", a=1, b=2) == 3

        with pytest.raises(OverloadedError, match="make another"):
            executor.execute(Adder(), "add_async", a=1, b=2)

    def test_the_tool_lives_on_in_another_executor(self):
        tool = Adder()
        with executor_for() as executor:
            executor.execute(tool, "add", a=1, b=2)

        with executor_for() as other:
            assert other.execute(tool, "add", a=1, b=2) == 3

    def test_a_tool_closes_the_executor_of_its_own_settings_and_no_other(self):
        own, shared = Adder({"timeout": 5}), Adder()
        with executor_for() as executor:
            shared._executor = executor
            own.run("add", a=1, b=2)

            own.close()
            shared.close()

            with pytest.raises(OverloadedError):
                own.run("add", a=1, b=2)
            assert shared.run("add", a=1, b=2) == 3

    def test_a_closed_executor_no_longer_hears_of_changes(self):
        config = ExecutorConfig()
        with ToolExecutor(config) as executor:
            pass

        config.cache_ttl = 7

        assert executor._services.cache_ttl_s == 3600
        assert config._book.listeners == ()

    def test_a_config_keeps_no_dropped_executor_alive(self):
        config = ExecutorConfig()
        gone = weakref.ref(ToolExecutor(config))

        gc.collect()

        assert gone() is None
        config.cache_size = 7
        assert config._book.listeners == ()

    def test_keywords_beside_a_config_leave_it_as_it_was(self):
        config = ExecutorConfig(timeout=9)
        with ToolExecutor(config, timeout=1) as executor, ToolExecutor(config) as other:
            assert (config.timeout, executor.config.timeout, other.config.timeout) == (9, 1, 9)
            config.timeout = 8
            assert (executor.config.timeout, other.config.timeout) == (1, 8)

    def test_the_wait_for_a_busy_loop_is_part_of_the_call(self):
        started, release = threading.Event(), threading.Event()

        class Both(BaseTool):
            async def blocks(self):
                started.set()
                assert release.wait(10)

            async def quick(self):
                await asyncio.sleep(0)

        with executor_for() as executor:
            tool = Both()
            first = threading.Thread(target=executor.execute, args=(tool, "blocks"))
            first.start()
            assert started.wait(10)
            executor.config.timeout = 0.02
            with pytest.raises(ToolTimeoutError, match="never ran") as late:
                executor.execute(tool, "quick")
            release.set()
            first.join(10)

        assert late.value.outcome == "not_run"


class TestSmallThings:
    def test_a_resource_has_one_lock_as_long_as_somebody_holds_it(self):
        with executor_for() as executor:
            lock = executor.get_lock("file")
            assert executor.get_lock("file") is lock
            assert executor.get_lock("other") is not lock
            with lock:
                assert not executor.get_lock("file").acquire(blocking=False)
            del lock
            gc.collect()
            assert len(executor._locks) == 0

    async def test_a_timeout_context_ends_its_block(self):
        with executor_for() as executor:
            with pytest.raises(ToolTimeoutError):
                async with executor.timeout_context(0.01):
                    await asyncio.sleep(5)
            async with executor.timeout_context(5):
                await asyncio.sleep(0)

    def test_arguments_can_be_screened_by_hand(self):
        with executor_for() as executor:
            tool = Adder()
            tool._executor = executor
            assert tool._sanitize_kwargs({"a": "fine"}) == {"a": "fine"}
            with pytest.raises(SecurityError):
                tool._sanitize_kwargs({"a": "'; DROP TABLE users; --"})

    def test_the_process_has_one_executor_until_it_is_closed(self):
        first = get_executor()
        assert get_executor() is first
        assert get_executor({"cache_size": 3}) is not first

        first.close()
        assert get_executor() is not first

    def test_closing_leaves_no_thread_behind(self):
        before = set(threading.enumerate())
        with executor_for() as executor:
            executor.execute(Adder(), "add", a=1, b=2)
            executor.execute(Adder(), "add_async", a=1, b=2)
        for thread in set(threading.enumerate()) - before:
            thread.join(5)

        assert {t for t in threading.enumerate() if t.is_alive()} <= before


class TestToolCalls:
    async def test_versions_are_chosen_by_name_or_field(self):
        def version(number):
            return Tool(name="Versioned", version=number, register=False)(lambda: number)

        with executor_for(version("1.0.0"), version("2.0.0")) as executor:
            results = [
                await executor.execute_tool_call(create_tool_call(name, {}, version=wanted))
                for name, wanted in [
                    ("Versioned", None),
                    ("Versioned@1.0.0", None),
                    ("Versioned", "1.0.0"),
                    ("Versioned", "3"),
                ]
            ]

        assert [r.data for r in results] == [{"result": "2.0.0"}, {"result": "1.0.0"}, {"result": "1.0.0"}, None]
        assert results[3].status_code == 404

    @pytest.mark.parametrize("arguments", [None, [], "a", {1: 2}])
    async def test_arguments_of_the_wrong_shape_are_an_error_result(self, arguments):
        with executor_for(free) as executor:
            result = await executor.execute_tool_call(create_tool_call("Adder.Free", arguments))

        assert (result.status_code, result.status) == (400, "rejected")

    async def test_malformed_arguments_are_an_error_result_that_says_why(self):
        call = create_tool_call("Adder.Free", {}, malformed="arguments are not JSON: line 1")
        with executor_for(free) as executor:
            result = await executor.execute_tool_call(call)

        assert "arguments are not JSON: line 1" in result.error

    def test_blocking_callers_have_results_too(self):
        with executor_for(free, Adder) as executor:
            good = executor.execute_sync(create_tool_call("Adder.Free", {"a": 1, "b": 2}))
            other = executor.execute_sync(create_tool_call("Adder.add_async", {"a": 1, "b": 2}))
            bad = executor.execute_sync(create_tool_call("Adder.Fre", {}))

        assert (good.data, other.data, bad.status_code) == ({"result": 3}, 3, 404)

    def test_unknown_tools_are_counted(self):
        with executor_for() as executor:
            executor.execute_sync(create_tool_call("Nothing.Here", {}))

            assert executor.get_metrics()["errors"] == {"unknown_tool": 1}
            assert executor._collector.get_system_metrics().failed_executions == 1


def test_a_definition_error_leaves_the_executor_working():
    class Broken(BaseTool):
        def starred(self, *numbers):
            return numbers

    with executor_for(free) as executor:
        with pytest.raises(ConfigurationError):
            executor.execute(Broken(), "starred")
        with pytest.raises(InputValidationError):
            executor.call_sync("Adder.Free", a=1)

        assert executor.call_sync("Adder.Free", a=1, b=1) == 2


def test_registries_can_be_given():
    registry = ToolRegistry()
    registry.register_tool(free.tool_definition)
    with ToolExecutor(registry=registry) as executor:
        assert executor.get_available_tools() == ["Adder.Free"]


def test_a_closed_executor_is_kept_by_no_definition_and_its_specs_refuse():
    from toolpost import FunctionToolExecutor, FunctionToolSpec

    spec = FunctionToolSpec(id="s", tool_name="spec", description="", parameters=[])
    executor = ToolExecutor(registry=ToolRegistry())
    executor.add(free)
    executor.call_sync("Adder.Free", a=1, b=2)
    of_spec = FunctionToolExecutor(spec, lambda args: args, executor=executor)
    assert asyncio.run(of_spec.execute({})).success
    executor.close()

    assert asyncio.run(of_spec.execute({})).failure.code == "overloaded"
    assert "_toolpost_entry" not in free.tool_definition.__dict__
