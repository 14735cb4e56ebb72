"""Where to look once a gateway answers: its URL, its pages, and a request to try."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolpost.calls.access import Access
from toolpost.transports.cli_show import to_json
from toolpost.transports.serve_checks import is_local

if TYPE_CHECKING:
    from toolpost.calls.definition import ToolDefinition
    from toolpost.engine.executor import ToolExecutor


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """What people are told of a gateway. socket is its Unix socket, if it listens on one; try_it a command.

    for_links is how its own links begin where no public_url says it: nothing where callers come by several addresses.
    """

    base_url: str
    for_links: str
    tools: int
    records: str
    socket: str | None
    try_it: str | None

    @classmethod
    def of(cls, executor: ToolExecutor, base_url: str) -> Looks:
        """Those of an executor's gateway."""
        config = executor.config
        socket = None if config.serve_uds is None else str(config.serve_uds)
        definitions = executor.registry.definitions()
        return cls(
            base_url=base_url,
            for_links=base_url if is_local(config) and socket is None else "",
            tools=len(definitions),
            records=executor.records.url,
            socket=socket,
            try_it=_try(definitions, base_url, socket),
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        told = {"url": self.base_url, "docs": f"{self.base_url}/docs", "mcp": f"{self.base_url}/mcp"}
        return told | {"tools": self.tools, "records": self.records, "socket": self.socket, "try": self.try_it}

    def __str__(self) -> str:
        where = f"{self.base_url} on the socket {self.socket}" if self.socket else self.base_url
        lines = [
            f"{self.tools} tools at {where}",
            f"  to read    {self.base_url}/docs",
            f"  for MCP    {self.base_url}/mcp",
            f"  records    {self.records}",
        ]
        lines += [f"  to try     {self.try_it}"] if self.try_it else []
        return "\n".join([*lines, "  to stop    Ctrl-C, which lets what runs end"])


def _try(definitions: list[ToolDefinition], base_url: str, socket: str | None) -> str | None:
    """A request that calls the tool which is easiest to call: one that changes nothing, with few arguments."""
    open_to_all = [one for one in definitions if not isinstance(one.policies.access, Access)]
    if not open_to_all:
        return None
    chosen = min(open_to_all, key=lambda one: (one.hints.read_only is not True, len(_required(one)), one.name))
    body = to_json({"arguments": {name: _sample(schema) for name, schema in _required(chosen).items()}}).decode()
    unix = f"--unix-socket {shlex.quote(socket)} " if socket else ""
    url = shlex.quote(f"{base_url}/v1/tools/{chosen.name}/calls")
    return f"curl -s {unix}{url} -H 'content-type: application/json' -d {shlex.quote(body)}"


def _required(definition: ToolDefinition) -> Mapping[str, Any]:
    properties = definition.parameters.get("properties", {})
    return {name: properties.get(name, {}) for name in definition.parameters.get("required", ())}


def _sample(schema: Any) -> Any:
    """Some value that a schema may allow."""
    if not isinstance(schema, Mapping):
        return None
    for word in ("default", "const"):
        if word in schema:
            return schema[word]
    for word in ("examples", "enum"):
        if schema.get(word):
            return schema[word][0]
    kind = schema.get("type")
    least = schema.get("minimum", 1)
    samples = {"string": "text", "integer": least, "number": least, "boolean": True, "array": [], "object": {}}
    return samples.get(str(kind[0] if isinstance(kind, list) and kind else kind))


__all__ = ["Looks"]
