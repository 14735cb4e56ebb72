"""Every fuzz target over its seeds, over what was found before, and over a few hundred mutations of them."""

import logging
import random
import subprocess
import sys

import pytest

from tests.fuzz.targets import HERE, LOUD, PINNED, mutated, targets

TARGETS = targets()


@pytest.fixture(autouse=True)
def quiet(caplog):
    """Nothing is kept of what is said of each of many inputs, and no logger stays silent after it."""
    for logger in LOUD:
        caplog.set_level(logging.CRITICAL, logger)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_pinned_inputs_keep_every_promise(name):
    for data in TARGETS[name].seeds:
        TARGETS[name].run(data)


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_of_them_do_too(name):
    luck = random.Random(name)

    for _ in range(200):
        TARGETS[name].run(mutated(TARGETS[name].seeds, luck))


def test_every_pinned_input_belongs_to_a_target():
    there = {path.name for path in PINNED.iterdir()} if PINNED.is_dir() else set()

    assert there <= TARGETS.keys()


def test_targets_leave_every_logger_as_it_was():
    """They are imported beside all other tests, which look at what is logged."""
    program = """
import logging
from tests.fuzz.targets import LOUD, targets
targets()
ours = {*LOUD, *(name for name in logging.root.manager.loggerDict if name.startswith("toolpost"))}
print([name for name in ours if logging.getLogger(name).level or logging.getLogger(name).disabled])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=HERE.parent.parent, capture_output=True, text=True)

    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
