"""What is said to calls whose idempotency key stands in the way."""

from __future__ import annotations

import asyncio
import math

from toolpost.calls.errors import (
    AlreadyDoneError,
    CallInProgressError,
    ClaimLostError,
    IdempotencyMismatchError,
    OutcomeUnknownError,
)
from toolpost.stores import Claim


def in_progress(retry_after_s: float | None) -> CallInProgressError:
    """Another call with the key runs."""
    return CallInProgressError(
        "a call with this idempotency key is running; wait for it, or ask again later",
        retry_after_s=retry_after_s if retry_after_s is None or math.isfinite(retry_after_s) else None,
    )


def key_mismatch() -> IdempotencyMismatchError:
    """The key stands for other arguments."""
    return IdempotencyMismatchError(
        "this idempotency key was used with other arguments; use a new key for a new call, or send the same arguments"
    )


def already_done() -> AlreadyDoneError:
    """It was done, and there is nothing to give."""
    return AlreadyDoneError(
        "a call with this idempotency key succeeded before; its result was not kept, so there is none to give"
    )


def outcome_unknown(claim: Claim) -> OutcomeUnknownError:
    """Nobody knows what became of an earlier run."""
    return OutcomeUnknownError(
        "an earlier call with this idempotency key may have had its effect, and nobody knows; check it and settle "
        "the claim, or give the tool a reconcile hook or rerun_unknown=True",
        details={"key": claim.key or None, "began_at": claim.began_at, "owner": claim.owner},
    )


def claim_lost() -> ClaimLostError:
    """The body ran to its end, but another holder's result counts."""
    lost = ClaimLostError(
        "while the body ran its claim passed to another holder, whose result counts; this one was dropped"
    )
    lost.outcome = "ran"
    return lost


def claim_stopped() -> ClaimLostError:
    """What a call ends with that was cancelled because its claim was lost; the cancellation goes no further."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
    return ClaimLostError("while the body ran its claim passed to another holder, so the body was stopped")
