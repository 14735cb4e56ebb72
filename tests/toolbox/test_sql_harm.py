"""No harm: hostile statements and every attack of the corpora, on SQLite and PostgreSQL; counted, and all of them."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.corpora import items
from tests.security.sql_canaries import (
    POLICY,
    Canaries,
    canaries,
    is_shown,
    postgres_database,
    postgres_state,
    sqlite_database,
    sqlite_state,
)
from tests.security.sql_hostile import hostile
from toolpost import ToolResult, create_tool_call
from toolpost.testing import executor_for
from toolpost.toolbox import sql_tools

BATCH = 250  # values bound by one statement
REFUSALS = {"screened", "invalid_input"}


class Harness:
    """One database with its canaries and the tools over it; screening is off, so that the sink stands alone."""

    def __init__(self, url: str, state: Callable[[str], Any], guarded: Canaries, executor: Any) -> None:
        self.url, self._state, self.guarded, self._executor = url, state, guarded, executor
        self._before = state(url)
        self.sign = "$" if url.startswith("postgres") else ":v"

    def run(self, tool: str = "SQL.Query", **arguments: Any) -> ToolResult:
        return self._executor.execute_sync(create_tool_call(tool, arguments))

    def run_each(self, queries: list[str]) -> list[ToolResult]:
        """One after another on one loop: a loop of its own for each of thousands takes most of the time."""

        async def all_of_them() -> list[ToolResult]:
            calls = [create_tool_call("SQL.Query", {"query": query}) for query in queries]
            return [await self._executor.execute_tool_call(call) for call in calls]

        return asyncio.run(all_of_them())

    def harmed(self) -> bool:
        return self.guarded.reached() or self._state(self.url) != self._before

    def bind(self, values: list[str]) -> ToolResult:
        """One statement that has all the values bound, and gives them back."""
        places = [f"{self.sign}{number}" for number in range(1, len(values) + 1)]
        if self.sign == "$":
            query = "SELECT " + ", ".join(f"{place}::text AS a{at}" for at, place in enumerate(places))
            return self.run(query=query, params=values)
        named = {f"v{number}": value for number, value in enumerate(values, 1)}
        return self.run(query="SELECT " + ", ".join(f"{p} AS a{at}" for at, p in enumerate(places)), params=named)


@pytest.fixture(params=["sqlite", "postgres"])
def harness(request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Harness]:
    for name in ("toolpost", "sqlglot"):  # a line for each of thousands of refusals, which nobody reads
        caplog.set_level(logging.CRITICAL, logger=name)
    if request.param == "sqlite":
        url, state = sqlite_database(tmp_path / "data.db"), sqlite_state
    else:
        url, state = postgres_database(request.getfixturevalue("postgres_url")), postgres_state
    with canaries(tmp_path / "outside") as guarded:
        with executor_for(sql_tools(url, POLICY), enable_security_checks=False) as executor:
            yield Harness(url, state, guarded, executor)


def test_no_hostile_statement_has_an_effect_or_shows_a_secret(harness):
    statements = hostile(**harness.guarded.places)
    ends: Counter[str] = Counter()
    shown, slow, strange = [], [], []

    for _kind, statement in statements:
        begun = time.perf_counter()
        result = harness.run(query=statement)
        ends["ran" if result.success else result.failure.code] += 1
        if is_shown(result.content) or is_shown(result.error):
            shown.append(statement)
        if time.perf_counter() - begun > POLICY.timeout_s:
            slow.append(statement[:80])
        if not result.success and result.failure.code not in {*REFUSALS, "upstream_failed"}:
            strange.append((statement[:80], result.failure.code))

    assert (shown, slow, strange) == ([], [], [])
    assert not harness.harmed()
    assert sum(ends.values()) == len(statements) > 450
    assert sum(ends[code] for code in REFUSALS) >= 0.93 * len(statements)


def test_hostile_texts_that_are_bound_come_back_as_they_are(harness):
    texts = [text for _, text in hostile(**harness.guarded.places) if "\0" not in text and len(text) < 10_000]

    result = harness.bind(texts[:BATCH])
    more = harness.bind(texts[BATCH:])

    assert [*result.data["rows"][0].values(), *more.data["rows"][0].values()] == texts
    assert not harness.harmed()


@pytest.mark.timeout(180)
def test_every_attack_of_the_corpora_is_harmless_as_a_bound_value(harness):
    texts = items("mal_*")
    plain = [text for text in texts if "\0" not in text and text == text.encode("utf-8", "replace").decode()]
    fine = set(plain)
    odd = [text for text in texts if text not in fine]

    back = []
    for start in range(0, len(plain), BATCH):
        back += harness.bind(plain[start : start + BATCH]).data["rows"][0].values()
    for text in odd:
        harness.bind([text])
    found = harness.run(query=f"SELECT id FROM items WHERE name = {harness.sign}1", params=_one(harness, texts[0]))

    assert back == plain
    assert found.data["rows"] == []
    assert not harness.harmed()


def _one(harness: Harness, value: str) -> Any:
    return [value] if harness.sign == "$" else {"v1": value}


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("around", "step"),
    [("{}", 1), ("SELECT id FROM items WHERE name = '{}'", 8)],
    ids=["as it is", "concatenated"],
)
def test_every_attack_of_the_corpora_is_harmless_as_a_statement(harness, around, step):
    texts = items("mal_*")[::step]
    ends: Counter[str] = Counter()
    shown = []

    results = harness.run_each([around.replace("{}", text) for text in texts])
    for text, result in zip(texts, results, strict=True):
        ends["ran" if result.success else result.failure.code] += 1
        if is_shown(result.content) or is_shown(result.error):
            shown.append(text)

    assert shown == []
    assert not harness.harmed()
    assert sum(ends.values()) == len(texts)
