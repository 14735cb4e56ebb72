"""The official MCP conformance suite: runs it against a URL and says what it found."""

import json
import re
import subprocess
import tempfile
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.services import NpmClients

EXPECTED = Path(__file__).with_name("expected_failures.toml")


@dataclass(frozen=True, order=True)
class Check:
    """One check of a scenario. status is SUCCESS, FAILURE, WARNING (for a SHOULD), SKIPPED or INFO."""

    scenario: str
    name: str
    status: str
    message: str

    @property
    def missed(self) -> bool:
        """A SHOULD that is not kept counts as well."""
        return self.status in ("FAILURE", "WARNING")

    def __str__(self) -> str:
        return f"{self.status} {self.scenario}: {self.name}: {self.message}"


class Run:
    """One run of the suite, which goes on by itself until its checks are asked for."""

    def __init__(self, url: str, *options: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="toolpost-conformance-")
        suite = NpmClients.find() / NpmClients.conformance
        command = [str(NpmClients.node()), str(suite), "server", "--url", url, *options, "-o", self._folder.name]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def checks(self, timeout_s: float = 150) -> list[Check]:
        """All checks, once the run has ended. Raises OSError when it did not run as it should."""
        try:
            printed, _ = self._process.communicate(timeout=timeout_s)
        finally:
            self._process.kill()
            self._process.wait()
        with self._folder:
            found = sorted(check for path in Path(self._folder.name).glob("*/checks.json") for check in _checks(path))
        if "\nTotal: " not in printed:
            raise OSError(f"the conformance suite broke off: {printed[-2000:]}")
        return found


def _checks(path: Path) -> Iterable[Check]:
    scenario = re.sub(r"-\d{4}-\d\d-\d\dT[\d-]+Z$", "", path.parent.name.removeprefix("server-"))
    for told in json.loads(path.read_text()):
        yield Check(scenario, told["name"], told["status"], told.get("errorMessage", ""))


def expected() -> dict[tuple[str, str], str]:
    """Why a check may be missed, by scenario and name."""
    return {(entry["scenario"], entry["check"]): entry["reason"] for entry in _entries()}


def _entries() -> list[dict[str, str]]:
    entries: list[dict[str, str]] = tomllib.loads(EXPECTED.read_text()).get("miss", [])
    return entries


def surprises(checks: Iterable[Check]) -> list[str]:
    """What is missed and not expected to be, and what is expected to be missed and is not."""
    checks = list(checks)
    allowed, missed = expected(), {(check.scenario, check.name) for check in checks if check.missed}
    ran = {check.scenario for check in checks}
    stale = [key for key in allowed if key[0] in ran and key not in missed]
    return [str(check) for check in checks if check.missed and (check.scenario, check.name) not in allowed] + [
        f"{scenario}: {name} is expected to be missed but is not; take it out of {EXPECTED.name}"
        for scenario, name in stale
    ]
