"""grant: the caller's own token of the provider that the tool needs, or where to grant it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import ConfigurationError
from toolpost.calls.oauth import OAuth
from toolpost.calls.policies import Policies, given
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services

if TYPE_CHECKING:
    from toolpost.pipeline.compile import Handler


def grant(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
    """A tool with OAuth runs with a grant of its caller that is good now and goes far enough; else it is refused.

    The refusal has the URL where the caller grants what is missing. It stands before every store of results, so that
    nobody is given what was fetched with a grant that has ended.
    """
    policies = tool.policies.over(services.defaults)
    policy = given(policies.oauth)
    if policy is None:
        return next
    _check_private(tool, policies, policy)
    manager = services.oauth

    async def handler(inv: Invocation) -> Any:
        if manager is None:
            raise ConfigurationError(
                f"{tool.name} needs a token of {policy.provider!r}, and there is no OAuth provider: set oauth_issuer, "
                "oauth_client_id and oauth_redirect_uri, or hand in ToolExecutor(authorization=AuthorizationManager(…))"
            )
        inv.grant = await manager.granted(inv.caller, tool.name, policy)
        if inv.explain is not None:
            inv.note("grant", "granted", provider=policy.provider, scopes=list(policy.scopes))
        return await next(inv)

    return handler


def _check_private(tool: ToolDefinition, policies: Policies, policy: OAuth) -> None:
    """What is fetched in one user's name must not be given to another by a store of results."""
    cache, idempotency = given(policies.cache), given(policies.idempotency)
    if cache is not None and cache.per not in ("user", "task"):
        raise ConfigurationError(
            f"{tool.name}: with OAuth({policy.provider!r}) its results are its caller's own: use Cache(per='user'), "
            f"not {cache.per!r}"
        )
    if idempotency is not None and not idempotency.include_user:
        raise ConfigurationError(
            f"{tool.name}: with OAuth({policy.provider!r}) its results are its caller's own: keep "
            "Idempotency(include_user=True)"
        )
