"""Runs an HttpBody: sends one request through the egress guard, and makes of the answer a result or a typed error."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from toolpost.calls.definition import HttpBody, ToolDefinition
from toolpost.calls.errors import ConfigurationError, RemoteToolError, ToolTimeoutError
from toolpost.calls.policies import given
from toolpost.runners import http_answers
from toolpost.runners.declared import hide_declared
from toolpost.runners.function import Run, Runs, _left as left_s
from toolpost.runners.http_exchange import LATER_S, exchange, guard_of, transports
from toolpost.runners.http_request import NO_SECRETS, READS, Request, Template
from toolpost.runners.http_response import Headers
from toolpost.runners.resources import Resources, forget, revealed
from toolpost.security.egress_transport import GuardedTransport
from toolpost.security.oauth_provider import is_loopback


def http_runner(tool: ToolDefinition, body: HttpBody, resources: Resources) -> Runs:
    """The runner of an HTTP tool. Its result is {"status_code", "headers", "body"}.

    Where it may go is the executor's and the tool's Egress to say. Redirects are not followed, cookies not kept, and
    neither proxies nor credentials taken from the environment. body is parsed JSON, text, None where there is none, or
    {"base64", "content_type"} for other bytes. A tool with OAuth sends its caller's own token, which no argument,
    template or result holds; one that the server does not take is renewed, once, and the request sent again.
    """
    template = Template(tool, body)
    if given(tool.policies.oauth) is not None and "authorization" in {name.lower() for name in body.headers}:
        raise ConfigurationError(
            f"{tool.name}: with OAuth the header Authorization is filled for each call; leave it out"
        )
    if given(tool.policies.oauth) is not None and not is_private_way(body.url):
        raise ConfigurationError(f"{tool.name}: with OAuth its url must be https (http only on this machine)")
    guard = guard_of(resources)
    clients = transports(resources, guard.reach(given(tool.policies.egress)))
    send_it = partial(_send, template, now=resources.clock.now, max_bytes=guard.max_bytes)
    references = template.references
    hide_declared(tool, resources)
    outcome_if_late = "stopped" if template.method in READS else "unknown"
    stopwatch = resources.clock.stopwatch

    async def send(run: Run) -> Any:
        run.attempts += 1
        secrets = NO_SECRETS if not references else await revealed(resources, references)
        request = template.fill(run.kwargs, run.effect_key, secrets)
        if run.grant is None:
            return await sent(run, request)
        token = await run.grant.token()
        try:
            return await sent(run, with_token(request, token))
        except RemoteToolError as error:
            refused = error
            if not http_answers.refuses_token(error):
                raise
        # Whoever refuses the token has done nothing else (RFC 6750, section 3.1), so it is safe to ask once more.
        ran, run.ran = run.ran, False
        renewed = await run.grant.token(fresh=True)
        if renewed == token:
            run.ran = ran
            raise refused
        return await sent(run, with_token(request, renewed))

    async def sent(run: Run, request: Request) -> Any:
        client = clients.here() or await clients.get()
        run.ran, run.on_timeout = True, outcome_if_late  # type: ignore[assignment]
        try:
            left = left_s(run, stopwatch)
            return await send_it(client, request, None if left is None else left + LATER_S)
        except (RemoteToolError, ToolTimeoutError) as error:
            run.ran = error.outcome != "not_run"
            if references and getattr(error, "upstream_status", None) in (401, 403):
                forget(resources, references)  # they may have been rotated
            raise

    return send


def with_token(request: Request, token: str) -> Request:
    """A request with its caller's token."""
    return request._replace(headers=request.headers | {"Authorization": f"Bearer {token}"})


def is_private_way(url: str) -> bool:
    """Whether nobody between here and there can read what goes to a URL: https, or this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or is_loopback(parts.hostname or "")


async def _send(
    template: Template,
    transport: GuardedTransport,
    request: Request,
    limit_s: float | None,
    *,
    now: Callable[[], float],
    max_bytes: int,
) -> dict[str, Any]:
    answer = await exchange(
        transport,
        request.method,
        request.url,
        request.headers.items(),
        request.content,
        shown=template.shown,
        limit_s=limit_s,
        max_bytes=max_bytes,
    )
    headers = Headers(answer.headers)
    if answer.status >= 400:
        raise http_answers.refusal(template.shown, answer.status, answer.reason, headers, answer.data, now)
    return {
        "status_code": answer.status,
        "headers": headers.public(),
        "body": http_answers.value(headers, answer.data),
    }
