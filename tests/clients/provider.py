"""A stand-in for the providers of models: there is no internet here, so it replays recorded messages to their SDKs.

The messages have the form of the providers' documentation and of the SDKs' types; what the SDKs send back is kept, and
checked as the providers would: results for every call and for no other, and no member that requests do not have.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson


class Provider:
    """Answers requests with the messages of a list, in order; those that have "stream" set, as a stream."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.asked: list[dict[str, Any]] = []
        self.url = ""

    def will_say(self, *messages: Any) -> None:
        """What it answers next, each a message or a list of events."""
        self.messages += messages


@contextmanager
def provider() -> Iterator[Provider]:
    """A provider on a port of this machine."""
    one = Provider()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
            problem = wrong(self.path, body)
            one.asked.append(body)
            if problem is not None:
                self._send(400, "application/json", orjson.dumps({"error": {"message": problem, "type": "invalid"}}))
                return
            message = one.messages.pop(0)
            if isinstance(message, list):
                events = b"".join(_frame(event) for event in message)
                self._send(200, "text/event-stream", events)
            else:
                self._send(200, "application/json", orjson.dumps(message))

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    one.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield one
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _frame(event: Any) -> bytes:
    if event == "[DONE]":
        return b"data: [DONE]\n\n"
    name = f"event: {event['type']}\n".encode() if "type" in event else b""
    return name + b"data: " + orjson.dumps(event) + b"\n\n"


# -- what a provider refuses -------------------------------------------------------------------------------------------


def wrong(path: str, body: dict[str, Any]) -> str | None:
    """What a provider would refuse a request for; None where it would take it."""
    if path.endswith("/responses"):
        return _wrong_items(body["input"])
    if path.endswith("/chat/completions"):
        return _wrong_chat(body["messages"])
    return _wrong_messages(body["messages"])


def _wrong_items(items: list[dict[str, Any]]) -> str | None:
    called = [one["call_id"] for one in items if one.get("type") == "function_call"]
    answered = [one["call_id"] for one in items if one.get("type") == "function_call_output"]
    if called != answered:
        return f"No tool output found for function calls {called}, got {answered}"
    for one in items:
        if extra := one.keys() & {"parsed_arguments", "parsed"}:
            return f"Unknown parameter: {sorted(extra)}"
        if one.get("type") == "function_call_output" and not isinstance(one["output"], str):
            return "output must be text"
    return None


def _wrong_chat(messages: list[dict[str, Any]]) -> str | None:
    waiting: list[str] = []
    for one in messages:
        if extra := one.keys() - {"role", "content", "tool_calls", "tool_call_id", "refusal", "name"}:
            return f"Additional properties are not allowed: {sorted(extra)}"
        if one["role"] == "tool":
            if not waiting or waiting.pop(0) != one["tool_call_id"]:
                return "messages with role 'tool' must be a response to a preceding message with 'tool_calls'"
        elif waiting:
            return f"An assistant message with 'tool_calls' must be followed by tool messages: {waiting}"
        for call in one.get("tool_calls") or ():
            if extra := call["function"].keys() - {"name", "arguments"}:
                return f"Additional properties are not allowed: {sorted(extra)}"
            waiting.append(call["id"])
    return f"An assistant message with 'tool_calls' must be followed by tool messages: {waiting}" if waiting else None


def _wrong_messages(messages: list[dict[str, Any]]) -> str | None:
    waiting: list[str] = []
    for one in messages:
        blocks = one["content"] if isinstance(one["content"], list) else []
        answered = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        if answered != waiting:
            return f"tool_use ids were found without tool_result blocks immediately after: {waiting}, got {answered}"
        waiting = [block["id"] for block in blocks if block["type"] == "tool_use"]
        for block in blocks:
            if "parsed_output" in block:
                return "parsed_output: Extra inputs are not permitted"
    return "tool_use without tool_result" if waiting else None


# -- recorded messages -------------------------------------------------------------------------------------------------


def response(*output: dict[str, Any], status: str = "completed") -> dict[str, Any]:
    """A Response of OpenAI."""
    return {
        "id": "resp_67ccd2bed1ec8190b14f964abc054267",
        "object": "response",
        "created_at": 1741476542,
        "status": status,
        "error": None,
        "incomplete_details": None if status == "completed" else {"reason": "max_output_tokens"},
        "instructions": None,
        "max_output_tokens": None,
        "model": "gpt-5-2025-08-07",
        "output": list(output),
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 36,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 87,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 123,
        },
        "user": None,
        "metadata": {},
    }


def function_call(number: int, name: str, arguments: str, status: str = "completed") -> dict[str, Any]:
    """An item of a Response."""
    return {
        "type": "function_call",
        "id": f"fc_67ccd2bf17f0819081ff3bb2cf6508e6{number}",
        "call_id": f"call_unLAR8MvFNptuiZK6K6HCy5k{number}",
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def reasoning() -> dict[str, Any]:
    """An item of a Response of a reasoning model."""
    return {"type": "reasoning", "id": "rs_67ccd2bf", "summary": [], "content": None, "encrypted_content": "gAAAA"}


def output_text(text: str) -> dict[str, Any]:
    """An item of a Response."""
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    return {"type": "message", "id": "msg_67ccd2bf", "status": "completed", "role": "assistant", "content": content}


def refusal_item(text: str) -> dict[str, Any]:
    """An item of a Response of a model that refuses."""
    return {
        "type": "message",
        "id": "msg_67ccd2be",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "refusal", "refusal": text}],
    }


def completion(message: dict[str, Any], finish_reason: str = "stop") -> dict[str, Any]:
    """A ChatCompletion of OpenAI."""
    whole = {"role": "assistant", "content": None, "refusal": None, "annotations": [], **message}
    return {
        "id": "chatcmpl-abc123",
        "object": "chat.completion",
        "created": 1699896916,
        "model": "gpt-5-mini",
        "choices": [{"index": 0, "message": whole, "logprobs": None, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 82, "completion_tokens": 17, "total_tokens": 99},
        "service_tier": "default",
        "system_fingerprint": "fp_50cad350e4",
    }


def tool_call(number: int, name: str, arguments: str) -> dict[str, Any]:
    """A tool call of a ChatCompletion."""
    return {"id": f"call_abc{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


def message(*content: dict[str, Any], stop_reason: str = "end_turn") -> dict[str, Any]:
    """A Message of Anthropic."""
    return {
        "id": "msg_01Aq9w938a90dw8q",
        "type": "message",
        "role": "assistant",
        "model": "claude-opus-4-1-20250805",
        "content": list(content),
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 472, "output_tokens": 89},
    }


def text(said: str) -> dict[str, Any]:
    """A block of a Message."""
    return {"type": "text", "text": said, "citations": None}


def tool_use(number: int, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """A block of a Message."""
    return {"type": "tool_use", "id": f"toolu_01A09q90qw90lq91783{number}", "name": name, "input": given}
