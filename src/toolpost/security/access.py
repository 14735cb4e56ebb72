"""Access, compiled: what a caller may, by itself and with some arguments; for the call and for lists of tools alike."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Mapping
from typing import Any, Final

import orjson

from toolpost.calls.access import Access
from toolpost.calls.call import Caller
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import AuthorizerFailedError, PermissionDeniedError, Rejected, UnauthorizedError
from toolpost.security.conditions import Condition

logger = logging.getLogger("toolpost")

PATIENCE_S: Final = 5.0
"""How long a when, a hook or an engine may think about one call, where the call's own deadline is not sooner."""

NO_USER: Final = "Authentication required: this tool needs a known user; make the call with a user_id"


class Gate:
    """What one tool asks of its callers.

    objection() says why a caller can never make the tool's call, whatever the arguments: the call is refused by it,
    and lists of tools leave the tool out by it, so that the two agree.
    """

    __slots__ = ("known_caller", "needed", "rules")

    def __init__(self, tool: ToolDefinition, access: Access | None) -> None:
        self.known_caller = tool.requires_auth
        self.needed = frozenset(tool.permissions)
        self.rules = None if access is None else Rules(access, access.name or "access")

    @property
    def open(self) -> bool:
        """Whether everybody may."""
        return not self.known_caller and not self.needed and self.rules is None

    def objection(self, caller: Caller) -> Rejected | None:
        """Why this caller never may; None where some arguments would do."""
        if self.known_caller and not caller.user_id:
            return _unknown("requires_auth")
        if not self.needed <= caller.scopes:
            missing = sorted(self.needed - caller.scopes)
            return PermissionDeniedError(
                f"the caller lacks the permission {_names(missing)}",
                details={"missing": missing, "rule": "permissions"},
            )
        return None if self.rules is None else self.rules.objection(caller)


class Rules:
    """An Access, compiled. by_arguments: whether it also depends on arguments; waits: whether it may have to await."""

    __slots__ = ("_access", "_any_of", "_bound", "_needs_user", "_where", "by_arguments", "name", "waits")

    def __init__(self, access: Access, name: str) -> None:
        self._access, self.name = access, name
        self._where = tuple(Condition(parameter, schema) for parameter, schema in (access.where or {}).items())
        self._any_of = tuple(
            Rules(one, one.name or f"{name}.any_of[{index}]") for index, one in enumerate(access.any_of or ())
        )
        self._bound = tuple(condition for condition in self._where if condition.fields or condition.said is False)
        self._needs_user = access.requires_user or access.users is not None
        self.by_arguments: bool = bool(self._where or access.when or any(one.by_arguments for one in self._any_of))
        self.waits: bool = waits(access.when) or any(one.waits for one in self._any_of)

    def lacking(self, caller: Caller) -> str:
        """What it is that this caller lacks, whatever the arguments; "" where some arguments would do."""
        access = self._access
        if self._needs_user and not caller.user_id:
            return "requires_user"
        if access.tenants is not None and caller.tenant not in access.tenants:
            return "tenants"
        if access.users is not None and caller.user_id not in access.users:
            return "users"
        if access.roles is not None and caller.roles.isdisjoint(access.roles):
            return "roles"
        if access.scopes is not None and not caller.scopes.issuperset(access.scopes):
            return "scopes"
        if access.any_scopes is not None and caller.scopes.isdisjoint(access.any_scopes):
            return "any_scopes"
        for condition in self._bound:
            if not condition.possible(caller):
                return "where"
        if self._any_of and all(one.lacking(caller) for one in self._any_of):
            return "any_of"
        return ""

    def objection(self, caller: Caller) -> Rejected | None:
        """Why this caller never may; None where some arguments would do."""
        access, lacking = self._access, self.lacking(caller)
        if not lacking:
            return None
        if lacking == "requires_user":
            return _unknown(f"{self.name}.requires_user")
        if lacking == "tenants":
            return self._denied("tenants", "the tool is not for the caller's tenant")
        if lacking == "users":
            return self._denied("users", "the tool is not for this user")
        if lacking == "roles":
            roles = list(access.roles or ())
            return self._denied("roles", f"the caller needs the role {_names(roles, 'or')}", missing=roles)
        if lacking == "scopes":
            missing = [scope for scope in access.scopes or () if scope not in caller.scopes]
            return self._denied("scopes", f"the caller lacks the scope {_names(missing)}", missing=missing)
        if lacking == "any_scopes":
            scopes = list(access.any_scopes or ())
            return self._denied("any_scopes", f"the caller needs the scope {_names(scopes, 'or')}", missing=scopes)
        if lacking == "where":
            return self._unfit(next(one for one in self._bound if not one.possible(caller)), caller)
        return self._none_of([found for one in self._any_of if (found := one.objection(caller)) is not None])

    async def verdict(self, caller: Caller, arguments: Mapping[str, Any], blocking: bool) -> Rejected | str:
        """Why a caller that lacks nothing may not make this call, or the rule by which it may.

        It suspends only for a when that does.
        """
        for condition in self._where:
            if not condition.holds(caller, arguments):
                return self._unfit(condition, caller)
        if self._access.when is not None:
            refused = await self._asked(self._access.when, caller, arguments, blocking)
            if refused is not None:
                return refused
        if not self._any_of:
            return self.name
        refusals: dict[Rules, Rejected] = {}
        for one in self._any_of:
            if one.lacking(caller):
                continue
            found = await one.verdict(caller, arguments, blocking)
            if isinstance(found, str):
                return found
            refusals[one] = found
        failed = next((one for one in refusals.values() if isinstance(one, AuthorizerFailedError)), None)
        told = [refusals.get(one) or one.objection(caller) for one in self._any_of]
        return failed or self._none_of([one for one in told if one is not None])

    async def _asked(self, when: Any, caller: Caller, arguments: Mapping[str, Any], blocking: bool) -> Rejected | None:
        rule = f"{self.name}.when"
        try:
            agreed = when(caller, arguments)
            if inspect.isawaitable(agreed):
                agreed = await awaited(agreed, blocking)
            if not (agreed is None or isinstance(agreed, (bool, str))):
                raise TypeError(f"a when must give True, False, None or a text, not {type(agreed).__name__}")
        except Rejected as refused:
            return refused
        except Exception as raised:
            logger.exception("condition failed: %s", rule)
            error = AuthorizerFailedError(
                f"the condition on this call failed ({type(raised).__name__}), so it is refused", details={"rule": rule}
            )
            error.__cause__ = raised
            return error
        if agreed is True:
            return None
        return self._denied("when", agreed or "the caller may not make this call with these arguments")

    def _unfit(self, condition: Condition, caller: Caller) -> Rejected:
        if "user_id" in condition.fields and not caller.user_id:
            return _unknown(f"{self.name}.where")
        must = condition.said if isinstance(condition.said, dict) else {"not": {}}
        said = f"the caller may make this call only with {condition.parameter!r} given as {orjson.dumps(must).decode()}"
        if condition.fields:
            said += f"; $caller stands for the caller's own {_names(list(condition.fields))}"
        return self._denied("where", said, parameter=condition.parameter, must=must)

    def _none_of(self, refusals: list[Rejected]) -> Rejected:
        if all(isinstance(one, UnauthorizedError) for one in refusals):
            return refusals[0]
        told = [{"message": one.message, **one.details} for one in refusals]
        ways = "; or ".join(one.message for one in refusals)
        return self._denied("any_of", f"none of the ways to be allowed this call holds: {ways}", alternatives=told)

    def _denied(self, field: str, message: str, **details: Any) -> PermissionDeniedError:
        return PermissionDeniedError(message, details={"rule": f"{self.name}.{field}", **details})


async def awaited(answer: Any, blocking: bool) -> Any:
    """The answer of a hook that turned out to be async. Raises TimeoutError where it takes too long."""
    if blocking:
        getattr(answer, "close", lambda: None)()
        raise TypeError("what has to be awaited cannot decide a blocking call; declare it with async def")
    async with asyncio.timeout(PATIENCE_S):
        return await answer


def waits(hook: Any) -> bool:
    """Whether a hook is async, as far as can be told without calling it."""
    return inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(getattr(hook, "__call__", None))  # noqa: B004


def _unknown(rule: str) -> UnauthorizedError:
    return UnauthorizedError(NO_USER, details={"rule": rule})


def _names(names: list[str], word: str = "and") -> str:
    *rest, last = map(repr, names)
    return f"{', '.join(rest)} {word} {last}" if rest else last


__all__ = ["Gate", "Rules", "awaited", "waits"]
