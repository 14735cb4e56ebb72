"""The audit log of an executor, as its settings ask for it, and the keys that they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from toolpost.calls.clock import Clock
from toolpost.calls.redaction import Redactor
from toolpost.engine.secret_settings import secrets_of
from toolpost.engine.settings import ExecutorConfig
from toolpost.security.vault import keys_in
from toolpost.stores import Records
from toolpost.telemetry.audit import AuditLog
from toolpost.telemetry.audit_keys import AuditKey, audit_key, chain_keys

Opened = Callable[[str], str]
"""Gives a setting's text, or what the reference stands for that it is."""


def audit_keys_of(config: ExecutorConfig, opened: Opened) -> Mapping[str, bytes]:
    """The keys that rows may have been written with, by their ids: that of secret_key and those of earlier ones."""
    previous = config.secret_key_previous
    earlier = keys_in(opened(previous.get_secret_value())) if previous is not None else []
    return chain_keys([_newest(config, opened), *earlier])


def audit_key_of(config: ExecutorConfig, opened: Opened) -> AuditKey:
    """The key that rows are written with now."""
    return audit_key(_newest(config, opened))


def keys_without_executor(config: ExecutorConfig) -> Mapping[str, bytes]:
    """audit_keys_of, for whoever verifies files."""
    return audit_keys_of(config, secrets_of(config).opened)


def _newest(config: ExecutorConfig, opened: Opened) -> str:
    return opened(config.secret_key.get_secret_value()) if config.secret_key is not None else ""


class Auditing:
    """Makes the audit log anew when a setting or store that it hangs on becomes another."""

    def __init__(self, opened: Opened, redactor: Redactor, clock: Clock) -> None:
        self._opened, self._redactor, self._clock = opened, redactor, clock
        self._asked: tuple[object, ...] | None = None
        self.log: AuditLog | None = None

    def follow(self, config: ExecutorConfig, records: Records) -> AuditLog | None:
        """The log that these settings ask for; the one before is written to its end if it is another."""
        asked = (config.audit, config.audit_values, config.secret_key, id(records))
        if asked == self._asked:
            return self.log
        made = None
        if config.audit != "off":
            made = AuditLog(
                records,
                mode=config.audit,
                values=config.audit_values,
                key=audit_key_of(config, self._opened),
                redactor=self._redactor,
                clock=self._clock,
            )
        before, self.log, self._asked = self.log, made, asked
        if before is not None:
            before.close()
        return made

    def close(self) -> None:
        """Write what is still to be written."""
        if self.log is not None:
            self.log.close()
