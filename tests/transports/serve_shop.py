"""The tools of the gateways that tests start; a file that can be loaded from anywhere."""

import os
import subprocess
import sys

from toolpost import Hints, RateLimit, Tool


@Tool(register=False, hints=Hints(read_only=True))
def add(a: int, b: int = 2) -> int:
    """Add two numbers."""
    return a + b


@Tool(register=False, hints=Hints(read_only=True))
def who() -> int:
    """The process that runs this."""
    return os.getpid()


@Tool(register=False, hints=Hints(idempotent=True), timeout_seconds=30.0)
def hold(reached: str, release: str) -> str:
    """Tell one pipe that it runs, and wait for the other."""
    with open(reached, "w") as pipe:
        pipe.write(f"{os.getpid()}")
    with open(release) as pipe:
        return pipe.read()


@Tool(register=False)
def shout(text: str) -> str:
    """Print in every way there is."""
    print(text)
    sys.__stdout__.write(text)
    sys.__stdout__.flush()
    os.write(1, text.encode())
    subprocess.run([sys.executable, "-c", f"print({text!r})"], check=True)
    return text


@Tool(register=False, rate_limit=RateLimit(calls=5))
def limited() -> str:
    """At most five a minute."""
    return "done"


ALL = [add, who, hold, shout]
LIMITED_ALL = [limited]
