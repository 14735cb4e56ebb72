"""Measures the doors under load, next to a bare route and other MCP servers: throughput, tails, streams, overload.

    python benchmarks/doors.py --json build/doors.json

Each server is a process pinned to one core, the load comes from another; README.md here says how to read it. It ends
with 1 where a bar was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson
from load import Loaded, closed, paced, request, rounds
from measure import machine

HERE = Path(__file__).resolve().parent
CONNECTIONS = 32
TAIL = 5.0
"""p99 may be so many times p50 at SHARE of the highest throughput; or as many as the bare route's is at SHARE of its
own, or as long, where that is more: a machine's scheduler stalls (3 to 9 ms here) for longer than any server does."""
SHARE = 0.8
STREAMS = 2000
STREAM_KB = 40.0
"""Most KiB that one open stream may take."""
GROWTH_MB = 8.0
"""Most MiB that the server may grow while the streams stay open."""
OVERLOAD = 2.0
VERSION = "2026-07-28"

JSON = {"content-type": "application/json", "accept": "application/json"}


@dataclass(frozen=True)
class Contender:
    """A server under one kind of request. bars: other contender -> the lowest ratio of throughput to its.

    needs: the package without which it is left out.
    """

    name: str
    server: str
    requests: list[bytes]
    bars: dict[str, float]
    needs: str = "toolpost"


def call(tool: str, **headers: str) -> bytes:
    """A call of a tool over HTTP."""
    return request(
        "POST", f"/v1/tools/{tool}/calls", orjson.dumps({"arguments": {"a": 1, "b": 2}}), {**JSON, **headers}
    )


def mcp_call(tool: str) -> bytes:
    """A call of a tool over MCP, of the revision that needs no session."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
    }
    params = {"name": tool, "arguments": {"a": 1, "b": 2}, "_meta": meta}
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    headers = {
        **JSON,
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": VERSION,
        "mcp-method": "tools/call",
        "mcp-name": tool,
    }
    return request("POST", "/mcp", body, headers)


BARE = "bare route"
CONTENDERS = (
    Contender(BARE, "starlette", [call("Bench.add")], {}),
    Contender("HTTP call", "toolpost", [call("Bench.add")], {BARE: 0.5}),
    Contender("HTTP call, accepted ones kept", "toolpost-lean", [call("Bench.add")], {BARE: 0.5}),
    Contender("MCP SDK", "sdk", [mcp_call("add")], {}),
    Contender("FastMCP", "fastmcp", [mcp_call("add")], {}, needs="fastmcp"),
    Contender("MCP call", "toolpost", [mcp_call("Bench.add")], {"MCP SDK": 3.0, "FastMCP": 5.0}),
)


@contextmanager
def serving(name: str) -> Iterator[tuple[int, int]]:
    """A server in a process of its own; its port and process id."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(HERE / "door_servers.py"), name, str(port)])
    try:
        until = time.monotonic() + 60.0
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"the server {name} did not start") from None
                time.sleep(0.05)
        yield port, process.pid
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def checked(port: int, data: bytes, wanted: bytes) -> None:
    """Stop the benchmark if a server does not give the right answer: what fails is no quick answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as one:
        one.sendall(data)
        answer = b""
        while wanted not in answer.replace(b" ", b""):
            part = one.recv(65536)
            answer += part
            if not part or len(answer) > 100_000 or b" 200 " not in answer[:20]:
                raise SystemExit(f"a wrong answer: {answer[:500]!r}")


def throughput(
    contenders: Sequence[Contender], ports: dict[str, int], count: int, seconds: float
) -> dict[str, list[Loaded]]:
    """Each contender under as much load as it takes, count times, in shuffled rounds."""
    found: dict[str, list[Loaded]] = {one.name: [] for one in contenders}
    named = {one.name: one for one in contenders}
    for one in contenders:
        checked(ports[one.server], one.requests[0], b"3}")
        closed(ports[one.server], one.requests, connections=CONNECTIONS, seconds=0.5)
    shuffle = random.Random(0).shuffle
    for name in rounds(list(named), count, shuffle):
        one = named[name]
        found[name].append(closed(ports[one.server], one.requests, connections=CONNECTIONS, seconds=seconds))
    return found


def at_share(
    contenders: Sequence[Contender], ports: dict[str, int], middle: dict[str, float], count: int, seconds: float
) -> dict[str, list[Loaded]]:
    """The bare route and toolpost's doors, each at SHARE of what it can do, count times, in shuffled rounds."""
    named = {one.name: one for one in contenders if one.name == BARE or one.server.startswith("toolpost")}
    found: dict[str, list[Loaded]] = {name: [] for name in named}
    for name in rounds(list(named), count, random.Random(1).shuffle):
        one = named[name]
        time.sleep(0.5)  # what the load before has left to be written is written by then
        load = paced(ports[one.server], one.requests, connections=64, seconds=seconds, per_s=SHARE * middle[name])
        found[name].append(load)
    return found


def rss_mb(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"process {pid} is gone")


def streams(port: int, pid: int, number: int, seconds: float) -> dict[str, float]:
    """So many open streams of one running call: memory of the server before, with them, and after a while."""
    body = orjson.dumps({"arguments": {"a": 1, "b": 2}})
    with socket.create_connection(("127.0.0.1", port), timeout=10) as one:
        one.sendall(request("POST", "/v1/tools/Bench.long/calls", body, {**JSON, "prefer": "respond-async"}))
        head = one.recv(65536).decode()
    location = next(line.split(": ", 1)[1] for line in head.split("\r\n") if line.lower().startswith("location: "))
    path = "/v1/" + location.split("/v1/", 1)[1] + "/events"
    before = rss_mb(pid)
    with ExitStack() as stack:
        opened = []
        for _ in range(number):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            one.sendall(request("GET", path, headers={"accept": "text/event-stream"}))
            opened.append(one)
        silent = sum(b"text/event-stream" not in one.recv(65536) for one in opened)
        if silent:
            raise SystemExit(f"{silent} of {number} streams were not opened")
        _drain(opened, 2.0)
        at_first = rss_mb(pid)
        told = _drain(opened, seconds)
        at_last = rss_mb(pid)
    return {"streams": number, "before_mb": before, "open_mb": at_first, "later_mb": at_last, "bytes_told": told}


def _drain(opened: list[socket.socket], seconds: float) -> int:
    """Read what streams tell, for so long; how many bytes it was."""
    until, told = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        for one in opened:
            one.setblocking(False)
            try:
                told += len(one.recv(65536))
            except BlockingIOError:
                continue
        time.sleep(0.2)
    return told


def overloaded(port: int, seconds: float) -> Loaded:
    """Twice as many slow calls as there are places for."""
    from door_servers import SLOW_PLACES, SLOW_S

    per_s = OVERLOAD * SLOW_PLACES / SLOW_S
    return paced(port, [call("Bench.slow")], connections=400, seconds=seconds, per_s=per_s)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one contender in one round")
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("the server and its load need a core each")

    missed: list[str] = []
    figures: dict[str, Any] = {"machine": machine()}
    with ExitStack() as stack:
        contenders = [one for one in CONTENDERS if find_spec(one.needs) is not None]
        names = dict.fromkeys([*(one.server for one in contenders), "toolpost-small"])
        servers = {name: stack.enter_context(serving(name)) for name in names}
        os.sched_setaffinity(0, {cores[-1]})
        ports = {name: port for name, (port, _) in servers.items()}

        found = throughput(contenders, ports, options.rounds, options.seconds)
        middle = {name: statistics.median(one.per_s for one in runs) for name, runs in found.items()}
        print(f"{'':40}{'calls/s':>10}{'p50 ms':>9}{'p99 ms':>9}   ratios")
        for one in CONTENDERS:
            if one not in contenders:
                print(f"{one.name:40}   not installed ({one.needs})")
                continue
            runs = found[one.name]
            p50, p99 = (statistics.median(run.quantile(q) * 1e3 for run in runs) for q in (0.5, 0.99))
            ratios = {other: middle[one.name] / middle[other] for other in one.bars if other in middle}
            texts = [f"{ratio:.2f} x {other} (bar {one.bars[other]:g})" for other, ratio in ratios.items()]
            print(f"{one.name:40}{middle[one.name]:10.0f}{p50:9.2f}{p99:9.2f}   {', '.join(texts)}")
            below = [other for other, ratio in ratios.items() if ratio < one.bars[other]]
            missed += [f"{one.name}: {ratios[other]:.2f} x {other}, bar {one.bars[other]}" for other in below]
            bad = sum(number for run in runs for status, number in run.statuses.items() if status != 200)
            if bad or any(run.lost for run in runs):
                missed.append(f"{one.name}: {bad} answers were not 200, {sum(run.lost for run in runs)} were lost")
            figures[one.name] = {"per_s": middle[one.name], "p50_ms": p50, "p99_ms": p99, "ratios": ratios}

        floor, floor_ms = TAIL, 0.0
        at_load = at_share(contenders, ports, middle, options.rounds, options.seconds)
        for name, runs in at_load.items():
            p50, p99 = (statistics.median(run.quantile(q) * 1e3 for run in runs) for q in (0.5, 0.99))
            tail = statistics.median(run.quantile(0.99) / run.quantile(0.5) for run in runs)
            least = min(run.quantile(0.99) / run.quantile(0.5) for run in runs)
            bar = f" (bar {floor:.3g})" if name != BARE else ""
            title, rate = f"{name} at {SHARE:.0%} load", SHARE * middle[name]
            print(f"{title:40}{rate:10.0f}{p50:9.2f}{p99:9.2f}   {tail:.1f} x p50{bar}, at best {least:.1f}")
            figures[f"{name} at load"] = {"per_s": rate, "p50_ms": p50, "p99_ms": p99, "tail": tail, "least": least}
            if name == BARE:
                floor, floor_ms = max(TAIL, tail), p99
            elif tail > floor and p99 > floor_ms:
                missed.append(f"{name} at {SHARE:.0%}: p99 is {tail:.1f} x p50, bar {floor:.3g}")

        port, pid = servers["toolpost-small"]
        run = overloaded(port, 4 * options.seconds)
        answers = ", ".join(f"{number} x {status}" for status, number in sorted(run.statuses.items()))
        print(f"{OVERLOAD:g} x overload: {answers}; lost {run.lost}, without Retry-After {run.without_retry_after}")
        figures["overload"] = {"statuses": dict(run.statuses), "lost": run.lost}
        if run.lost or run.without_retry_after or set(run.statuses) - {200, 429, 503}:
            missed.append(f"overload: {answers}; lost {run.lost}, without Retry-After {run.without_retry_after}")

        os.sched_setaffinity(0, set(cores))
        port, pid = stack.enter_context(serving("toolpost"))  # whose memory no load has grown
        os.sched_setaffinity(0, {cores[-1]})
        checked(port, call("Bench.add"), b"3}")
        seen = streams(port, pid, options.streams, 5 * options.seconds)
        each = (seen["open_mb"] - seen["before_mb"]) * 1024 / options.streams
        grown = seen["later_mb"] - seen["open_mb"]
        print(
            f"{options.streams} streams: {seen['before_mb']:.0f} MiB before, {seen['open_mb']:.0f} with them "
            f"({each:.1f} KiB each, bar {STREAM_KB:g}), {grown:+.1f} MiB later (bar {GROWTH_MB:g})"
        )
        figures["streams"] = {**seen, "each_kb": each, "grown_mb": grown}
        if each > STREAM_KB or grown > GROWTH_MB:
            missed.append(f"streams: {each:.1f} KiB each, {grown:+.1f} MiB later")

    for line in missed:
        print(f"MISSED  {line}", file=sys.stderr)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=2, default=float) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
