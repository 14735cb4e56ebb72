"""noted: tells the audit log what became of an approval, a grant or a key, where there is an audit log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("toolpost")

Audit = Callable[[], Any]
"""Gives the AuditLog of now; None where nothing is audited."""


def no_audit() -> None:
    """Nothing is audited."""


def noted(audit: Audit, kind: str, **fields: Any) -> None:
    """Have a row of a kind written. What happened has happened: where it cannot be noted, the program's log says so."""
    try:
        log = audit()
        if log is not None:
            log.note(kind, **fields)
    except Exception:
        logger.exception("%s could not be noted in the audit log", kind)
