"""A few tools for clients that others wrote: one with a structured result, one with text, one that fails for some."""

from typing import TypedDict

from toolpost import Hints, Tool, ToolError, policy


class Sum(TypedDict):
    """What shop.add answers."""

    sum: int
    numbers: list[int]


@Tool(name="add", description="Add two numbers.", register=False)
@policy(Hints(read_only=True))
def add(a: int, b: int = 1) -> Sum:
    """Structured, by a schema."""
    return {"sum": a + b, "numbers": [a, b]}


@Tool(name="greet", description="Greet somebody.", register=False)
def greet(name: str) -> str:
    """Plain text."""
    return f"Hello, {name}!"


@Tool(name="divide", description="Divide two numbers.", register=False)
def divide(a: float, b: float) -> float:
    """An error that a model can act on, where b is zero."""
    if b == 0:
        raise ToolError("division by zero has no result; give another b")
    return a / b


TOOLS = [add, greet, divide]
