"""A memory that a caller hands in (ToolContext.memory): asked and told besides the claims, guaranteeing nothing."""

from __future__ import annotations

import logging
from typing import Any

from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.replays import value_of
from toolpost.pipeline.services import Services

logger = logging.getLogger("toolpost")


async def remembered(inv: Invocation, key: str, tool: str) -> tuple[Any] | None:
    """The result that stands there under result:KEY, in a tuple; None where there is none, or it cannot be asked."""
    memory = inv.handed.memory if inv.handed is not None else None
    if memory is None:
        return None
    try:
        kept = await memory.get(f"result:{key}")
    except Exception:
        logger.exception("the memory service failed: %s", tool)
        return None
    return None if kept is None else (kept["content"] if isinstance(kept, dict) and "content" in kept else kept,)


async def remember(inv: Invocation, key: str, kept: bytes | None, ttl_s: float, services: Services, tool: str) -> None:
    """Put a result there under result:KEY."""
    memory = inv.handed.memory if inv.handed is not None else None
    if memory is None or kept is None:
        return
    try:
        await memory.set(f"result:{key}", {"content": await value_of(kept, inv, services)}, ttl_s)
    except Exception:
        logger.exception("the memory service failed: %s", tool)
