"""Every name the documents promise: importable, public, with the promised members, signatures and defaults."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import subprocess
import sys
import threading
from enum import Enum
from typing import Any

import pytest
from pydantic import BaseModel

import toolpost
import toolpost.errors

NAMES = {
    "A1 and A2": (
        "BaseTool ExecutionUtils ExecutorConfig ExecutorMetrics InputValidationError OperationError SecurityError "
        "ToolExecutionError ToolExecutor cache_result get_executor measure_execution_time run_in_executor "
        "sanitize_input validate_input"
    ),
    "B": (
        "MetricsCollector ParameterValidator RateLimiter SecurityError SecurityValidator Tool ToolCall ToolDefinition "
        "ToolExecutionError ToolExecutor ToolNotFoundError ToolRegistry ToolResult ToolValidationError "
        "UnauthorizedError create_tool_call format_tool_result_for_llm get_metrics_collector get_tool_registry"
    ),
    "C": (
        "ArrayParameter BooleanParameter CircuitBreakerConfig CircuitBreakerState CostCalculator DatabaseProvider "
        "DbToolSpec DynamoDbToolSpec ExecutorFactory FunctionToolExecutor FunctionToolSpec GenericUsageCalculator "
        "HttpToolExecutor HttpToolSpec IToolEmitter IToolExecutor IToolLimiter IToolMemory IToolMetrics IToolPolicy "
        "IToolSecurity IToolTracer IToolValidator IdempotencyConfig IntegerParameter MySqlToolSpec NoOpExecutor "
        "NumericParameter ObjectParameter ParameterType PostgreSqlToolSpec RetryConfig RetryableErrorType "
        "SqliteToolSpec StringParameter TokenUsageCalculator ToolContext ToolContextBuilder ToolError ToolParameter "
        "ToolResult ToolReturnTarget ToolReturnType ToolSerializationError ToolSpec ToolType ToolUsage "
        "register_db_driver tool_from_dict tool_from_json tool_to_dict tool_to_json BaseToolExecutor"
    ),
}
EVERY_NAME = sorted({name for names in NAMES.values() for name in names.split()})


@pytest.mark.parametrize("name", EVERY_NAME)
def test_a_promised_name_is_importable_and_public(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"from toolpost import {name}", namespace)

    assert namespace[name] is getattr(toolpost, name)
    assert name in toolpost.__all__
    assert name in dir(toolpost)
    assert (getattr(toolpost, name).__doc__ or "").strip()


def test_timeout_error_is_importable_but_hides_no_builtin() -> None:
    namespace: dict[str, Any] = {}
    exec("from toolpost import *", namespace)

    assert toolpost.TimeoutError is toolpost.ToolTimeoutError is toolpost.errors.TimeoutError
    assert "TimeoutError" not in toolpost.__all__
    assert "TimeoutError" not in namespace
    assert set(EVERY_NAME) <= set(namespace)


def test_no_public_name_hides_a_builtin() -> None:
    import builtins

    assert not set(toolpost.__all__) & set(dir(builtins))


def test_a_tool_runs_where_nothing_but_its_base_was_imported() -> None:
    program = (
        "from toolpost import BaseTool\n"
        "class T(BaseTool):\n"
        "    def add(self, a: int, b: int) -> int:\n"
        "        return a + b\n"
        "print(T().run('add', a=2, b=3))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout == "5\n"


# errors

ERRORS: list[tuple[str, str, int, str]] = [
    # class, base, status, the error_type that results report
    ("ToolExecutionError", "Exception", 500, "ToolExecutionError"),
    ("InputValidationError", "ToolExecutionError", 400, "ToolValidationError"),
    ("ToolValidationError", "ToolExecutionError", 400, "ToolValidationError"),
    ("SecurityError", "ToolExecutionError", 403, "SecurityError"),
    ("OperationError", "ToolExecutionError", 500, "ToolExecutionError"),
    ("ToolTimeoutError", "ToolExecutionError", 504, "ToolTimeoutError"),
    ("ToolNotFoundError", "ToolExecutionError", 404, "ToolNotFoundError"),
    ("UnauthorizedError", "ToolExecutionError", 401, "UnauthorizedError"),
    ("ToolError", "ToolExecutionError", 500, "ToolError"),
]


@pytest.mark.parametrize(("name", "base", "status", "error_type"), ERRORS)
def test_an_error_has_its_base_status_and_type(name: str, base: str, status: int, error_type: str) -> None:
    error: Any = getattr(toolpost, name)("said")

    assert issubclass(type(error), getattr(toolpost, base, Exception))
    assert (error.status, error.error_type, str(error)) == (status, error_type, "said")
    assert error.errors() == []


# configuration

CONFIG = {
    "enable_cache": True,
    "cache_size": 100,
    "cache_ttl": 3600,
    "max_workers": 4,
    "io_concurrency": 8,
    "chunk_size": 10000,
    "max_file_size": 1000000,
    "log_level": "INFO",
    "log_execution_time": True,
    "enable_security_checks": True,
    "retry_attempts": 3,
    "retry_backoff": 1.0,
    "timeout": 30,
    "cache_prefix": "tool_cache",
    "security_level": "medium",
    "max_input_size": 1048576,
    "prometheus_port": 9090,
    "metrics_interval": 60,
    "max_threads_per_worker": 4,
    "rate_limit_by_user": True,
    "debug": False,
}


@pytest.mark.parametrize("field", CONFIG)
def test_a_setting_has_its_documented_default(field: str) -> None:
    assert getattr(toolpost.ExecutorConfig(), field) == CONFIG[field]
    assert issubclass(toolpost.ExecutorConfig, BaseModel)


# enums

ENUMS = {
    "ToolType": "function http db",
    "ToolReturnType": "json toon text",
    "ToolReturnTarget": "human llm agent step",
    "ParameterType": "string number integer boolean array object",
    "RetryableErrorType": "timeout unavailable network rate_limit transient",
    "CircuitBreakerState": "closed open half_open",
    "DatabaseProvider": "dynamodb",
}


@pytest.mark.parametrize("name", ENUMS)
def test_an_enum_has_its_documented_values(name: str) -> None:
    enum: type[Enum] = getattr(toolpost, name)
    values = ENUMS[name].split()

    for value in values:
        assert enum(value).name == value.upper()
        assert enum(value).value == value
        assert isinstance(enum(value), str)
    if name != "DatabaseProvider":  # which has more databases than the document's one
        assert [member.value for member in enum] == values


# models

REQUIRED = object()
COMMON: dict[str, Any] = {
    "id": REQUIRED,
    "version": "1.0.0",
    "tool_name": REQUIRED,
    "description": REQUIRED,
    "parameters": REQUIRED,
    "return_type": "json",
    "return_target": "step",
    "required": False,
    "owner": None,
    "permissions": [],
    "timeout_s": 30,
    "examples": [],
    "idempotency_key_generator": None,
    "circuit_breaker_policy": None,
    "retry_policy": None,
    "metrics_tags": {},
}
DB_SERVER: dict[str, Any] = {
    **COMMON,
    "host": "localhost",
    "database": REQUIRED,
    "username": REQUIRED,
    "password": REQUIRED,
    "connection_string": None,
    "ssl_mode": None,
    "pool_size": 10,
}
PARAMETER: dict[str, Any] = {
    "name": REQUIRED,
    "required": False,
    "default": None,
    "deprecated": False,
    "examples": [],
}
MODELS: dict[str, dict[str, Any]] = {
    "ToolSpec": {**COMMON, "tool_type": REQUIRED},
    "FunctionToolSpec": {**COMMON, "tool_type": "function"},
    "HttpToolSpec": {
        **COMMON,
        "tool_type": "http",
        "url": REQUIRED,
        "method": "post",
        "headers": None,
        "query_params": None,
        "body": None,
    },
    "DbToolSpec": {**COMMON, "tool_type": "db", "driver": "dynamodb"},
    "DynamoDbToolSpec": {
        **COMMON,
        "driver": "dynamodb",
        "region": "us-west-2",
        "table_name": REQUIRED,
        "endpoint_url": None,
        "aws_access_key_id": None,
        "aws_secret_access_key": None,
    },
    "PostgreSqlToolSpec": {**DB_SERVER, "port": 5432},
    "MySqlToolSpec": {**DB_SERVER, "port": 3306, "charset": "utf8mb4"},
    "SqliteToolSpec": {**COMMON, "database_path": ":memory:", "timeout": 5.0, "check_same_thread": False},
    "ToolParameter": PARAMETER,
    "StringParameter": {
        **PARAMETER,
        "enum": None,
        "format": None,
        "min_length": None,
        "max_length": None,
        "pattern": None,
        "coerce": False,
    },
    "NumericParameter": {**PARAMETER, "min": None, "max": None},
    "IntegerParameter": {**PARAMETER, "min": None, "max": None},
    "BooleanParameter": PARAMETER,
    "ArrayParameter": {**PARAMETER, "items": None, "min_items": None, "max_items": None, "unique_items": False},
    "ObjectParameter": {**PARAMETER, "properties": None, "oneOf": None},
    "RetryConfig": {"max_attempts": 3, "base_delay_s": 0.2, "max_delay_s": 2.0, "jitter_s": 0.1},
    "CircuitBreakerConfig": {
        "enabled": True,
        "failure_threshold": 5,
        "recovery_timeout_s": 30,
        "half_open_max_calls": 1,
        "error_codes_to_trip": ["timeout", "unavailable", "tool_error"],
    },
    "IdempotencyConfig": {
        "enabled": True,
        "key_fields": None,
        "ttl_s": 3600,
        "persist_result": True,
        "bypass_on_missing_key": False,
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_its_documented_fields_and_defaults(name: str) -> None:
    fields = getattr(toolpost, name).model_fields

    for field, default in MODELS[name].items():
        found = REQUIRED if fields[field].is_required() else fields[field].get_default(call_default_factory=True)
        assert found == default, field


def test_the_policies_of_a_spec_have_configs_of_their_own() -> None:
    spec = toolpost.FunctionToolSpec(id="a", tool_name="a", description="", parameters=[])

    assert isinstance(spec.retry, toolpost.RetryConfig)
    assert isinstance(spec.circuit_breaker, toolpost.CircuitBreakerConfig)
    assert isinstance(spec.idempotency, toolpost.IdempotencyConfig)
    assert spec.returns is toolpost.ToolReturnType.JSON


# values

VALUES: dict[str, str] = {
    "ToolCall": "id name arguments user_id session_id timestamp",
    "ToolResult": (
        "call_id tool_name success data error execution_time_ms status_code metadata return_type return_target "
        "artifacts usage warnings logs"
    ),
    "ToolContext": (
        "tenant_id user_id session_id trace_id span_id parent_span_id locale timezone deadline_ts auth extras run_id "
        "idempotency_key memory metrics tracer limiter validator security"
    ),
    "ToolUsage": (
        "input_bytes output_bytes tokens_in tokens_out cost_usd attempts retries cached_hit idempotency_reused "
        "circuit_opened"
    ),
    "SystemMetrics": (
        "total_executions successful_executions failed_executions average_execution_time min_execution_time "
        "max_execution_time error_rate executions_per_minute top_tools recent_errors"
    ),
    "ToolDefinition": "name description parameters created_at version requires_auth",
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_has_its_documented_fields(name: str) -> None:
    fields = {field.name for field in dataclasses.fields(getattr(toolpost, name))}

    assert set(VALUES[name].split()) <= fields


def test_values_have_their_documented_defaults() -> None:
    call = toolpost.ToolCall("1", "T", {})
    result = toolpost.ToolResult(call_id="1", tool_name="T", success=True)
    context, usage = toolpost.ToolContext(), toolpost.ToolUsage()

    assert (call.user_id, call.session_id) == (None, None)
    assert (result.data, result.error, result.execution_time_ms, result.status_code) == (None, None, 0, 200)
    assert (result.content, result.latency_ms, result.warnings, result.logs) == (None, 0, [], [])
    assert (context.auth, context.extras, context.memory) == ({}, {}, None)
    documented = {
        **dict.fromkeys(("input_bytes", "output_bytes", "tokens_in", "tokens_out", "attempts", "retries"), 0),
        "cost_usd": 0.0,
        **dict.fromkeys(("cached_hit", "idempotency_reused", "circuit_opened"), False),
    }
    assert {name: getattr(usage, name) for name in documented} == documented


# members and signatures

EMPTY = inspect.Parameter.empty
SIGNATURES: list[tuple[str, dict[str, Any]]] = [
    # what, its documented parameters and their defaults
    ("ToolExecutor.__init__", {"config": None, "arcade_client": None}),
    ("ToolExecutor.execute", {"tool_instance": EMPTY, "operation": EMPTY}),
    ("ToolExecutor.execute_async", {"tool_instance": EMPTY, "operation": EMPTY}),
    ("ToolExecutor.execute_batch", {"tool_instance": EMPTY, "operations": EMPTY}),
    ("ToolExecutor.get_metrics", {}),
    ("ToolExecutor.get_lock", {"resource_id": EMPTY}),
    ("ToolExecutor.timeout_context", {"seconds": EMPTY}),
    ("ToolExecutor.execute_tool_call", {"tool_call": EMPTY}),
    ("ToolExecutor.execute_tool_calls", {"tool_calls": EMPTY}),
    ("ToolExecutor.get_available_tools", {}),
    ("ToolExecutor.get_tool_info", {"tool_name": EMPTY}),
    ("ToolExecutor.health_check", {}),
    ("get_executor", {"config": None}),
    ("BaseTool.__init__", {"config": None}),
    ("BaseTool.run", {"op": EMPTY}),
    ("BaseTool.run_async", {"op": EMPTY}),
    ("BaseTool.run_batch", {"operations": EMPTY}),
    ("BaseTool._register_schemas", {}),
    ("BaseTool._register_async_methods", {}),
    ("BaseTool._sanitize_kwargs", {"kwargs": EMPTY}),
    ("validate_input", {"schema_class": EMPTY}),
    ("cache_result", {"ttl": None}),
    ("ExecutionUtils.__init__", {"cache_size": 100, "cache_ttl": 3600, "retry_attempts": 3, "retry_backoff": 1.0}),
    (
        "ExecutionUtils.generate_cache_key",
        {"func": EMPTY, "user_id": EMPTY, "task_id": EMPTY, "args": EMPTY, "kwargs": EMPTY},
    ),
    ("ExecutionUtils.get_from_cache", {"key": EMPTY}),
    ("ExecutionUtils.add_to_cache", {"key": EMPTY, "value": EMPTY, "ttl": None}),
    ("ExecutionUtils.clear_cache", {}),
    ("ExecutionUtils.create_retry_strategy", {}),
    ("ExecutionUtils.timeout_context", {}),
    ("ExecutionUtils.execute_with_retry_and_timeout", {"timeout": EMPTY}),
    ("ExecutorMetrics.record_request", {"processing_time": EMPTY}),
    ("ExecutorMetrics.record_failure", {}),
    ("ExecutorMetrics.record_cache_hit", {}),
    ("ExecutorMetrics.to_dict", {}),
    (
        "Tool.__init__",
        {"name": None, "description": None, "parameters": None, "requires_auth": False, "version": "1.0.0"},
    ),
    ("ToolRegistry.register_tool", {}),
    ("ToolRegistry.get_tool", {"name": EMPTY}),
    ("ToolRegistry.export_all_schemas", {}),
    ("ToolRegistry.list_tools", {}),
    ("ToolRegistry.get_tool_info", {}),
    ("create_tool_call", {"tool_name": EMPTY, "arguments": EMPTY, "call_id": None, "user_id": None}),
    ("ToolResult.to_dict", {}),
    ("format_tool_result_for_llm", {"result": EMPTY}),
    ("RateLimiter.__init__", {"max_calls_per_minute": 60}),
    ("RateLimiter.can_execute", {"user_id": None}),
    ("RateLimiter.record_call", {"user_id": None}),
    ("ParameterValidator.validate", {"params": EMPTY, "schema": EMPTY}),
    ("SecurityValidator.validate_tool_call", {"tool_name": EMPTY, "arguments": EMPTY, "user_id": None}),
    ("MetricsCollector.__init__", {"max_history": 10000}),
    (
        "MetricsCollector.record_tool_execution",
        {
            "tool_name": EMPTY,
            "success": EMPTY,
            "execution_time_ms": EMPTY,
            "user_id": None,
            "error_type": None,
            "metadata": None,
        },
    ),
    ("MetricsCollector.get_system_metrics", {"time_window_minutes": 60}),
    ("MetricsCollector.get_tool_metrics", {"tool_name": EMPTY}),
    ("MetricsCollector.get_user_metrics", {"user_id": EMPTY, "time_window_minutes": 60}),
    ("MetricsCollector.get_performance_trends", {"hours": 24, "bucket_minutes": 60}),
    ("MetricsCollector.export_metrics", {"format": "json"}),
    ("MetricsCollector.clear_metrics", {"older_than_hours": None}),
    ("FunctionToolExecutor.__init__", {"spec": EMPTY, "func": EMPTY}),
    ("FunctionToolExecutor.execute", {"args": EMPTY, "ctx": None}),
    ("BaseToolExecutor._generate_idempotency_key", {"args": EMPTY}),
    ("BaseToolExecutor._calculate_usage", {"args": EMPTY}),
    ("BaseToolExecutor._create_result", {}),
    ("ExecutorFactory.create_executor", {"spec": EMPTY, "func": None, "executor_type": "standard"}),
    ("ToolContextBuilder.with_defaults", {"profile": "noop"}),
    ("ToolContextBuilder.build", {}),
    ("ToolError.__init__", {"message": "", "retryable": False, "code": "tool_error"}),
    ("IToolExecutor.execute", {"args": EMPTY}),
    ("IToolValidator.validate", {"args": EMPTY, "spec": EMPTY}),
    ("IToolSecurity.authorize", {"ctx": EMPTY, "spec": EMPTY}),
    ("IToolSecurity.check_egress", {"args": EMPTY, "spec": EMPTY}),
    ("IToolPolicy.with_policy", {"factory": EMPTY}),
    ("IToolEmitter.emit", {"type": EMPTY, "payload": EMPTY}),
    ("IToolMemory.get", {"key": EMPTY}),
    ("IToolMemory.set", {"key": EMPTY, "val": EMPTY}),
    ("IToolMemory.set_if_absent", {"key": EMPTY, "val": EMPTY}),
    ("IToolMemory.delete", {"key": EMPTY}),
    ("IToolMemory.lock", {"key": EMPTY, "ttl_s": 10}),
    ("IToolMetrics.incr", {"name": EMPTY}),
    ("IToolMetrics.observe", {"name": EMPTY, "value": EMPTY}),
    ("IToolMetrics.timing_ms", {"name": EMPTY, "value": EMPTY}),
    ("IToolTracer.span", {"name": EMPTY}),
    ("IToolLimiter.acquire", {"key": EMPTY, "limit": None}),
]
SERVICES = "memory metrics tracer limiter validator security"
METHODS = {
    "ToolContextBuilder": " ".join(
        f"with_{name}"
        for name in (
            *"tenant user session trace locale timezone deadline auth extras run_id idempotency_key".split(),
            *SERVICES.split(),
            *(f"{service}_by_name" for service in SERVICES.split()),
        )
    ),
    "ExecutorFactory": " ".join(
        f"{verb}_{kind}_executor" for verb in ("register", "unregister") for kind in ("function", "http", "db")
    ),
    "ToolExecutor": "execute execute_async execute_batch get_metrics get_lock",
}
ASYNC = (
    "ToolExecutor.execute_async ToolExecutor.execute_batch ToolExecutor.execute_tool_call "
    "ToolExecutor.execute_tool_calls ToolExecutor.health_check BaseTool.run_async BaseTool.run_batch "
    "ExecutionUtils.execute_with_retry_and_timeout SecurityValidator.validate_tool_call FunctionToolExecutor.execute"
)


def attribute(path: str) -> Any:
    found: Any = toolpost
    for part in path.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(("path", "parameters"), SIGNATURES, ids=[path for path, _ in SIGNATURES])
def test_a_callable_takes_its_documented_parameters(path: str, parameters: dict[str, Any]) -> None:
    signature = inspect.signature(attribute(path))
    found = {name: p.default for name, p in signature.parameters.items() if name in parameters}

    assert found == parameters
    assert list(found) == list(parameters)  # in the documented order


@pytest.mark.parametrize("path", ASYNC.split())
def test_what_is_documented_as_async_is_async(path: str) -> None:
    assert inspect.iscoroutinefunction(attribute(path))


@pytest.mark.parametrize("name", METHODS)
def test_a_class_has_its_documented_methods(name: str) -> None:
    for method in METHODS[name].split():
        assert callable(getattr(getattr(toolpost, name), method))


def test_an_executor_has_its_documented_attributes() -> None:
    with toolpost.ToolExecutor(
        enable_rate_limiting=True, max_calls_per_minute=60, default_timeout=30, rate_limit_by_user=True, debug=True
    ) as executor:
        assert isinstance(executor.config, toolpost.ExecutorConfig)
        assert isinstance(executor.execution_utils, toolpost.ExecutionUtils)
        assert isinstance(executor.get_lock("r"), type(threading.Lock()))
        pool = executor._thread_pool
        assert (len(pool._threads), pool._work_queue.qsize(), pool._max_workers) == (0, 0, 4)
        assert {"requests", "failures", "cache_hits", "avg_processing_time"} <= set(executor.get_metrics())
        health = asyncio.run(executor.health_check())
        assert {
            "status",
            "healthy",
            "thread_pool_active",
            "cache_enabled",
            "metrics_available",
            "active_threads",
            "timestamp",
        } <= set(health)


def test_the_processes_singletons_are_single() -> None:
    assert toolpost.get_executor() is toolpost.get_executor()
    assert toolpost.get_tool_registry() is toolpost.get_tool_registry()
    assert toolpost.get_metrics_collector() is toolpost.get_metrics_collector()
    with toolpost.get_executor({"cache_size": 5}) as configured:
        assert configured is not toolpost.get_executor()


def test_a_tool_has_its_documented_attributes() -> None:
    class Adder(toolpost.BaseTool):
        def add(self, a: int, b: int) -> int:
            return a + b

    tool = Adder()

    assert (tool._schemas, tool._async_methods) == ({}, [])
    assert tool._executor is toolpost.get_executor()


def test_the_bounds_of_the_security_validator_are_the_documented_ones() -> None:
    checks = toolpost.SecurityValidator()

    assert (checks.max_string, checks.max_array, checks.max_depth) == (10_000, 1_000, 10)
    assert (checks.max_arguments, checks.max_keys, checks.max_name) == (50, 100, 100)
