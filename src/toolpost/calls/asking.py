"""Asking: how a body asks whoever called, and goes on with the answers; a part of ToolContext."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from toolpost.calls.errors import InputRequiredError
from toolpost.calls.questions import ASKER, Question, is_answer


class Asking:
    """The questions of one call. _answers are those that came with it, by the questions' keys."""

    __slots__ = ()

    if TYPE_CHECKING:  # ToolContext has the slots
        _answers: Mapping[str, Any] | None
        _asked: int

    async def ask(self, questions: Mapping[str, Question]) -> dict[str, Any]:
        """What the caller's side answers, by the same keys; see Question for what answers look like.

        Where whoever called can only answer by calling again, this raises InputRequiredError and the body is run anew,
        from its beginning, with the answers: ask before there are effects, and by the same keys.
        """
        missing = self._unanswered(questions)
        asker = ASKER.get() if missing else None
        if asker is not None:
            self._answers = {**(self._answers or {}), **await asker.ask(missing)}  # type: ignore[misc]
        return self._answered(questions)

    def ask_sync(self, questions: Mapping[str, Question]) -> dict[str, Any]:
        """ask for bodies that are not async; it is answered by calling again only."""
        return self._answered(questions)

    async def elicit(self, message: str, schema: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask the person: {"action": "accept", "content": {...}}, or action "decline" or "cancel"."""
        answer: dict[str, Any] = await self._ask_one(Question.form(message, schema))
        return answer

    async def sample(self, messages: Any, *, max_tokens: int = 1000, **more: Any) -> dict[str, Any]:
        """Ask the caller's model: {"role", "content": {"type": "text", "text": ...}, "model", ...}."""
        answer: dict[str, Any] = await self._ask_one(Question.sample(messages, max_tokens=max_tokens, **more))
        return answer

    async def roots(self) -> list[dict[str, Any]]:
        """The folders that the caller works in: [{"uri": "file:///...", "name": ...}]."""
        answer = await self._ask_one(Question.roots())
        return list(answer["roots"])

    async def _ask_one(self, question: Question) -> Any:
        self._asked += 1  # type: ignore[misc]
        key = f"question-{self._asked}"
        return (await self.ask({key: question}))[key]

    def _unanswered(self, questions: Mapping[str, Question]) -> dict[str, Question]:
        answers = self._answers or {}
        return {
            key: question
            for key, question in questions.items()
            if key not in answers or not is_answer(question, answers[key])
        }

    def _answered(self, questions: Mapping[str, Question]) -> dict[str, Any]:
        missing = self._unanswered(questions)
        if missing:
            asked = {key: question.to_dict() for key, question in missing.items()}
            said = "; ".join(str(one.params.get("message") or one.method) for one in missing.values())
            raise InputRequiredError(
                f"the tool asks first: {said}. Make the same call again with answers to {', '.join(missing)}",
                details={"questions": asked, "answers": dict(self._answers or {})},
            )
        answers = self._answers or {}
        return {key: answers[key] for key in questions}


__all__ = ["Asking"]
