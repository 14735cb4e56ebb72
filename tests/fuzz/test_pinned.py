"""Every fuzz target over its seeds, over what was found before, and over a few hundred mutations of them."""

import random

import pytest

from tests.fuzz.targets import PINNED, mutated, targets

TARGETS = targets()


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
