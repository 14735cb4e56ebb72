"""Tools that the tests of the gateway call."""

import asyncio
import threading
from collections import defaultdict
from typing import Any

from toolpost import (
    Access,
    Idempotency,
    RateLimit,
    RemoteToolError,
    Tool,
    ToolContext,
    ToolError,
)


class Gates:
    """Holds calls up until a test lets them go. All of it may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = defaultdict(list)
        self._begun: dict[str, threading.Semaphore] = defaultdict(lambda: threading.Semaphore(0))
        self.cancelled: dict[str, threading.Event] = defaultdict(threading.Event)

    async def wait(self, name: str) -> None:
        gate = asyncio.Event()
        with self._lock:
            self._waiting[name].append((asyncio.get_running_loop(), gate))
            begun = self._begun[name]
        begun.release()
        try:
            await gate.wait()
        except asyncio.CancelledError:
            self.cancelled[name].set()
            raise

    def begun(self, name: str, timeout_s: float = 20.0) -> None:
        """Wait until one more call stands at a gate."""
        with self._lock:
            begun = self._begun[name]
        assert begun.acquire(timeout=timeout_s), f"no call came to the gate {name}"

    def open(self, name: str) -> None:
        with self._lock:
            waiting = self._waiting.pop(name, [])
        for loop, gate in waiting:
            loop.call_soon_threadsafe(gate.set)


GATES = Gates()
RAN: dict[str, int] = defaultdict(int)


@Tool(name="Math.Add", tags=["math"], register=False)
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@Tool(name="Math.Double", register=False)
def double(number: int) -> int:
    """Double a number, in a thread."""
    return 2 * number


@Tool(name="Math.Add", version="2.0.0", register=False)
async def add_two(a: int, b: int) -> dict[str, int]:
    """Add two numbers, the newer way."""
    return {"sum": a + b}


@Tool(name="Gate.Wait", register=False)
async def wait(name: str) -> str:
    """Wait at a gate."""
    await GATES.wait(name)
    return f"through {name}"


@Tool(name="Fail.Tool", register=False)
async def fail(code: str = "NO_ORDER") -> None:
    """Fail as tools do."""
    raise ToolError("there is no such order", code=code, details={"order": 7})


@Tool(name="Fail.Upstream", register=False)
async def fail_upstream() -> None:
    """Fail as another server does."""
    raise RemoteToolError("the other side is away", kind="unavailable", retry_after_s=2.5)


@Tool(name="Fail.Hard", register=False)
async def fail_hard() -> None:
    """Fail as broken code does."""
    raise ZeroDivisionError("nothing")


@Tool(name="Count.Once", idempotency=Idempotency(only_caller=True, in_flight="refuse"), register=False)
async def once(name: str, wait_at: str | None = None) -> int:
    """Count how often a name was given."""
    RAN[name] += 1
    if wait_at is not None:
        await GATES.wait(wait_at)
    return RAN[name]


@Tool(name="Limited.Two", rate_limit=RateLimit(calls=2, per_s=3600, by="user"), register=False)
async def limited() -> str:
    """Two calls an hour."""
    return "granted"


@Tool(name="Admin.Wipe", access=Access(scopes=("admin:wipe",)), register=False)
async def wipe() -> str:
    """Wipe all."""
    return "wiped"


@Tool(name="Who.Am.I", requires_auth=True, register=False)
async def who(ctx: ToolContext) -> dict[str, Any]:
    """Tell who calls."""
    return {"user": ctx.user_id, "tenant": ctx.tenant_id, "session": ctx.session_id, "task": ctx.task_id}


@Tool(name="Echo.Value", register=False)
async def echo(value: Any) -> Any:
    """Give back what came."""
    return value


@Tool(name="Plot.Draw", register=False)
async def draw(ctx: ToolContext) -> str:
    """Leave a file."""
    ctx.artifact("plots/one.txt", b"a line")
    return "drawn"


@Tool(name="Ask.First", register=False)
async def ask_first(ctx: ToolContext) -> str:
    """Ask the person."""
    answer = await ctx.elicit("Which colour?", {"properties": {"colour": {"type": "string"}}})
    return str((answer.get("content") or {}).get("colour"))


TOOLS = [add, add_two, double, wait, fail, fail_upstream, fail_hard, once, limited, wipe, who, echo, draw, ask_first]
