"""The words everything else speaks in: frozen values, policies, errors, events; no I/O."""

from toolpost.calls.call import ANONYMOUS, Caller, ToolCall, create_tool_call, new_id
from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.context import ToolContext, ToolContextBuilder
from toolpost.calls.definition import (
    Body,
    Check,
    DbBody,
    FunctionBody,
    Hints,
    HttpBody,
    OutputCheck,
    ToolDefinition,
)
from toolpost.calls.errors import ToolExecutionError
from toolpost.calls.events import (
    AttemptFailed,
    CallFinished,
    CallStarted,
    Event,
    Logged,
    Observer,
    Progressed,
)
from toolpost.calls.policies import UNSET, Cache, Policies, RateLimit, Screening, Timeout, given
from toolpost.calls.result import Failure, ToolResult, ToolUsage, failed_result, format_tool_result_for_llm

__all__ = [
    "ANONYMOUS",
    "SYSTEM_CLOCK",
    "UNSET",
    "AttemptFailed",
    "Body",
    "Cache",
    "CallFinished",
    "CallStarted",
    "Caller",
    "Check",
    "Clock",
    "DbBody",
    "Event",
    "Failure",
    "FunctionBody",
    "Hints",
    "HttpBody",
    "Logged",
    "Observer",
    "OutputCheck",
    "Policies",
    "Progressed",
    "RateLimit",
    "Screening",
    "Timeout",
    "ToolCall",
    "ToolContext",
    "ToolContextBuilder",
    "ToolDefinition",
    "ToolExecutionError",
    "ToolResult",
    "ToolUsage",
    "create_tool_call",
    "failed_result",
    "format_tool_result_for_llm",
    "given",
    "new_id",
]
