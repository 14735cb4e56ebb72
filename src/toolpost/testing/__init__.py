"""What authors of tools and plugins test with."""

from toolpost.testing.clock import FakeClock
from toolpost.testing.executor import Recorder, executor_for

__all__ = ["FakeClock", "Recorder", "executor_for"]
