"""Question: what a body may ask of whoever called: a form or a link for the person, a text of their model, roots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from toolpost.calls.errors import ConfigurationError

Method = Literal["elicitation/create", "sampling/createMessage", "roots/list"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question, as MCP words it. optional: whoever cannot be asked it need not be; the answer is None then.

    Answers are JSON objects: {"action": "accept", "content": {...}} for forms and links (or "decline", "cancel"),
    {"role", "content", "model", ...} of a model, {"roots": [{"uri", "name"}]}.
    """

    method: Method
    params: Mapping[str, Any]
    optional: bool = False

    @classmethod
    def form(cls, message: str, schema: Mapping[str, Any] | None = None, *, optional: bool = False) -> Question:
        """Fields for the person to fill in: schema is JSON Schema of an object of texts, numbers, booleans and choices.

        Without a schema the person only agrees or does not.
        """
        asked = {"type": "object", "properties": {}, **(schema or {})}
        params = {"mode": "form", "message": _message(message), "requestedSchema": asked}
        return cls(method="elicitation/create", params=params, optional=optional)

    @classmethod
    def link(cls, message: str, url: str, *, id: str | None = None, optional: bool = False) -> Question:
        """A page for the person to open, where what they do stays between them and that page."""
        params = {"mode": "url", "message": _message(message), "url": url}
        if id is not None:
            params["elicitationId"] = id
        return cls(method="elicitation/create", params=params, optional=optional)

    @classmethod
    def sample(
        cls,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        max_tokens: int = 1000,
        optional: bool = False,
        **more: Any,
    ) -> Question:
        """A text of the caller's own model. more: systemPrompt, temperature, stopSequences, modelPreferences, ..."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": {"type": "text", "text": messages}}]
        params = {"messages": [dict(one) for one in messages], "maxTokens": max_tokens, **more}
        return cls(method="sampling/createMessage", params=params, optional=optional)

    @classmethod
    def roots(cls, *, optional: bool = False) -> Question:
        """The folders that the caller works in."""
        return cls(method="roots/list", params={}, optional=optional)

    def to_dict(self) -> dict[str, Any]:
        """As JSON: method, params, and optional where it is so."""
        told: dict[str, Any] = {"method": self.method, "params": dict(self.params)}
        return {**told, "optional": True} if self.optional else told

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Question:
        """What to_dict told."""
        return cls(method=told["method"], params=told["params"], optional=told.get("optional", False))


class Asker(Protocol):
    """Whoever can have questions answered while the call runs, as the client of an older session can."""

    async def ask(self, questions: Mapping[str, Question], /) -> Mapping[str, Any]: ...


ASKER: ContextVar[Asker | None] = ContextVar("toolpost asker", default=None)
"""Who answers the questions of the call that runs here; None: they end it, and it is made again with the answers."""


def is_answer(question: Question, answer: Any) -> bool:
    """Whether something has the form of an answer to a question; None answers an optional one."""
    if answer is None:
        return question.optional
    if not isinstance(answer, Mapping):
        return False
    if question.method == "elicitation/create":
        action, content = answer.get("action"), answer.get("content")
        if action not in ("accept", "decline", "cancel") or not (content is None or isinstance(content, Mapping)):
            return False
        asked = question.params.get("requestedSchema") if action == "accept" else None
        return asked is None or fits(content or {}, asked)
    if question.method == "roots/list":
        return isinstance(answer.get("roots"), list)
    return isinstance(answer.get("content"), (Mapping, list))


def fits(content: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    """Whether the fields of a form are filled in as its schema asks: those that must be, each with its own kind.

    Fields that the schema does not have are let be, and so are rules that forms of MCP do not know.
    """
    fields = schema.get("properties") or {}
    if any(name not in content for name in schema.get("required") or ()):
        return False
    return all(_is_filled(content[name], rule) for name, rule in fields.items() if name in content)


_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int, float),
    "number": (int, float),
    "array": (list, tuple),
}


def _is_filled(value: Any, rule: Any) -> bool:
    if not isinstance(rule, Mapping):
        return True
    kind = rule.get("type")
    kinds = _KINDS.get(kind) if isinstance(kind, str) else None
    if kinds is not None and (not isinstance(value, kinds) or (isinstance(value, bool) and kind != "boolean")):
        return False
    if kind == "integer" and value != value // 1:  # 3.0 is an integer to JSON Schema
        return False
    if isinstance(value, (list, tuple)):
        items = rule.get("items")
        return _is_within(len(value), rule, "Items") and all(_is_filled(one, items) for one in value)
    if isinstance(value, str) and not _is_within(len(value), rule, "Length"):
        return False
    if kind in ("integer", "number") and not _is_within(value, rule, "imum"):
        return False
    choices = _choices(rule)
    return choices is None or value in choices


def _is_within(size: float, rule: Mapping[str, Any], what: str) -> bool:
    return bool(rule.get(f"min{what}", size) <= size <= rule.get(f"max{what}", size))


def _choices(rule: Mapping[str, Any]) -> list[Any] | None:
    if "enum" in rule:
        return list(rule["enum"])
    titled = rule.get("oneOf") or rule.get("anyOf")
    if titled and all(isinstance(one, Mapping) and "const" in one for one in titled):
        return [one["const"] for one in titled]
    return None


def _message(message: str) -> str:
    if not isinstance(message, str) or not message.strip():
        raise ConfigurationError(f"a question needs a message that a person can read, got {message!r:.60}")
    return message


__all__ = ["ASKER", "Asker", "Question", "fits", "is_answer"]
