"""What calls with far more than a tool takes cost: they are refused for the price of looking, not of going through."""

import asyncio
from typing import Any

import pytest

from toolpost import InputValidationError, Tool, create_tool_call
from toolpost.authoring import problems
from toolpost.pipeline import bounds
from toolpost.pipeline.services import Limits
from toolpost.security import shown
from toolpost.testing import executor_for


@Tool(name="Math.Add", register=False)
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@Tool(name="Text.Keep", register=False)
async def keep(x: dict[str, Any]) -> int:
    """Keep something."""
    return len(x)


def test_a_long_list_is_refused_before_it_is_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Long(list[int]):
        def __iter__(self) -> Any:
            pytest.fail("it is gone through")

    with pytest.raises(InputValidationError, match="more than 10 members"):
        bounds.check_bounds({"a": Long(range(11))}, Limits(max_items=10))


def test_of_very_many_unknown_arguments_the_first_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    unknown = problems.unknown
    monkeypatch.setattr(
        "toolpost.authoring.pydantic_errors.unknown", lambda *given, **more: told.append("") or unknown(*given, **more)
    )
    with executor_for(add) as executor:
        asked = create_tool_call("Math.Add", {f"k{n}": n for n in range(5_000)})
        result = asyncio.run(executor.execute_tool_call(asked))

    assert not result.success
    assert "unknown argument 'k0'" in (result.error or "")
    assert 0 < len(told) <= 1_000


@pytest.mark.parametrize("value", ["x" * 2_000_000, list(range(200_000))], ids=["text", "list"])
def test_arguments_that_no_tool_would_get_are_not_searched_for_secrets(
    value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown, "scrub", lambda text: pytest.fail("it is searched") if len(text) > 100 else text)
    with executor_for(keep) as executor:
        tool = executor.registry.get_tool("Text.Keep")

        assert executor.admission.shown(tool, {"x": {"l": value}}) == {}
        assert executor.admission.shown(tool, {"x": {"l": "short"}}) == {"x": {"l": "short"}}
