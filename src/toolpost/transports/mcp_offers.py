"""Resources and prompts over MCP: an application's own, and the results and artifacts of the caller's calls."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import orjson

from toolpost.calls import ToolExecutionError
from toolpost.calls.content import contents_of
from toolpost.calls.errors import InputRequiredError, InputValidationError
from toolpost.calls.offers import Prompt, Resource
from toolpost.calls.result import Failure
from toolpost.engine.catalog import MOST_COMPLETIONS
from toolpost.stores import Pending
from toolpost.transports.mcp_calls import paged
from toolpost.transports.mcp_client import Client, client_of
from toolpost.transports.mcp_errors import invalid_params, missing_capability, offer_failed, resource_not_found
from toolpost.transports.mcp_results import Answer, artifact_uri, media_type_of
from toolpost.transports.mcp_rounds import Round, Rounds, SessionAsker, for_client, input_required
from toolpost.transports.mcp_tools import LISTED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mcp.server.context import ServerRequestContext

    from toolpost.calls.call import Caller
    from toolpost.worker.service import Service

logger = logging.getLogger("toolpost")

OURS: Final = re.compile(r"toolpost://calls/([^/]+)/(result|artifacts/(.+))")
MAX_READ_BYTES: Final = 16 << 20
"""How much of an artifact one read gives; more is read in ranges, by ?offset=...&length=... in bytes."""
_RANGE: Final = re.compile(r"(.*)\?offset=([0-9]{1,15})&length=([0-9]{1,15})")

TEMPLATES: Final = (
    {
        "uriTemplate": "toolpost://calls/{id}/result",
        "name": "result",
        "title": "The whole result of a call",
        "mimeType": "application/json",
    },
    {
        "uriTemplate": "toolpost://calls/{id}/artifacts/{name}",
        "name": "artifact",
        "title": "A file that a call gave; ?offset=0&length=65536 gives a part of it",
    },
)


class Offers:
    """The handlers of resources, prompts and completion. local is who speaks over stdio."""

    def __init__(self, service: Service, base_url: str, local: Caller | None = None) -> None:
        self.service, self.executor, self._local = service, service.executor, local
        self._rounds = Rounds(self.executor, base_url)

    # -- resources ----------------------------------------------------------------------------------------------------

    async def list_resources(self, ctx: ServerRequestContext[Any, Any], params: Any) -> Answer:
        """The application's resources that the caller may read; those of calls are found by their templates."""
        client = client_of(ctx, self._local)
        found = [one for one in self.executor.catalog.resources(client.caller) if not one.variables]
        chosen, after = paged(found, [one.uri for one in found], params.cursor)
        answer: Answer = {"resources": [_shown(one, "uri") for one in chosen], **LISTED}
        return answer if after is None else {**answer, "nextCursor": after}

    async def list_templates(self, ctx: ServerRequestContext[Any, Any], params: Any) -> Answer:
        """Those of the application, and ours."""
        client = client_of(ctx, self._local)
        found = [one for one in self.executor.catalog.resources(client.caller) if one.variables]
        shown = sorted([*(_shown(one, "uriTemplate") for one in found), *TEMPLATES], key=lambda one: one["uriTemplate"])
        chosen, after = paged(shown, [one["uriTemplate"] for one in shown], params.cursor)
        answer: Answer = {"resourceTemplates": chosen, **LISTED}
        return answer if after is None else {**answer, "nextCursor": after}

    async def read(self, ctx: ServerRequestContext[Any, Any], params: Any) -> Answer:
        """What a resource holds."""
        client = client_of(ctx, self._local)
        ours = OURS.fullmatch(params.uri)
        if ours is not None:
            contents = await self._of_call(client, params.uri, unquote(ours[1]), ours[3])
            return {"contents": contents, **LISTED}

        async def work(answers: Mapping[str, Any]) -> Answer:
            contents = await self.executor.catalog.read(params.uri, client.caller, answers)
            if contents is None:
                raise resource_not_found(params.uri, client.modern)
            return {"contents": contents, "ttlMs": 0, "cacheScope": "private", "resultType": "complete"}

        return await self._in_rounds(ctx, client, params, work)

    async def _of_call(self, client: Client, uri: str, call_id: str, artifact: str | None) -> list[dict[str, Any]]:
        report = await self.service.calls.show(call_id, client.sees)
        if report is None:
            raise resource_not_found(uri, client.modern)
        if artifact is None:
            if report.result is None:
                raise invalid_params(f"call {call_id} is {report.state}, and has no result yet")
            told = report.result.to_dict()
            told["artifacts"] = [
                {"name": one.name, "bytes": one.size, "uri": artifact_uri(call_id, one.name)}
                for one in report.artifacts
            ]
            return [contents_of(uri, orjson.dumps(told).decode(), "application/json")]
        ranged = _RANGE.fullmatch(artifact)
        name = unquote(artifact if ranged is None else str(ranged[1]))
        kept = next((one for one in report.artifacts if one.name == name), None)
        if kept is None:
            raise resource_not_found(uri, client.modern)
        if ranged is None and kept.size > MAX_READ_BYTES:
            raise invalid_params(
                f"{kept.name} has {kept.size} bytes, and a read gives {MAX_READ_BYTES}; add ?offset=0&length=..."
            )
        start, length = (0, None) if ranged is None else (int(ranged[2]), min(int(ranged[3]), MAX_READ_BYTES))
        answer = self.executor.blobs.get(kept.digest, start, length)
        data = await answer if isinstance(answer, Pending) else answer
        if data is None:
            raise resource_not_found(uri, client.modern)
        return [_contents(uri, data, kept.media_type or media_type_of(kept.name))]

    # -- prompts ------------------------------------------------------------------------------------------------------

    async def list_prompts(self, ctx: ServerRequestContext[Any, Any], params: Any) -> Answer:
        """The application's prompts that the caller may use."""
        client = client_of(ctx, self._local)
        found = self.executor.catalog.prompts(client.caller)
        chosen, after = paged(found, [one.name for one in found], params.cursor)
        answer: Answer = {"prompts": [_shown_prompt(one) for one in chosen], **LISTED}
        return answer if after is None else {**answer, "nextCursor": after}

    async def prompt(self, ctx: ServerRequestContext[Any, Any], params: Any) -> Answer:
        """A prompt's messages."""
        client = client_of(ctx, self._local)

        async def work(answers: Mapping[str, Any]) -> Answer:
            try:
                found = await self.executor.catalog.render(params.name, params.arguments or {}, client.caller, answers)
            except InputValidationError as error:
                raise invalid_params(error.message) from None
            if found is None:
                raise invalid_params(f"there is no prompt {params.name!r}")
            prompt, messages = found
            answer: Answer = {"messages": messages, "resultType": "complete"}
            return {**answer, "description": prompt.description} if prompt.description else answer

        return await self._in_rounds(ctx, client, params, work)

    async def complete(self, ctx: ServerRequestContext[Any, Any], params: Any) -> Answer:
        """What an argument of a prompt or template may become."""
        kind, name = ("prompt", params.ref.name) if params.ref.type == "ref/prompt" else ("resource", params.ref.uri)
        given = (params.context.arguments if params.context is not None else None) or {}
        found = await self.executor.catalog.complete(kind, name, params.argument.name, params.argument.value, given)  # type: ignore[arg-type]
        values = [] if found is None else found
        shown = values[:MOST_COMPLETIONS]
        completion = {"values": shown, "total": len(values), "hasMore": len(values) > len(shown)}
        return {"completion": completion, "resultType": "complete"}

    async def _in_rounds(
        self,
        ctx: ServerRequestContext[Any, Any],
        client: Client,
        params: Any,
        work: Callable[[Mapping[str, Any]], Awaitable[Answer]],
    ) -> Answer:
        """What work gives with the answers that came; or the questions that it asks."""
        from mcp.shared.exceptions import MCPError

        round = Round.of(params.request_state, (ctx.params or {}).get("inputResponses"))
        while True:
            try:
                return await work(round.answers)
            except InputRequiredError as error:
                questions = await self._rounds.questions(Failure.of(error), client, round)
                before = dict(round.answers)
                asked, lacking = for_client(questions, client, round)
                if lacking:
                    raise missing_capability(lacking) from None
                if asked and client.modern:
                    return input_required(asked, round)
                if asked:
                    round.answers.update(await SessionAsker(ctx, client).ask(asked))
                if round.answers == before:
                    raise invalid_params(error.message) from None
            except (ToolExecutionError, MCPError):
                raise
            except Exception as error:
                logger.exception("what is offered over MCP failed: %s", ctx.method)
                raise offer_failed(ctx.method, error) from error


def _contents(uri: str, data: bytes, media_type: str) -> dict[str, Any]:
    if media_type.startswith("text/") or media_type in ("application/json", "application/xml"):
        try:
            return contents_of(uri, data.decode(), media_type)
        except UnicodeDecodeError:
            pass  # a part that begins or ends within a character, or no text after all
    return contents_of(uri, data, media_type)


def _shown(resource: Resource, key: str) -> dict[str, Any]:
    said = {
        key: resource.uri,
        "name": resource.name,
        "title": resource.title,
        "description": resource.description,
        "mimeType": resource.media_type,
    }
    return {name: value for name, value in said.items() if value is not None}


def _shown_prompt(prompt: Prompt) -> dict[str, Any]:
    said: dict[str, Any] = {"name": prompt.name, "title": prompt.title, "description": prompt.description}
    if prompt.arguments:
        said["arguments"] = [
            {
                key: value
                for key, value in (
                    ("name", one.name),
                    ("title", one.title),
                    ("description", one.description),
                    ("required", one.required),
                )
                if value is not None
            }
            for one in prompt.arguments
        ]
    return {name: value for name, value in said.items() if value is not None}


__all__ = ["OURS", "Offers"]
