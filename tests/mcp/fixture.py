"""What the official MCP conformance suite calls, written as anybody's tools would be; the suite fixes all names.

Its own description of each is in the suite's source, beside the checks.
"""

import asyncio
from typing import Any

from toolpost import (
    Content,
    EngineError,
    Hints,
    Prompt,
    PromptArgument,
    Question,
    Resource,
    Tool,
    ToolContext,
    ToolError,
    ToolExecutor,
)

# One red pixel, and a tenth of a second of silence.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
WAV = (
    bytes.fromhex("524946464403000057415645666d74201000000001000100401f0000401f0000010008006461746120030000")
    + b"\x80" * 800
)

TASK = Hints(task="optional")


def form(message: str, **properties: Any) -> Question:
    """A form whose fields are all to be filled in."""
    return Question.form(message, {"properties": properties, "required": list(properties)})


# What results are made of.


@Tool(register=False)
def test_simple_text() -> str:
    """Give text."""
    return "This is a simple text response for testing."


@Tool(register=False)
def test_image_content() -> Content:
    """Give a picture."""
    return Content.image(PNG, "image/png")


@Tool(register=False)
def test_audio_content() -> Content:
    """Give sound."""
    return Content.audio(WAV, "audio/wav")


@Tool(register=False)
def test_embedded_resource() -> Content:
    """Give a resource with its contents."""
    return Content.resource("test://embedded-resource", "This is an embedded resource content.", "text/plain")


@Tool(register=False)
def test_multiple_content_types() -> Content:
    """Give text, a picture and a resource."""
    return (
        Content.text("Multiple content types test:")
        + Content.image(PNG, "image/png")
        + Content.resource("test://mixed-content-resource", '{"test":"data","value":123}', "application/json")
    )


@Tool(register=False)
def test_error_handling() -> str:
    """Fail."""
    raise ToolError("This tool intentionally returns an error for testing")


@Tool(register=False)
async def test_tool_with_logging(ctx: ToolContext) -> str:
    """Log three lines while it works."""
    ctx.log("Tool execution started")
    await asyncio.sleep(0.05)
    ctx.log("Tool processing data")
    await asyncio.sleep(0.05)
    ctx.log("Tool execution completed")
    return "It logged."


@Tool(register=False)
def test_logging_tool(ctx: ToolContext) -> str:
    """Log a line, for those that asked for lines."""
    ctx.log("a line that only who asked for it may get")
    return "It logged."


@Tool(register=False)
async def test_tool_with_progress(ctx: ToolContext) -> str:
    """Tell of progress three times."""
    ctx.progress(0, 100)
    await asyncio.sleep(0.05)
    ctx.progress(50, 100)
    await asyncio.sleep(0.05)
    ctx.progress(100, 100)
    return "It is done."


@Tool(register=False)
async def test_reconnection(ctx: ToolContext) -> str:
    """Let the caller's connection go, and give the result to whoever comes back for it."""
    ctx.detach()
    await asyncio.sleep(0.1)
    return "It came back."


@Tool(
    register=False,
    parameters={
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            }
        },
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    },
)
def json_schema_2020_12_tool(**given: Any) -> dict[str, Any]:
    """Take what a schema with much of JSON Schema 2020-12 allows."""
    return given


@Tool(
    register=False,
    parameters={
        "region": {"type": "string", "x-mcp-header": "Region", "description": "Where to look."},
        "query": {"type": "string", "default": "all", "description": "What to look for."},
    },
)
def test_custom_headers(region: str, query: str) -> str:
    """Look for something in a region, which is told in a header as well."""
    return f"{query} in {region}"


# What bodies ask of whoever called: while they run, or, from 2026-07-28 on, by being called again with the answers.


@Tool(register=False)
async def test_sampling(prompt: str, ctx: ToolContext) -> str:
    """Ask the caller's model."""
    answer = await ctx.sample(prompt, max_tokens=100)
    return f"LLM response: {answer['content']['text']}"


@Tool(register=False)
async def test_missing_capability(ctx: ToolContext) -> str:
    """Ask the caller's model, whether there is one or not."""
    return str((await ctx.sample("Is there a model?"))["content"])


@Tool(register=False)
async def test_elicitation(message: str, ctx: ToolContext) -> str:
    """Ask the person."""
    fields = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    answer = await ctx.elicit(message, {"properties": fields, "required": list(fields)})
    return f"User response: {answer}"


@Tool(register=False)
async def test_streaming_elicitation(ctx: ToolContext) -> str:
    """Ask the person after some progress."""
    ctx.progress(1, 2)
    return f"User response: {await ctx.elicit('Please confirm')}"


@Tool(register=False)
async def test_elicitation_sep1034_defaults(ctx: ToolContext) -> str:
    """Ask the person by a form with defaults."""
    fields = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    return f"Elicitation completed: {await ctx.elicit('Who are you?', {'properties': fields})}"


@Tool(register=False)
async def test_elicitation_sep1330_enums(ctx: ToolContext) -> str:
    """Ask the person by a form with all kinds of choices."""
    options = ["option1", "option2", "option3"]
    titled = [
        {"const": "value1", "title": "First Option"},
        {"const": "value2", "title": "Second Option"},
        {"const": "value3", "title": "Third Option"},
    ]
    fields = {
        "untitledSingle": {"type": "string", "enum": options},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    return f"Elicitation completed: {await ctx.elicit('Choose', {'properties': fields})}"


@Tool(register=False)
async def test_input_required_result_elicitation(ctx: ToolContext) -> str:
    """Ask for a name."""
    answers = await ctx.ask({"user_name": form("What is your name?", name={"type": "string"})})
    return f"Hello, {answers['user_name']['content']['name']}!"


@Tool(register=False)
async def test_input_required_result_sampling(ctx: ToolContext) -> str:
    """Ask for a capital."""
    answers = await ctx.ask({"capital_question": Question.sample("What is the capital of France?", max_tokens=100)})
    return str(answers["capital_question"]["content"]["text"])


@Tool(register=False)
async def test_input_required_result_list_roots(ctx: ToolContext) -> list[str]:
    """Ask for folders."""
    answers = await ctx.ask({"client_roots": Question.roots()})
    return [root["uri"] for root in answers["client_roots"]["roots"]]


@Tool(register=False)
async def test_input_required_result_request_state(ctx: ToolContext) -> str:
    """Ask for a yes, and know what was asked when it comes."""
    await ctx.ask({"confirm": form("Please confirm", ok={"type": "boolean"})})
    return "state-ok"


@Tool(register=False)
async def test_input_required_result_tampered_state(ctx: ToolContext) -> str:
    """Ask for a yes to what nobody may change."""
    await ctx.ask({"confirm": form("Please confirm", ok={"type": "boolean"})})
    return "confirmed"


@Tool(register=False)
async def test_input_required_result_multiple_inputs(ctx: ToolContext) -> str:
    """Ask for three things at once."""
    answers = await ctx.ask(
        {
            "user_name": form("What is your name?", name={"type": "string"}),
            "greeting": Question.sample("Generate a greeting", max_tokens=50),
            "client_roots": Question.roots(),
        }
    )
    name, greeting = answers["user_name"]["content"]["name"], answers["greeting"]["content"]["text"]
    return f"{greeting} {name}, in {len(answers['client_roots']['roots'])} folders"


@Tool(register=False)
async def test_input_required_result_multi_round(ctx: ToolContext) -> str:
    """Ask for one thing after the other."""
    first = await ctx.ask({"step1": form("Step 1: What is your name?", name={"type": "string"})})
    second = await ctx.ask({"step2": form("Step 2: What is your favorite color?", color={"type": "string"})})
    return f"{first['step1']['content']['name']} likes {second['step2']['content']['color']}"


@Tool(register=False)
async def test_input_required_result_capabilities(ctx: ToolContext) -> str:
    """Ask for what the caller's side can answer."""
    answers = await ctx.ask(
        {
            "model": Question.sample("Say something.", optional=True),
            "person": Question.form("Say something.", optional=True),
        }
    )
    return ", ".join(key for key, answer in answers.items() if answer is not None)


# Calls that become tasks.


@Tool(register=False)
def greet(name: str) -> str:
    """Greet somebody, at once."""
    return f"Hello, {name}!"


@Tool(register=False, hints=TASK, timeout_seconds=120)
async def slow_compute(seconds: float, label: str = "") -> str:
    """Take some seconds."""
    await asyncio.sleep(seconds)
    return f"computed {label} for {seconds} s"


@Tool(register=False, hints=Hints(task="required"))
async def failing_job() -> str:
    """Fail after a second."""
    await asyncio.sleep(1)
    raise ToolError("the job failed, as it always does")


@Tool(register=False, hints=TASK)
async def protocol_error_job() -> str:
    """End by a failure that is not the tool's."""
    await asyncio.sleep(0.1)
    raise EngineError("the engine cannot go on, as it never can")


@Tool(register=False, hints=TASK)
async def confirm_delete(filename: str, ctx: ToolContext) -> str:
    """Delete a file, once the person agrees."""
    answer = await ctx.ask({"confirm": form(f"Delete {filename}?", confirm={"type": "boolean"})})
    agreed = answer["confirm"]["action"] == "accept"
    return f"{filename} was {'deleted' if agreed else 'kept'}"


@Tool(register=False, hints=TASK)
async def multi_input(ctx: ToolContext) -> str:
    """Ask for two things at once."""
    answers = await ctx.ask(
        {
            "name": form("What is your name?", name={"type": "string"}),
            "sure": form("Are you sure?", confirm={"type": "boolean"}),
        }
    )
    return f"{answers['name']['action']}, {answers['sure']['action']}"


@Tool(register=False, hints=Hints(task="after_input"))
async def test_tool_with_task(ctx: ToolContext) -> str:
    """Ask for a name, then work for it in a task."""
    answers = await ctx.ask({"user_name": form("What is your name?", name={"type": "string"})})
    return f"Hello, {answers['user_name']['content']['name']}!"


# What there is to read and to begin with.


def template_data(id: str) -> dict[str, Any]:
    """What a resource with an id holds."""
    return {"id": id, "templateTest": True, "data": f"Data for ID: {id}"}


RESOURCES = [
    Resource(
        uri="test://static-text",
        read="This is the content of the static text resource.",
        description="Text.",
        media_type="text/plain",
    ),
    Resource(uri="test://static-binary", read=PNG, description="A picture.", media_type="image/png"),
    Resource(
        uri="test://template/{id}/data", read=template_data, description="By an id.", media_type="application/json"
    ),
    Resource(uri="test://watched-resource", read="It does not change.", description="Text to subscribe to."),
]


def prompt_with_arguments(arg1: str, arg2: str) -> str:
    """Text of two arguments."""
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


def prompt_with_embedded_resource(resourceUri: str) -> list[Content]:
    """A resource and what to do with it."""
    return [
        Content.resource(resourceUri, "Embedded resource content for testing.", "text/plain"),
        Content.text("Please process the embedded resource above."),
    ]


async def prompt_with_question(ctx: ToolContext) -> str:
    """Text of what the person says."""
    answers = await ctx.ask({"user_context": form("What context should the prompt use?", context={"type": "string"})})
    return f"Use this context: {answers['user_context']['content']['context']}"


PROMPTS = [
    Prompt(
        name="test_simple_prompt",
        render=lambda: "This is a simple prompt for testing.",
        description="Text that is always the same.",
    ),
    Prompt(
        name="test_prompt_with_arguments",
        render=prompt_with_arguments,
        description="Text of two arguments.",
        arguments=(
            PromptArgument(name="arg1", description="First test argument"),
            PromptArgument(name="arg2", description="Second test argument"),
        ),
        complete={"arg1": lambda typed, given: [word for word in ("testing", "testament") if word.startswith(typed)]},
    ),
    Prompt(
        name="test_prompt_with_embedded_resource",
        render=prompt_with_embedded_resource,
        description="A resource and what to do with it.",
    ),
    Prompt(
        name="test_prompt_with_image",
        render=lambda: [Content.image(PNG, "image/png"), Content.text("Please analyze the image above.")],
        description="A picture and what to do with it.",
    ),
    Prompt(
        name="test_input_required_result_prompt",
        render=prompt_with_question,
        description="Text of what the person says.",
    ),
]

# What there is changes while clients look.

executors: list[ToolExecutor] = []


def serving(executor: ToolExecutor) -> None:
    """Be told whose tools and prompts are to change."""
    executors.append(executor)


@Tool(register=False)
def test_trigger_tool_change() -> str:
    """Offer a tool anew."""
    for executor in executors:
        executor.add(greet, replace=True)
    return "The tools have changed."


@Tool(register=False)
def test_trigger_prompt_change() -> str:
    """Offer a prompt anew."""
    for executor in executors:
        executor.add(PROMPTS[0], replace=True)
    return "The prompts have changed."


TOOLS = [*(thing for thing in vars().values() if hasattr(thing, "tool_definition")), *RESOURCES, *PROMPTS]
