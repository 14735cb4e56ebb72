"""Keys: the one text that stands for a call, made so that two calls which differ never share it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

import orjson

from toolpost.calls.call import ANONYMOUS, Caller
from toolpost.calls.context import ToolContext
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import ConfigurationError, InputValidationError
from toolpost.calls.policies import Idempotency
from toolpost.pipeline.canonical import OPTIONS, canonical, digest_of, part_of
from toolpost.pipeline.invocation import Invocation

MAX_STARTS: Final = 1024
"""For how many callers a tool keeps how their keys begin; making it is a third of a key."""
WEAK: Final = frozenset({"md4", "md5", "md5-sha1", "sha1"})
"""Hashes for which anybody can make two inputs with one digest."""


def _who(caller: Any, with_user: bool, with_session: bool) -> bytes:
    """The part of a key that says for whom. What is left out has a mark of its own."""
    parts = (
        part_of(getattr(caller, "tenant", None)),
        part_of(getattr(caller, "user_id", None)) if with_user else b"-",
        part_of(getattr(caller, "session_id", None)) if with_session else b"-",
    )
    return b"".join(parts)


def _what(tool: str, version: str) -> bytes:
    return b"toolpost key 1\n" + part_of(tool) + part_of(version)


FROM_CALLER, FROM_ARGUMENTS, FROM_FUNCTION = b"K", b"A", b"F"
"""Where the last part of a key comes from, so that a caller's own key can never be one that is made."""


# -- for the stage -----------------------------------------------------------------------------------------------------


def key_maker(tool: ToolDefinition, policy: Idempotency) -> Callable[[Invocation], str | None]:
    """Makes the key of a call: a digest of tenant, tool, version, user and session as the policy says, and the caller's
    own key or what the policy makes of the arguments. None: the call is without the policy.

    The key that one of the generators below makes here is the one that its generate_key makes. Raises
    InputValidationError for a key field that is absent, and for arguments without a canonical form.
    """
    how = _How.of(policy)
    what, by_user, by_session, new = _what(tool.name, tool.version), how.by_user, how.by_session, how.new
    nobody = new(what + _who(ANONYMOUS, by_user, by_session))
    starts: dict[tuple[str | None, str | None, str | None], Any] = {}
    derive = _deriver(tool, policy)
    only_caller = policy.only_caller
    plainly = policy.key_fields is None and (policy.generator is None or _is_ours(policy.generator))
    name, dumps = tool.name, orjson.dumps

    def key_of(inv: Invocation) -> str | None:
        caller = inv.caller
        start = nobody
        if caller is not ANONYMOUS:
            ids = (caller.tenant, caller.user_id, caller.session_id)
            known = starts.get(ids)
            if known is None:
                if len(starts) >= MAX_STARTS:
                    starts.clear()
                known = starts[ids] = new(what + _who(caller, by_user, by_session))
            start = known
        own = inv.idempotency_key
        if own is not None:
            made = FROM_CALLER + own.encode("utf-8", "surrogatepass")
        else:
            if only_caller:
                return None
            if plainly:
                try:  # what _form does for almost all arguments, without the calls
                    made = FROM_ARGUMENTS + dumps(inv.arguments, None, OPTIONS)
                except TypeError:
                    made = b"null"
                if made.find(b"null") >= 0:
                    made = FROM_ARGUMENTS + _form(name, inv.arguments)
            else:
                derived = derive(inv)
                if derived is None:
                    return None
                made = derived
        hash = start.copy()  # which costs less than hashing the start again
        hash.update(made)
        digest: str = hash.hexdigest()
        return digest

    return key_of


def fingerprint(tool: ToolDefinition, inv: Invocation) -> str:
    """A digest of all arguments, to tell when one key comes with others. Raises InputValidationError without a form."""
    return hashlib.sha256(_form(tool.name, inv.arguments)).hexdigest()


def _deriver(tool: ToolDefinition, policy: Idempotency) -> Callable[[Invocation], bytes | None]:
    """What the policy makes of a call's arguments; None where a key field is absent and that may be."""
    name, fields, generator, bypass = tool.name, policy.key_fields, policy.generator, policy.bypass_on_missing_key
    if generator is not None and not _is_ours(generator):
        return _from_function(tool, policy)
    if fields is None:
        return lambda inv: FROM_ARGUMENTS + _form(name, inv.arguments)

    def from_fields(inv: Invocation) -> bytes | None:
        try:
            chosen = {field: inv.arguments[field] for field in fields}
        except KeyError:
            if bypass:
                return None
            raise _missing(name, fields, inv.arguments) from None
        return FROM_ARGUMENTS + _form(name, chosen)

    return from_fields


def _from_function(tool: ToolDefinition, policy: Idempotency) -> Callable[[Invocation], bytes | None]:
    name, generator, bypass = tool.name, policy.generator, policy.bypass_on_missing_key
    spec = tool.spec if tool.spec is not None else KeySpec.of(tool, policy)
    generate = getattr(generator, "generate_key", None)

    def from_function(inv: Invocation) -> bytes | None:
        ctx = _context(inv)
        text = generate(inv.arguments, ctx, spec) if generate is not None else generator(inv.arguments, ctx)
        if text is None and bypass:
            return None
        return FROM_FUNCTION + _checked(text, name, generator).encode("utf-8", "surrogatepass")

    return from_function


def _form(tool: str, arguments: Mapping[str, Any]) -> bytes:
    try:
        return canonical(arguments)
    except ValueError as error:
        raise InputValidationError(
            f"Parameter validation failed: the arguments of {tool} cannot make an idempotency key: {error}; "
            "choose key_fields that are JSON, or send a key of your own"
        ) from error


def _missing(tool: str, fields: Sequence[str], arguments: Mapping[str, Any]) -> InputValidationError:
    """The refusal of a call that lacks what its key is made of; null is a value, an absent argument is none."""
    return InputValidationError(
        problems=[
            {
                "path": "/" + field.replace("~", "~0").replace("/", "~1"),
                "loc": (field,),
                "parameter": field,
                "type": "missing_key_field",
                "msg": f"'{field}' is missing, and the idempotency key of {tool} is made of it",
                "expected": f"the argument '{field}', or an idempotency key of the caller's own",
                "got": "nothing",
            }
            for field in fields
            if field not in arguments
        ]
    )


def _checked(text: Any, tool: str, generator: Any) -> str:
    if isinstance(text, str) and text:
        return text
    maker = getattr(generator, "__name__", None) or type(generator).__name__
    if text is None or text == "":
        raise InputValidationError(
            f"Parameter validation failed: {maker} gave no idempotency key for these arguments of {tool}"
        )
    raise ConfigurationError(f"{tool}: {maker} must return the idempotency key as text, got a {type(text).__name__}")


def _context(inv: Invocation) -> ToolContext:
    """The call as a generator sees it."""
    if inv.handed is not None:
        return inv.handed
    caller = inv.caller
    return ToolContext(
        tenant_id=caller.tenant, user_id=caller.user_id, session_id=caller.session_id, task_id=inv.task_id
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _How:
    """How a policy's generator wants keys: with the user, with the session, by which hash."""

    by_user: bool
    by_session: bool
    new: Callable[[bytes], Any] = hashlib.sha256

    @classmethod
    def of(cls, policy: Idempotency) -> _How:
        generator = policy.generator
        if generator is None or not _is_ours(generator):
            return cls(by_user=policy.include_user, by_session=policy.include_session)
        return cls(
            by_user=generator.include_user_context, by_session=generator.include_session_context, new=generator._new
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySpec:
    """What a key generator is given for its spec: the tool's names, and its idempotency (key_fields, ttl_s ...)."""

    id: str
    tool_name: str
    name: str
    version: str
    description: str
    idempotency: Idempotency

    @classmethod
    def of(cls, tool: ToolDefinition, policy: Idempotency) -> KeySpec:
        """The view of a definition."""
        return cls(
            id=tool.name,
            tool_name=tool.name,
            name=tool.name,
            version=tool.version,
            description=tool.description,
            idempotency=policy,
        )


# -- generators --------------------------------------------------------------------------------------------------------


@runtime_checkable
class IIdempotencyKeyGenerator(Protocol):
    """Makes the text that stands for a call. args maps parameters to values, ctx is its ToolContext.

    spec has tool_name, version, and idempotency.key_fields. Tenant, tool and version are added by the engine, the user
    too unless the policy leaves it out: two calls share a key only where all of these agree.
    """

    def generate_key(self, args: Mapping[str, Any], ctx: Any, spec: Any) -> str: ...


class _Generator:
    """Keys from tenant, tool, version, key_fields or else all arguments; with the user and the session if asked."""

    include_user_context: bool = True
    include_session_context: bool = False
    _new: Callable[[bytes], Any] = staticmethod(hashlib.sha256)

    def generate_key(self, args: Mapping[str, Any], ctx: Any, spec: Any) -> str:
        """The key, as hex. Raises InputValidationError for a key field that is absent, or values without a form."""
        tool = str(getattr(spec, "tool_name", None) or getattr(spec, "name", ""))
        fields = getattr(getattr(spec, "idempotency", None), "key_fields", None)
        if fields:
            if any(field not in args for field in fields):
                raise _missing(tool, fields, args)
            args = {field: args[field] for field in fields}
        ids = (getattr(ctx, name, None) for name in ("tenant_id", "user_id", "session_id"))
        tenant, user_id, session_id = (None if value is None else str(value) for value in ids)
        caller = Caller(tenant=tenant, user_id=user_id, session_id=session_id)
        start = _what(tool, str(getattr(spec, "version", "1.0.0")))
        start += _who(caller, self.include_user_context, self.include_session_context)
        return str(self._new(start + FROM_ARGUMENTS + _form(tool, args)).hexdigest())

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class DefaultIdempotencyKeyGenerator(_Generator):
    """Keys by tenant, tool, version, user, session, and key_fields or else all arguments."""

    include_session_context = True


class FieldBasedIdempotencyKeyGenerator(_Generator):
    """Keys by key_fields (all arguments without any), whatever the session, and whoever the user if asked."""

    def __init__(self, include_user_context: bool = True) -> None:
        self.include_user_context = _flag(self, "include_user_context", include_user_context)


class HashBasedIdempotencyKeyGenerator(_Generator):
    """Keys by a hash of one's choice. algorithm is a name that hashlib knows, of fixed length and not broken."""

    def __init__(
        self,
        algorithm: str = "sha256",
        include_user_context: bool = True,
        include_session_context: bool = True,
    ) -> None:
        self.algorithm = algorithm
        self._new = _hash(self, algorithm)
        self.include_user_context = _flag(self, "include_user_context", include_user_context)
        self.include_session_context = _flag(self, "include_session_context", include_session_context)


class CustomIdempotencyKeyGenerator:
    """Keys by a function (args, ctx, spec) -> text, which must give the same text for the same call."""

    def __init__(self, key_function: Callable[[Mapping[str, Any], Any, Any], str]) -> None:
        if not callable(key_function):
            raise ConfigurationError(
                f"CustomIdempotencyKeyGenerator: key_function must be callable as (args, ctx, spec), "
                f"got {key_function!r}"
            )
        self.key_function = key_function

    def generate_key(self, args: Mapping[str, Any], ctx: Any, spec: Any) -> str:
        """What the function says. Raises ConfigurationError when that is no text."""
        return _checked(self.key_function(args, ctx, spec), str(getattr(spec, "tool_name", "")), self)


def _is_ours(generator: Any) -> bool:
    """Whether a generator makes keys as ours do, and not in a way of its subclass's own."""
    return isinstance(generator, _Generator) and type(generator).generate_key is _Generator.generate_key


def _flag(owner: object, name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ConfigurationError(f"{type(owner).__name__}: {name} must be True or False, got {value!r}")


def _hash(owner: object, algorithm: Any) -> Callable[[bytes], Any]:
    name = algorithm.lower() if isinstance(algorithm, str) else ""
    if name in WEAK:
        raise ConfigurationError(
            f"{type(owner).__name__}: algorithm {algorithm!r} is broken, so that two calls could be given one key; "
            f"use 'sha256'"
        )
    try:
        fixed = hashlib.new(name).digest_size
    except ValueError:
        fixed = 0
    if not fixed:
        raise ConfigurationError(
            f"{type(owner).__name__}: algorithm must be a hash of fixed length that hashlib knows, such as 'sha256', "
            f"'sha512' or 'blake2b', got {algorithm!r}"
        )
    return getattr(hashlib, name, None) or (lambda data: hashlib.new(name, data))


class IdempotencyKeyGeneratorFactory:
    """Key generators by name: default, field_based, hash_based, and those that were registered."""

    _generators: ClassVar[dict[str, IIdempotencyKeyGenerator]] = {
        "default": DefaultIdempotencyKeyGenerator(),
        "field_based": FieldBasedIdempotencyKeyGenerator(),
        "hash_based": HashBasedIdempotencyKeyGenerator(),
    }

    @classmethod
    def get_generator(cls, name: str = "default") -> IIdempotencyKeyGenerator:
        """The generator of that name. Raises ConfigurationError, naming those there are."""
        try:
            return cls._generators[name]
        except KeyError:
            raise ConfigurationError(
                f"Unknown idempotency key generator: {name!r}; there are {', '.join(sorted(cls._generators))}"
            ) from None

    @classmethod
    def register(cls, name: str, generator: IIdempotencyKeyGenerator) -> None:
        """Give a generator a name, for the whole process."""
        if not callable(getattr(generator, "generate_key", None)):
            raise ConfigurationError(
                f"key generator {name!r} must have generate_key(args, ctx, spec), got a {type(generator).__name__}"
            )
        cls._generators[name] = generator


__all__ = [
    "CustomIdempotencyKeyGenerator",
    "DefaultIdempotencyKeyGenerator",
    "FieldBasedIdempotencyKeyGenerator",
    "HashBasedIdempotencyKeyGenerator",
    "IIdempotencyKeyGenerator",
    "IdempotencyKeyGeneratorFactory",
    "KeySpec",
    "canonical",
    "digest_of",
    "fingerprint",
    "key_maker",
]
