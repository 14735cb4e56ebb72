"""Results and reports as the gateway shows them: the one JSON form of both, with links to files that calls left."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from toolpost.transports.http_artifacts import artifact_url
from toolpost.transports.http_headers import Headers, sf_string
from toolpost.worker import reports

if TYPE_CHECKING:
    from toolpost.calls.result import ToolResult
    from toolpost.pipeline.limit_standing import LimitStanding
    from toolpost.transports.http_routes import Door
    from toolpost.worker.reports import CallReport, KeptArtifact


def result_json(door: Door, result: ToolResult, report: CallReport | None = None) -> dict[str, Any]:
    """How a call ended, as JSON: what a report says of it, without what a report says of the call itself."""
    kept = None if report is None else report.artifacts
    if kept is None and result.artifacts:
        kept = reports.described(result.artifacts)
    shown: dict[str, Any] = {"call_id": result.call_id, "tool": result.tool_name}
    shown |= reports.result_json(result, kept or ())
    if kept:
        shown["artifacts"] = linked(door, result.call_id, kept)
    return shown


def report_json(door: Door, report: CallReport) -> dict[str, Any]:
    """How a call stands, as JSON."""
    shown = reports.report_json(report)
    if report.artifacts:
        shown["artifacts"] = linked(door, report.call_id, report.artifacts)
    return shown


def artifacts_json(door: Door, result: ToolResult, report: CallReport | None = None) -> list[dict[str, Any]]:
    """Names, sizes, digests and signed links of the files that a call left."""
    kept = reports.described(result.artifacts) if report is None else report.artifacts
    return linked(door, result.call_id, kept) if kept else []


def linked(door: Door, call_id: str, artifacts: Sequence[KeptArtifact]) -> list[dict[str, Any]]:
    """Artifacts as JSON, with where each can be had: by a link that is good for links_ttl seconds and needs no key."""

    return [{**reports.artifact_json(one), "url": artifact_url(door, call_id, one)} for one in artifacts]


def limit_headers(standing: Sequence[LimitStanding]) -> Headers:
    """RateLimit and RateLimit-Policy of the limits that hold for a call; nothing where none do.

    Source: draft-ietf-httpapi-ratelimit-headers (q: quota, w: window in seconds, r: what is left, t: seconds to reset).
    """
    if not standing:
        return []
    policies = ", ".join(f"{sf_string(one.name)};q={one.quota};w={ceil(one.window_s)}" for one in standing)
    left = ", ".join(f"{sf_string(one.name)};r={one.remaining};t={ceil(one.reset_s)}" for one in standing)
    return [(b"ratelimit-policy", policies.encode("latin-1")), (b"ratelimit", left.encode("latin-1"))]


__all__ = ["artifacts_json", "limit_headers", "linked", "report_json", "result_json"]
