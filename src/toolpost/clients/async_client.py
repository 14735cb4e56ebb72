"""AsyncClient: calls tools at a gateway, for programs that await."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from toolpost.clients import downloads
from toolpost.clients.answers import CallEvent, CallResult, RemoteFile, Report
from toolpost.clients.connection import AsyncConnection, Key
from toolpost.clients.exchange import Patience
from toolpost.clients.operations import Operations
from toolpost.clients.turns import turn_of

if TYPE_CHECKING:
    from typing import Unpack

    import httpx

    from toolpost.clients.operations import CallOptions, Filters, Format, SubmitOptions


class AsyncClient:
    """A gateway, by its URL: as Client, for the tasks of one event loop. key may be a function that is async."""

    def __init__(
        self,
        base_url: str,
        *,
        key: Key = None,
        timeout_s: float = 60.0,
        retries: int = 2,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self._operations = Operations(timeout_s, Patience(retries=retries))
        self._connection = AsyncConnection(base_url, key, http)
        self.approvals = AsyncApprovals(self._operations, self._connection)

    # -- calls --------------------------------------------------------------------------------------------------------

    async def call(
        self, tool: str, arguments: Mapping[str, Any] | None = None, /, **options: Unpack[CallOptions]
    ) -> Any:
        """Call a tool and give its value. Raises the error of the tree that the call ended with."""
        return await self._connection.run(self._operations.call(tool, arguments, options))

    async def execute(
        self, tool: str, arguments: Mapping[str, Any] | None = None, /, **options: Unpack[CallOptions]
    ) -> CallResult:
        """Call a tool and report how that ended; raises nothing for a call that failed, or was not answered."""
        return await self._connection.run(self._operations.execute(tool, arguments, options))

    async def batch(self, calls: Iterable[Any], *, timeout_s: float | None = None) -> list[CallResult]:
        """Make calls, each (tool, arguments) or {"tool", "arguments", ...}; one result each, in order.

        They are sent by the thousand. Raises what refuses the first of these; what becomes of later ones is in results.
        """
        return await self._connection.run(self._operations.batch(calls, timeout_s))

    async def submit(
        self, tool: str, arguments: Mapping[str, Any] | None = None, /, **options: Unpack[SubmitOptions]
    ) -> AsyncHandle:
        """Have a call accepted: it is durable when this returns. It gets an idempotency key, unless it has one."""
        return AsyncHandle(self, await self._connection.run(self._operations.submit(tool, arguments, options)))

    def stream(
        self,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        /,
        *,
        durable: bool = True,
        **options: Unpack[SubmitOptions],
    ) -> AsyncGenerator[CallEvent, None]:
        """Make a call and give what it tells, last its result. The first event, call, has its id.

        durable: it is accepted, goes on when nobody reads, and a stream that breaks off is taken up again. Without, it
        is cancelled when the stream ends. Nothing is sent before the first event is asked for.
        """
        return self._connection.items(self._operations.stream(tool, arguments, options, durable))

    async def run(self, response: Any, *, session_id: str | None = None, timeout_s: float | None = None) -> list[Any]:
        """Make the calls in an answer of OpenAI's or Anthropic's SDK; the whole turn, as the next request takes it.

        That is what the model said and, where it called tools, the answers: messages += await client.run(response).
        """
        turn = turn_of(response)
        if not turn.calls:
            return turn.said
        return turn.answered(
            await self._connection.run(self._operations.turn(turn.payload, turn.format, session_id, timeout_s))
        )

    # -- calls that were made -----------------------------------------------------------------------------------------

    async def show(self, call_id: str) -> Report:
        """How a call stands. Raises NotFoundError."""
        return await self._connection.run(self._operations.show(call_id))

    async def wait(self, call_id: str, timeout_s: float | None = None) -> Report:
        """A call's report once it ended; as it stands after timeout_s seconds."""
        return await self._connection.run(self._operations.wait(call_id, timeout_s))

    async def result(self, call_id: str, timeout_s: float | None = None) -> CallResult:
        """A call's result once it ended. Raises TimeoutError when it has not after timeout_s seconds."""
        return await self._connection.run(self._operations.result(call_id, timeout_s))

    def events(self, call_id: str, after: str | None = None) -> AsyncGenerator[CallEvent, None]:
        """What a call tells after one of its events, last its result; taken up again where it breaks off."""
        return self._connection.items(self._operations.events(call_id, after))

    async def cancel(self, call_id: str) -> Report:
        """Have a call end; how it stands then, as it may take a moment."""
        return await self._connection.run(self._operations.cancel(call_id))

    async def explain(self, call_id: str) -> list[dict[str, Any]]:
        """What each stage decided about a call that was made with explain=True, or accepted."""
        return await self._connection.run(self._operations.explain(call_id))

    def calls(self, *, page: int = 100, **filters: Unpack[Filters]) -> AsyncIterator[Report]:
        """The calls that the caller may see, newest first, fetched page by page."""
        return self._connection.items(self._operations.calls(filters, page))

    # -- tools and files ----------------------------------------------------------------------------------------------

    async def tools(
        self, format: Format = "toolpost", *, query: str | None = None, limit: int | None = None, strict: bool = False
    ) -> list[dict[str, Any]]:
        """The tools that the caller may use, in the form that a provider's request takes; with query, best first."""
        return await self._connection.run(self._operations.tools(format, query, limit, strict))

    @overload
    async def download(self, file: RemoteFile | str, name: str | None = None, *, to: None = None) -> bytes: ...
    @overload
    async def download(
        self, file: RemoteFile | str, name: str | None = None, *, to: str | os.PathLike[str]
    ) -> Path: ...
    async def download(
        self, file: RemoteFile | str, name: str | None = None, *, to: str | os.PathLike[str] | None = None
    ) -> bytes | Path:
        """A file of a call: of CallResult.files, or by the call's id and its name. Its digest is checked.

        to: the path that it is written to, when it is whole; without, its bytes are given.
        """
        given = downloads.described(file, name)
        if not isinstance(given, RemoteFile):
            given = await self._connection.run(downloads.found(self._operations, given, str(name)))
        if to is None:
            sink = io.BytesIO()
            await self._connection.run(downloads.download(self._operations, given, sink))
            return sink.getvalue()
        with downloads.placed(Path(to)) as part:
            await self._connection.run(downloads.download(self._operations, given, part))
        return Path(to)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


class AsyncHandle:
    """A call that was accepted. call_id is its id; report how it stood when this was made or last asked for."""

    def __init__(self, client: AsyncClient, report: Report) -> None:
        self._client, self.report = client, report

    @property
    def call_id(self) -> str:
        """The call's id."""
        return self.report.call_id

    async def wait(self, timeout_s: float | None = None) -> Report:
        """Its report once it ended; as it stands after timeout_s seconds."""
        if not self.report.ended:
            self.report = await self._client.wait(self.call_id, timeout_s)
        return self.report

    async def result(self, timeout_s: float | None = None) -> CallResult:
        """Its result once it ended. Raises TimeoutError when it has not after timeout_s seconds."""
        report = await self.wait(timeout_s)
        return report.result or await self._client.result(self.call_id, 0)

    async def value(self, timeout_s: float | None = None) -> Any:
        """What it gave, once it ended. Raises the error that it ended with, and TimeoutError as result does."""
        return (await self.result(timeout_s)).value()

    def events(self, after: str | None = None) -> AsyncGenerator[CallEvent, None]:
        """What it tells, from its beginning or after one of its events."""
        return self._client.events(self.call_id, after)

    async def cancel(self) -> Report:
        """Have it end."""
        self.report = await self._client.cancel(self.call_id)
        return self.report


class AsyncApprovals:
    """The approvals at a gateway, as the JSON that it shows: id, state, tool, arguments, reason and more."""

    def __init__(self, operations: Operations, connection: AsyncConnection) -> None:
        self._operations, self._connection = operations, connection

    def list(self, state: str = "pending") -> AsyncIterator[dict[str, Any]]:
        """Those in a state (pending, approved, denied, ... or all), oldest question first."""
        return self._connection.items(self._operations.approvals(state))

    async def show(self, approval_id: str) -> dict[str, Any]:
        """One, with its history. Raises NotFoundError."""
        return await self._connection.run(self._operations.approval(approval_id))

    async def approve(
        self, approval_id: str, *, reason: str | None = None, arguments: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Let the call be made, once; with arguments, another in its place."""
        body = {"reason": reason, "arguments": arguments}
        return await self._connection.run(self._operations.decide(approval_id, "approve", body))

    async def deny(self, approval_id: str, *, reason: str) -> dict[str, Any]:
        """Refuse the call; the reason is what the model is told."""
        return await self._connection.run(self._operations.decide(approval_id, "deny", {"reason": reason}))

    async def run(self, approval_id: str, *, timeout_s: float | None = None) -> CallResult:
        """Make the call that was approved; it runs once. Raises what refuses to make it."""
        return await self._connection.run(self._operations.run_approved(approval_id, timeout_s))


__all__ = ["AsyncApprovals", "AsyncClient", "AsyncHandle"]
