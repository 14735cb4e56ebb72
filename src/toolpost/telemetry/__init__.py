"""Watches calls and tells what it saw: metrics, recent history, log lines, usage and cost."""

from toolpost.calls.policies import UsageCalculator
from toolpost.telemetry.collector import MetricsCollector, SystemMetrics, get_metrics_collector
from toolpost.telemetry.logs import CallLog, JsonFormatter
from toolpost.telemetry.metrics import ExecutorMetrics, ToolExecutorStats, ToolStats
from toolpost.telemetry.usage import (
    CostCalculator,
    GenericUsageCalculator,
    Price,
    TokenUsageCalculator,
    safely,
    usage_of,
)

__all__ = [
    "CallLog",
    "CostCalculator",
    "ExecutorMetrics",
    "GenericUsageCalculator",
    "JsonFormatter",
    "MetricsCollector",
    "Price",
    "SystemMetrics",
    "TokenUsageCalculator",
    "ToolExecutorStats",
    "ToolStats",
    "UsageCalculator",
    "get_metrics_collector",
    "safely",
    "usage_of",
]
