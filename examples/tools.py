"""The tools of the examples, written in all three styles: a function, a class and a spec; and the ready ones."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from toolpost import (
    BaseTool,
    FunctionToolSpec,
    Hints,
    Idempotency,
    NumericParameter,
    Retry,
    StringParameter,
    Tool,
    ToolContext,
    ToolError,
    cache_result,
    policy,
    sanitize_input,
)
from toolpost.toolbox import file_tools, web_tools

DATA = Path(__file__).parent / "data"
PRICES = {"TEA-100": 4.5, "TEA-200": 7.25, "POT-1": 32.0}
STOCK = {"TEA-100": 120, "TEA-200": 0, "POT-1": 3}
CUSTOMERS = ("Ada Lovelace", "Charles Babbage", "Mary O'Brien")

# A function becomes a tool by @Tool. Without register=False it would also join the process's registry.


@Tool(
    name="MyApp.Calculator",
    description="Do arithmetic with two numbers.",
    parameters={
        "operation": {
            "type": "string",
            "enum": ["add", "subtract", "multiply", "divide"],
            "description": "What to do with a and b.",
        },
        "a": {"type": "number", "description": "The first number."},
        "b": {"type": "number", "description": "The second number."},
    },
    timeout_seconds=10,
    register=False,
)
def calculator(operation: str, a: float, b: float) -> dict[str, Any]:
    """A wrong division is an answer the model can read, not a failed call."""
    if operation == "divide" and b == 0:
        return {"error": "division by zero has no result; give another b"}
    match operation:
        case "add":
            result = a + b
        case "subtract":
            result = a - b
        case "multiply":
            result = a * b
        case _:
            result = a / b
    return {"operation": operation, "operands": [a, b], "result": result}


# A class becomes a tool for each of its public methods: Shop.price, Shop.in_stock and so on.


class Line(BaseModel):
    """One line of an order."""

    sku: str = Field(description="The article, such as TEA-100.", pattern=r"^[A-Z]+-[0-9]+$")
    quantity: int = Field(default=1, ge=1, le=1000)


class Shop(BaseTool):
    """A small tea shop."""

    class PriceSchema(BaseModel):
        """What Shop.price takes; a nested model stays a model."""

        lines: list[Line] = Field(min_length=1, max_length=20)
        currency: Literal["EUR", "USD"] = "EUR"

    def price(self, lines: list[Line], currency: str) -> dict[str, Any]:
        """The price of an order."""
        rate = {"EUR": 1.0, "USD": 1.1}[currency]
        total = sum(price_of(line.sku) * line.quantity for line in lines) * rate
        return {"total": round(total, 2), "currency": currency}

    async def in_stock(self, sku: str) -> dict[str, Any]:
        """How many pieces of an article there are."""
        await asyncio.sleep(0)  # where a database would be asked
        return {"sku": sku, "pieces": STOCK.get(sku, 0)}

    @cache_result(ttl=60)
    def forecast(self, sku: str, days: int = 7) -> dict[str, Any]:
        """How many pieces will be sold. The answer is kept for a minute, as it takes long to find."""
        time.sleep(0.05)
        price_of(sku)
        return {"sku": sku, "days": days, "pieces": len(sku) * days}

    @policy(Idempotency(key_fields=("order",)))
    def place_order(self, order: str, sku: str, quantity: int = 1) -> dict[str, Any]:
        """Order an article. However often it is called for one order, the article is sent once."""
        total = round(price_of(sku) * quantity, 2)
        self.sent = getattr(self, "sent", 0) + 1
        return {"order": order, "total": total, "parcel": self.sent}

    @policy(Retry(attempts=3, wait_s=0.01), Hints(read_only=True))
    async def ask_supplier(self, sku: str, ctx: ToolContext) -> dict[str, Any]:
        """When an article will be there; the supplier's line is bad, and often wants a second try."""
        if ctx.attempt < 3:
            raise ConnectionError("the supplier hung up")
        return {"sku": sku, "days": 3, "attempts": ctx.attempt}

    @sanitize_input
    def find_customer(self, name: str) -> list[str]:
        """The customers whose names hold a text, which is screened as one that ends up in a query."""
        return [customer for customer in CUSTOMERS if name.lower() in customer.lower()]

    def refund(self, order: int) -> None:
        """Pay an order back; in this example that always fails, with a code an agent can act on."""
        raise ToolError(f"order {order} is older than 30 days", code="too_late")

    def label(self, sku: str) -> str:
        """A label for an article; raises an ordinary exception for one it does not know."""
        return f"{sku}: {PRICES[sku]:.2f} EUR"

    async def count_stock(self, seconds: float, ctx: ToolContext) -> dict[str, Any]:
        """Count all pieces, which takes as many seconds as asked; tells how far it is."""
        for shelf in range(10):
            ctx.progress(shelf, 10, f"shelf {shelf + 1}")
            await asyncio.sleep(seconds / 10)
        return {"pieces": sum(STOCK.values())}


def price_of(sku: str) -> float:
    """The price of an article in euros. Raises ToolError when there is none of that name."""
    if sku not in PRICES:
        raise ToolError(f"there is no article {sku!r}; there are {', '.join(PRICES)}", code="not_found")
    return PRICES[sku]


# A spec is a tool as data, which can be stored and sent; a function is put to it by define().

_TEMPERATURES = FunctionToolSpec(
    id="convert-temperature",
    tool_name="convert_temperature",
    description="Convert a temperature from one unit to another.",
    parameters=[
        NumericParameter(name="value", description="The temperature.", required=True),
        StringParameter(
            name="unit", description="The unit of value.", required=True, enum=["celsius", "fahrenheit", "kelvin"]
        ),
        StringParameter(
            name="to",
            description="The unit to convert to.",
            enum=["celsius", "fahrenheit", "kelvin"],
            default="celsius",
        ),
    ],
    owner="examples",
    timeout_s=5,
    examples=[{"value": 212, "unit": "fahrenheit"}],
)

ZERO_CELSIUS_K = 273.15


def convert_temperature(args: dict[str, Any]) -> dict[str, Any]:
    """A spec's function takes its arguments as one dict."""
    value, unit, to = args["value"], args["unit"], args["to"]
    kelvin = {
        "celsius": value + ZERO_CELSIUS_K,
        "fahrenheit": (value - 32) / 1.8 + ZERO_CELSIUS_K,
        "kelvin": value,
    }[unit]
    if kelvin < 0:
        raise ToolError(f"{value} {unit} is below absolute zero", code="impossible")
    result = {
        "celsius": kelvin - ZERO_CELSIUS_K,
        "fahrenheit": (kelvin - ZERO_CELSIUS_K) * 1.8 + 32,
        "kelvin": kelvin,
    }[to]
    return {"value": round(result, 2), "unit": to}


TOOLS = [
    calculator,
    Shop(),
    _TEMPERATURES.define(convert_temperature),
    *web_tools(),
    *file_tools([DATA], max_bytes=100_000, extensions=[".txt", ".md", ".csv", ".json", ".html"]),
]
