"""Who may call a tool, and with which arguments; and that lists of tools agree with calls."""

import asyncio
import enum
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from toolpost import (
    Access,
    AuthorizerFailedError,
    BaseTool,
    Caller,
    ConfigurationError,
    Decision,
    FunctionToolExecutor,
    FunctionToolSpec,
    NumericParameter,
    PermissionDeniedError,
    StringParameter,
    Tool,
    ToolContext,
    ToolNotFoundError,
    UnauthorizedError,
    create_tool_call,
    policy,
)
from toolpost.security.conditions import Condition, compiled
from toolpost.testing import executor_for

ANN = Caller(user_id="ann", tenant="acme", scopes=frozenset({"read", "pay"}), roles=frozenset({"clerk"}))
BOB = Caller(user_id="bob", tenant="acme", roles=frozenset({"manager"}))
NOBODY = Caller()


def pay_with(access: Access | None, **options: Any) -> Any:
    @Tool(name="Pay.Send", register=False, access=access, **options)
    def pay(amount: float, owner: str = "ann") -> float:
        return amount

    return pay


def result_of(tool: Any, caller: Caller, explain: bool = False, **arguments: Any) -> Any:
    with executor_for(tool) as executor:
        call = create_tool_call(
            tool.tool_definition.name,
            arguments,
            user_id=caller.user_id,
            tenant=caller.tenant,
            scopes=caller.scopes,
            roles=caller.roles,
            session_id=caller.session_id,
        )
        return executor.execute_sync(call, explain=explain)


def passes(access: Access, caller: Caller, amount: Any = 5.0, **more: Any) -> bool:
    result = result_of(pay_with(access), caller, amount=amount, **more)
    assert result.success or result.status == "rejected"
    return bool(result.success)


class TestTheCaller:
    @pytest.mark.parametrize(
        ("access", "who"),
        [
            (Access(requires_user=True), "ann bob"),
            (Access(scopes=("read", "pay")), "ann"),
            (Access(scopes=("read", "write")), ""),
            (Access(any_scopes=("write", "pay")), "ann"),
            (Access(roles=("manager", "director")), "bob"),
            (Access(tenants=("acme",)), "ann bob"),
            (Access(tenants=("other",)), ""),
            (Access(users=("bob",)), "bob"),
            (Access(users=("bob",), roles=("clerk",)), ""),
            (Access(any_of=(Access(users=("bob",)), Access(scopes=("pay",)))), "ann bob"),
            (Access(tenants=("acme",), any_of=(Access(roles=("clerk",)), Access(roles=("cook",)))), "ann"),
        ],
    )
    def test_all_that_is_asked_must_hold(self, access: Access, who: str) -> None:
        callers = {"ann": ANN, "bob": BOB, "nobody": NOBODY}

        assert [name for name, caller in callers.items() if passes(access, caller)] == who.split()

    def test_scopes_are_compared_as_they_stand(self) -> None:
        admin = Caller(user_id="root", scopes=frozenset({"admin", "*", "Pay", "pay.*", "pay:all"}))

        assert not passes(Access(scopes=("pay",)), admin)
        assert passes(Access(scopes=("*",)), admin)

    def test_a_refusal_names_what_is_missing_and_the_rule(self) -> None:
        scopes = result_of(pay_with(Access(scopes=("pay", "write"), name="payers")), BOB, amount=1)
        roles = result_of(pay_with(Access(roles=("clerk", "cook"))), BOB, amount=1)
        tenant = result_of(pay_with(Access(tenants=("umbrella",))), BOB, amount=1)
        user = result_of(pay_with(Access(users=("ann",))), NOBODY, amount=1)

        assert scopes.status_code == 403
        assert scopes.failure.details == {"rule": "payers.scopes", "missing": ["pay", "write"]}
        assert "lacks the scope 'pay' and 'write'" in scopes.error
        assert roles.failure.details == {"rule": "access.roles", "missing": ["clerk", "cook"]}
        assert "umbrella" not in f"{tenant.error}{tenant.failure.details}"
        assert (user.status_code, user.failure.code) == (401, "unauthenticated")

    def test_when_no_way_holds_each_says_why(self) -> None:
        access = Access(any_of=(Access(roles=("manager",)), Access(where={"amount": {"maximum": 100}}, name="small")))

        refused = result_of(pay_with(access), ANN, amount=500)

        assert refused.failure.details["rule"] == "access.any_of"
        assert [one["rule"] for one in refused.failure.details["alternatives"]] == [
            "access.any_of[0].roles",
            "small.where",
        ]
        assert "'manager'; or" in refused.error


class TestWhere:
    def test_an_argument_must_fit(self) -> None:
        access = Access(where={"amount": {"maximum": 100}})

        assert passes(access, ANN, 100)
        assert not passes(access, ANN, 100.01)

    def test_the_refusal_tells_a_model_what_would_do_and_not_what_came(self) -> None:
        refused = result_of(pay_with(Access(where={"owner": {"const": "ann"}})), ANN, amount=1, owner="s3cret-guess")

        assert refused.status_code == 403
        assert refused.failure.details == {"rule": "access.where", "parameter": "owner", "must": {"const": "ann"}}
        assert 'only with \'owner\' given as {"const":"ann"}' in refused.error
        assert "s3cret-guess" not in f"{refused.error}{refused.failure.details}"

    def test_limit_unless_a_manager(self) -> None:
        access = Access(any_of=(Access(roles=("manager",)), Access(where={"amount": {"maximum": 100}})))

        assert passes(access, BOB, 5000)
        assert not passes(access, ANN, 5000)
        assert passes(access, ANN, 50)

    def test_a_reference_stands_for_what_the_caller_has(self) -> None:
        access = Access(where={"owner": {"const": {"$caller": "user_id"}}})

        assert passes(access, ANN, owner="ann")
        assert not passes(access, BOB, owner="ann")
        assert passes(access, BOB, owner="bob")

    def test_a_list_of_the_caller_goes_into_an_enum(self) -> None:
        access = Access(where={"owner": {"enum": {"$caller": "roles"}}})

        assert passes(access, BOB, owner="manager")
        assert not passes(access, BOB, owner="clerk")

    @pytest.mark.parametrize("field", ["user_id", "tenant", "session_id", "scopes", "roles"])
    @pytest.mark.parametrize("negated", [False, True])
    def test_a_reference_to_nothing_is_never_met_wherever_it_stands(self, field: str, negated: bool) -> None:
        keyword = "enum" if field in ("scopes", "roles") else "const"
        schema: dict[str, Any] = {keyword: {"$caller": field}}
        access = Access(where={"owner": {"not": schema} if negated else schema})

        result = result_of(pay_with(access), NOBODY, amount=1, owner="x")

        assert result.status_code == (401 if field == "user_id" else 403)

    def test_a_reference_within_a_list(self) -> None:
        access = Access(where={"owner": {"enum": ["public", {"$caller": "user_id"}]}})

        assert passes(access, ANN, owner="public")
        assert passes(access, ANN, owner="ann")
        assert not passes(access, ANN, owner="bob")

    def test_defaults_count_and_what_is_not_there_does_not(self) -> None:
        @Tool(
            name="Pay.Send",
            register=False,
            parameters={
                "amount": {"type": "number", "optional": True},
                "owner": {"type": "string", "default": "ann"},
            },
            access=Access(where={"owner": {"const": "ann"}, "amount": {"maximum": 5}}),
        )
        def pay(**arguments: Any) -> int:
            return 1

        assert result_of(pay, ANN, amount=1).success
        assert result_of(pay, ANN).status_code == 403
        assert result_of(pay, ANN, amount=1, owner="bob").status_code == 403

    @pytest.mark.parametrize(
        "value",
        [
            "500",
            ["x" * 500],
            {"maximum": 1},
            None,
            True,
            float("nan"),
            float("inf"),
            float("-inf"),
            Decimal("NaN"),
            date(2020, 1, 1),
            object(),
            {1: 2},
        ],
    )
    def test_a_bound_on_numbers_is_met_by_no_other_type(self, value: Any) -> None:
        @Tool(name="Pay.Send", register=False, access=Access(where={"amount": {"maximum": 100}}))
        def pay(amount: Any) -> int:
            return 1

        with executor_for(pay) as executor, pytest.raises(PermissionDeniedError):
            executor.call_sync("Pay.Send", amount=value)

    @pytest.mark.parametrize(
        "schema", [{"not": {"minimum": 100}}, {"enum": [None, 1]}, {"not": {"type": "string"}}, True]
    )
    @pytest.mark.parametrize(
        "value",
        [float("nan"), float("inf"), Decimal("NaN"), Decimal("Infinity"), [float("inf")], "\ud800", object(), {1: 2}],
    )
    def test_what_has_no_json_value_fits_nothing(self, schema: Any, value: Any) -> None:
        assert not Condition("amount", schema).holds(ANN, {"amount": value})
        assert Condition("amount", schema).holds(ANN, {"amount": 1})

    def test_what_a_condition_speaks_of_within_an_object_must_be_there(self) -> None:
        @Tool(
            name="Pay.Send",
            register=False,
            access=Access(where={"order": {"properties": {"owner": {"const": {"$caller": "user_id"}}}}}),
        )
        def pay(order: dict[str, Any]) -> int:
            return 1

        assert result_of(pay, ANN, order={"owner": "ann"}).success
        assert not result_of(pay, ANN, order={}).success
        assert not result_of(pay, ANN, order={"owner": "bob"}).success

    @pytest.mark.parametrize(
        ("schema", "fits", "lets_pass"),
        [
            ({"not": {"not": {"maximum": 100}}}, [5], ["500"]),
            ({"not": {"anyOf": [{"minimum": 100}, {"type": "string"}]}}, [5], [500, "5"]),
            ({"not": {"contains": {"minimum": 100}}}, [[5]], [["x"], [500], 5]),
            ({"patternProperties": {"^l": {"maximum": 100}}}, [{"l": 5}, {}], [{"l": "500"}]),
            ({"contains": {"minimum": 5}}, [["x", 7]], [["x"], [3], []]),
            ({"contains": {"minimum": 5}, "minContains": 0}, [[], [1]], ["x"]),
            ({"additionalProperties": {"maximum": 100}}, [{"a": 5}], [{"a": "500"}]),
            ({"prefixItems": [{"maximum": 100}], "items": {"maximum": 9}}, [[50, 5]], [["500"], [50, "500"]]),
            ({"anyOf": [{"maximum": 100}, {"allOf": [{"minLength": 2}]}]}, [5, "xy"], [None, "x", [1]]),
            ({"not": {"properties": {"role": {"const": "admin"}}}}, [{"role": "user"}], [{}, {"role": "admin"}, "x"]),
        ],
    )
    def test_a_bound_is_met_by_its_type_alone_wherever_it_stands(self, schema: Any, fits: Any, lets_pass: Any) -> None:
        condition = Condition("value", schema)

        assert [condition.holds(ANN, {"value": value}) for value in fits] == [True] * len(fits)
        assert [condition.holds(ANN, {"value": value}) for value in lets_pass] == [False] * len(lets_pass)

    def test_values_that_validation_made_are_seen_as_json(self) -> None:
        class Colour(enum.Enum):
            RED = "red"
            BLUE = "blue"

        @Tool(
            name="Paint",
            register=False,
            access=Access(where={"colour": {"const": "red"}, "on": {"pattern": "^2026-"}, "price": {"maximum": 3}}),
        )
        def paint(colour: Colour, on: date, price: Decimal) -> int:
            return 1

        assert result_of(paint, ANN, colour="red", on="2026-01-02", price="2.5").success
        assert not result_of(paint, ANN, colour="blue", on="2026-01-02", price="2.5").success
        assert not result_of(paint, ANN, colour="red", on="2025-01-02", price="2.5").success
        assert not result_of(paint, ANN, colour="red", on="2026-01-02", price="3.5").success

    def test_scopes_and_roles_of_a_call_may_be_lists(self) -> None:
        with executor_for(pay_with(Access(scopes=("pay",), roles=("clerk",)))) as executor:
            call = create_tool_call("Pay.Send", {"amount": 1}, scopes=["pay"], roles={"clerk"})

            assert executor.execute_sync(call).success

    def test_callers_beyond_those_that_are_kept_compiled_are_told_apart(self) -> None:
        tool = pay_with(Access(where={"owner": {"const": {"$caller": "user_id"}}}))
        with executor_for(tool) as executor:
            for index in range(600):
                user = f"u{index % 300}"
                call = create_tool_call("Pay.Send", {"amount": 1, "owner": user}, user_id=user)
                other = create_tool_call("Pay.Send", {"amount": 1, "owner": "u0"}, user_id=f"{user}x")
                assert executor.execute_sync(call).success
                assert not executor.execute_sync(other).success


class TestWhen:
    @pytest.mark.parametrize(
        ("said", "status"),
        [(True, 200), (False, 403), (None, 403), ("too much", 403), (1, 503), ([], 503), (RuntimeError("no"), 503)],
    )
    def test_only_true_agrees(self, said: Any, status: int) -> None:
        def when(caller: Caller, arguments: Any) -> Any:
            if isinstance(said, Exception):
                raise said
            return said

        result = result_of(pay_with(Access(when=when)), ANN, amount=1)

        assert (result.status_code if not result.success else 200) == status
        if said == "too much":
            assert "too much" in result.error
            assert result.failure.details["rule"] == "access.when"

    def test_it_sees_the_caller_and_the_arguments_that_the_body_would_get(self) -> None:
        seen: list[Any] = []

        def when(caller: Caller, arguments: Any) -> bool:
            seen.append((caller, dict(arguments)))
            return True

        result_of(pay_with(Access(when=when)), BOB, amount=1)

        assert seen == [(BOB, {"amount": 1.0, "owner": "ann"})]

    def test_an_async_one_decides_blocking_calls_as_well(self) -> None:
        async def when(caller: Caller, arguments: Any) -> bool:
            await asyncio.sleep(0)
            return arguments["amount"] < 10

        access = Access(any_of=(Access(roles=("manager",)), Access(when=when)))

        assert passes(access, ANN, 9)
        assert not passes(access, ANN, 11)

    def test_an_async_one_that_hangs_is_cut(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("toolpost.security.access.PATIENCE_S", 0.05)

        async def when(caller: Caller, arguments: Any) -> bool:
            await asyncio.Event().wait()
            return True

        result = result_of(pay_with(Access(when=when)), ANN, amount=1)

        assert (result.failure.code, result.status_code) == ("authorizer_failed", 503)

    def test_an_async_one_in_disguise_refuses_blocking_calls(self) -> None:
        async def later() -> bool:
            return True

        result = result_of(pay_with(Access(when=lambda caller, arguments: later())), ANN, amount=1)

        assert result.failure.code == "authorizer_failed"

    def test_a_failing_way_does_not_close_another_and_is_told_when_none_holds(self) -> None:
        def breaks(caller: Caller, arguments: Any) -> bool:
            raise RuntimeError("database down")

        access = Access(any_of=(Access(when=breaks), Access(roles=("manager",))))

        assert passes(access, BOB)
        failed = result_of(pay_with(access), ANN, amount=1)
        assert (failed.status_code, failed.failure.code, failed.failure.retryable) == (503, "authorizer_failed", True)
        assert "database down" not in failed.error


class TestDeclaration:
    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            ({}, "asks for nothing"),
            ({"scopes": ()}, "scopes is empty"),
            ({"scopes": "read"}, "must be a tuple of names"),
            ({"scopes": ("read write",)}, "a scope has no spaces"),
            ({"roles": ("",)}, "names that are text"),
            ({"roles": (1,)}, "names that are text"),
            ({"requires_user": 1}, "requires_user must be True or False"),
            ({"when": "yes"}, "when must be callable"),
            ({"any_of": ()}, "any_of is empty"),
            ({"any_of": ("manager",)}, "any_of must be a tuple of Access"),
            ({"name": "", "requires_user": True}, "name must be text"),
            ({"where": {}}, "where is empty"),
            ({"where": "x"}, "where must map parameters"),
            ({"where": {"amount": 100}}, "must be JSON Schema such as"),
            ({"where": {"amount": {"maximm": 100}}}, "did you mean 'maximum'?"),
            ({"where": {"amount": {"maximum": "100"}}}, "is no JSON Schema"),
            ({"where": {"amount": {"pattern": "(a"}}}, "is no JSON Schema"),
            ({"where": {"amount": {"pattern": "(?=a)b"}}}, "is no JSON Schema"),
            ({"where": {"amount": {"$ref": "http://127.0.0.1/x"}}}, "is no keyword that conditions may use"),
            ({"where": {"amount": {"const": {"$caller": "user"}}}}, "did you mean 'user_id'?"),
            ({"where": {"amount": {"const": {"$caller": "roles"}}}}, "goes into enum"),
            ({"where": {"amount": {"enum": {"$caller": "user_id"}}}}, "goes into const"),
            ({"where": {"amount": {"$caller": "user_id"}}}, "write {'const'"),
            ({"where": {"amount": {"maximum": {"$caller": "user_id"}}}}, "is no JSON Schema"),
            ({"where": {"amount": {"not": {"format": "emial"}}}}, "Unknown format: 'emial'"),
            ({"where": {"amount": {"oneOf": [{"maximum": 1}, {"const": "x"}]}}}, "did you mean 'anyOf'?"),
            ({"where": {"amount": {"contains": True, "maxContains": 1}}}, "is no keyword that conditions may use"),
        ],
    )
    def test_what_cannot_hold_is_refused_with_the_fix(self, wrong: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            Access(**wrong)

        assert says in caught.value.message

    def test_a_parameter_that_is_none_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match=r"Access.where names 'amont'.* did you mean 'amount'\?"):
            pay_with(Access(any_of=(Access(where={"amont": {"maximum": 1}}),)))

    def test_later_changes_to_what_was_given_change_nothing(self) -> None:
        given_where = {"amount": {"maximum": 1}}
        access = Access(where=given_where)

        given_where["amount"]["maximum"] = 1_000_000

        assert not passes(access, ANN, 500)

    def test_it_can_be_written_and_read(self) -> None:
        access = Access(
            roles=("clerk",),
            where={"owner": {"const": {"$caller": "user_id"}}},
            any_of=(Access(scopes=("pay",), name="payers"), Access(requires_user=True)),
        )

        assert Access.from_dict(access.to_dict()) == access
        with pytest.raises(ConfigurationError, match="did you mean 'roles'"):
            Access.from_dict({"role": ["clerk"]})

    def test_a_class_tool_has_it_by_policy(self) -> None:
        class Orders(BaseTool):
            @policy(Access(requires_user=True, where={"n": {"maximum": 3}}))
            def get(self, n: int) -> int:
                return n

        with executor_for(Orders()) as executor:
            assert executor.execute_sync(create_tool_call("Orders.get", {"n": 3}, user_id="ann")).success
            assert executor.execute_sync(create_tool_call("Orders.get", {"n": 4}, user_id="ann")).status_code == 403
            assert executor.execute_sync(create_tool_call("Orders.get", {"n": 3})).status_code == 401

    def test_a_spec_has_it_as_data(self) -> None:
        spec = FunctionToolSpec(
            id="pay",
            tool_name="pay",
            description="",
            parameters=[NumericParameter(name="amount", required=True), StringParameter(name="to", required=False)],
            access={"roles": ["clerk"], "where": {"amount": {"maximum": 100}}},
        )
        definition = spec.define(lambda arguments: arguments["amount"])

        assert spec.access == {"roles": ["clerk"], "where": {"amount": {"maximum": 100}}}
        with executor_for(definition) as executor:
            assert executor.execute_sync(create_tool_call("pay", {"amount": 5}, roles=frozenset({"clerk"}))).success
            assert not executor.execute_sync(create_tool_call("pay", {"amount": 5})).success
            too_much = create_tool_call("pay", {"amount": 500}, roles=frozenset({"clerk"}))
            assert not executor.execute_sync(too_much).success

    async def test_the_context_of_a_spec_says_what_its_caller_may(self) -> None:
        spec = FunctionToolSpec(
            id="pay", tool_name="pay", description="", parameters=[], permissions=["a"], access={"roles": ["clerk"]}
        )
        executor = FunctionToolExecutor(spec, lambda arguments: 1)

        async def status(**auth: Any) -> int:
            return (await executor.execute({}, ToolContext(user_id="ann", auth=auth))).status_code

        assert await status(permissions=["a"], user_role="clerk") == 200
        assert await status(permissions=["b"], user_role="clerk") == 403
        assert await status(permissions=None, user_role="clerk") == 403
        assert await status(permissions=["a"], user_role="cook") == 403
        assert await status(permissions=["a"]) == 403
        for wrong in ({"a": False}, "abc", [["a"]], 5):
            with pytest.raises(ConfigurationError, match="must be a list of names"):
                await status(permissions=wrong, user_role="clerk")
        with pytest.raises(ConfigurationError, match="must be one name"):
            await status(permissions=["a"], user_role=["clerk"])

    @pytest.mark.parametrize(
        ("access", "says"),
        [
            ({"rolls": ["clerk"]}, "did you mean 'roles'"),
            (Access(when=lambda caller, arguments: True), "has no when"),
            ("clerk", "must be an Access or a mapping"),
        ],
    )
    def test_a_spec_refuses_what_is_none(self, access: Any, says: str) -> None:
        with pytest.raises(ConfigurationError, match=says):
            FunctionToolSpec(id="pay", tool_name="pay", description="", parameters=[], access=access)

    def test_what_is_known_of_a_tool_says_it(self) -> None:
        with executor_for(pay_with(Access(roles=("clerk",)))) as executor:
            assert executor.get_tool_info("Pay.Send")["access"] == {"roles": ["clerk"]}


class TestExplain:
    def test_the_rule_that_decided_is_told(self) -> None:
        access = Access(any_of=(Access(roles=("manager",), name="managers"), Access(where={"amount": {"maximum": 9}})))

        allowed = result_of(pay_with(access), BOB, explain=True, amount=50)
        small = result_of(pay_with(access), ANN, explain=True, amount=5)
        refused = result_of(pay_with(Access(where={"amount": {"maximum": 9}})), ANN, explain=True, amount=50)

        told = [
            next(entry for entry in one.explanation if entry["stage"] == "authorize")
            for one in (allowed, small, refused)
        ]
        assert [one["decision"] for one in told] == [
            "allowed by managers",
            "allowed by access.any_of[1]",
            "refused by access.where",
        ]
        assert "Access(" in told[0]["rule"]


leaves = st.sampled_from([{"maximum": 3}, {"minLength": 2}, {"type": "string"}, {"const": 1}, {"minItems": 1}, True])
nested = st.recursive(
    leaves,
    lambda inner: (
        st.builds(lambda one: {"not": one}, inner)
        | st.sampled_from(["allOf", "anyOf"]).flatmap(
            lambda keyword: st.lists(inner, min_size=1, max_size=2).map(lambda several: {keyword: several})
        )
        | st.builds(lambda one: {"items": one}, inner)
        | st.builds(lambda one, least: {"contains": one, "minContains": least}, inner, st.integers(0, 2))
        | st.builds(lambda one: {"properties": {"a": one}}, inner)
    ),
    max_leaves=6,
)
values = st.recursive(
    st.sampled_from([None, True, 1, 2, 9, "1", "x", "xy"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=4,
)


@given(nested, values)
@settings(max_examples=500, deadline=None)
def test_a_condition_lets_pass_nothing_that_its_schema_would_not(schema: Any, value: Any) -> None:
    if Condition("value", schema).holds(ANN, {"value": value}):
        assert compiled(schema)(value)


names = st.sampled_from(["a", "b", "c"])
some = st.none() | st.lists(names, min_size=1, max_size=2, unique=True).map(tuple)
schemas = st.sampled_from(
    [
        {"maximum": 3},
        {"const": {"$caller": "user_id"}},
        {"enum": {"$caller": "roles"}},
        {"not": {"const": {"$caller": "tenant"}}},
        True,
        False,
    ]
)


def accesses(depth: int = 2) -> st.SearchStrategy[Access]:
    fields = {
        "requires_user": st.booleans(),
        "scopes": some,
        "any_scopes": some,
        "roles": some,
        "tenants": some,
        "users": some,
        "where": st.none() | st.dictionaries(st.just("value"), schemas, min_size=1),
    }
    if depth:
        fields["any_of"] = st.none() | st.lists(accesses(depth - 1), min_size=1, max_size=2).map(tuple)

    def asks(chosen: dict[str, Any]) -> bool:
        return any(value not in (None, False) for value in chosen.values())

    return st.fixed_dictionaries({}, optional=fields).filter(asks).map(lambda chosen: Access(**chosen))


callers = st.builds(
    Caller,
    user_id=st.none() | names,
    tenant=st.none() | names,
    session_id=st.none(),
    scopes=st.frozensets(names),
    roles=st.frozensets(names),
)
BY_ARGUMENTS = (".where", ".when")


def is_about_arguments(details: dict[str, Any]) -> bool:
    """Whether a refusal hangs on arguments: its rule does, or one of the ways that did not hold."""
    alternatives = details.get("alternatives")
    if alternatives is not None:
        return any(is_about_arguments(one) for one in alternatives)
    return str(details.get("rule", "")).endswith(BY_ARGUMENTS)


class TestListsAndCallsAgree:
    @given(
        st.none() | accesses(), st.booleans(), st.lists(names, max_size=1), callers, st.sampled_from([1, 9, "a", "b"])
    )
    @settings(max_examples=300, deadline=None)
    def test_what_is_listed_is_what_is_not_refused_for_who_calls(
        self, access: Access | None, requires_auth: bool, permissions: list[str], caller: Caller, value: Any
    ) -> None:
        @Tool(name="Some.Tool", register=False, access=access, requires_auth=requires_auth, permissions=permissions)
        def tool(value: Any) -> int:
            return 1

        with executor_for(tool) as executor:
            listed = executor.get_available_tools(caller) == ["Some.Tool"]
            call = create_tool_call(
                "Some.Tool",
                {"value": value},
                user_id=caller.user_id,
                tenant=caller.tenant,
                scopes=caller.scopes,
                roles=caller.roles,
            )
            result = executor.execute_sync(call)

            if result.success:
                assert listed
            elif not listed:
                assert result.status_code in (401, 403)
                with pytest.raises((PermissionDeniedError, UnauthorizedError)):
                    executor.get_tool_info("Some.Tool", caller=caller)
            else:
                assert is_about_arguments(result.failure.details), result.failure
                assert executor.get_tool_info("Some.Tool", caller=caller)["name"] == "Some.Tool"

    def test_conditions_on_arguments_hide_nothing_but_what_nobody_could_meet(self) -> None:
        by_value = pay_with(Access(where={"amount": {"maximum": 1}}, when=lambda caller, arguments: False))
        never = Tool(name="Never", register=False, access=Access(where={"value": False}))(lambda value: 1)
        own = Tool(name="Own", register=False, access=Access(where={"value": {"const": {"$caller": "session_id"}}}))(
            lambda value: 1
        )
        with executor_for(by_value, never, own) as executor:
            assert executor.get_available_tools(ANN) == ["Pay.Send"]
            assert executor.get_available_tools(Caller(session_id="s")) == ["Own", "Pay.Send"]
            assert executor.get_available_tools() == ["Never", "Own", "Pay.Send"]

    def test_search_and_exports_are_of_what_a_caller_is_shown(self) -> None:
        from toolpost.transports.wire import export_tools

        managers = Tool(name="Money.Send", register=False, access=Access(roles=("manager",)))(lambda: 1)
        everyone = Tool(name="Money.Count", register=False)(lambda: 1)
        with executor_for(managers, everyone) as executor:
            assert [d.name for d in executor.tools_for(ANN, "money")] == ["Money.Count"]
            assert {d.name for d in executor.tools_for(BOB, "money")} == {"Money.Count", "Money.Send"}
            assert len(executor.tools_for(BOB, "money", limit=1)) == 1
            assert [one["name"] for one in export_tools(executor.tools_for(ANN), "mcp")] == ["Money.Count"]

    def test_a_tool_one_may_not_see_refuses_as_forbidden_and_says_why(self) -> None:
        with executor_for(pay_with(Access(roles=("manager",)))) as executor:
            result = executor.execute_sync(create_tool_call("Pay.Send", {"amount": 1}, user_id="ann"))
            with pytest.raises(PermissionDeniedError, match="'manager'"):
                executor.get_tool_info("Pay.Send", caller=ANN)
            with pytest.raises(ToolNotFoundError):
                executor.get_tool_info("Pay.Sent", caller=ANN)

        assert result.status_code == 403

    def test_versions_are_listed_one_by_one(self) -> None:
        def version(number: str, access: Access | None) -> Any:
            return Tool(name="Pay", version=number, register=False, access=access)(lambda: 1)

        with executor_for(version("1.0.0", None), version("2.0.0", Access(roles=("manager",)))) as executor:
            assert executor.get_tool_info("Pay@1.0.0", caller=ANN)["versions"] == ["1.0.0"]
            assert executor.get_tool_info("Pay", caller=BOB)["versions"] == ["1.0.0", "2.0.0"]
            assert executor.get_available_tools(ANN) == []


class TestEnginesAndLists:
    class Engine:
        name = "house"

        def __init__(self, shown: Any = True, decision: Any = None) -> None:
            self.shown, self.decision = shown, decision or Decision(True, "house-rule")

        def decide(self, tool: Any, caller: Caller, arguments: Any) -> Any:
            if isinstance(self.decision, Exception):
                raise self.decision
            return self.decision

        def may_list(self, tool: Any, caller: Caller) -> Any:
            if isinstance(self.shown, Exception):
                raise self.shown
            return self.shown

    def test_an_engine_hides_what_it_says_nobody_could_call(self) -> None:
        with executor_for(pay_with(None), authorizer=self.Engine(shown=False)) as executor:
            assert executor.get_available_tools(ANN) == []
            with pytest.raises(PermissionDeniedError):
                executor.get_tool_info("Pay.Send", caller=ANN)

    @pytest.mark.parametrize("shown", [RuntimeError("down"), "yes", None])
    def test_an_engine_that_cannot_say_makes_no_empty_list(self, shown: Any) -> None:
        with executor_for(pay_with(None), authorizer=self.Engine(shown=shown)) as executor:
            with pytest.raises(AuthorizerFailedError):
                executor.get_available_tools(ANN)

    def test_an_engine_without_lists_and_a_hook_hide_nothing(self) -> None:
        class Decides:
            def decide(self, tool: Any, caller: Caller, arguments: Any) -> Decision:
                return Decision(False)

        for authorizer in (Decides(), lambda tool, caller, arguments: False):
            with executor_for(pay_with(None), authorizer=authorizer) as executor:
                assert executor.get_available_tools(ANN) == ["Pay.Send"]

    class Async:
        async def decide(self, tool: Any, caller: Caller, arguments: Any) -> Decision:
            await asyncio.sleep(0)
            return Decision(True)

        async def may_list(self, tool: Any, caller: Caller) -> bool:
            await asyncio.sleep(0)
            return caller.user_id == "ann"

    def test_an_async_engine_is_asked_for_blocking_callers_too(self) -> None:
        with executor_for(pay_with(None), authorizer=self.Async()) as executor:
            assert executor.get_available_tools(ANN) == ["Pay.Send"]
            assert executor.get_available_tools(BOB) == []

    async def test_within_a_loop_it_is_awaited(self) -> None:
        with executor_for(pay_with(None), authorizer=self.Async()) as executor:
            assert [d.name for d in await executor.tools_for_async(ANN)] == ["Pay.Send"]
            assert await executor.tools_for_async(BOB) == []
            with pytest.raises(ConfigurationError, match="await tools_for_async"):
                executor.get_available_tools(ANN)
