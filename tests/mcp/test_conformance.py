"""The official MCP conformance suite finds nothing that a server of toolpost's tools misses, in either era."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import prepared, serving
from tests.mcp import conformance
from tests.mcp.conformance import Check, Run, surprises
from tests.mcp.gateway import Gateway
from tests.services import NpmClients

pytestmark = pytest.mark.timeout(180)  # 17 s on a quiet machine, most of them waited by the suite; 50 on a busy one

# Options of the suite, and how many checks pass: fewer would be checks that are skipped without a word.
RUNS = {
    "2026-07-28": (["--requirements", "2026-07-28"], 196),
    "2025-11-25": (["--requirements", "2025-11-25"], 84),
    "all": (["--suite", "all"], 234),
}


@pytest.fixture(scope="module")
def found(pytestconfig: pytest.Config) -> Iterator[dict[str, list[Check]]]:
    """The checks of each run. They wait much, so all go on at once."""
    prepared(NpmClients, pytestconfig)
    for gateway in serving(Gateway("tests.mcp.fixture"), pytestconfig):
        runs = {name: Run(gateway.mcp, *options) for name, (options, _) in RUNS.items()}
        yield {name: run.checks() for name, run in runs.items()}


@pytest.mark.parametrize("name", RUNS)
def test_the_conformance_suite_finds_nothing(name: str, found: dict[str, list[Check]]) -> None:
    checks = found[name]

    assert surprises(checks) == []
    assert Counter(check.status for check in checks)["SUCCESS"] >= RUNS[name][1]


@pytest.mark.parametrize(
    ("status", "expected", "told"),
    [
        ("SUCCESS", False, []),
        ("FAILURE", True, []),
        ("FAILURE", False, ["FAILURE ping: Ping: no answer"]),
        ("WARNING", False, ["WARNING ping: Ping: no answer"]),
        ("SUCCESS", True, ["ping: Ping is expected to be missed but is not; take it out of expected_failures.toml"]),
    ],
)
def test_a_miss_is_told_unless_it_is_expected_and_so_is_one_that_is_expected_in_vain(
    status: str, expected: bool, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = '[[miss]]\nscenario = "ping"\ncheck = "Ping"\nreason = "it is late"\n'
    path = tmp_path / conformance.EXPECTED.name
    path.write_text(entry if expected else "")
    monkeypatch.setattr(conformance, "EXPECTED", path)

    assert conformance.surprises([conformance.Check("ping", "Ping", status, "no answer")]) == told


def test_every_expected_miss_has_a_reason() -> None:
    assert [key for key, reason in conformance.expected().items() if len(reason) < 20] == []
