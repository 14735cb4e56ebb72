"""toolpost: runs tools for AI agents, safely, observably, exactly as often as intended."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolpost.authoring.base import BaseTool as BaseTool
    from toolpost.authoring.decorators import (
        Tool as Tool,
    )
    from toolpost.authoring.decorators import (
        cache_result as cache_result,
    )
    from toolpost.authoring.decorators import (
        measure_execution_time as measure_execution_time,
    )
    from toolpost.authoring.decorators import (
        run_in_executor as run_in_executor,
    )
    from toolpost.authoring.decorators import (
        sanitize_input as sanitize_input,
    )
    from toolpost.authoring.decorators import (
        validate_input as validate_input,
    )
    from toolpost.authoring.jsonschema import (
        JsonSchema as JsonSchema,
    )
    from toolpost.authoring.jsonschema import (
        ParameterValidator as ParameterValidator,
    )
    from toolpost.authoring.parameters import (
        ArrayParameter as ArrayParameter,
    )
    from toolpost.authoring.parameters import (
        BooleanParameter as BooleanParameter,
    )
    from toolpost.authoring.parameters import (
        IntegerParameter as IntegerParameter,
    )
    from toolpost.authoring.parameters import (
        NumericParameter as NumericParameter,
    )
    from toolpost.authoring.parameters import (
        ObjectParameter as ObjectParameter,
    )
    from toolpost.authoring.parameters import (
        ParameterType as ParameterType,
    )
    from toolpost.authoring.parameters import (
        StringParameter as StringParameter,
    )
    from toolpost.authoring.parameters import (
        ToolParameter as ToolParameter,
    )
    from toolpost.authoring.serialize import (
        ToolSerializationError as ToolSerializationError,
    )
    from toolpost.authoring.serialize import (
        register_db_driver as register_db_driver,
    )
    from toolpost.authoring.serialize import (
        tool_from_dict as tool_from_dict,
    )
    from toolpost.authoring.serialize import (
        tool_from_json as tool_from_json,
    )
    from toolpost.authoring.serialize import (
        tool_to_dict as tool_to_dict,
    )
    from toolpost.authoring.serialize import (
        tool_to_json as tool_to_json,
    )
    from toolpost.authoring.specs import (
        CircuitBreakerConfig as CircuitBreakerConfig,
    )
    from toolpost.authoring.specs import (
        CircuitBreakerState as CircuitBreakerState,
    )
    from toolpost.authoring.specs import (
        DatabaseProvider as DatabaseProvider,
    )
    from toolpost.authoring.specs import (
        DbToolSpec as DbToolSpec,
    )
    from toolpost.authoring.specs import (
        DynamoDbToolSpec as DynamoDbToolSpec,
    )
    from toolpost.authoring.specs import (
        FunctionToolSpec as FunctionToolSpec,
    )
    from toolpost.authoring.specs import (
        HttpToolSpec as HttpToolSpec,
    )
    from toolpost.authoring.specs import (
        IdempotencyConfig as IdempotencyConfig,
    )
    from toolpost.authoring.specs import (
        MySqlToolSpec as MySqlToolSpec,
    )
    from toolpost.authoring.specs import (
        PostgreSqlToolSpec as PostgreSqlToolSpec,
    )
    from toolpost.authoring.specs import (
        RetryableErrorType as RetryableErrorType,
    )
    from toolpost.authoring.specs import (
        RetryConfig as RetryConfig,
    )
    from toolpost.authoring.specs import (
        SqliteToolSpec as SqliteToolSpec,
    )
    from toolpost.authoring.specs import (
        ToolSpec as ToolSpec,
    )
    from toolpost.authoring.specs import (
        ToolType as ToolType,
    )
    from toolpost.calls.call import (
        Caller as Caller,
    )
    from toolpost.calls.call import (
        ToolCall as ToolCall,
    )
    from toolpost.calls.call import (
        create_tool_call as create_tool_call,
    )
    from toolpost.calls.call import (
        new_id as new_id,
    )
    from toolpost.calls.clock import Clock as Clock
    from toolpost.calls.context import (
        IToolEmitter as IToolEmitter,
    )
    from toolpost.calls.context import (
        IToolExecutor as IToolExecutor,
    )
    from toolpost.calls.context import (
        IToolLimiter as IToolLimiter,
    )
    from toolpost.calls.context import (
        IToolMemory as IToolMemory,
    )
    from toolpost.calls.context import (
        IToolMetrics as IToolMetrics,
    )
    from toolpost.calls.context import (
        IToolPolicy as IToolPolicy,
    )
    from toolpost.calls.context import (
        IToolSecurity as IToolSecurity,
    )
    from toolpost.calls.context import (
        IToolTracer as IToolTracer,
    )
    from toolpost.calls.context import (
        IToolValidator as IToolValidator,
    )
    from toolpost.calls.context import (
        ToolContext as ToolContext,
    )
    from toolpost.calls.context import (
        ToolContextBuilder as ToolContextBuilder,
    )
    from toolpost.calls.context import (
        register_service as register_service,
    )
    from toolpost.calls.definition import Hints as Hints
    from toolpost.calls.definition import ToolDefinition as ToolDefinition
    from toolpost.calls.errors import (
        CallCancelledError as CallCancelledError,
    )
    from toolpost.calls.errors import (
        ConfigurationError as ConfigurationError,
    )
    from toolpost.calls.errors import (
        DuplicateToolError as DuplicateToolError,
    )
    from toolpost.calls.errors import (
        EngineError as EngineError,
    )
    from toolpost.calls.errors import (
        Failed as Failed,
    )
    from toolpost.calls.errors import (
        InputValidationError as InputValidationError,
    )
    from toolpost.calls.errors import (
        NotSupportedError as NotSupportedError,
    )
    from toolpost.calls.errors import (
        OperationError as OperationError,
    )
    from toolpost.calls.errors import (
        OutputValidationError as OutputValidationError,
    )
    from toolpost.calls.errors import (
        OverloadedError as OverloadedError,
    )
    from toolpost.calls.errors import (
        PermissionDeniedError as PermissionDeniedError,
    )
    from toolpost.calls.errors import (
        PluginError as PluginError,
    )
    from toolpost.calls.errors import (
        RateLimitError as RateLimitError,
    )
    from toolpost.calls.errors import (
        Rejected as Rejected,
    )
    from toolpost.calls.errors import (
        RemoteToolError as RemoteToolError,
    )
    from toolpost.calls.errors import (
        SandboxError as SandboxError,
    )
    from toolpost.calls.errors import (
        SchemaError as SchemaError,
    )
    from toolpost.calls.errors import (
        SecurityError as SecurityError,
    )
    from toolpost.calls.errors import (
        StoreUnavailableError as StoreUnavailableError,
    )
    from toolpost.calls.errors import (
        ToolError as ToolError,
    )
    from toolpost.calls.errors import (
        ToolExecutionError as ToolExecutionError,
    )
    from toolpost.calls.errors import (
        ToolNotFoundError as ToolNotFoundError,
    )
    from toolpost.calls.errors import (
        ToolTimeoutError as ToolTimeoutError,
    )
    from toolpost.calls.errors import (
        ToolValidationError as ToolValidationError,
    )
    from toolpost.calls.errors import (
        UnauthorizedError as UnauthorizedError,
    )
    from toolpost.calls.events import (
        AttemptFailed as AttemptFailed,
    )
    from toolpost.calls.events import (
        CallFinished as CallFinished,
    )
    from toolpost.calls.events import (
        CallStarted as CallStarted,
    )
    from toolpost.calls.events import (
        Logged as Logged,
    )
    from toolpost.calls.events import (
        Progressed as Progressed,
    )
    from toolpost.calls.policies import (
        UNSET as UNSET,
    )
    from toolpost.calls.policies import (
        Cache as Cache,
    )
    from toolpost.calls.policies import (
        Policies as Policies,
    )
    from toolpost.calls.policies import (
        RateLimit as RateLimit,
    )
    from toolpost.calls.policies import (
        Screening as Screening,
    )
    from toolpost.calls.policies import (
        Timeout as Timeout,
    )
    from toolpost.calls.result import (
        Failure as Failure,
    )
    from toolpost.calls.result import (
        ToolResult as ToolResult,
    )
    from toolpost.calls.result import (
        ToolReturnTarget as ToolReturnTarget,
    )
    from toolpost.calls.result import (
        ToolReturnType as ToolReturnType,
    )
    from toolpost.calls.result import (
        ToolUsage as ToolUsage,
    )
    from toolpost.calls.result import (
        format_tool_result_for_llm as format_tool_result_for_llm,
    )
    from toolpost.engine.execution_utils import ExecutionUtils as ExecutionUtils
    from toolpost.engine.executor import ToolExecutor as ToolExecutor
    from toolpost.engine.executor import get_executor as get_executor
    from toolpost.engine.registry import ToolRegistry as ToolRegistry
    from toolpost.engine.registry import get_tool_registry as get_tool_registry
    from toolpost.engine.settings import ExecutorConfig as ExecutorConfig
    from toolpost.engine.spec_executors import (
        BaseToolExecutor as BaseToolExecutor,
    )
    from toolpost.engine.spec_executors import (
        ExecutorFactory as ExecutorFactory,
    )
    from toolpost.engine.spec_executors import (
        FunctionToolExecutor as FunctionToolExecutor,
    )
    from toolpost.engine.spec_executors import (
        HttpToolExecutor as HttpToolExecutor,
    )
    from toolpost.engine.spec_executors import (
        NoOpExecutor as NoOpExecutor,
    )
    from toolpost.errors import TimeoutError as TimeoutError
    from toolpost.pipeline.limit import RateLimiter as RateLimiter
    from toolpost.security.limits import SecurityValidator as SecurityValidator
    from toolpost.security.rules import Finding as Finding
    from toolpost.security.rules import screen_text as screen_text
    from toolpost.telemetry.collector import (
        MetricsCollector as MetricsCollector,
    )
    from toolpost.telemetry.collector import (
        SystemMetrics as SystemMetrics,
    )
    from toolpost.telemetry.collector import (
        get_metrics_collector as get_metrics_collector,
    )
    from toolpost.telemetry.logs import JsonFormatter as JsonFormatter
    from toolpost.telemetry.metrics import (
        ExecutorMetrics as ExecutorMetrics,
    )
    from toolpost.telemetry.metrics import (
        ToolExecutorStats as ToolExecutorStats,
    )
    from toolpost.telemetry.usage import (
        CostCalculator as CostCalculator,
    )
    from toolpost.telemetry.usage import (
        GenericUsageCalculator as GenericUsageCalculator,
    )
    from toolpost.telemetry.usage import (
        TokenUsageCalculator as TokenUsageCalculator,
    )
    from toolpost.transports.wire import (
        decode_calls as decode_calls,
    )
    from toolpost.transports.wire import (
        encode_result as encode_result,
    )
    from toolpost.transports.wire import (
        encode_results as encode_results,
    )
    from toolpost.transports.wire import (
        export_tool as export_tool,
    )
    from toolpost.transports.wire import (
        export_tools as export_tools,
    )

__version__ = "0.1.0"

_EXPORTS: dict[str, str] = {
    "ArrayParameter": "toolpost.authoring.parameters",
    "AttemptFailed": "toolpost.calls.events",
    "BaseTool": "toolpost.authoring.base",
    "BaseToolExecutor": "toolpost.engine.spec_executors",
    "BooleanParameter": "toolpost.authoring.parameters",
    "Cache": "toolpost.calls.policies",
    "CallCancelledError": "toolpost.calls.errors",
    "CallFinished": "toolpost.calls.events",
    "CallStarted": "toolpost.calls.events",
    "Caller": "toolpost.calls.call",
    "CircuitBreakerConfig": "toolpost.authoring.specs",
    "CircuitBreakerState": "toolpost.authoring.specs",
    "Clock": "toolpost.calls.clock",
    "ConfigurationError": "toolpost.calls.errors",
    "CostCalculator": "toolpost.telemetry.usage",
    "DatabaseProvider": "toolpost.authoring.specs",
    "DbToolSpec": "toolpost.authoring.specs",
    "DuplicateToolError": "toolpost.calls.errors",
    "DynamoDbToolSpec": "toolpost.authoring.specs",
    "EngineError": "toolpost.calls.errors",
    "ExecutionUtils": "toolpost.engine.execution_utils",
    "ExecutorConfig": "toolpost.engine.settings",
    "ExecutorFactory": "toolpost.engine.spec_executors",
    "ExecutorMetrics": "toolpost.telemetry.metrics",
    "Failed": "toolpost.calls.errors",
    "Failure": "toolpost.calls.result",
    "Finding": "toolpost.security.rules",
    "FunctionToolExecutor": "toolpost.engine.spec_executors",
    "FunctionToolSpec": "toolpost.authoring.specs",
    "GenericUsageCalculator": "toolpost.telemetry.usage",
    "Hints": "toolpost.calls.definition",
    "HttpToolExecutor": "toolpost.engine.spec_executors",
    "HttpToolSpec": "toolpost.authoring.specs",
    "IToolEmitter": "toolpost.calls.context",
    "IToolExecutor": "toolpost.calls.context",
    "IToolLimiter": "toolpost.calls.context",
    "IToolMemory": "toolpost.calls.context",
    "IToolMetrics": "toolpost.calls.context",
    "IToolPolicy": "toolpost.calls.context",
    "IToolSecurity": "toolpost.calls.context",
    "IToolTracer": "toolpost.calls.context",
    "IToolValidator": "toolpost.calls.context",
    "IdempotencyConfig": "toolpost.authoring.specs",
    "InputValidationError": "toolpost.calls.errors",
    "IntegerParameter": "toolpost.authoring.parameters",
    "JsonFormatter": "toolpost.telemetry.logs",
    "JsonSchema": "toolpost.authoring.jsonschema",
    "Logged": "toolpost.calls.events",
    "MetricsCollector": "toolpost.telemetry.collector",
    "MySqlToolSpec": "toolpost.authoring.specs",
    "NoOpExecutor": "toolpost.engine.spec_executors",
    "NotSupportedError": "toolpost.calls.errors",
    "NumericParameter": "toolpost.authoring.parameters",
    "ObjectParameter": "toolpost.authoring.parameters",
    "OperationError": "toolpost.calls.errors",
    "OutputValidationError": "toolpost.calls.errors",
    "OverloadedError": "toolpost.calls.errors",
    "ParameterType": "toolpost.authoring.parameters",
    "ParameterValidator": "toolpost.authoring.jsonschema",
    "PermissionDeniedError": "toolpost.calls.errors",
    "PluginError": "toolpost.calls.errors",
    "Policies": "toolpost.calls.policies",
    "PostgreSqlToolSpec": "toolpost.authoring.specs",
    "Progressed": "toolpost.calls.events",
    "RateLimit": "toolpost.calls.policies",
    "RateLimitError": "toolpost.calls.errors",
    "RateLimiter": "toolpost.pipeline.limit",
    "Rejected": "toolpost.calls.errors",
    "RemoteToolError": "toolpost.calls.errors",
    "RetryConfig": "toolpost.authoring.specs",
    "RetryableErrorType": "toolpost.authoring.specs",
    "SandboxError": "toolpost.calls.errors",
    "SchemaError": "toolpost.calls.errors",
    "Screening": "toolpost.calls.policies",
    "SecurityError": "toolpost.calls.errors",
    "SecurityValidator": "toolpost.security.limits",
    "SqliteToolSpec": "toolpost.authoring.specs",
    "StoreUnavailableError": "toolpost.calls.errors",
    "StringParameter": "toolpost.authoring.parameters",
    "SystemMetrics": "toolpost.telemetry.collector",
    "Timeout": "toolpost.calls.policies",
    "TimeoutError": "toolpost.errors",
    "TokenUsageCalculator": "toolpost.telemetry.usage",
    "Tool": "toolpost.authoring.decorators",
    "ToolCall": "toolpost.calls.call",
    "ToolContext": "toolpost.calls.context",
    "ToolContextBuilder": "toolpost.calls.context",
    "ToolDefinition": "toolpost.calls.definition",
    "ToolError": "toolpost.calls.errors",
    "ToolExecutionError": "toolpost.calls.errors",
    "ToolExecutor": "toolpost.engine.executor",
    "ToolExecutorStats": "toolpost.telemetry.metrics",
    "ToolNotFoundError": "toolpost.calls.errors",
    "ToolParameter": "toolpost.authoring.parameters",
    "ToolRegistry": "toolpost.engine.registry",
    "ToolResult": "toolpost.calls.result",
    "ToolReturnTarget": "toolpost.calls.result",
    "ToolReturnType": "toolpost.calls.result",
    "ToolSerializationError": "toolpost.authoring.serialize",
    "ToolSpec": "toolpost.authoring.specs",
    "ToolTimeoutError": "toolpost.calls.errors",
    "ToolType": "toolpost.authoring.specs",
    "ToolUsage": "toolpost.calls.result",
    "ToolValidationError": "toolpost.calls.errors",
    "UNSET": "toolpost.calls.policies",
    "UnauthorizedError": "toolpost.calls.errors",
    "cache_result": "toolpost.authoring.decorators",
    "create_tool_call": "toolpost.calls.call",
    "decode_calls": "toolpost.transports.wire",
    "encode_result": "toolpost.transports.wire",
    "encode_results": "toolpost.transports.wire",
    "export_tool": "toolpost.transports.wire",
    "export_tools": "toolpost.transports.wire",
    "format_tool_result_for_llm": "toolpost.calls.result",
    "get_executor": "toolpost.engine.executor",
    "get_metrics_collector": "toolpost.telemetry.collector",
    "get_tool_registry": "toolpost.engine.registry",
    "measure_execution_time": "toolpost.authoring.decorators",
    "new_id": "toolpost.calls.call",
    "register_db_driver": "toolpost.authoring.serialize",
    "register_service": "toolpost.calls.context",
    "run_in_executor": "toolpost.authoring.decorators",
    "sanitize_input": "toolpost.authoring.decorators",
    "screen_text": "toolpost.security.rules",
    "tool_from_dict": "toolpost.authoring.serialize",
    "tool_from_json": "toolpost.authoring.serialize",
    "tool_to_dict": "toolpost.authoring.serialize",
    "tool_to_json": "toolpost.authoring.serialize",
    "validate_input": "toolpost.authoring.decorators",
}
_UNSTARRED = frozenset({"TimeoutError"})  # it would hide the builtin from whoever imports *

__all__ = [
    "ArrayParameter",
    "AttemptFailed",
    "BaseTool",
    "BaseToolExecutor",
    "BooleanParameter",
    "Cache",
    "CallCancelledError",
    "CallFinished",
    "CallStarted",
    "Caller",
    "CircuitBreakerConfig",
    "CircuitBreakerState",
    "Clock",
    "ConfigurationError",
    "CostCalculator",
    "DatabaseProvider",
    "DbToolSpec",
    "DuplicateToolError",
    "DynamoDbToolSpec",
    "EngineError",
    "ExecutionUtils",
    "ExecutorConfig",
    "ExecutorFactory",
    "ExecutorMetrics",
    "Failed",
    "Failure",
    "Finding",
    "FunctionToolExecutor",
    "FunctionToolSpec",
    "GenericUsageCalculator",
    "Hints",
    "HttpToolExecutor",
    "HttpToolSpec",
    "IToolEmitter",
    "IToolExecutor",
    "IToolLimiter",
    "IToolMemory",
    "IToolMetrics",
    "IToolPolicy",
    "IToolSecurity",
    "IToolTracer",
    "IToolValidator",
    "IdempotencyConfig",
    "InputValidationError",
    "IntegerParameter",
    "JsonFormatter",
    "JsonSchema",
    "Logged",
    "MetricsCollector",
    "MySqlToolSpec",
    "NoOpExecutor",
    "NotSupportedError",
    "NumericParameter",
    "ObjectParameter",
    "OperationError",
    "OutputValidationError",
    "OverloadedError",
    "ParameterType",
    "ParameterValidator",
    "PermissionDeniedError",
    "PluginError",
    "Policies",
    "PostgreSqlToolSpec",
    "Progressed",
    "RateLimit",
    "RateLimitError",
    "RateLimiter",
    "Rejected",
    "RemoteToolError",
    "RetryConfig",
    "RetryableErrorType",
    "SandboxError",
    "SchemaError",
    "Screening",
    "SecurityError",
    "SecurityValidator",
    "SqliteToolSpec",
    "StoreUnavailableError",
    "StringParameter",
    "SystemMetrics",
    "Timeout",
    "TokenUsageCalculator",
    "Tool",
    "ToolCall",
    "ToolContext",
    "ToolContextBuilder",
    "ToolDefinition",
    "ToolError",
    "ToolExecutionError",
    "ToolExecutor",
    "ToolExecutorStats",
    "ToolNotFoundError",
    "ToolParameter",
    "ToolRegistry",
    "ToolResult",
    "ToolReturnTarget",
    "ToolReturnType",
    "ToolSerializationError",
    "ToolSpec",
    "ToolTimeoutError",
    "ToolType",
    "ToolUsage",
    "ToolValidationError",
    "UNSET",
    "UnauthorizedError",
    "cache_result",
    "create_tool_call",
    "decode_calls",
    "encode_result",
    "encode_results",
    "export_tool",
    "export_tools",
    "format_tool_result_for_llm",
    "get_executor",
    "get_metrics_collector",
    "get_tool_registry",
    "measure_execution_time",
    "new_id",
    "register_db_driver",
    "register_service",
    "run_in_executor",
    "sanitize_input",
    "screen_text",
    "tool_from_dict",
    "tool_from_json",
    "tool_to_dict",
    "tool_to_json",
    "validate_input",
]


def __getattr__(name: str) -> Any:
    try:
        module = _EXPORTS[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
