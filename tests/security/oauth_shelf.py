"""What the tests of AuthorizationManager share: a manager at the tests' provider, and people who log in there."""

from typing import Any

from tests.services import Oidc
from tests.services.oidc import parameters
from toolpost.calls.oauth import Authorization
from toolpost.security.oauth import AuthorizationManager

SECRET = "a-secret-key-of-the-tests-long-enough"
TOOL = "Mail.Inbox"


def manager_of(oidc: Oidc, **more: Any) -> AuthorizationManager:
    """A manager whose default provider is this one, as its confidential client."""
    settings = {"issuer": oidc.issuer, "secret_key": SECRET} | more
    return AuthorizationManager(oidc.client_id, oidc.client_secret, oidc.redirect_uri, **settings)


def public_client(oidc: Oidc, **more: Any) -> AuthorizationManager:
    """The same as a client without a secret."""
    return AuthorizationManager(
        "toolpost-public", None, oidc.redirect_uri, issuer=oidc.issuer, secret_key=SECRET, **more
    )


async def grant(
    manager: AuthorizationManager,
    oidc: Oidc,
    user: str = "alice",
    scopes: tuple[str, ...] = ("read",),
    **fields: Any,
) -> Authorization:
    """Have a person grant scopes."""
    flow = await manager.initiate_authorization_async(user, TOOL, scopes, **fields)
    fields.pop("provider", None)
    return await manager.complete_from_callback(oidc.login(flow.auth_url, user), user_id=user, **fields)


def code_of(callback: str) -> str:
    return parameters(callback)["code"]


def state_of(auth_url: str) -> str:
    return parameters(auth_url)["state"]
