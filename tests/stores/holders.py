"""Other processes that use a store: to race with, to kill, and to be the one that is half done."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

HOLD = """
import sys
from toolpost.stores import ClaimAsk, open_records
records = open_records(sys.argv[1])
claim = records.claim(ClaimAsk("key", None, "holder", 0.05, 60.0)).wait()
print(claim.state, claim.fence, flush=True)
sys.stdin.read()
"""

RACE = """
import asyncio, sys
from toolpost.stores import ClaimAsk, open_records
records = open_records(sys.argv[1])
records.ping().wait()
print("ready", flush=True)
sys.stdin.readline()

async def ask():
    return (await records.claim(ClaimAsk("key", None, "racer", 60.0, 60.0))).state

async def main():
    states = await asyncio.gather(*(ask() for _ in range(50)))
    print(states.count("granted"), states.count("in_flight"), flush=True)

asyncio.run(main())
"""

MIGRATE = """
import sys
from toolpost.stores import migrations

class Halting:
    "A connection that stops before the statement with a certain word in it."
    def __init__(self, connection):
        self.connection = connection
    def execute(self, statement, *values):
        if "toolpost_outbox" in statement:
            print("half done", flush=True)
            sys.stdin.read()
        return self.connection.execute(statement, *values)
    def __getattr__(self, name):
        return getattr(self.connection, name)

if sys.argv[1].startswith("sqlite"):
    import sqlite3
    connection = Halting(sqlite3.connect(sys.argv[1].removeprefix("sqlite:///"), isolation_level=None))
    migrations.migrate_sqlite(connection, "here")
else:
    import psycopg
    connection = Halting(psycopg.connect(sys.argv[1], autocommit=True))
    migrations.migrate_postgres(connection, "here", patience_s=10)
"""


@contextmanager
def process(script: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A Python process that runs a script; killed at the end, if not before."""
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def line(running: "subprocess.Popen[str]") -> str:
    """The next line that it prints."""
    assert running.stdout is not None
    return running.stdout.readline().strip()


def race(url: str, processes: int = 4) -> list[str]:
    """Have processes ask for one key at the same moment, 50 tasks in each; "granted in_flight" of each."""
    with ExitStack() as stack:
        racers = [stack.enter_context(process(RACE, url)) for _ in range(processes)]
        assert [line(racer) for racer in racers] == ["ready"] * processes
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()
        return [line(racer) for racer in racers]
