"""Makes an executor's authenticator of its settings: who its callers are, by API keys and by JWTs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolpost.calls.clock import Clock
from toolpost.calls.errors import ConfigurationError
from toolpost.engine.settings import ExecutorConfig
from toolpost.security.api_keys import ApiKeys
from toolpost.security.egress import EgressGuard
from toolpost.security.issuers import JwtIssuer
from toolpost.security.noting import Audit, no_audit
from toolpost.security.tokens import Authenticator
from toolpost.stores import Records

if TYPE_CHECKING:
    from toolpost.security.jwt import JwtVerifier


def authenticator_of(
    config: ExecutorConfig, records: Records, clock: Clock, egress: EgressGuard, audit: Audit = no_audit
) -> Authenticator:
    """The authenticator; what JWTs need is loaded when the first one comes."""
    issuer = issuer_of(config)
    if issuer is None:
        return Authenticator(ApiKeys(records, clock, audit))

    def verifier() -> JwtVerifier:
        from toolpost.security.jwt import JwtVerifier
        from toolpost.security.key_sets import guarded_fetch

        urls = [issuer.url] if issuer.jwks_url is None else [issuer.jwks_url]
        return JwtVerifier((issuer,), guarded_fetch(egress, *urls), clock)

    return Authenticator(ApiKeys(records, clock, audit), verifier)


def issuer_of(config: ExecutorConfig) -> JwtIssuer | None:
    """The issuer of the settings, if there is one. Raises ConfigurationError for one that cannot be checked."""
    if config.jwt_issuer is None:
        return None
    if config.jwt_audience is None:
        raise ConfigurationError(
            f"jwt_issuer is set ({config.origin('jwt_issuer')}) but no jwt_audience: tokens for any other service "
            f"would be accepted here; set jwt_audience to what tokens name this service by (aud)"
        )
    return JwtIssuer(
        url=config.jwt_issuer,
        audience=config.jwt_audience,
        jwks_url=config.jwt_jwks_url,
        leeway_s=config.jwt_leeway,
        user_claim=config.jwt_user_claim,
        tenant_claim=config.jwt_tenant_claim,
        scope_claim=config.jwt_scope_claim,
        roles_claim=config.jwt_roles_claim,
    )
