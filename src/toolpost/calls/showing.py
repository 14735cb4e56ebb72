"""SHOWN_AS: in which provider's form tools are described to the model whose call is running."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from toolpost.calls.definition import ToolDefinition

SHOWN_AS: ContextVar[Callable[[ToolDefinition], Mapping[str, Any]] | None] = ContextVar("SHOWN_AS", default=None)
"""Set by a door that knows whose model it speaks with; None: in our own form."""

__all__ = ["SHOWN_AS"]
