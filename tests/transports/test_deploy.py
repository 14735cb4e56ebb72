"""The files in deploy/ are well formed, confined, and name settings, options and requirements that there are."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from toolpost import ExecutorConfig
from toolpost.engine.settings import FORMS, variables_of

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
VARIABLES = {variable for setting in FORMS for variable in variables_of(setting)}
NAMED = re.compile(r"\bTOOL_EXECUTOR_[A-Z_]+")


def dockerfile() -> list[tuple[str, str]]:
    """Its instructions, joined over lines."""
    text = re.sub(r"(?m)^#.*\n", "", (DEPLOY / "Dockerfile").read_text()).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml", "toolpost.service"])
def test_every_variable_is_that_of_a_setting(name: str) -> None:
    assert set(NAMED.findall((DEPLOY / name).read_text())) <= VARIABLES


def test_the_settings_of_the_image_are_right() -> None:
    settings = dict(re.findall(r"(TOOL_EXECUTOR_\w+)=(\S+)", (DEPLOY / "Dockerfile").read_text()))

    config = ExecutorConfig.load(environ=settings)

    assert (config.serve_host, config.authentication) == ("0.0.0.0", "required")
    assert config.data_directory == Path("/var/lib/toolpost")


def test_the_image_is_made_in_two_stages_from_pinned_packages_and_runs_as_nobody() -> None:
    steps = dockerfile()
    words = [word for word, _ in steps]

    assert words.count("FROM") == 2
    last = steps[len(words) - 1 - words[::-1].index("FROM") :]
    user = next(rest for word, rest in last if word == "USER")
    assert int(user.partition(":")[0]) > 0
    assert {"HEALTHCHECK", "ENTRYPOINT", "STOPSIGNAL"} <= {word for word, _ in last}
    pip = [rest for word, rest in steps if word == "RUN" and "pip install" in rest]
    assert all("--require-hashes" in one or "--no-deps" in one for one in pip)
    copied = {part for word, rest in steps if word == "COPY" and "--from" not in rest for part in rest.split()[:-1]}
    assert all((ROOT / one).exists() for one in copied)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text()
    assert all(f"!{one}" in ignored for one in copied)


def test_the_requirements_of_the_image_are_those_that_are_tested() -> None:
    def pins(name: str) -> dict[str, str]:
        return dict(re.findall(r"(?m)^([\w.-]+)(?:\[[\w,]+\])?==(\S+)", (ROOT / "requirements" / name).read_text()))

    tested, deployed = pins("dev.txt"), pins("deploy.txt")

    assert {"uvicorn", "uvloop", "starlette", "mcp", "redis", "psycopg"} <= deployed.keys()
    assert {name: version for name, version in deployed.items() if tested.get(name) != version} == {}


def test_the_services_of_compose_are_confined_and_wait_for_their_stores() -> None:
    services = compose()["services"]

    assert services.keys() == {"gateway", "worker", "postgres", "redis"}
    for name in ("gateway", "worker"):
        one = services[name]
        assert one["read_only"] is True
        assert one["cap_drop"] == ["ALL"]
        assert one["security_opt"] == ["no-new-privileges:true"]
        assert {store["condition"] for store in one["depends_on"].values()} == {"service_healthy"}
        assert (DEPLOY / one["build"]["context"] / one["build"]["dockerfile"]).exists()
        drain_s = float(one["environment"]["TOOL_EXECUTOR_DRAIN_TIMEOUT"])
        assert float(one["stop_grace_period"].removesuffix("s")) > drain_s + 10
    assert all("healthcheck" in services[name] for name in ("postgres", "redis"))
    mounted = {volume.partition(":")[0] for one in services.values() for volume in one["volumes"]}
    assert mounted == {*compose()["volumes"]}


def test_compose_starts_what_the_command_line_has() -> None:
    from click.testing import CliRunner

    from toolpost.transports.cli import main

    for name in ("gateway", "worker"):
        asked = CliRunner().invoke(main, [*compose()["services"][name]["command"], "--help"])
        assert asked.exit_code == 0, asked.output


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    text = (DEPLOY / "toolpost.service").read_text()
    settings = dict(re.findall(r"(?m)^(\w+)=(.*)$", text))

    assert settings["NoNewPrivileges"] == "yes"
    assert settings["ProtectSystem"] == "strict"
    assert float(settings["TimeoutStopSec"]) > ExecutorConfig().drain_timeout + 10
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not here")
    unit = tmp_path / "toolpost.service"
    unit.write_text(text.replace("/opt/toolpost/bin/toolpost", shutil.which("true") or "/bin/true"))
    checked = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False, timeout=30)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_probes_of_kubernetes_ask_paths_that_there_are() -> None:
    from toolpost.transports.http_health import ROUTES

    [block] = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "serving.md").read_text(), re.DOTALL)
    pod = yaml.safe_load(block)
    [container] = pod["containers"]

    asked = {container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe", "startupProbe")}
    assert asked == {"/live", "/ready"}
    assert asked <= {route.path for route in ROUTES if route.public}
    assert {one["name"] for one in container["env"]} <= VARIABLES
    assert pod["terminationGracePeriodSeconds"] > ExecutorConfig().drain_timeout + 10
