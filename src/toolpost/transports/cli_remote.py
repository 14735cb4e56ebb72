"""A gateway that runs the calls of `toolpost run`: one that is named, or one that is started for the run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import httpx
import orjson

from toolpost.calls.call import ToolCall
from toolpost.calls.clock import SYSTEM_CLOCK
from toolpost.calls.errors import (
    ConfigurationError,
    InputValidationError,
    RemoteToolError,
    ToolExecutionError,
    ToolTimeoutError,
    UnauthorizedError,
)
from toolpost.calls.result import ToolResult, failed_result
from toolpost.clients import AsyncClient, Client
from toolpost.engine.batch import checked_concurrency, streamed, too_late

if TYPE_CHECKING:
    from toolpost.transports.cli_options import Setup

KEY_VARIABLE = "TOOLPOST_API_KEY"
"""Where the API key for a gateway is taken from, as an option would be seen by everybody on the machine."""

SENT = ("version", "task_id", "session_id", "idempotency_key")
SENT_FOR_NOBODY = ("user_id", "tenant")
"""What of a call is sent: these only where no key says who calls."""

LINGER_S = 30.0
"""How much longer than a call's deadline its answer may take to come."""
LONGEST_S = 86_400.0
"""How long the answer to a call without a deadline may take: whoever runs a file of calls waits for them."""


class Gateway:
    """Runs calls at a gateway, one request each and none of them twice. Use it in one event loop."""

    def __init__(self, url: str, concurrency: int) -> None:
        self._url, self._key, self._concurrency = url.rstrip("/"), os.environ.get(KEY_VARIABLE), concurrency
        self._client: AsyncClient | None = None
        self._optional: dict[str, frozenset[str]] = {}

    def get_available_tools(self) -> list[str]:
        """The names of the tools there. Raises ConfigurationError where it cannot be reached, or refuses."""
        try:
            with Client(self._url, key=self._key, timeout_s=LINGER_S, retries=0) as client:
                tools = client.tools()
        except UnauthorizedError as error:
            raise ConfigurationError(
                f"the gateway at {self._url} wants an API key; put one into {KEY_VARIABLE}"
            ) from error
        except (RemoteToolError, ToolTimeoutError) as error:
            raise ConfigurationError(f"no gateway answers at {self._url}: {error.message}") from error
        except ToolExecutionError as error:
            raise ConfigurationError(f"no calls can be run at {self._url}: {error.message}") from error
        for one in tools:
            schema = one.get("parameters", {})
            self._optional[one["name"]] = frozenset(schema.get("properties", {})) - set(schema.get("required", ()))
        return list(self._optional)

    def audit_refusal(self, tool: str, error: ToolExecutionError, **about: Any) -> None:
        """What cannot be sent is not the gateway's to audit."""

    async def stream_tool_calls(
        self,
        tool_calls: Iterable[ToolCall],
        *,
        fail_fast: bool = False,
        concurrency: int | None = None,
        deadline_s: float | None = None,
    ) -> AsyncIterator[tuple[int, ToolResult]]:
        """As ToolExecutor.stream_tool_calls."""
        most = checked_concurrency(concurrency, self._concurrency)
        limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
        async with httpx.AsyncClient(limits=limits, trust_env=False) as http:
            self._client = AsyncClient(self._url, key=self._key, retries=0, http=http)
            stream = streamed(
                tool_calls,
                self._call,
                concurrency=most,
                deadline_s=deadline_s,
                stop=(lambda result: not result.success) if fail_fast else None,
                clock=SYSTEM_CLOCK,
            )
            async with contextlib.aclosing(stream):  # type: ignore[type-var]
                async for pair in stream:
                    yield pair

    async def _call(self, call: ToolCall, left_s: float | None) -> ToolResult:
        if left_s is not None and left_s <= 0:
            return failed_result(call.id, call.name, too_late())
        if call.malformed is not None:
            wrong = InputValidationError(f"Parameter validation failed: {call.malformed}")
            return failed_result(call.id, call.name, wrong)
        began = SYSTEM_CLOCK.monotonic()
        try:
            return await self._asked(call, left_s)
        except ToolExecutionError as error:
            return failed_result(call.id, call.name, error, elapsed_s=SYSTEM_CLOCK.monotonic() - began)

    async def _asked(self, call: ToolCall, left_s: float | None) -> ToolResult:
        body: dict[str, Any] = {"tool": call.name, "arguments": self._arguments(call)}
        for name in SENT if self._key else (*SENT, *SENT_FOR_NOBODY):
            value = getattr(call, name)
            if value is not None:
                body[name] = value
        given = [one for one in (left_s, call.deadline_s) if one is not None]
        if given:
            body["deadline_s"] = min(given)
        timeout_s = body["deadline_s"] + LINGER_S if given else LONGEST_S
        assert self._client is not None
        (result,) = await self._client.batch([body], timeout_s=timeout_s)  # whose answers have the form of results
        return replace(result, call_id=call.id)

    def _arguments(self, call: ToolCall) -> Mapping[str, Any]:
        """Those of a call. Our own form cannot say that a model was shown a strict schema, where null means absent."""
        optional = self._optional.get(call.name) if call.strict else None
        if not optional:
            return call.arguments
        return {name: value for name, value in call.arguments.items() if value is not None or name not in optional}


@contextmanager
def started(setup: Setup) -> Iterator[str]:
    """The URL of a gateway of one's own, with the same tools and settings, for as long as the block.

    What it keeps is gone with it, unless a data directory is set. Raises ConfigurationError where it does not start,
    having said why.
    """
    options = [f"--set={name}={value}" for name, value in setup.settings.items()]
    options += [f"--tools={reference}" for reference in setup.tools]
    options += [f"--config={setup.file}"] if setup.file is not None else []
    options += ["--no-toolbox"] if not setup.toolbox else []
    options += ["--debug"] if setup.debug else []
    command = [sys.executable, "-m", "toolpost", "serve", "--json", *options, "--access-log=none"]
    config = setup.load_config()
    if config.origin("log_level") == "default":
        command.append("--set=log_level=CRITICAL")  # the results tell how calls failed
    with ExitStack() as stack:
        if config.data_directory is None:
            command.append(f"--data={stack.enter_context(TemporaryDirectory(prefix='toolpost-'))}")
        process = stack.enter_context(
            subprocess.Popen(
                [*command, "--host=127.0.0.1", "--port=0"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C ends the run, which ends the gateway
            )
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise ConfigurationError(f"the gateway did not start; it ended with exit code {process.wait()}")
            yield orjson.loads(line)["url"]
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)


__all__ = ["KEY_VARIABLE", "Gateway", "started"]
