"""Executors of specs: one tool each, run by the same pipeline as every other, with the caller's context."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from toolpost.authoring.specs import DbToolSpec, FunctionToolSpec, HttpToolSpec, ToolSpec
from toolpost.calls.call import Caller, new_id
from toolpost.calls.context import ToolContext
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import ConfigurationError, InputValidationError, ToolExecutionError, ToolTimeoutError
from toolpost.calls.policies import Idempotency, given
from toolpost.calls.result import ToolResult, ToolUsage, failed_result
from toolpost.engine.entries import calculator_of
from toolpost.engine.executor import ToolExecutor, get_executor
from toolpost.engine.results import used
from toolpost.pipeline.compile import Handler, Stage, compile, with_stages
from toolpost.pipeline.handed import handed_for
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.keys import key_maker
from toolpost.pipeline.screen import screen


class BaseToolExecutor:
    """Runs the tool of one spec. The spec is read when the executor is made; later changes to it have no effect.

    executor is the ToolExecutor whose settings, stores, threads and metrics are used (the process's by default).
    Raises ConfigurationError for a spec that cannot be carried out as written.
    """

    spec_type: ClassVar[type[ToolSpec]] = ToolSpec
    runs_the_tool: ClassVar[bool] = True

    def __init__(
        self, spec: ToolSpec, func: Callable[..., Any] | None = None, *, executor: ToolExecutor | None = None
    ) -> None:
        if not isinstance(spec, self.spec_type):
            raise ConfigurationError(
                f"{type(self).__name__} takes a {self.spec_type.__name__}, got {type(spec).__name__}"
            )
        self.spec = spec
        self.definition: ToolDefinition = spec.define(func)
        self._executor = executor if executor is not None else get_executor()
        self._calculator = calculator_of(self.definition, self._executor._services)
        self._handler: Handler | None = None
        self._explaining: Handler | None = None
        self._epoch = -1

    async def execute(
        self, args: Mapping[str, Any], ctx: ToolContext | None = None, *, explain: bool = False
    ) -> ToolResult:
        """Run the tool and report how it ended; raises nothing for a tool's failure.

        ctx says who asks (its auth["permissions"] are the caller's scopes, its auth["user_role"] the caller's role),
        until when (deadline_ts) and with which services. explain has the result tell what each stage of the pipeline
        decided, as execute_tool_call's does.
        """
        clock = self._executor._clock
        started = clock.stopwatch()
        context = ctx if ctx is not None else ToolContext()
        call_id = context.call_id or new_id()
        if not isinstance(args, Mapping):
            error: ToolExecutionError = InputValidationError(
                f"Parameter validation failed: arguments must be an object, got {type(args).__name__}"
            )
            self._executor.audit_refusal(self.spec.tool_name, error, call_id=call_id)
            return self._failed(call_id, error, 0.0, context, None)
        inv = self._invocation(dict(args), context, call_id)
        try:
            if inv.deadline_s == 0.0:
                raise _too_late()
            handler = self._compiled(explain)
        except ToolExecutionError as error:
            self._executor.audit_refusal(
                self.spec.tool_name, error, call_id=call_id, caller=inv.caller, task_id=inv.task_id
            )
            return self._failed(call_id, error, clock.stopwatch() - started, context, inv)
        try:
            value = await handler(inv)
        except ToolExecutionError as error:
            return self._failed(call_id, error, clock.stopwatch() - started, context, inv)
        return self._create_result(value, inv, clock.stopwatch() - started)

    def _invocation(self, args: dict[str, Any], ctx: ToolContext, call_id: str) -> Invocation:
        inv = Invocation.of(args)
        inv.id = call_id
        inv.encode = True
        inv.handed = ctx
        inv.task_id = ctx.task_id
        inv.idempotency_key = ctx.idempotency_key
        inv.logs = []
        inv.caller = _caller_of(ctx)
        if ctx.deadline_ts is not None:
            inv.deadline_s = max(0.0, ctx.deadline_ts - self._executor._clock.now())
        return inv

    def _compiled(self, explain: bool = False) -> Handler:
        executor = self._executor
        if self._handler is None or self._epoch != executor._entries.epoch:
            executor._entries.check_open()
            epoch = executor._entries.epoch
            if self.runs_the_tool and executor._services.pins is not None:
                executor._services.pins.check(self.definition)
            self._handler, self._explaining = compile(self.definition, executor._services, self._order()), None
            self._epoch = epoch
        if not explain:
            return self._handler
        if self._explaining is None:
            self._explaining = compile(self.definition, executor._services, self._order(), explain=True)
        return self._explaining

    def _order(self) -> tuple[Stage, ...]:
        return with_stages(screen, handed_for(self.spec))

    def _create_result(self, value: Any, inv: Invocation, elapsed_s: float) -> ToolResult:
        """The result of a call that succeeded, as the spec says who it is for."""
        return ToolResult(
            call_id=inv.id,
            tool_name=self.spec.tool_name,
            success=True,
            data=value,
            execution_time_ms=elapsed_s * 1000.0,
            metadata={"user_id": inv.caller.user_id, "timestamp": time.time()},
            source=inv.source,
            attempts=inv.attempts,
            return_type=self.spec.return_type,
            return_target=self.spec.return_target,
            usage=self._calculate_usage(inv.arguments, value, inv),
            logs=list(inv.logs or ()),
            artifacts=inv.artifacts or {},
            warnings=inv.warnings or [],
            explanation=inv.explanation,
        )

    def _calculate_usage(self, args: Mapping[str, Any], value: Any, inv: Invocation | None = None) -> ToolUsage:
        """What a call used: bytes as JSON, what the calculator says, and how the call was served."""
        if inv is None:
            inv = Invocation.of(dict(args))
            inv.kwargs, inv.attempts = inv.arguments, 1
        return used(self.definition, self._calculator, inv, value, failed=False)

    def _generate_idempotency_key(self, args: Mapping[str, Any], ctx: ToolContext | None = None) -> str:
        """The key that a call with these arguments has, by the spec's generator and key fields.

        Empty where a missing key field is bypassed; else that raises InputValidationError.
        """
        policy = given(self.definition.policies.idempotency) or Idempotency(include_session=True)
        key = key_maker(self.definition, policy)(self._invocation(dict(args), ctx or ToolContext(), ""))
        return key or ""

    def _failed(
        self, call_id: str, error: ToolExecutionError, elapsed_s: float, ctx: ToolContext, inv: Invocation | None
    ) -> ToolResult:
        more: dict[str, Any] = {"usage": ToolUsage()}
        if inv is not None:
            more = {
                "usage": used(self.definition, self._calculator, inv, None, failed=True),
                "attempts": inv.attempts,
                "source": inv.source,
                "logs": list(inv.logs or ()),
                "artifacts": inv.artifacts or {},
                "warnings": inv.warnings or [],
                "explanation": inv.explanation,
            }
        return failed_result(
            call_id,
            self.spec.tool_name,
            error,
            elapsed_s=elapsed_s,
            return_type=self.spec.return_type,
            return_target=self.spec.return_target,
            **more,
        )


def _caller_of(ctx: ToolContext) -> Caller:
    """For whom a context speaks. Raises ConfigurationError for an auth that could be read in more than one way."""
    auth = ctx.auth
    if not isinstance(auth, Mapping):
        raise ConfigurationError(f"ToolContext.auth must be a mapping, got {type(auth).__name__}")
    permissions, role = auth.get("permissions"), auth.get("user_role")
    if permissions is None:
        permissions = ()
    listed = isinstance(permissions, (list, tuple, set, frozenset))
    if not listed or not all(isinstance(one, str) for one in permissions):
        raise ConfigurationError(
            f"ToolContext.auth['permissions'] must be a list of names such as ['orders:read'], got {permissions!r:.100}"
        )
    if not (role is None or isinstance(role, str)):
        raise ConfigurationError(f"ToolContext.auth['user_role'] must be one name, got {role!r:.100}")
    return Caller(
        user_id=ctx.user_id,
        tenant=ctx.tenant_id,
        session_id=ctx.session_id,
        scopes=frozenset(permissions),
        roles=frozenset([role] if role else ()),
    )


def _too_late() -> ToolTimeoutError:
    error = ToolTimeoutError("the context's deadline_ts had passed before the call was taken up")
    error.outcome = "not_run"
    return error


class FunctionToolExecutor(BaseToolExecutor):
    """Runs a function that takes the arguments as one dict, and the context if it has a second parameter for it."""

    spec_type = FunctionToolSpec

    def __init__(self, spec: ToolSpec, func: Callable[..., Any], *, executor: ToolExecutor | None = None) -> None:
        super().__init__(spec, func, executor=executor)


class HttpToolExecutor(BaseToolExecutor):
    """Sends the request of an HTTP spec; its result is {"status_code", "headers", "body"}."""

    spec_type = HttpToolSpec


class DbToolExecutor(BaseToolExecutor):
    """Runs the operations of a database spec, by the strategy that DbStrategyFactory has for its driver."""

    spec_type = DbToolSpec


class NoOpExecutor(BaseToolExecutor):
    """Checks and screens a call as any executor does, and runs nothing: its content is the checked arguments."""

    runs_the_tool = False

    def __init__(
        self, spec: ToolSpec, func: Callable[..., Any] | None = None, *, executor: ToolExecutor | None = None
    ) -> None:
        def nothing(args: dict[str, Any]) -> dict[str, Any]:
            return args

        # Only what was set: a policy's default, given as a value, would count as asked for.
        given = spec.model_fields_set & FunctionToolSpec.model_fields.keys() - {"tool_type"}
        values = {name: getattr(spec, name) for name in given}
        super().__init__(FunctionToolSpec(**values), nothing, executor=executor)


Maker = Callable[..., BaseToolExecutor]


class ExecutorFactory:
    """Makes the executor that fits a spec. Makers of one's own can be registered by name, for each kind of spec."""

    def __init__(self) -> None:
        self._makers: dict[str, dict[str, Maker]] = {
            "function": {"standard": FunctionToolExecutor, "noop": NoOpExecutor},
            "http": {"standard": HttpToolExecutor, "noop": NoOpExecutor},
            "db": {"standard": DbToolExecutor, "noop": NoOpExecutor},
        }

    def create_executor(
        self, spec: ToolSpec, func: Callable[..., Any] | None = None, executor_type: str = "standard"
    ) -> BaseToolExecutor:
        """An executor for spec. Raises ConfigurationError for a type nobody registered, or a missing function."""
        kind = "function" if isinstance(spec, FunctionToolSpec) else "http" if isinstance(spec, HttpToolSpec) else "db"
        makers = self._makers[kind]
        if executor_type not in makers:
            raise ConfigurationError(
                f"no {kind} executor is named {executor_type!r}; there are {', '.join(sorted(makers))}"
            )
        if kind == "function":
            if func is None and executor_type == "standard":
                raise ConfigurationError(
                    f"{spec.tool_name}: a function spec needs its function: create_executor(spec, func)"
                )
            return makers[executor_type](spec, func)
        return makers[executor_type](spec)

    def register_function_executor(self, name: str, maker: Maker) -> None:
        """Name a maker (spec, func) -> executor."""
        self._register("function", name, maker)

    def register_http_executor(self, name: str, maker: Maker) -> None:
        """Name a maker (spec) -> executor."""
        self._register("http", name, maker)

    def register_db_executor(self, name: str, maker: Maker) -> None:
        """Name a maker (spec) -> executor."""
        self._register("db", name, maker)

    def unregister_function_executor(self, name: str) -> None:
        """Forget a maker."""
        self._unregister("function", name)

    def unregister_http_executor(self, name: str) -> None:
        """Forget a maker."""
        self._unregister("http", name)

    def unregister_db_executor(self, name: str) -> None:
        """Forget a maker."""
        self._unregister("db", name)

    def list_function_executors(self) -> list[str]:
        """Names, sorted."""
        return sorted(self._makers["function"])

    def list_http_executors(self) -> list[str]:
        """Names, sorted."""
        return sorted(self._makers["http"])

    def list_db_executors(self) -> list[str]:
        """Names, sorted."""
        return sorted(self._makers["db"])

    def _register(self, kind: str, name: str, maker: Maker) -> None:
        if not callable(maker):
            raise ConfigurationError(f"a maker of {kind} executors must be callable, got {type(maker).__name__}")
        if name in self._makers[kind]:
            raise ConfigurationError(f"a {kind} executor named {name!r} is registered already; unregister it first")
        self._makers[kind][name] = maker

    def _unregister(self, kind: str, name: str) -> None:
        if name not in self._makers[kind]:
            raise ConfigurationError(f"no {kind} executor is named {name!r}; there are {', '.join(self._makers[kind])}")
        del self._makers[kind][name]
