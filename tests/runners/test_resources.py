"""The loop for callers that block: its deadlines, its end, and the place a waiting worker lends."""

import asyncio
import gc
import os
import threading
import weakref

import pytest

from toolpost import BaseTool, OverloadedError, ToolTimeoutError
from toolpost.runners.resources import Loop
from toolpost.runners.threads import Abandoned, Threads, lending
from toolpost.testing import FakeClock, executor_for

WAIT_S = 10.0


async def soon(left_s: float | None) -> str:
    await asyncio.sleep(0)
    return threading.current_thread().name


class Blocker:
    """An async body that blocks its loop until it is let go."""

    def __init__(self) -> None:
        self.started, self.release = threading.Event(), threading.Event()
        self.thread: threading.Thread | None = None
        self.ended: str | None = None

    async def __call__(self, left_s: float | None) -> str:
        self.thread = threading.current_thread()
        self.started.set()
        assert self.release.wait(WAIT_S)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        self.ended = "done"
        return "done"

    def end(self) -> None:
        """Let the loop go and wait until its thread is gone."""
        self.release.set()
        assert self.thread is not None
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()


class InThread(threading.Thread):
    """What a function returned or raised in a thread of its own."""

    def __init__(self, fn) -> None:
        super().__init__()
        self._fn, self.value, self.error = fn, None, None
        self.start()

    def run(self) -> None:
        try:
            self.value = self._fn()
        except BaseException as error:
            self.error = error


def loop_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "toolpost-loop"}


class TestDeadlines:
    def test_a_body_that_blocks_the_loop_is_given_up_with_its_thread(self):
        loop, body = Loop(), Blocker()

        with pytest.raises(ToolTimeoutError, match=r"did not end within 0.25 s.*rather than async def") as late:
            loop.run(body, 0.25)

        assert late.value.outcome == "unknown"
        assert isinstance(late.value.__cause__, Abandoned)
        assert (loop.abandoned_now, loop.abandoned_total) == (1, 1)
        body.end()
        assert (loop.abandoned_now, loop.abandoned_total, body.ended) == (0, 1, "cancelled")
        loop.close()

    def test_a_call_behind_a_body_that_blocks_keeps_its_deadline_and_never_runs(self):
        loop, body, ran = Loop(), Blocker(), []
        first = InThread(lambda: loop.run(body))
        assert body.started.wait(WAIT_S)

        async def quick(left_s):
            ran.append(left_s)

        with pytest.raises(ToolTimeoutError, match="never ran") as late:
            loop.run(quick, 0.01, grace_s=WAIT_S)

        assert late.value.outcome == "not_run"
        body.end()
        first.join(WAIT_S)
        assert (first.value, ran) == ("done", [])
        loop.close()

    def test_later_calls_get_a_new_loop(self):
        loop, body = Loop(), Blocker()
        with pytest.raises(ToolTimeoutError):
            loop.run(body, 0.25)

        assert loop.run(soon, WAIT_S) == "toolpost-loop"
        body.end()
        loop.close()

    def test_so_many_blocked_loops_are_too_many(self):
        loop, body = Loop(max_abandoned=1), Blocker()
        with pytest.raises(ToolTimeoutError):
            loop.run(body, 0.25)

        with pytest.raises(OverloadedError, match="1 event loops are blocked"):
            loop.run(soon, 1)
        body.end()
        assert loop.run(soon, WAIT_S) == "toolpost-loop"
        loop.close()

    def test_a_call_that_waited_for_the_loop_has_so_much_less_time(self):
        loop, body, clock, arrived, left = Loop(), Blocker(), FakeClock(), threading.Event(), []
        first = InThread(lambda: loop.run(body))
        assert body.started.wait(WAIT_S)
        read = clock.stopwatch

        def stopwatch() -> float:
            arrived.set()
            return read()

        clock.stopwatch = stopwatch

        async def told(left_s):
            left.append(left_s)

        second = InThread(lambda: loop.run(told, 10.0, clock=clock))
        assert arrived.wait(WAIT_S)
        assert second.is_alive()
        clock.advance(3)
        body.release.set()
        second.join(WAIT_S)
        first.join(WAIT_S)

        assert left == [7.0]
        loop.close()

    def test_an_executor_tells_of_blocked_loops(self):
        body = Blocker()

        class Wrong(BaseTool):
            async def blocks(self):
                return await body(None)

            async def quick(self):
                await asyncio.sleep(0)
                return "quick"

        with executor_for(timeout=0.05, cancel_grace_s=0.0) as executor:
            tool = Wrong()
            with pytest.raises(ToolTimeoutError) as late:
                executor.execute(tool, "blocks")
            health = executor.health()

            assert late.value.outcome == "unknown"
            assert (health["status"], health["threads_abandoned"]) == ("degraded", 1)
            assert "blocked by async bodies" in health["problems"][0]
            executor.config.timeout = WAIT_S
            assert executor.execute(tool, "quick") == "quick"
            body.end()
            assert executor.health()["threads_abandoned"] == 0

    def test_another_body_s_exit_does_not_end_the_loop(self):
        loop = Loop()

        async def leaves(left_s):
            async def exits():
                raise SystemExit(3)

            task = asyncio.ensure_future(exits())
            await asyncio.wait([task])
            with pytest.raises(SystemExit):
                task.result()
            return "went on"

        assert loop.run(leaves, WAIT_S) == "went on"
        loop.close()


class TestLife:
    def test_a_loop_that_nobody_refers_to_ends_with_its_thread_and_descriptors(self):
        before, open_before = loop_threads(), len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self") else None
        loops = [Loop() for _ in range(5)]
        for loop in loops:
            loop.run(soon, WAIT_S)
        ours = loop_threads() - before
        assert len(ours) == 5

        del loop, loops
        gc.collect()

        for thread in ours:
            thread.join(WAIT_S)
            assert not thread.is_alive()
        if open_before is not None:
            assert len(os.listdir("/proc/self/fd")) <= open_before

    def test_tools_with_settings_leave_no_loop_behind(self):
        class Async(BaseTool):
            async def op(self, x: int):
                await asyncio.sleep(0)
                return x

        before = loop_threads()
        tools = [Async({"timeout": 5}) for _ in range(5)]
        assert [tool.run("op", x=n) for n, tool in enumerate(tools)] == list(range(5))
        ours = loop_threads() - before
        assert len(ours) == 5

        del tools
        gc.collect()

        for thread in ours:
            thread.join(WAIT_S)
            assert not thread.is_alive()

    def test_a_closed_loop_refuses_and_cancels_what_runs(self):
        loop, started, ended = Loop(), threading.Event(), []

        async def waits(left_s):
            started.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.append("cleaned up")

        caller = InThread(lambda: loop.run(waits))
        assert started.wait(WAIT_S)
        loop.close()
        caller.join(WAIT_S)

        assert type(caller.error).__name__ == "CancelledError"
        assert ended == ["cleaned up"]
        with pytest.raises(OverloadedError, match="make another"):
            loop.run(soon)

    def test_the_thread_does_not_keep_the_loop_object_alive(self):
        loop = Loop()
        loop.run(soon, WAIT_S)
        gone = weakref.ref(loop)

        del loop
        gc.collect()

        assert gone() is None

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_a_forked_child_starts_a_loop_of_its_own_and_leaves_the_parents_alone(self):
        loop = Loop()
        loop.run(soon, WAIT_S)

        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if loop.run(soon, WAIT_S) == "toolpost-loop" else 2
                loop.close()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)

        assert os.waitstatus_to_exitcode(status) == 0
        assert loop.run(soon, WAIT_S) == "toolpost-loop"
        loop.close()


class TestLending:
    def test_tools_call_tools_of_the_other_kind_in_a_pool_of_one(self):
        class Relay(BaseTool):
            def a(self, x: int):
                return self.run("b", x=x)

            async def b(self, x: int):
                return await self.run_async("c", x=x)

            def c(self, x: int):
                return f"c{x:d}{len('')}"

        tool = Relay({"max_workers": 1, "timeout": 5})

        assert tool.run("a", x=1) == "c10"
        tool.close()

    def test_a_worker_that_waits_for_another_pool_lends_its_place_in_its_own(self):
        one, other = Threads(1), Threads(1)

        async def across():
            def nested() -> str:
                return asyncio.run(one.run(lambda: "inmost"))

            def outer() -> str:
                return asyncio.run(asyncio.wait_for(other.run(nested), WAIT_S))

            return await asyncio.wait_for(one.run(outer), WAIT_S)

        assert asyncio.run(across()) == "inmost"
        one.close()
        other.close()

    def test_a_job_that_waits_already_takes_the_place_lent(self):
        pool, inside, queued, done = Threads(1), threading.Event(), threading.Event(), threading.Event()

        def lends() -> bool:
            inside.set()
            assert queued.wait(WAIT_S)
            with lending():
                return done.wait(WAIT_S)

        async def both() -> bool:
            first = asyncio.ensure_future(pool.run(lends))
            while not inside.is_set():
                await asyncio.sleep(0)
            second = asyncio.ensure_future(pool.run(done.set))
            await asyncio.sleep(0)
            queued.set()
            await second
            return await first

        assert asyncio.run(both())
        pool.close()

    def test_lending_does_nothing_elsewhere(self):
        with lending():
            pass
