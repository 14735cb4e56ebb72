"""The suite of hostile programs that several projects share is contained as ours is. It is not part of the project."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.escape_runs import INTERPRETER, PACKAGES, needs_native
from tests.sandbox.ordinary import CHECKOUT

pytestmark = pytest.mark.timeout(240)

SUITE = Path(os.environ.get("TOOLPOST_ESCAPE_SUITE") or CHECKOUT.parent / "shared" / "escape-suite")
NOBODY = 65534
ROOT = os.geteuid() == 0
RUNS = {"cold": ("native", False), "warm": ("warm", False)}
if ROOT:
    RUNS["cold, ordinary user"] = ("native", True)
APART = ROOT and not CHECKOUT.is_relative_to("/tmp")
"""Whether each run can have a network, processes and /tmp of its own: what the suite plants has fixed names."""
FASTER = "0.5"
"""Of the suite's own time limits: its programs need far less than these."""
SLOW = {"R10"}
"""Thousands of folders in each other, to whose top Landlock walks at each step: a busy machine needs the time that is
taken away here."""
BEST_EFFORT = {"R38"}
"""What an ordinary user cannot hold without a control group: the share of processors."""


@pytest.fixture(scope="module", autouse=True)
def native(pytestconfig: pytest.Config) -> None:
    needs_native(pytestconfig)


@pytest.fixture(scope="module")
def runs(native: None) -> Iterator[dict[str, Future[Any]]]:
    if not (SUITE / "run.py").is_file():
        pytest.skip("NOT TESTED without shared suite: name its folder in TOOLPOST_ESCAPE_SUITE")
    with (
        tempfile.TemporaryDirectory(prefix="shared-suite-", dir="/var/tmp") as copy,
        ThreadPoolExecutor(len(RUNS) if APART else 1) as pool,
    ):
        # Where every user can read it, wherever the checkout lies.
        suite = Path(shutil.copytree(SUITE, Path(copy) / "suite", copy_function=shutil.copyfile))
        for folder in (Path(copy), suite):
            folder.chmod(0o755)
        yield {name: pool.submit(run, suite, *how) for name, how in RUNS.items()}


def run(suite: Path, back_end: str, ordinary: bool) -> list[dict[str, Any]]:
    """What the suite found, by case."""
    with tempfile.NamedTemporaryFile("r", prefix="shared-suite-", dir="/var/tmp") as found:
        os.chmod(found.name, 0o666)
        command = [INTERPRETER, str(suite / "run.py"), "--backend", back_end, "--json", found.name]
        if ordinary:
            command += ["--user", "nobody"]
        if ROOT:
            user = str(NOBODY if ordinary else 0)
            command = [INTERPRETER, "-m", "tests.sandbox.ordinary", *["--apart"] * APART, user, *command]
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{CHECKOUT / 'tests/sandbox/shared'}:{CHECKOUT / 'src'}:{CHECKOUT}:{PACKAGES}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "TP_SCALE": FASTER,
        }
        done = subprocess.run(
            command, env=env, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, timeout=230, check=False
        )
        text = found.read()
    assert text, (done.stdout + done.stderr).decode("utf-8", "replace")[-3000:]
    cases: list[dict[str, Any]] = json.loads(text)
    return cases


@pytest.mark.parametrize("name", RUNS)
def test_shared_hostile_programs_are_contained(runs: dict[str, Future[Any]], name: str) -> None:
    cases = runs[name].result()

    assert len(cases) > 80
    wrong = {case["id"]: f"{case['title']}: {case['why']}" for case in cases if not case["contained"]}
    wrong = {case: said for case, said in wrong.items() if case not in SLOW or "status timeout" not in said}
    if "ordinary" in name or not ROOT:
        wrong = {case: said for case, said in wrong.items() if case not in BEST_EFFORT}
    assert wrong == {}
