"""Hostile programs do not get out of any back end that runs here, and without a sandbox they do."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandbox.escape_runs import Run, Runs, needs_native, sources_without_filter
from tests.sandbox.escapes.suite import CASES, GROUPS

pytestmark = pytest.mark.timeout(240)

ROOT = os.geteuid() == 0
WARM, COLD = ("native", "--warm", "2"), ("native", "--warm", "0", "--quick")
BACK_ENDS = {
    "warm": Run(arguments=WARM),
    "cold": Run(arguments=COLD),
    **({"warm, ordinary user": Run(arguments=WARM, ordinary=True)} if ROOT else {}),
    **({"cold, ordinary user": Run(arguments=COLD, ordinary=True)} if ROOT else {}),
    **(
        {"masked /proc": Run(arguments=(*COLD, "--only", "files,privileges,processes"), ordinary=True, masked=True)}
        if ROOT
        else {}
    ),
    "without Landlock": Run(
        arguments=(*COLD, "--without", "use_landlock", "--only", "processes,network,files,sessions,information-first")
    ),
    "without notifications": Run(arguments=(*COLD, "--without", "notify", "--only", "privileges,processes,network")),
}
CARRIED_BY_THE_FILTER = {
    "network-netlink",
    "network-io-uring",
    "privileges-keyrings",
    "privileges-personality",
    "privileges-traces",
    "privileges-status",
    "information-keys",
    "files-setuid-files",
}


@pytest.fixture(scope="module", autouse=True)
def native(pytestconfig: pytest.Config) -> None:
    needs_native(pytestconfig)


@pytest.fixture(scope="module")
def runs(native: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    sources = sources_without_filter(tmp_path_factory.mktemp("sources") / "src")
    without_filter = (*COLD, "--only", ",".join(sorted(CARRIED_BY_THE_FILTER)))
    made = Runs(
        {
            **BACK_ENDS,
            "none": Run(arguments=("none",)),
            "without filter": Run(arguments=without_filter, sources=sources),
        }
    )
    yield made
    made.close()


@pytest.mark.parametrize("group", [group.name for group in GROUPS])
@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_hostile_programs_are_contained(runs: Runs, back_end: str, group: str) -> None:
    findings = runs[back_end]["findings"]
    wrong = {name: said for name, said in findings.items() if said and name.startswith(f"{group}-")}

    assert not wrong, "\n".join(f"{name}: {'; '.join(said)}" for name, said in wrong.items())


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_nothing_is_left_when_a_back_end_is_closed(runs: Runs, back_end: str) -> None:
    assert len(runs[back_end]["findings"]) > 50
    assert runs[back_end]["left"] == []


def test_without_a_sandbox_the_same_programs_get_what_they_look_for(runs: Runs) -> None:
    """Some need rights that a machine may keep from us, but then most of what the suite shows would be nothing."""
    wanted = {case.id for case in CASES if case.control and case.here}
    got = set(runs["none"]["got"]) & wanted
    whole_machine = ROOT and "Seccomp:\t0" in Path("/proc/self/status").read_text()

    assert len(got) >= len(wanted) * (0.9 if whole_machine else 0.6), sorted(wanted - got)


def test_without_the_filter_of_system_calls_programs_get_through(runs: Runs) -> None:
    """What only the filter holds, so that its cases would fail if it were gone."""
    assert set(runs["without filter"]["got"]) >= CARRIED_BY_THE_FILTER - {"network-netlink", "network-io-uring"}


def test_the_suite_is_whole() -> None:
    assert len({case.id for case in CASES}) == len(CASES) > 200
    controls = Counter(case.id.partition("-")[0] for case in CASES if case.control)
    assert {"resources", "files", "information", "network", "privileges"} <= set(controls)
