"""The specs: tools written as data, and the ToolDefinition each becomes; running them is the engine's."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Any, ClassVar, Self, get_args
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, SecretStr, StrictBool, field_validator, model_validator

from toolpost.authoring.binding import is_leaf
from toolpost.authoring.declaration import (
    Declaration,
    Integer,
    Json,
    NotNegative,
    Positive,
    as_json,
    nearest,
)
from toolpost.authoring.decorators import identity_of
from toolpost.authoring.parameters import AnyParameter, coercions, parameters_to_json_schema
from toolpost.calls.access import Access
from toolpost.calls.approval import Approval
from toolpost.calls.context import ToolContext
from toolpost.calls.definition import NAME, Body, DbBody, FunctionBody, Hints, HttpBody, ToolDefinition
from toolpost.calls.egress import Egress
from toolpost.calls.errors import ConfigurationError
from toolpost.calls.oauth import OAuth
from toolpost.calls.policies import (
    Breaker,
    Idempotency,
    Policies,
    Retry,
    Timeout,
)
from toolpost.calls.references import references_in
from toolpost.calls.result import ToolReturnTarget, ToolReturnType
from toolpost.calls.secret_names import CREDENTIAL

MASK = "**********"
METHODS = ("get", "post", "put", "patch", "delete", "head", "options")


class ToolType(StrEnum):
    """What a spec's tool is made of."""

    FUNCTION = "function"
    HTTP = "http"
    DB = "db"


class DatabaseProvider(StrEnum):
    """The databases that have a spec class of their own."""

    DYNAMODB = "dynamodb"
    POSTGRESQL = "postgresql"
    MYSQL = "mysql"
    SQLITE = "sqlite"


class PolicyConfig(Declaration):
    """A policy written into a spec. Its defaults ask for nothing until a field is set."""

    def asked(self) -> list[str]:
        """The fields that somebody set, at creation or later."""
        untouched = type(self)()
        return [
            name
            for name in type(self).model_fields
            if name in self.model_fields_set or getattr(self, name) != getattr(untouched, name)
        ]

    def off(self) -> bool:
        """Whether the policy, as written, changes nothing about a call."""
        return not getattr(self, "enabled", True)


class RetryConfig(PolicyConfig):
    """How often (the first attempt included) and how patiently to try again; delays are in seconds."""

    max_attempts: Integer = Field(default=3, ge=1)
    base_delay_s: NotNegative = 0.2
    max_delay_s: NotNegative = 2.0
    jitter_s: NotNegative = 0.1

    def off(self) -> bool:
        """One attempt is no retry."""
        return self.max_attempts == 1


class CircuitBreakerConfig(PolicyConfig):
    """When to stop calling what keeps failing: after how many failures, which codes, for how many seconds."""

    enabled: StrictBool = True
    failure_threshold: Integer = Field(default=5, ge=1)
    recovery_timeout_s: Positive = 30
    half_open_max_calls: Integer = Field(default=1, ge=1)
    error_codes_to_trip: list[str] = Field(default_factory=lambda: ["timeout", "unavailable", "tool_error"])


class IdempotencyConfig(PolicyConfig):
    """Whether a repeated call gets the first one's result, kept for ttl_s seconds.

    key_fields are the arguments that tell calls apart; None means all of them.
    """

    enabled: StrictBool = True
    key_fields: list[str] | None = None
    ttl_s: Positive = 3600
    persist_result: StrictBool = True
    bypass_on_missing_key: StrictBool = False


class ToolSpec(Declaration):
    """What all specs have in common. A spec may be changed until it is defined; every change is checked.

    parameters are ToolParameters, or mappings with a "type". returns is another name of return_type.
    timeout_s is the call's total deadline in seconds. required says that an agent must not do without the
    tool; like owner and examples it is for readers. access is an Access, or its fields as data.
    oauth is the access at a provider that its calls need; an HTTP tool then sends its caller's own token.
    Raises ConfigurationError, naming the field and the fix.
    """

    kind: ClassVar[ToolType | None] = None

    id: str = Field(min_length=1)
    version: str = Field(default="1.0.0", min_length=1)
    tool_name: str
    description: str
    tool_type: ToolType
    parameters: list[AnyParameter]
    return_type: ToolReturnType = ToolReturnType.JSON
    return_target: ToolReturnTarget = ToolReturnTarget.STEP
    required: StrictBool = False
    owner: str | None = None
    permissions: list[str] = Field(default_factory=list)
    access: dict[str, Json] | None = None
    approval: dict[str, Json] | None = None
    timeout_s: Positive = 30
    examples: list[Json] = Field(default_factory=list)
    retry: RetryConfig = Field(default_factory=RetryConfig)
    circuit_breaker: CircuitBreakerConfig = Field(default_factory=CircuitBreakerConfig)
    idempotency: IdempotencyConfig = Field(default_factory=IdempotencyConfig)
    idempotency_key_generator: Any = None
    circuit_breaker_policy: Any = None
    retry_policy: Any = None
    metrics_tags: dict[str, str] = Field(default_factory=dict)
    oauth: OAuth | None = None

    @property
    def returns(self) -> ToolReturnType:
        """return_type under its other name."""
        return self.return_type

    @returns.setter
    def returns(self, value: ToolReturnType) -> None:
        self.return_type = value

    def define(self, func: Callable[..., Any] | None = None) -> ToolDefinition:
        """The tool as the engine knows it. func is what a FunctionToolSpec runs; the others take none.

        Raises ConfigurationError when func is missing, unwanted, or cannot take what it would be given.
        """
        from toolpost.authoring.schema import SchemaCheck

        body = self._body(func)
        schema = parameters_to_json_schema(self.parameters)
        return ToolDefinition(
            name=self.tool_name,
            version=self.version,
            description=self.description,
            parameters=schema,
            check=SchemaCheck(schema, coercions=coercions(self.parameters)),
            body=body,
            policies=self.policies(),
            hints=self._hints(),
            spec=self,
            identity=self.id if func is None else identity_of(func),
            permissions=tuple(self.permissions),
            examples=tuple(as_json(self.examples)),
            owner=self.owner,
            metrics_tags=dict(self.metrics_tags),
            source=_source(func) if func is not None else f"{type(self).__name__}:{self.id}",
        )

    def policies(self) -> Policies:
        """What the spec asks for, as the engine's policies. A policy object goes before the config of its kind.

        A config asks for something once one of its fields is set, at creation or later, and is not switched off.
        """
        chosen: dict[str, Any] = {"timeout": Timeout(total_s=self.timeout_s)}
        if self.oauth is not None:
            chosen["oauth"] = self.oauth
        if self.access is not None:
            chosen["access"] = Access.from_dict(self.access)
        if self.approval is not None:
            chosen["approval"] = Approval.from_dict(self.approval)
        if self.retry_policy is not None:
            chosen["retry"] = self._with_method("retry_policy", "execute_with_retry(func, tool_name)")
        elif self._asks("retry"):
            retry = self.retry
            chosen["retry"] = Retry(
                attempts=retry.max_attempts,
                wait_s=retry.base_delay_s,
                max_wait_s=retry.max_delay_s,
                jitter=0.0,
                jitter_s=retry.jitter_s,
            )
        if self.circuit_breaker_policy is not None:
            chosen["breaker"] = self._with_method("circuit_breaker_policy", "execute_with_breaker(func, tool_name)")
        elif self._asks("circuit_breaker"):
            breaker = self.circuit_breaker
            chosen["breaker"] = Breaker(
                failures=breaker.failure_threshold,
                recovery_s=breaker.recovery_timeout_s,
                half_open_calls=breaker.half_open_max_calls,
                trips_on=_tripping(breaker.error_codes_to_trip),
            )
        generator, idempotency = self.idempotency_key_generator, self.idempotency
        if idempotency.enabled and (generator is not None or self._asks("idempotency")):
            chosen["idempotency"] = Idempotency(
                key_fields=tuple(idempotency.key_fields) if idempotency.key_fields else None,
                generator=generator,
                include_session=generator is None,
                ttl_s=idempotency.ttl_s,
                persist_result=idempotency.persist_result,
                bypass_on_missing_key=idempotency.bypass_on_missing_key,
            )
        egress = getattr(self, "egress", None)  # of those that send requests
        if egress is not None:
            chosen["egress"] = egress
        return Policies(**chosen)

    def _with_method(self, field: str, method: str) -> Any:
        """The policy object in a field. A Breaker or Retry value will do as well."""
        policy = getattr(self, field)
        if isinstance(policy, (Breaker, Retry)) or callable(getattr(policy, method.partition("(")[0], None)):
            return policy
        raise ConfigurationError(f"{self.tool_name}: {field} must have {method}, got {policy!r:.100}")

    def _asks(self, config: str) -> bool:
        asked: PolicyConfig = getattr(self, config)
        return not asked.off() and (bool(asked.asked()) or config in self.model_fields_set)

    def _hints(self) -> Hints:
        return Hints()

    def _body(self, func: Callable[..., Any] | None) -> Body:
        raise ConfigurationError(
            f"{self.tool_name}: a {type(self).__name__} says nothing about how the tool runs; "
            "use FunctionToolSpec, HttpToolSpec or DbToolSpec"
        )

    def _no_function(self, func: Callable[..., Any] | None) -> None:
        if func is not None:
            raise ConfigurationError(f"{self.tool_name}: {type(self).__name__} runs no function; use FunctionToolSpec")

    def _check_references(self, value: Any) -> None:
        """Refuse references to secrets that are written wrongly: they would be sent as they are."""
        try:
            list(references_in(value))
        except ConfigurationError as error:
            raise ConfigurationError(f"{self.tool_name}: {error.message}") from None

    @classmethod
    def _names(cls) -> list[str]:
        return [*super()._names(), "returns"]

    @model_validator(mode="before")
    @classmethod
    def _one_return_type(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "returns" not in data:
            return data
        data = dict(data)
        returns = data.pop("returns")
        if data.setdefault("return_type", returns) != returns:
            raise ValueError("returns and return_type are two names of one field and differ; give one of them")
        return data

    @field_validator("tool_type")
    @classmethod
    def _right_type(cls, value: ToolType) -> ToolType:
        if cls.kind is not None and value is not cls.kind:
            right = {
                ToolType.FUNCTION: FunctionToolSpec,
                ToolType.HTTP: HttpToolSpec,
                ToolType.DB: DbToolSpec,
            }
            raise ValueError(f"must be {cls.kind.value!r} here; for {value.value!r} use {right[value].__name__}")
        return value

    @field_validator("tool_name")
    @classmethod
    def _legal_name(cls, value: str) -> str:
        if not NAME.match(value):
            raise ValueError(
                f"must be 1 to 128 letters, digits, '_', '-' or '.', not starting with '-' or '.', got {value[:140]!r}"
            )
        return value

    @field_validator("version")
    @classmethod
    def _legal_version(cls, value: str) -> str:
        if "@" in value:
            raise ValueError(f"must be text such as '1.0.0' without '@', got {value[:100]!r}")
        return value

    @field_validator("access", mode="before")
    @classmethod
    def _access_as_data(cls, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, Access) and any(one.when is not None for one in value.parts()):
            raise ValueError("a spec is data, so that its access has no when; say it as where, or in code")
        return (value if isinstance(value, Access) else Access.from_dict(value)).to_dict()

    @field_validator("approval", mode="before")
    @classmethod
    def _approval_as_data(cls, value: Any) -> Any:
        if value is None:
            return None
        return (value if isinstance(value, Approval) else Approval.from_dict(value)).to_dict()

    @field_validator("parameters")
    @classmethod
    def _names_differ(cls, value: list[AnyParameter]) -> list[AnyParameter]:
        parameters_to_json_schema(value)
        return value


def _tripping(codes: list[str]) -> tuple[str, ...]:
    """The kinds of failure that the codes stand for: what cannot be reached, or fails for now, is unavailable too."""
    more = ("network", "transient") if "unavailable" in (code.lower() for code in codes) else ()
    return tuple(dict.fromkeys([*codes, *more]))


class FunctionToolSpec(ToolSpec):
    """A tool that runs a Python function, sync or async, which takes all arguments as one dict.

    A second parameter that is annotated ToolContext, or named ctx or context, receives the call's context. egress is
    where its ctx.http may go.
    """

    kind: ClassVar[ToolType | None] = ToolType.FUNCTION
    tool_type: ToolType = ToolType.FUNCTION
    egress: Egress | None = None

    def _body(self, func: Callable[..., Any] | None) -> FunctionBody:
        if func is None:
            raise ConfigurationError(f"{self.tool_name}: its function is missing; call define(func)")
        if not callable(func):
            raise ConfigurationError(
                f"{self.tool_name}: its function must be callable, got a value of type {type(func).__name__}"
            )
        context = _context_of(func, self.tool_name)
        is_async = _is_async(func)
        return FunctionBody(
            func=func,
            is_async=is_async,
            takes_mapping=True,
            context=context,
            leaf=not is_async and is_leaf(func),
        )


class HttpToolSpec(ToolSpec):
    """A tool that sends an HTTP request. method is written in lower case; url is http or https.

    headers and query_params whose names tell of credentials are masked in repr and left out when written. A url whose
    host is not public needs egress, as in Egress(private=("10.0.0.7",)), or the setting egress_private.
    """

    kind: ClassVar[ToolType | None] = ToolType.HTTP
    tool_type: ToolType = ToolType.HTTP
    url: str
    method: str = "post"
    egress: Egress | None = None
    headers: dict[str, str] | None = None
    query_params: dict[str, Json] | None = None
    body: Json = None

    def _body(self, func: Callable[..., Any] | None) -> HttpBody:
        self._no_function(func)
        self._check_references([self.url, self.headers, self.query_params, self.body])
        return HttpBody(
            method=self.method.upper(),
            url=self.url,
            headers=dict(self.headers or {}),
            query=as_json(self.query_params or {}),
            body=as_json(self.body),
        )

    def _hints(self) -> Hints:
        """What HTTP's own rules say of the method (RFC 9110, sections 9.2.1 and 9.2.2)."""
        reads = self.method in ("get", "head", "options")
        return Hints(read_only=reads or None, idempotent=True if self.method in ("put", "delete") else None)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            if name == "url":
                value = _masked_url(value)
            yield name, _masked(value) if name in ("headers", "query_params", "body") and value else value

    @field_validator("url")
    @classmethod
    def _legal_url(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            host, _ = parts.hostname, parts.port  # port raises for what is not a number
        except ValueError:
            raise ValueError("must be a URL such as 'https://api.example.com/orders'") from None
        if "@" in parts.netloc:
            raise ValueError("must not hold a user or password; put credentials into headers")
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError(f"must be a URL such as 'https://api.example.com/orders', got {value[:200]!r}")
        return value

    @field_validator("method")
    @classmethod
    def _legal_method(cls, value: str) -> str:
        if (method := value.lower()) not in METHODS:
            raise ValueError(f"must be one of {', '.join(METHODS)}, got {value[:40]!r}")
        return method


class DbToolSpec(ToolSpec):
    """A tool that works on a database. driver chooses it.

    The databases of DatabaseProvider have spec classes with fields of their own. For any other driver further
    fields are its settings, readable as attributes; those whose names tell of credentials become SecretStr.
    """

    model_config = ConfigDict(extra="allow")
    kind: ClassVar[ToolType | None] = ToolType.DB
    provider: ClassVar[DatabaseProvider | None] = None
    tool_type: ToolType = ToolType.DB
    driver: str = Field(default=DatabaseProvider.DYNAMODB.value, min_length=1)

    def settings(self) -> dict[str, Any]:
        """How to reach the database: every field that is not common to all specs. Secrets stay SecretStr."""
        common = DbToolSpec.model_fields
        own = {name: getattr(self, name) for name in type(self).model_fields if name not in common}
        return own | (self.model_extra or {})

    def _body(self, func: Callable[..., Any] | None) -> DbBody:
        self._no_function(func)
        self._check_references([_open(value) for value in self.settings().values()])
        return DbBody(driver=self.driver, settings=self.settings())

    @field_validator("driver")
    @classmethod
    def _right_driver(cls, value: str) -> str:
        if cls.provider is not None and value != cls.provider:
            raise ValueError(f"must be {cls.provider.value!r} here; for {value[:40]!r} use another spec class")
        return value

    @model_validator(mode="after")
    def _own_settings(self) -> Self:
        extra = self.__pydantic_extra__ or {}
        for name, value in list(extra.items()):
            if type(self) is not DbToolSpec:
                raise ValueError(self._unknown(name))
            if self.driver in PROVIDERS:
                raise ValueError(f"no field {name!r}; for driver {self.driver!r} use {PROVIDERS[self.driver]}")
            if near := nearest(name, self._names(), cutoff=0.85):
                raise ValueError(f"no field {name!r}; did you mean {near!r}? If not, declare it in a subclass")
            extra[name] = _setting(name, value)
        return self


class DynamoDbToolSpec(DbToolSpec):
    """A tool on a DynamoDB table. Without keys the environment's credentials are used."""

    provider: ClassVar[DatabaseProvider | None] = DatabaseProvider.DYNAMODB
    driver: str = DatabaseProvider.DYNAMODB.value
    region: str = "us-west-2"
    table_name: str = Field(min_length=1)
    endpoint_url: str | None = None
    aws_access_key_id: str | None = None
    aws_secret_access_key: SecretStr | None = None


class PostgreSqlToolSpec(DbToolSpec):
    """A tool on a PostgreSQL database."""

    provider: ClassVar[DatabaseProvider | None] = DatabaseProvider.POSTGRESQL
    driver: str = DatabaseProvider.POSTGRESQL.value
    host: str = "localhost"
    port: Integer = Field(default=5432, ge=1, le=65535)
    database: str
    username: str
    password: SecretStr
    connection_string: SecretStr | None = None
    ssl_mode: str | None = None
    pool_size: Integer = Field(default=10, ge=1)


class MySqlToolSpec(DbToolSpec):
    """A tool on a MySQL database."""

    provider: ClassVar[DatabaseProvider | None] = DatabaseProvider.MYSQL
    driver: str = DatabaseProvider.MYSQL.value
    host: str = "localhost"
    port: Integer = Field(default=3306, ge=1, le=65535)
    database: str
    username: str
    password: SecretStr
    connection_string: SecretStr | None = None
    ssl_mode: str | None = None
    pool_size: Integer = Field(default=10, ge=1)
    charset: str = "utf8mb4"


class SqliteToolSpec(DbToolSpec):
    """A tool on an SQLite file. timeout is how long to wait for a lock, in seconds."""

    provider: ClassVar[DatabaseProvider | None] = DatabaseProvider.SQLITE
    driver: str = DatabaseProvider.SQLITE.value
    database_path: str = Field(default=":memory:", min_length=1)
    timeout: Positive = 5.0
    check_same_thread: StrictBool = False


PROVIDERS: Mapping[str, str] = {
    cls.provider.value: cls.__name__
    for cls in (DynamoDbToolSpec, PostgreSqlToolSpec, MySqlToolSpec, SqliteToolSpec)
    if cls.provider is not None
}


def _setting(name: str, value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value
    if isinstance(value, str) and CREDENTIAL.search(name):
        return SecretStr(value)
    try:
        return as_json(value)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def _open(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _masked(value: Any) -> Any:
    """A JSON value with what stands under names of credentials masked."""
    if isinstance(value, Mapping):
        return {name: MASK if CREDENTIAL.search(name) else _masked(item) for name, item in value.items()}
    return [_masked(item) for item in value] if isinstance(value, (list, tuple)) else value


def _masked_url(url: str) -> str:
    address, question, query = url.partition("?")
    pairs = (pair.partition("=") for pair in query.split("&"))
    shown = [f"{name}={MASK}" if CREDENTIAL.search(name) else name + equals + text for name, equals, text in pairs]
    return address + question + "&".join(shown)


def _context_of(func: Callable[..., Any], tool: str) -> str | None:
    """The parameter that receives the context. Raises ConfigurationError unless func(arguments) can do."""
    parameters = _parameters_of(func, tool)
    annotated = next((p.name for p in parameters if _is_context(p.annotation)), None)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    first = next((p for p in parameters if p.kind is p.VAR_POSITIONAL), None) if not positional else positional[0]
    if first is None:
        raise _wrong(func, tool, "takes no argument")
    if first.name in (annotated, "ctx", "context"):
        raise _wrong(func, tool, f"has the context {first.name!r} as its first parameter")
    rest = [p for p in parameters if p is not first]
    context = next((p for p in rest if p.name in (annotated, "ctx", "context")), None)
    if context is not None and context.kind not in (context.POSITIONAL_OR_KEYWORD, context.KEYWORD_ONLY):
        raise _wrong(func, tool, f"cannot be given {context.name!r} by name")
    more = [
        p.name
        for p in rest
        if p is not context and p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if more:
        raise _wrong(func, tool, f"also takes {', '.join(map(repr, more))}")
    return None if context is None else context.name


def _parameters_of(func: Callable[..., Any], tool: str) -> list[inspect.Parameter]:
    try:
        try:
            signature = inspect.signature(func, eval_str=True)
        except (NameError, AttributeError, TypeError, SyntaxError):  # an annotation for type checkers only
            signature = inspect.signature(func)
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"{tool}: the signature of its function cannot be read; wrap it in def {_short(tool)}(args)"
        ) from None
    return list(signature.parameters.values())


def _is_context(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return re.search(r"\bToolContext\b", annotation) is not None
    return annotation is ToolContext or ToolContext in get_args(annotation)


def _wrong(func: Callable[..., Any], tool: str, what: str) -> ConfigurationError:
    prefix = "async def" if _is_async(func) else "def"
    name = getattr(func, "__name__", type(func).__name__)
    fixed = f"{prefix} {name if name.isidentifier() else _short(tool)}"
    return ConfigurationError(
        f"{tool}: {name} {what}, but a spec's function gets all arguments as one dict; "
        f"write {fixed}(args) or {fixed}(args, ctx)"
    )


def _short(tool: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in tool.rpartition(".")[2])


def _is_async(func: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(type(func).__call__)


def _source(func: Callable[..., Any]) -> str:
    module = getattr(func, "__module__", None) or type(func).__module__
    return f"{module}:{getattr(func, '__qualname__', type(func).__qualname__)}"
