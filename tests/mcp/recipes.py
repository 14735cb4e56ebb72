"""Tools that not everybody may use: what to be granted first is for OAuth clients to find out."""

from toolpost import Tool, ToolContext

written: list[str] = []


@Tool(register=False, permissions=("read",))
def read_recipes(ctx: ToolContext) -> str:
    """Read the recipes."""
    return f"{len(written)} recipes for {ctx.user_id}"


@Tool(register=False, permissions=("write",))
def write_recipe(text: str, ctx: ToolContext) -> str:
    """Write a recipe down."""
    written.append(text)
    return f"written for {ctx.user_id}"


TOOLS = [read_recipes, write_recipe]
