"""GET /metrics of a gateway: what doors count is in it, in the format that was asked for, over all processes."""

import re
import signal
from pathlib import Path

import httpx

from tests.transports.gateway import gateway
from tests.transports.serving import serving
from toolpost import Tool


@Tool(name="Quick.Add", description="Add.", register=False)
async def add(a: int, b: int) -> int:
    return a + b


def value(text: str, name: str, labels: str = "") -> float:
    found = re.search(rf"^{re.escape(name + labels)} (\S+)$", text, re.MULTILINE)
    assert found, f"{name}{labels} is not in:\n{text[:3000]}"
    return float(found[1])


def route(method: str, path: str, status: str) -> str:
    return f'{{method="{method}",route="{path}",status="{status}"}}'


def test_requests_calls_and_what_waits_are_told() -> None:
    with gateway([add]) as served, httpx.Client(base_url=served.url) as client:
        for a in (1, 2, "x"):
            client.post("/v1/tools/Quick.Add/calls", json={"arguments": {"a": a, "b": 1}})
        client.get("/v1/calls/none-such")
        client.get("/nowhere/at/all")
        accepted = client.post(
            "/v1/tools/Quick.Add/calls", json={"arguments": {"a": 1, "b": 1}}, headers={"prefer": "respond-async"}
        )
        client.get(accepted.headers["location"], params={"wait": "20"})
        answer = client.get("/metrics")
        other = client.get("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0"})
    text = answer.text

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert other.headers["content-type"].startswith("application/openmetrics-text")
    assert other.text.endswith("# EOF\n")
    calls = "/v1/tools/{name}/calls"
    assert value(text, "toolpost_http_requests_total", route("POST", calls, "2xx")) == 3
    assert value(text, "toolpost_http_requests_total", route("POST", calls, "4xx")) == 1
    assert value(text, "toolpost_http_requests_total", route("GET", "/v1/calls/{call_id}", "4xx")) == 1
    assert value(text, "toolpost_http_requests_total", route("GET", "other", "4xx")) == 1
    assert value(text, "tool_executions_total", '{operation="",status="success",tool_name="Quick.Add"}') == 3
    assert value(text, "tool_executor_tasks_total", '{state="succeeded"}') == 1
    assert value(text, "tool_executor_duration_seconds_count") == 1
    assert value(text, "toolpost_calls_in_flight") == 0
    assert value(text, "toolpost_calls_waiting") == 0
    assert value(text, "toolpost_accepted_calls", '{state="queued"}') == 0
    assert value(text, "toolpost_deliveries_outstanding") == 0
    assert "none-such" not in text
    assert "nowhere" not in text


def test_whichever_process_is_asked_tells_the_sum_of_all(tmp_path: Path) -> None:
    with serving("--workers=2", "--access-log=none", folder=tmp_path) as gateway:
        gateway.says(r"process \d \(\d+\) answers", 2)
        for number in range(40):  # each over a connection of its own, which either process may take
            assert gateway.call("add", a=number).status_code == 200
        seen = [0.0]
        while seen[-1] < 40:  # the other process writes what it counted each second
            text = httpx.get(f"{gateway.url}/metrics").text
            [calls] = re.findall(r"^tool_executions_total\{.*success.*\} (\S+)$", text, re.MULTILINE)
            seen.append(float(calls))
        gateway.signal(signal.SIGTERM)
        assert gateway.ends() == 0

    assert seen[-1] == 40
    assert seen == sorted(seen), "a sum fell"
    assert value(text, "toolpost_processes") == 2
