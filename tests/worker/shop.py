"""Tools for tests of the worker: what they did is noted, and their bodies wait while the gate is shut."""

import asyncio
import threading
from collections import Counter
from typing import Any

from toolpost import Hints, Idempotency, Tool, ToolContext, ToolError


class Shop:
    """The tools of one test. began and ended count bodies by what they were asked for."""

    def __init__(self) -> None:
        self.began: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.order: list[str] = []
        self.tokens: list[tuple[str, Any]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.thread_gate = threading.Event()
        self.thread_gate.set()
        self.running = 0
        self.most = 0
        self.fails: Counter[str] = Counter()
        """How often a thing fails yet before it succeeds."""

    def shut(self) -> None:
        """Hold bodies up from now on."""
        self.gate.clear()
        self.thread_gate.clear()

    def open(self) -> None:
        """Let them go on."""
        self.gate.set()
        self.thread_gate.set()

    def tools(self) -> list[Any]:
        """All of them."""
        keyed = Idempotency(only_caller=True, in_flight="refuse", lease_s=2.0)
        return [
            Tool(name="Shop.Buy", register=False)(self._buy()),
            Tool(name="Shop.Look", register=False, hints=Hints(read_only=True))(self._buy()),
            Tool(name="Shop.Pay", register=False, idempotency=keyed)(self._buy()),
            Tool(name="Shop.Fetch", register=False, hints=Hints(idempotent=True))(self._flaky()),
            Tool(name="Shop.Send", register=False)(self._flaky()),
            Tool(name="Shop.Block", register=False)(self._block()),
            Tool(name="Shop.Tell", register=False)(self._tell()),
            Tool(name="Shop.Files", register=False)(self._files()),
            Tool(name="Shop.Big", register=False)(self._big()),
            Tool(
                name="Shop.Login",
                register=False,
                parameters={
                    "type": "object",
                    "properties": {
                        "user": {"type": "string"},
                        "password": {"type": "string"},
                        "pin": {"type": "string", "writeOnly": True},
                    },
                    "required": ["user"],
                },
            )(self._login()),
            Tool(name="Shop.Own", register=False, requires_auth=True)(self._own()),
            Tool(name="Shop.Admin", register=False, permissions=["shop:admin"])(self._admin()),
        ]

    def _buy(self) -> Any:
        async def buy(what: str, ctx: ToolContext) -> dict[str, Any]:
            self.began[what] += 1
            self.order.append(what)
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await self.gate.wait()
            finally:
                self.running -= 1
            self.ended[what] += 1
            return {"what": what, "call": ctx.call_id}

        return buy

    def _flaky(self) -> Any:
        async def flaky(what: str) -> str:
            self.began[what] += 1
            if self.fails[what] > 0:
                self.fails[what] -= 1
                raise ToolError("not now", retryable=True, code="BUSY")
            self.ended[what] += 1
            return what

        return flaky

    def _block(self) -> Any:
        def block(what: str) -> str:
            self.began[what] += 1
            self.thread_gate.wait(20)
            self.ended[what] += 1
            return what

        return block

    def _tell(self) -> Any:
        async def tell(ctx: ToolContext, times: int = 3, quickly: bool = False) -> int:
            await self.gate.wait()
            for n in range(times):
                ctx.progress(n, times, f"step {n}")
                ctx.log(f"line {n}", number=n)
                if not quickly:
                    await asyncio.sleep(0)
            return times

        return tell

    def _files(self) -> Any:
        async def files(ctx: ToolContext) -> str:
            ctx.artifact("plots/one.png", b"\x89PNG\x00")
            ctx.artifact("notes.txt", "hello")
            return "two"

        return files

    def _big(self) -> Any:
        async def big(size: int) -> str:
            return "x" * size

        return big

    def _login(self) -> Any:
        async def login(user: str, password: str = "", pin: str = "") -> str:
            self.tokens.append((password, pin))
            return user

        return login

    def _own(self) -> Any:
        async def own(ctx: ToolContext) -> str | None:
            return ctx.user_id

        return own

    def _admin(self) -> Any:
        async def admin() -> str:
            self.began["admin"] += 1
            return "done"

        return admin
