"""What every test gets without asking: an environment free of the settings that toolpost would read."""

import os
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from hypothesis import settings

# Wall time per example says more about the machine than about the code; pytest-timeout bounds a whole test.
settings.register_profile("toolpost", deadline=None)
settings.load_profile("toolpost")

SETTING_PREFIXES = ("TOOL_EXECUTOR_", "ARCADE_", "OAUTH_")
# The variables that the requirement documents name without a prefix.
SETTINGS = frozenset(
    {
        "ALLOWED_FILE_EXTENSIONS",
        "ALLOWED_HOSTS",
        "CACHE_BACKEND",
        "CACHE_PREFIX",
        "CACHE_REDIS_URL",
        "DATABASE_URL",
        "ENABLE_METRICS",
        "ENABLE_TOOL_EXECUTOR_METRICS",
        "MAX_INPUT_SIZE",
        "METRICS_BACKEND",
        "PROMETHEUS_PORT",
        "SANDBOX_ROOT",
        "SECRET_KEY",
        "SECURITY_LEVEL",
        "TIMEOUT_SECONDS",
    }
)


@pytest.fixture(autouse=True)
def toolpost_env() -> Iterator[None]:
    """Hide the caller's settings from the test and undo what the test itself sets."""
    with patch.dict(os.environ):
        for name in list(os.environ):
            if name in SETTINGS or name.startswith(SETTING_PREFIXES):
                del os.environ[name]
        yield
