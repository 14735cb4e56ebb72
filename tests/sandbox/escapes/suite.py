"""Every case of the suite."""

from tests.sandbox.escapes import (
    artifacts,
    files,
    information,
    interpreter,
    life_cycle,
    network,
    privileges,
    processes,
    resources,
    sessions,
)
from tests.sandbox.escapes.case import Case

GROUPS = (
    resources.CASES,
    files.CASES,
    information.CASES,
    network.CASES,
    privileges.CASES,
    processes.CASES,
    life_cycle.CASES,
    artifacts.CASES,
    interpreter.CASES,
    sessions.CASES,
)
CASES: tuple[Case, ...] = tuple(case for group in GROUPS for case in group)
