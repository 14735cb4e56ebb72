"""Turns: a model's message as the SDK of its provider gives it, as what the next request takes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from toolpost.calls.errors import InputValidationError

TurnFormat = Literal["openai", "openai-chat", "anthropic"]

_ONLY_PARSED: Final = frozenset({"parsed", "parsed_arguments", "parsed_output"})
"""What the SDKs' helpers add, and no request takes back."""
_SAID_IN_CHAT: Final = ("role", "content", "refusal", "tool_calls", "function_call")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a model said: said as the next request has it; calls, those of its functions, and payload that holds them.

    payload says besides whether the model was cut off, as then the last call may be half of one.
    """

    format: TurnFormat
    said: list[Any]
    calls: list[Any]
    payload: Any

    def answered(self, answers: Any) -> list[Any]:
        """The whole turn with the answers to its calls: a list of items, or Anthropic's one message."""
        return [*self.said, *(answers if isinstance(answers, list) else [answers])]


def turn_of(response: Any) -> Turn:
    """The turn in an answer of OpenAI's SDK (a Response or ChatCompletion) or Anthropic's (a Message), or its JSON.

    Final messages of streams are these, too. Raises InputValidationError for anything else.
    """
    told = _plain(response)
    if isinstance(told, Mapping):
        if told.get("object") == "response" or isinstance(told.get("output"), list):
            return _responses(told)
        if isinstance(told.get("choices"), list):
            return _chat(told)
        if told.get("role") == "assistant" and isinstance(told.get("content"), list):
            return _anthropic(told)
    raise InputValidationError(
        "Parameter validation failed: run takes a Response or ChatCompletion of openai, or a Message of anthropic, "
        f"got {type(response).__name__}"
    )


def _responses(told: Mapping[str, Any]) -> Turn:
    said = [_bare(item) for item in _objects(told.get("output"))]
    calls = [item for item in said if item.get("type") == "function_call"]
    return Turn(format="openai", said=said, calls=calls, payload=calls)


def _chat(told: Mapping[str, Any]) -> Turn:
    choice: Mapping[str, Any] = next(iter(_objects(told["choices"])), {})
    message = _bare(choice.get("message") or {})
    said = {name: message[name] for name in _SAID_IN_CHAT if message.get(name) is not None}
    said.setdefault("content", None)
    calls = [one for one in _objects(said.get("tool_calls")) if one.get("type", "function") == "function"]
    payload = {
        "choices": [
            {
                "finish_reason": choice.get("finish_reason"),
                "message": {"role": "assistant", "tool_calls": calls},
            }
        ]
    }
    return Turn(format="openai-chat", said=[said], calls=calls, payload=payload)


def _anthropic(told: Mapping[str, Any]) -> Turn:
    content = [_bare(block) for block in _objects(told["content"])]
    calls = [block for block in content if block.get("type") == "tool_use"]
    payload = {"type": "message", "role": "assistant", "stop_reason": told.get("stop_reason"), "content": calls}
    said = [{"role": "assistant", "content": content}] if content else []
    return Turn(format="anthropic", said=said, calls=calls, payload=payload)


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _plain(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    return value if dump is None else dump(mode="json", exclude_unset=True, warnings=False)


def _bare(item: Any) -> dict[str, Any]:
    """An item without what the SDK made of it, and without what it merely leaves open."""
    shown = {name: value for name, value in item.items() if name not in _ONLY_PARSED and value is not None}
    for name in ("tool_calls", "content"):
        if isinstance(shown.get(name), list):
            shown[name] = [_bare(one) if isinstance(one, Mapping) else one for one in shown[name]]
    if isinstance(shown.get("function"), Mapping):
        shown["function"] = _bare(shown["function"])
    return shown


__all__ = ["Turn", "TurnFormat", "turn_of"]
