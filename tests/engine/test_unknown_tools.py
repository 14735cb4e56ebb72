"""What a caller is told of a tool that is not there names no tool that it is not shown."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from toolpost import Access, Caller, Tool, ToolExecutor, ToolNotFoundError, create_tool_call, policy
from toolpost.calls.call import ToolCall
from toolpost.engine.registry import ToolRegistry

PLAIN, TRUSTED = Caller(user_id="ann"), Caller(user_id="bob", scopes=frozenset({"vault"}))


@Tool(name="Vault.Open", register=False)
@policy(Access(scopes=("vault",)))
def vault() -> str:
    """Open the vault."""
    return "open"


@Tool(name="Math.Add", register=False)
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@pytest.fixture
def executor() -> ToolExecutor:
    executor = ToolExecutor(registry=ToolRegistry())
    executor.add([vault, add])
    return executor


async def one(executor: ToolExecutor, call: ToolCall) -> str:
    return (await executor.execute_tool_call(call)).error or ""


async def many(executor: ToolExecutor, call: ToolCall) -> str:
    return (await executor.execute_tool_calls([call]))[0].error or ""


async def blocking(executor: ToolExecutor, call: ToolCall) -> str:
    return executor.execute_sync(call).error or ""


async def checked(executor: ToolExecutor, call: ToolCall) -> str:
    with pytest.raises(ToolNotFoundError) as raised:
        await executor.admission.check(call)
    return raised.value.message


async def looked_up(executor: ToolExecutor, call: ToolCall) -> str:
    with pytest.raises(ToolNotFoundError) as raised:
        executor.get_tool_info(call.name, call.caller)
    return raised.value.message


WAYS: tuple[Any, ...] = (one, many, blocking, checked, looked_up)


@pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])
@pytest.mark.parametrize("name", ["Vault.Opn", "nothing like it", "Vault.Open@9.9.9"])
async def test_only_who_is_shown_a_tool_is_told_of_it(
    executor: ToolExecutor, name: str, way: Callable[[ToolExecutor, ToolCall], Awaitable[str]]
) -> None:
    told = {
        who.user_id: await way(
            executor, create_tool_call(name, {}, user_id=who.user_id, tenant=who.tenant, scopes=who.scopes)
        )
        for who in (PLAIN, TRUSTED)
    }

    asked = "Vault.Open" if name == "nothing like it" else "9.9.9" if "@" in name else "'Vault.Open'"
    assert told["bob"].count(asked) >= 1
    assert "Vault.Open'?" not in told["ann"]
    assert "there are 1.0.0" not in told["ann"]
    assert "there are Math.Add, Vault.Open" not in told["ann"]
    assert ("there are Math.Add, Vault.Open" in told["bob"]) == (name == "nothing like it")
