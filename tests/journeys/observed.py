"""What a caller is told of a call, in one form whatever told it, without what differs from run to run."""

import json
import re
from collections.abc import Mapping
from typing import Any

from toolpost.calls.result import WAYS_ON, ToolResult

Told = dict[str, Any]
"""ok, and of a success value, source and artifacts (name -> size); of a failure code, message, status, retryable,
outcome, retry_after (whether it is said), errors (a place and what is wrong there) and ways (on). A door leaves out
what it cannot tell. call_id is there where the caller learns it, and gone where nobody was there to be told."""

_VARYING = [
    (re.compile(r"[0-9a-f]{24}-[0-9a-f]{8}"), "<approval>"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"), "<id>"),
    (re.compile(r"https://provider\.test/\S+"), "<url>"),
    (re.compile(r"\b\d+(\.\d+)? ?(s|seconds|ms)\b"), "<time>"),
    (re.compile(r"user-\d\d"), "<user>"),
]


def plain(value: Any) -> Any:
    """A value as JSON, without ids, addresses and times that no two calls share."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    for pattern, name in _VARYING:
        text = pattern.sub(name, text)
    return json.loads(text)


def success(value: Any, source: str | None, artifacts: Any = (), call_id: str | None = None) -> Told:
    """A success. artifacts: a list with name and size each, or None where a door cannot say."""
    told: Told = {"ok": True, "value": value, "call_id": call_id}
    if source is not None:
        told["source"] = source
    if artifacts is not None:
        told["artifacts"] = {one["name"]: one["size"] for one in artifacts}
    return told


def failure(error: Mapping[str, Any], call_id: str | None = None) -> Told:
    """A failure: an object with code, message, status, retryable, outcome, and more where there is more."""
    details = error.get("details") or {}
    errors = error.get("errors") or details.get("errors") or ()
    return {
        "ok": False,
        "call_id": call_id,
        "code": error["code"],
        "message": plain(error["message"]),
        "status": error["status"],
        "retryable": error["retryable"],
        "outcome": error["outcome"],
        "retry_after": error.get("retry_after_s") is not None,
        "errors": [(one["path"], one["msg"]) for one in errors],
        "ways": sorted(name for name in WAYS_ON if details.get(name) is not None),
    }


def of_result(result: ToolResult) -> Told:
    """A result in process, or of the Python client."""
    if result.success:
        files = getattr(result, "files", None)
        listed = [{"name": name, "size": len(data)} for name, data in result.artifacts.items()]
        listed += [{"name": one.name, "size": one.size} for one in files or ()]
        return success(result.data, result.source, listed, result.call_id)
    assert result.failure is not None
    return failure(result.failure.to_dict(), result.call_id)


def of_report(report: Mapping[str, Any]) -> Told:
    """A report as HTTP, streams and sockets give it, and each result of a batch in toolpost's own form."""
    if report["success"]:
        return success(report["data"], report["source"], report["artifacts"], report["call_id"])
    return failure(report["error"], report["call_id"])


def of_problem(problem: Mapping[str, Any]) -> Told:
    """A problem document."""
    told = {
        "ok": False,
        "call_id": problem.get("call_id"),
        "code": problem["code"],
        "message": plain(problem["detail"]),
        "status": problem["status"],
        "retryable": problem["retryable"],
        "retry_after": "retry_after_ms" in problem,
        "errors": [(one["pointer"].removeprefix("#/arguments"), one["detail"]) for one in problem.get("errors", ())],
        "ways": sorted(name for name in WAYS_ON if problem.get(name) is not None),
    }
    return told | ({"outcome": problem["outcome"]} if "outcome" in problem else {})


def of_cli(told: Mapping[str, Any]) -> Told:
    """What `toolpost call --json` prints."""
    if told["success"]:
        return success(
            told["data"],
            None,
            [{"name": one["name"], "size": one["bytes"]} for one in told.get("artifacts", ())],
            told["call_id"],
        )
    about = told["metadata"]
    return failure(
        {
            **about,
            "message": told["error"],
            "status": told["status_code"],
            "details": {name: about.get(name) for name in WAYS_ON},
        },
        told["call_id"],
    )


def of_format(error: Mapping[str, Any]) -> Told:
    """The error that models are shown."""
    return {
        "ok": False,
        "code": error["code"],
        "message": plain(error["message"]),
        "retryable": error.get("retryable", False),
        "retry_after": "retry_after_s" in error,
        "errors": [(one["path"], one["msg"]) for one in error.get("errors", ())],
    }


def of_mcp(answer: Mapping[str, Any]) -> Told:
    """An answer to tools/call: a result, or the protocol's own error."""
    if "error" in answer:
        return {"ok": False, "protocol": answer["error"]["code"], "message": answer["error"]["message"]}
    result = answer["result"]
    meta = result.get("_meta", {})
    call_id = meta.get("toolpost/call_id") or meta.get("toolpost/callId")
    if result["isError"]:
        return failure(meta["toolpost/error"], call_id)
    content = result["content"]
    value = result["structuredContent"] if "structuredContent" in result else _read(content[0]["text"])
    files = [block for block in content[1:] if block["type"] == "resource_link"]
    return success(value, None, files, call_id)


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
