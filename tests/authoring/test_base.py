"""BaseTool: methods are operations, schemas bind by name, settings make an executor."""

import copy
import gc
import weakref

import pytest
from pydantic import BaseModel

from toolpost import BaseTool, ConfigurationError, ToolExecutor, ToolNotFoundError, cache_result, validate_input
from toolpost.authoring.base import snake_case
from toolpost.testing import executor_for


class Files(BaseTool):
    class ReadSchema(BaseModel):
        path: str
        limit: int = 10

    class ProcessSchema(BaseModel):
        data: str

    class ProcessAllSchema(BaseModel):
        data: list[str]

    def read(self, path, limit):
        return f"{path}:{limit}"

    def process_data(self, data: str):
        return data.upper()

    def process_all(self, data):
        return len(data)

    async def fetch(self, n: int):
        return n

    def _private(self):
        raise AssertionError("no operation")

    @property
    def size(self):
        return 1

    @staticmethod
    def helper():
        return None


@pytest.fixture
def tool():
    with executor_for() as executor:
        made = Files()
        made._executor = executor
        yield made


def test_operations_are_the_public_methods_a_class_adds(tool):
    assert tool.operations() == ("read", "process_data", "process_all", "fetch")
    assert [d.name for d in tool.definitions()] == [
        "Files.read",
        "Files.process_data",
        "Files.process_all",
        "Files.fetch",
    ]


def test_async_operations_are_noted(tool):
    assert tool._async_methods == ["fetch"]


def test_a_schema_binds_by_its_whole_name_first_then_by_a_unique_beginning(tool):
    assert {op: s.__name__ for op, s in tool._schemas.items()} == {
        "read": "ReadSchema",
        "process_data": "ProcessSchema",
        "process_all": "ProcessAllSchema",
    }
    assert tool.run("read", path="a") == "a:10"
    assert tool.get_schema_coverage()["from_signature"] == ["fetch"]


def test_a_schema_that_fits_nothing_is_refused_with_the_fix():
    class Lost(BaseTool):
        class RaedSchema(BaseModel):
            path: str

        def read(self, path):
            return path

    with pytest.raises(ConfigurationError, match=r"Lost\.RaedSchema fits no operation.*operations: read"):
        Lost()


def test_a_schema_that_fits_two_is_refused_with_the_fix():
    class Torn(BaseTool):
        class GetSchema(BaseModel):
            n: int

        def get_one(self, n):
            return n

        def get_two(self, n):
            return n

    with pytest.raises(ConfigurationError, match=r"fits 'get_one' and 'get_two'; name it GetOneSchema"):
        Torn()


def test_a_schema_given_by_decorator_is_bound_to_that_method_alone():
    class Given(BaseTool):
        class ProcessSchema(BaseModel):
            data: str

        @validate_input(ProcessSchema)
        def handle(self, data):
            return data

    assert Given().run("handle", data="x") == "x"


def test_a_schema_and_a_method_that_disagree_are_refused():
    class Extra(BaseTool):
        class ReadSchema(BaseModel):
            path: str
            mode: str

        def read(self, path):
            return path

    class Needs(BaseTool):
        class ReadSchema(BaseModel):
            path: str

        def read(self, path, mode):
            return path

    with pytest.raises(ConfigurationError, match=r"'mode', which .*Extra.read"):
        Extra().definitions()
    with pytest.raises(ConfigurationError, match="needs 'mode'"):
        Needs().definitions()


def test_subclasses_inherit_and_override_operations():
    class More(Files):
        def read(self, path, limit):
            return "overridden " + super().read(path, limit)

        def extra(self):
            return "extra"

    more = More()

    assert more.run("read", path="a", limit=1) == "overridden a:1"
    assert more.run("process_data", data="x") == "X"
    assert more.run("extra") == "extra"


def test_super_of_a_decorated_method_runs_the_body_once_through_the_pipeline():
    class Parent(BaseTool):
        @cache_result(ttl=60)
        def work(self, n: int):
            return [n]

    class Child(Parent):
        def work(self, n: int):
            return [*super().work(n), "child"]

    child = Child()

    assert child.run("work", n=1) == [1, "child"]


def test_an_unknown_operation_names_the_nearest(tool):
    with pytest.raises(ToolNotFoundError, match="Files has no operation 'raed'; did you mean 'read'"):
        tool.run("raed")
    with pytest.raises(ToolNotFoundError):
        tool.run("_private")


class TestSettings:
    def test_settings_give_the_tool_an_executor_of_its_own(self):
        tool = Files({"cache_size": 7, "cache_ttl": 60})

        assert tool._executor.config.cache_size == 7
        assert Files()._executor is not tool._executor

    def test_tools_without_settings_share_the_processs_executor(self):
        assert Files()._executor is Files()._executor

    def test_a_setting_nobody_knows_is_refused_with_the_nearest(self):
        with pytest.raises(ValueError, match="'cache_sise' is not known; did you mean 'cache_size'"):
            Files({"cache_sise": 7})

    def test_a_wrong_value_is_refused(self):
        with pytest.raises(ValueError, match="cache_size"):
            Files({"cache_size": -1})

    def test_settings_of_its_own_are_validated_by_the_nested_config(self):
        class Client(BaseTool):
            class Config(BaseModel):
                base: str = "http://localhost"
                retries: int = 3

            def where(self):
                return self.config.base

        assert Client({"base": "http://127.0.0.1:1"}).run("where") == "http://127.0.0.1:1"
        assert Client().config.retries == 3
        with pytest.raises(ValueError, match="retries"):
            Client({"retries": "many"})

    def test_another_executor_may_be_given_at_any_time(self):
        tool = Files()
        with ToolExecutor() as first, ToolExecutor() as second:
            for executor in (first, second, first):
                tool._executor = executor
                tool.run("process_data", data="x")

            assert (first.get_metrics()["requests"], second.get_metrics()["requests"]) == (2, 1)

    def test_a_class_that_does_not_call_super_works_all_the_same(self):
        class Bare(BaseTool):
            def __init__(self):
                self.n = 5

            def get(self, plus: int):
                return self.n + plus

        assert Bare().run("get", plus=1) == 6


class TestWhoFor:
    class Scoped(BaseTool):
        def plain(self, n: int):
            return n

        def told(self, n: int, user_id: str = "", task_id: str = ""):
            return (n, user_id, task_id)

        def about(self, user_id: str):
            return user_id

    @pytest.fixture
    def scoped(self):
        with executor_for() as executor:
            made = self.Scoped()
            made._executor = executor
            executor.add(made)
            yield made

    def test_user_and_task_reach_only_operations_that_take_them(self, scoped):
        assert scoped.run("plain", n=1, user_id="ann", task_id="t") == 1
        assert scoped.run("told", n=1, user_id="ann", task_id="t") == (1, "ann", "t")
        assert scoped.run("told", n=1) == (1, "", "")

    def test_models_are_not_shown_what_only_scopes(self, scoped):
        shown = {d.operation: list(d.parameters["properties"]) for d in scoped.definitions()}

        assert shown == {"plain": ["n"], "told": ["n"], "about": ["user_id"]}

    async def test_a_door_cannot_name_another_user_in_the_arguments(self, scoped):
        from toolpost import create_tool_call

        call = create_tool_call("Scoped.told", {"n": 1, "user_id": "bob"}, user_id="ann")

        assert (await scoped._executor.execute_tool_call(call)).status_code == 400

    async def test_a_door_says_who_the_user_is(self, scoped):
        from toolpost import create_tool_call

        about = create_tool_call("Scoped.about", {"user_id": "victim"}, user_id="mallory")
        result = await scoped._executor.execute_tool_call(about)
        assert (result.status_code, result.metadata["errors"][0]["path"]) == (400, "/user_id")
        own = create_tool_call("Scoped.about", {}, user_id="mallory")
        assert (await scoped._executor.execute_tool_call(own)).data == "mallory"

        call = create_tool_call("Scoped.told", {"n": 1}, user_id="ann", task_id="t9")

        assert (await scoped._executor.execute_tool_call(call)).data == [1, "ann", "t9"]


def test_parameters_may_have_any_name_and_operations_any_that_is_free():
    class Named(BaseTool):
        def calc(self, op: str, tool_instance: int, operation: str, name: str, kwargs: int) -> list:
            return [op, tool_instance, operation, name, kwargs]

    class Taken(BaseTool):
        def operations(self, n: int):
            return n

    class Runs(BaseTool):
        def run(self, n: int):
            return n

    arguments = {"op": "add", "tool_instance": 1, "operation": "x", "name": "n", "kwargs": 2}
    assert Named().run("calc", **arguments) == ["add", 1, "x", "n", 2]
    for taken in (Taken, Runs):
        with pytest.raises(ConfigurationError, match="BaseTool has"):
            taken()


def test_a_copy_is_a_tool_of_its_own_with_the_same_executor():
    tool = Files({"cache_size": 7})
    tool.run("process_data", data="x")

    other = copy.copy(tool)

    assert other._executor is tool._executor
    assert other.definitions()[0].function.__self__ is other


def test_one_tool_object_serves_two_executors_without_being_compiled_again():
    tool = Files()
    with executor_for() as first, executor_for() as second:
        for _ in range(3):
            for executor in (first, second):
                assert executor.execute(tool, "process_data", data="x") == "X"
        bounds = tool.__dict__["_toolpost_bounds"]
        before = list(bounds.values())
        first.execute(tool, "process_data", data="x")

        assert list(bounds.values()) == before


def test_objects_without_a_dict_are_told_apart_though_they_are_equal():
    class Equal:
        __slots__ = ("n",)

        def __init__(self, n):
            self.n = n

        def __eq__(self, other):
            return True

        __hash__ = None

        def get(self):
            return self.n

    with executor_for() as executor:
        assert [executor.execute(Equal(n), "get") for n in (1, 2)] == [1, 2]


def test_tools_that_are_dropped_leave_nothing_behind():
    with executor_for() as executor:
        refs = []
        for _ in range(5):
            tool = Files()
            executor.execute(tool, "process_data", data="x")
            refs.append(weakref.ref(tool))
        del tool
        gc.collect()

        assert [ref() for ref in refs] == [None] * 5


@pytest.mark.parametrize(
    ("camel", "snake"),
    [
        ("ProcessData", "process_data"),
        ("Read", "read"),
        ("HTTPFetch", "http_fetch"),
        ("GetURL", "get_url"),
        ("A1B", "a1_b"),
    ],
)
def test_names_are_turned_to_snake_case(camel, snake):
    assert snake_case(camel) == snake
