"""ExecutorConfig: every setting of the engine, its default, its bounds, and who set it."""

from __future__ import annotations

import os
import reprlib
import threading
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from toolpost.calls.errors import ConfigurationError
from toolpost.calls.references import REFERENCE
from toolpost.engine import forms
from toolpost.engine.environment import (
    PREFIX,
    Given,
    by_setting,
    from_environment,
    from_file,
    settings_file,
    variable_table,
    variables_of,
)

CODE: Final = "code"
DEFAULT: Final = "default"
HIDDEN: Final = "********"


class EffectiveSetting(NamedTuple):
    """One setting as it stands. value is JSON: a secret that is set is asterisks, one that is not None."""

    name: str
    value: Any
    origin: str
    description: str


class _Book:
    """What a config knows beside its values: who set them, the worker's variables, who listens.

    A copy and a pickle have no listeners. All are equal: configs are compared by their values.
    """

    __slots__ = ("listeners", "origins", "reserved")

    def __init__(self, origins: Mapping[str, str], reserved: Mapping[str, str]):
        self.origins = dict(origins)
        self.reserved = dict(reserved)
        self.listeners: tuple[Callable[[str], None], ...] = ()

    def __reduce__(self) -> tuple[type[_Book], tuple[dict[str, str], dict[str, str]]]:
        return _Book, (self.origins, self.reserved)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Book)


_ASSIGNING: Final = threading.Lock()  # an assignment reads all values of a config and replaces them


class ExecutorConfig(BaseModel):
    """Every setting of an executor. The constructor takes what it is given; load() asks file and environment.

    A value is checked when it is given and whenever one is assigned, and types are not converted: "5" is no
    number, True no integer. A wrong value and an unknown name raise ConfigurationError, a ValueError, and
    change nothing. Safe from any thread.
    """

    model_config = ConfigDict(validate_assignment=True, extra="forbid", hide_input_in_errors=True, defer_build=True)

    enable_cache: forms.Switch = Field(
        True, description="Whether results may be kept; a tool still has to declare that it wants it."
    )
    cache_size: forms.Count = Field(100, description="Most results kept; the one longest unused goes first.")
    cache_ttl: forms.Count = Field(3600, description="Seconds a result is kept when its tool does not say.")
    cache_backend: forms.CacheBackendSetting = Field(
        "memory", description="Where results are kept: memory, or redis with a small front in memory."
    )
    cache_redis_url: forms.RedisUrl = Field(
        None, description="The Redis of a shared cache (default: the one of state_url); secret."
    )
    cache_prefix: forms.Word = Field("tool_cache", description="How keys in a shared cache begin.")
    cache_max_bytes: forms.Count = Field(
        67_108_864, description="Most bytes of results kept in memory, as JSON; the one longest unused goes first."
    )
    cache_front_ttl: forms.Seconds = Field(
        1.0, description="Seconds for which memory answers for a shared cache; 0 asks it each time."
    )

    state_url: forms.StateUrl = Field(
        None, description="Where limits, circuits and claims live: memory:// (the default) or redis://; secret."
    )
    records_url: forms.RecordsUrl = Field(
        None,
        description="Where idempotency claims and tasks survive: memory:// (the default), sqlite:/// or "
        "postgresql://; secret.",
    )
    blobs_url: forms.BlobsUrl = Field(
        None, description="Where large results are kept: memory:// (the default), file:/// or s3://; secret."
    )
    state_prefix: forms.Word = Field("toolpost", description="How keys in a shared state begin.")

    max_workers: forms.Count = Field(4, description="Most threads that run the bodies of synchronous tools.")
    io_concurrency: forms.Count = Field(8, description="Most calls of one batch that run at a time.")
    chunk_size: forms.Count = Field(10_000, description="Items of large data a tool takes at a time.")
    thread_pool_type: forms.PoolTypeSetting = Field(
        "thread", description="Where synchronous bodies run; processes can be killed, threads cannot."
    )
    max_threads_per_worker: forms.Count = Field(4, description="Most threads in one process of a pool.")

    timeout: forms.Deadline = Field(
        30.0,
        description="Seconds from a call's arrival to its end, retries included; also named default_timeout.",
    )
    cancel_grace_s: forms.Seconds = Field(1.0, description="Seconds a cancelled asynchronous body has to clean up.")
    retry_attempts: forms.CountOrZero = Field(
        3, description="Most tries of a call that is retried; 0 means one, as 1 does."
    )
    retry_backoff: forms.Factor = Field(1.0, description="Factor on the growing waits between tries.")

    max_input_size: forms.Count = Field(1_048_576, description="Most bytes of all arguments of a call.")
    max_depth: forms.Depth = Field(64, description="Most levels of lists and objects in arguments.")
    max_items: forms.Count = Field(100_000, description="Most members of all lists and objects in arguments.")
    max_file_size: forms.Count = Field(1_000_000, description="Most bytes of a file that a tool reads.")
    allowed_file_extensions: forms.Extensions = Field(
        (), description="Extensions, in lower case, of the files that tools open; empty means all."
    )
    allowed_directories: forms.Folders = Field(
        (), description="Directories in and below which tools open files; empty leaves it to the tool."
    )
    sandbox_root: forms.Folder = Field(Path("/tmp/tool-exec"), description="Directory in which sandboxes are made.")
    sandbox_backend: forms.Word = Field(
        "auto",
        description="What runs programs in sandboxes: native, bubblewrap, a plugin's, or auto for the first that holds "
        "to all that is required.",
    )
    sandbox_tools: forms.Switch = Field(
        False, description="Whether Shell.Run and Code.Python are among the standard tools."
    )
    sandbox_cpu_seconds: forms.SomeSeconds = Field(
        15.0, description="Seconds of processor time that each process in a sandbox may use."
    )
    sandbox_memory_mb: forms.Megabytes = Field(
        512, description="MiB of memory that a sandbox may use, its files included."
    )
    sandbox_packages: forms.Words = Field(
        (), description="Installed distributions that Python in a sandbox may import, with what they depend on."
    )

    enable_security_checks: forms.Switch = Field(True, description="Whether text in arguments is screened.")
    security_level: forms.SecurityLevelSetting = Field("medium", description="How much is screened.")
    sanitization_rules: forms.SanitizationRulesSetting = Field(
        "standard", description="strict applies every rule to every text, whatever its parameter is for."
    )

    rules: forms.Words = Field(
        (), description="Screening rules of plugins that are in force, by their names in the group toolpost.rules."
    )
    lock_file: forms.FileOrNone = Field(
        None, description="The file that `toolpost lock` wrote: tools that differ from it are refused."
    )
    approve_destructive: forms.Switch = Field(
        False,
        description="Whether a person must approve calls of tools that say they are destructive, and nothing of "
        "approval.",
    )
    audit: forms.AuditModeSetting = Field(
        "off", description="Whether calls are audited; required refuses calls that cannot be."
    )
    audit_values: forms.AuditValuesSetting = Field(
        "digests", description="What the audit log has of arguments: their names, digests besides, or redacted values."
    )

    secrets_directories: forms.Folders = Field(
        (Path("/run/secrets"),), description="Directories in and below which secret://file looks."
    )
    secrets_allowed: forms.Words = Field(
        (),
        description="Patterns of the references that tools may resolve, such as secret://env/APP_*; empty allows all "
        "that no argument has a part in.",
    )
    secrets_ttl: forms.Seconds = Field(300.0, description="Seconds for which a secret's value is taken for current.")
    egress_allowed_hosts: forms.Words = Field(
        (), description="Hosts that tools may reach, '*.example.com' for all below one; empty means all public ones."
    )
    egress_allowed_ports: forms.Ports = Field((80, 443), description="Ports that tools may reach.")
    egress_private: forms.Words = Field(
        (), description="Networks ('10.0.0.0/8') and hosts that tools may reach though they are not public."
    )
    egress_proxy: forms.ProxyUrl = Field(
        None, description="The proxy of all requests; none is taken from the environment; secret."
    )
    egress_max_bytes: forms.Count = Field(10_485_760, description="Most bytes of an answer, unpacked.")

    enable_rate_limiting: forms.Switch = Field(False, description="Whether max_calls_per_minute holds.")
    max_calls_per_minute: forms.CountOrNone = Field(None, description="Most calls within a minute.")
    rate_limit_by_user: forms.Switch = Field(
        True, description="Whether each user has so many calls, or all of them together."
    )

    log_level: forms.LogLevelSetting = Field("INFO", description="Least severity that is logged.")
    log_execution_time: forms.Switch = Field(True, description="Whether the time a call took is logged.")
    debug: forms.Switch = Field(False, description="Whether calls are logged in every detail.")
    enable_metrics: forms.Switch = Field(True, description="Whether calls are counted and timed.")
    metrics_backend: forms.MetricsBackendSetting = Field(
        "none",
        description="Where metrics go besides get_metrics() and a gateway's /metrics: with prometheus to a port of "
        "this machine, with log as lines to the logger toolpost.metrics.",
    )
    prometheus_port: forms.Port = Field(9090, description="Port of 127.0.0.1 on which Prometheus finds the metrics.")
    metrics_interval: forms.Count = Field(60, description="Seconds between two lines of metrics_backend log.")

    plugins: forms.Attributes = Field((), description="Tools that are imported when the executor starts.")

    arcade_api_key: forms.Secret = Field(None, description="Key for an Arcade server (later release); secret.")
    arcade_base_url: forms.Url = Field("https://api.arcade.dev", description="The Arcade server (later release).")
    oauth_issuer: forms.UrlOrNone = Field(None, description="The OAuth provider, by its issuer URL (OIDC discovery).")
    oauth_client_id: forms.WordOrNone = Field(None, description="The client that toolpost is there.")
    oauth_client_secret: forms.Secret = Field(None, description="Its secret, if it has one; secret.")
    oauth_redirect_uri: forms.UrlOrNone = Field(None, description="Where OAuth providers send users back to.")
    database_url: forms.Secret = Field(
        None, description="The database of the tools SQL.Query, SQL.TableInfo and SQL.SchemaInfo; secret."
    )
    secret_key: forms.Secret = Field(
        None,
        description="What tokens are encrypted, audit rows authenticated, callbacks and links signed with; secret.",
    )
    secret_key_previous: forms.Secret = Field(
        None,
        description="Earlier secret_keys, between commas or as a JSON list: they still decrypt, and sign beside it; "
        "secret.",
    )
    authorizer: forms.WordOrNone = Field(
        None, description="What decides about calls besides the tools' own access: cedar, or a plugin's name."
    )
    authorizer_policies: forms.FileOrNone = Field(None, description="The policies of the authorizer, as it reads them.")
    jwt_issuer: forms.UrlOrNone = Field(None, description="The issuer whose JWTs callers may come with.")
    jwt_audience: forms.WordOrNone = Field(None, description="The audience that those must be for.")
    jwt_jwks_url: forms.UrlOrNone = Field(
        None, description="Where the issuer's keys are; by default found by OIDC discovery."
    )
    jwt_user_claim: forms.Word = Field("sub", description="The claim that names the user.")
    jwt_tenant_claim: forms.WordOrNone = Field(None, description="The claim that names the tenant, if there is one.")
    jwt_scope_claim: forms.Word = Field("scope", description="The claim that has the scopes, as text or as a list.")
    jwt_roles_claim: forms.Word = Field(
        "roles", description="The claim that has the roles; dots lead into objects, as in realm_access.roles."
    )
    jwt_leeway: forms.Seconds = Field(30.0, description="Seconds by which clocks may differ.")

    serve_host: forms.Word = Field("127.0.0.1", description="Address on which `toolpost serve` listens.")
    serve_port: forms.PortOrFree = Field(
        8080, description="Port on which `toolpost serve` listens; 0 takes a free one."
    )
    serve_uds: forms.FileOrNone = Field(None, description="A Unix socket on which it listens in place of a port.")
    serve_workers: forms.Count = Field(1, description="Processes that answer requests.")
    serve_server: forms.HttpServerSetting = Field(
        "uvicorn", description="The HTTP server under the gateway: uvicorn, or granian by the extra of that name."
    )
    access_log: forms.Word = Field(
        "stdout", description="Where a line for each request goes: stdout, stderr, none, or the path of a file."
    )
    access_log_format: forms.AccessLogFormatSetting = Field(
        "auto",
        description="How those lines are written: json, text, or auto for text on a terminal and json elsewhere.",
    )
    trusted_proxies: forms.Networks = Field(
        (), description="Addresses and networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed."
    )
    data_directory: forms.FolderOrNone = Field(
        None,
        description="Where `toolpost serve` keeps records, blobs and its own key, as far as no URL or key says "
        "otherwise; by default toolpost-data in the working directory.",
    )
    public_url: forms.UrlOrNone = Field(
        None, description="How callers reach the gateway, for links and OAuth; by default what they asked for."
    )
    authentication: forms.AuthenticationSetting = Field(
        "auto",
        description="Whether requests must come with a key or token; auto asks for one unless only this machine can "
        "call.",
    )
    allowed_hosts: forms.Hosts = Field(
        (),
        description="Host names, in lower case, that the gateway answers to; empty means those of the address it "
        "listens on.",
    )
    cors_origins: forms.Words = Field(
        (), description="Origins whose pages may call the gateway, '*' for all (then without credentials)."
    )
    max_body_size: forms.Count = Field(4_194_304, description="Most bytes of a request's body.")
    max_in_flight: forms.Count = Field(256, description="Most calls that doors run at a time in one process.")
    max_waiting: forms.CountOrZero = Field(
        1024, description="Most calls that wait for a place among those; more are refused with 503."
    )
    worker_concurrency: forms.Count = Field(16, description="Most accepted calls that run at a time in one process.")
    max_accepted: forms.Count = Field(100_000, description="Most accepted calls that wait; more are refused with 503.")
    task_lease: forms.SomeSeconds = Field(
        15.0, description="Seconds after which an accepted call of a silent process is taken over."
    )
    record_calls: forms.RecordCallsSetting = Field(
        "all", description="Which calls of doors are kept to be looked up: accepted ones, or all."
    )
    calls_kept: forms.Seconds = Field(604_800.0, description="Seconds for which ended calls are kept.")
    drain_timeout: forms.Seconds = Field(30.0, description="Seconds that running calls have to end at a shutdown.")
    idempotency_keys: forms.IdempotencyKeysSetting = Field(
        "declared",
        description="Which tools an idempotency key counts for: those that declare Idempotency, or all; "
        "`toolpost serve` and `toolpost mcp` take all unless told otherwise.",
    )
    links_ttl: forms.SomeSeconds = Field(900.0, description="Seconds for which a signed link to an artifact is good.")
    cloudevents: forms.Switch = Field(
        False, description="Whether callbacks are CloudEvents; requests may be in any case."
    )
    discovery: forms.Switch = Field(
        False, description="Whether models are shown three tools, search, describe and call, in place of all."
    )

    _book: _Book = PrivateAttr(default_factory=lambda: _Book({}, {}))

    # Hidden from type checkers, which know the settings as keywords and attributes and should go on doing so.
    if not TYPE_CHECKING:

        def __init__(self, /, **settings: Any):
            self._fill(_by_code(settings), {})

        def __setattr__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                super().__setattr__(name, value)
            else:
                self._assign(name, value)

    @classmethod
    def load(
        cls,
        overrides: Mapping[str, Any] | None = None,
        *,
        file: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """Settings from a file, over it the environment, over that code; only the value that wins is checked.

        file is TOML; without it the one TOOL_EXECUTOR_CONFIG names is read, else toolpost.toml in the working
        directory if there is one. environ stands in for os.environ. Raises ConfigurationError for a wrong
        value, an unknown name and a file that cannot be read.
        """
        variables = os.environ if environ is None else environ
        path = settings_file(file, variables)
        in_file = {} if path is None else from_file(path, FORMS, ALIASES)
        in_environment, reserved = from_environment(variables, _VARIABLES, FORMS)
        in_code = {} if overrides is None else _by_code(overrides)
        config = cls.__new__(cls)
        config._fill(in_file | in_environment | in_code, reserved)
        return config

    @property
    def default_timeout(self) -> float | None:
        """timeout by its other name."""
        return self.timeout

    @property
    def reserved(self) -> dict[str, str]:
        """The queue worker's variables, as they stood in the environment; the engine does not use them."""
        return dict(self._book.reserved)

    def origin(self, setting: str) -> str:
        """Who set it: "default", "file <path>", "environment <VARIABLE>" or "code"."""
        (name,) = _by_code({setting: None})
        return self._book.origins.get(name, DEFAULT)

    def effective(self) -> list[EffectiveSetting]:
        """Every setting as it stands, and who set it, fit to be shown."""
        return [
            EffectiveSetting(
                name,
                HIDDEN if FORMS[name].secret and value is not None else value,
                self._book.origins.get(name, DEFAULT),
                type(self).model_fields[name].description or "",
            )
            for name, value in self.model_dump(mode="json").items()
        ]

    def on_change(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Have callback called with a setting's name after each assignment; returns what ends that.

        It runs in the assigning thread. When it raises, the assignment is undone and raises the same, and
        whoever was told of it is told again.
        """
        with _ASSIGNING:
            self._book.listeners += (callback,)

        def end() -> None:
            with _ASSIGNING:
                self._book.listeners = tuple(other for other in self._book.listeners if other is not callback)

        return end

    def take(self, other: ExecutorConfig, settings: Iterable[str]) -> None:
        """Assign settings as they are in another config, with who set them there: all, or, if one is refused, none."""
        self._give({name: Given(getattr(other, name), other.origin(name)) for name in settings})

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A config of its own with the same values and no listeners; update is assigned to it, so checked."""
        copied = copy(self)
        for name, value in (update or {}).items():
            setattr(copied, name, value)
        return copied

    def __copy__(self) -> Self:
        copied = super().__copy__()
        copied._book = copy(self._book)
        return copied

    def _fill(self, given: Mapping[str, Given], reserved: Mapping[str, str]) -> None:
        refusal = None
        try:
            BaseModel.__init__(self, **{name: value for name, (value, _) in given.items()})
        except ValidationError as exc:
            refusal = _refusal(exc, given)
        if refusal is not None:  # raised out here, so that no error in its context holds a secret
            raise refusal
        self._book = _Book({name: origin for name, (_, origin) in given.items()}, reserved)

    def _assign(self, name: str, value: Any) -> None:
        self._give(_by_code({name: value}))

    def _give(self, given: Mapping[str, Given]) -> None:
        """Assign values and tell the listeners, of each; where one is refused, all are as they were."""
        before = {setting: Given(getattr(self, setting), self.origin(setting)) for setting in given}
        told: list[tuple[Callable[[str], None], str]] = []
        agreed = False
        try:
            for setting, one in given.items():
                self._put(setting, one)
            for listener in self._book.listeners:
                for setting in given:
                    listener(setting)
                    told.append((listener, setting))
            agreed = True
        finally:
            if not agreed:
                for setting, one in before.items():
                    self._put(setting, one)
                for listener, setting in told:
                    listener(setting)

    def _put(self, setting: str, given: Given) -> None:
        refusal = None
        with _ASSIGNING:
            try:
                super().__setattr__(setting, given.value)
                self._book.origins[setting] = given.origin
            except ValidationError as exc:
                refusal = _refusal(exc, {setting: given})
        if refusal is not None:
            raise refusal


ALIASES: Final[Mapping[str, str]] = {"default_timeout": "timeout"}
"""Another name of a setting in code and files -> the setting."""

FORMS: Final[Mapping[str, forms.Form]] = {
    name: next(part for part in info.metadata if isinstance(part, forms.Form))
    for name, info in ExecutorConfig.model_fields.items()
}
"""How each setting is written."""

_VARIABLES: Final = variable_table(FORMS)


def refuse_unsupported(config: ExecutorConfig) -> list[str]:
    """A sentence for each setting that asks for what cannot be done; empty when all can."""
    found = []
    if config.metrics_backend == "prometheus" and find_spec("prometheus_client") is None:
        found.append(
            f"metrics_backend is 'prometheus' ({config.origin('metrics_backend')}), which needs the package "
            "prometheus-client; install toolpost[serve], or set it to 'none'"
        )
    if config.cache_backend == "redis" and not redis_of(config):
        found.append(
            f"cache_backend is 'redis' ({config.origin('cache_backend')}), but no Redis is named; set cache_redis_url "
            "or a redis:// state_url"
        )
    return found


def redis_of(config: ExecutorConfig) -> str | None:
    """The Redis of the shared cache: its own, or the one that holds the state."""
    if config.cache_redis_url is not None:
        return config.cache_redis_url.get_secret_value()
    state = config.state_url.get_secret_value() if config.state_url is not None else ""
    return state if state.startswith(("redis", "rediss", REFERENCE)) else None


def _by_code(settings: Any) -> dict[str, Given]:
    if not isinstance(settings, Mapping):
        raise ConfigurationError(f"settings must be a mapping of names to values, got {_shown(settings)}")
    named = by_setting(settings, CODE, FORMS, ALIASES)
    return {name: Given(value, CODE) for name, value in named.items()}


def _refusal(exc: ValidationError, given: Mapping[str, Given]) -> ConfigurationError:
    """What pydantic found, one sentence a setting, without secrets."""
    found: dict[str, Any] = {}
    for error in exc.errors(include_url=False):
        name, *member = error["loc"]
        found.setdefault(str(name), error["input"] if member else given[str(name)].value)
    return ConfigurationError("; ".join(_sentence(name, got, given[name].origin) for name, got in found.items()))


def _sentence(name: str, got: Any, origin: str) -> str:
    form = FORMS[name]
    sentence = f"{name} must be {form.expected}, got {HIDDEN if form.secret else _shown(got)} ({origin})"
    variable = origin.removeprefix("environment ")
    if variable in _VARIABLES and not variable.startswith(PREFIX):
        own = variables_of(name)[0]
        sentence += f"; if {variable} is meant for another program, set {own}, which is read before it"
    return sentence


def _shown(value: Any) -> str:
    """A repr of bounded length."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    try:
        return short.repr(value)
    except ValueError:  # an integer with more digits than Python converts
        return f"a number of type {type(value).__name__}"
