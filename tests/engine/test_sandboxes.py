"""The sandboxes that settings ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolpost import ConfigurationError, ExecutorConfig, sandboxes_of


def test_the_documented_variables_set_root_and_limits() -> None:
    environ = {
        "SANDBOX_ROOT": "/srv/boxes",
        "TIMEOUT_SECONDS": "7",
        "TOOL_EXECUTOR_CPU_SECONDS": "3",
        "TOOL_EXECUTOR_MEMORY_MB": "64",
    }

    sandboxes = sandboxes_of(ExecutorConfig.load(environ=environ))

    limits = sandboxes.profile.limits
    assert sandboxes.root == Path("/srv/boxes")
    assert (limits.wall_s, limits.cpu_s, limits.memory_bytes) == (7.0, 3.0, 64 << 20)
    assert limits.disk_bytes == 64 << 20  # files lie in memory


def test_the_documented_defaults() -> None:
    limits = sandboxes_of(ExecutorConfig()).profile.limits

    assert (limits.wall_s, limits.cpu_s, limits.memory_bytes) == (30.0, 15.0, 512 << 20)


def test_without_a_timeout_a_program_still_has_an_end() -> None:
    assert sandboxes_of(ExecutorConfig(timeout=None)).profile.limits.wall_s == 60.0


def test_without_a_config_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOL_EXECUTOR_MEMORY_MB", "128")

    assert sandboxes_of().profile.limits.memory_bytes == 128 << 20


def test_a_package_that_is_not_installed_is_refused_before_anything_runs() -> None:
    with (
        sandboxes_of(ExecutorConfig(sandbox_packages=("no-such-package",))) as sandboxes,
        pytest.raises(ConfigurationError, match="'no-such-package' is not installed"),
    ):
        sandboxes.run_python_blocking("1")


@pytest.mark.parametrize("settings", [{"sandbox_memory_mb": 8}, {"sandbox_cpu_seconds": 0.0}, {"sandbox_backend": ""}])
def test_settings_out_of_bounds_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        ExecutorConfig(**settings)
