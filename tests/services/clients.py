"""MCP clients that others wrote, in places of their own: npm packages (with the conformance suite) and two Python ones.

None of them shares a package with the tests: what a client brings along is what its users have.
"""

import sys
import venv
from pathlib import Path
from typing import ClassVar

from tests.services import node
from tests.services.server import CHECKOUT, Missing

FOLDER = Path(__file__).with_name("mcp_clients")
OLDEST_NODE = (22, 19)


class NpmClients:
    """The TypeScript client, MCP Inspector and the official conformance suite, with a Node.js that runs them."""

    name: ClassVar[str] = "npm_clients"
    package: ClassVar[str | None] = None
    conformance: ClassVar[str] = "node_modules/@modelcontextprotocol/conformance/dist/index.js"
    inspector: ClassVar[str] = "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js"

    @classmethod
    def find(cls) -> Path:
        """The folder that has node_modules. Raises Missing."""
        cls.node()
        folder = cls._folder()
        if not folder.joinpath(cls.conformance).exists():
            raise Missing("the npm packages of the MCP tests are not here: run 'make prepare'")
        return folder

    @classmethod
    def node(cls) -> Path:
        """The Node.js that runs them. Raises Missing."""
        return node.node(OLDEST_NODE)

    @classmethod
    def prepare(cls) -> None:
        program = node.prepared_node(OLDEST_NODE)
        if not cls._folder().exists():
            print("downloading the MCP conformance suite and clients from npm, once: some seconds", flush=True)
            node.npm_install(program, FOLDER, cls._folder())
        cls.find()

    @classmethod
    def _folder(cls) -> Path:
        return node.cached("npm-clients", FOLDER / "package-lock.json")


class PythonClients:
    """fastmcp, openai-agents and pydantic-ai, which share one environment."""

    name: ClassVar[str] = "python_clients"
    package: ClassVar[str | None] = None
    lock: ClassVar[Path] = CHECKOUT / "requirements" / "clients.txt"

    @classmethod
    def find(cls) -> Path:
        """The Python of the environment. Raises Missing."""
        python = cls._folder() / "bin" / "python"
        if not python.exists():
            raise Missing(f"the environment of {cls.lock.name} is not here: run 'make prepare'")
        return python

    @classmethod
    def prepare(cls) -> None:
        if not cls._folder().exists():
            print(f"installing the MCP clients of {cls.lock.name}, once: half a minute", flush=True)
            node.into(cls._folder(), cls._install)
        cls.find()

    @classmethod
    def _install(cls, made: Path) -> list[str]:
        venv.create(made, symlinks=True)
        # The lock has all that there is to install; older pips look for what is pinned without the extras asked for.
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--require-hashes"]
        pip = [sys.executable, "-m", "pip", "--python", str(made / "bin" / "python")]
        return [*pip, "install", *options, "-r", str(cls.lock)]

    @classmethod
    def _folder(cls) -> Path:
        """Another Python needs another environment."""
        return node.cached(f"{cls.lock.stem}-{sys.implementation.cache_tag}", cls.lock)


class LegacyPythonClients(PythonClients):
    """langchain-mcp-adapters, which needs the SDK of the revisions before 2026-07-28."""

    name = "legacy_python_clients"
    lock = CHECKOUT / "requirements" / "clients-legacy.txt"
