"""What `toolpost serve` refuses to begin with: a gateway open to everybody, limits that several processes divide."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from toolpost.calls.errors import ConfigurationError
from toolpost.calls.policies import Breaker, Concurrency, Exclusive, Idempotency, Policies, RateLimit
from toolpost.transports.serve_defaults import data_directory_of

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor
    from toolpost.engine.settings import ExecutorConfig


def is_local(config: ExecutorConfig) -> bool:
    """Whether only this machine can call: the gateway listens on an address of its own, and nothing passes calls on."""
    if config.trusted_proxies or (config.public_url is not None and not _is_own(urlsplit(config.public_url).hostname)):
        return False
    return config.serve_uds is not None or _is_own(config.serve_host.strip("[]"))


def _is_own(host: str | None) -> bool:
    if host is None or host == "localhost":
        return host is not None
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def listens_on(config: ExecutorConfig) -> str:
    """The address that a gateway is to think it listens on: one of this machine only where only this machine calls."""
    if config.serve_uds is None and (is_local(config) or not _is_own(config.serve_host.strip("[]"))):
        return config.serve_host
    return "localhost" if is_local(config) else "0.0.0.0"


def refuse_open(config: ExecutorConfig, executor: ToolExecutor) -> str | None:
    """Refuse to listen to other machines when nobody can say who they are; a warning where that is wanted.

    Raises ConfigurationError.
    """
    if is_local(config):
        return None
    if config.authentication == "none":
        return "authentication is 'none': whoever reaches the gateway may call every tool"
    if config.jwt_issuer is not None or any(key.state == "active" for key in executor.api_keys.list()):
        return None
    way = f"`toolpost keys create --data {data_directory_of(config)}`"
    if config.records_url is not None and config.origin("records_url") != "code":
        way = "`toolpost keys create`"
    if config.authentication == "required":
        return f"there is no API key and no jwt_issuer yet, so that nobody can call; {way} makes a key"
    raise ConfigurationError(
        f"{_why(config)}, so that others reach the gateway, and there is no API key and no jwt_issuer by which they "
        f"could be known; make a key with {way}, or set authentication=none to let everybody call"
    )


def _why(config: ExecutorConfig) -> str:
    if config.serve_uds is None and not _is_own(config.serve_host.strip("[]")):
        return f"serve_host is {config.serve_host!r}"
    return "trusted_proxies is set" if config.trusted_proxies else f"public_url is {config.public_url!r}"


def refuse_divided(config: ExecutorConfig, executor: ToolExecutor) -> None:
    """Refuse several processes where calls or limits would be each one's own. Raises ConfigurationError."""
    if config.serve_workers > 1 and _in_memory(executor.records.url):
        raise ConfigurationError(
            f"records_url is memory://, which {config.serve_workers} processes would each have for themselves; leave "
            "it out for a database in the data directory, or set serve_workers=1"
        )
    if config.serve_workers == 1 or not _in_memory(executor.state.url):
        return
    refuse_divided_settings(config)
    found = next(_divided(executor), None)
    if found is not None:
        raise _divides(config, found)


def refuse_divided_settings(config: ExecutorConfig) -> None:
    """refuse_divided as far as settings are at fault. Raises ConfigurationError."""
    if config.serve_workers == 1 or (config.state_url and not _in_memory(config.state_url.get_secret_value())):
        return
    if config.max_calls_per_minute is not None:
        raise _divides(config, f"max_calls_per_minute is {config.max_calls_per_minute}")
    if config.enable_rate_limiting:
        raise _divides(config, "enable_rate_limiting is on")


def _in_memory(url: str) -> bool:
    return url.startswith("memory:")


def _divides(config: ExecutorConfig, found: str) -> ConfigurationError:
    return ConfigurationError(
        f"{found}, which {config.serve_workers} processes would each count by themselves; set "
        "state_url=redis://... for them to count together, or serve_workers=1"
    )


def _divided(executor: ToolExecutor) -> Iterator[str]:
    for definition in executor.registry.definitions():
        for what in _shared(definition.policies):
            yield f"{definition.name} has {what}"


def _shared(policies: Policies) -> Iterator[str]:
    """The policies that count over all calls, wherever they run."""
    for policy in (policies.rate_limit, policies.concurrency, policies.exclusive):
        one = policy[0] if isinstance(policy, tuple) and policy else policy
        if isinstance(one, RateLimit | Concurrency | Exclusive):
            yield type(one).__name__
    if isinstance(policies.breaker, Breaker) and policies.breaker.shared:
        yield "a shared Breaker"
    once = policies.idempotency
    if isinstance(once, Idempotency) and once.claims_in == "state":
        yield "Idempotency whose claims are in memory"


__all__ = ["is_local", "listens_on", "refuse_divided", "refuse_divided_settings", "refuse_open"]
