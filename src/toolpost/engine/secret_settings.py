"""The secrets of an executor: what its settings say of them, and its settings that are secrets themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.redaction import Redactor
from toolpost.calls.references import is_reference
from toolpost.calls.secret_names import secret_name
from toolpost.engine.settings import FORMS, ExecutorConfig
from toolpost.security.secrets import Secrets
from toolpost.security.vault import keys_in


def secrets_of(
    config: ExecutorConfig, clock: Clock = SYSTEM_CLOCK, providers: Mapping[str, Any] | None = None
) -> Secrets:
    """What resolves references as the settings say, and hides them from now on, and the settings' own secrets."""
    secrets = Secrets(Redactor(), providers=providers, clock=clock, **_asked(config))
    hide_settings(config, secrets.redactor)
    return secrets


def follow_settings(secrets: Secrets, config: ExecutorConfig) -> None:
    """Go by these settings from now on; what earlier ones held stays hidden."""
    secrets.follow(**_asked(config))
    hide_settings(config, secrets.redactor)


def hide_settings(config: ExecutorConfig, redactor: Redactor) -> None:
    """Hide the settings that are secrets; of URLs those with a password, as the others tell nothing."""
    for name, form in FORMS.items():
        value = getattr(config, name) if form.secret else None
        if value is not None and not is_reference(text := value.get_secret_value()):
            for secret in _secrets_in(name, text):
                redactor.add(secret, f"the setting {name}")


def _asked(config: ExecutorConfig) -> dict[str, Any]:
    return {
        "directories": config.secrets_directories,
        "allowed": config.secrets_allowed,
        "keep_s": config.secrets_ttl,
    }


def _secrets_in(name: str, text: str) -> Iterator[str]:
    if name == "secret_key_previous":
        yield from keys_in(text)
    elif "://" not in text:
        yield text
    else:
        try:
            parts = urlsplit(text)
            password, query = parts.password, parse_qsl(parts.query)
        except ValueError:  # whatever it is, it is no URL without a password
            yield text
            return
        named = [value for key, value in query if secret_name(key)]
        if password or named:
            yield text
        yield from named
