"""How much of each corpus the rules refuse, and the bars for it; what the tests and benchmarks/screening.py share."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from toolpost.calls.errors import EgressDeniedError
from toolpost.security.egress_addresses import block_of
from toolpost.security.egress_urls import literal
from toolpost.security.rules import Screen, normalised

STATED = re.compile(r"(\bSELECT\b|\bINSERT\b|--|;|/\*)", re.IGNORECASE).search
"""The pattern that the requirement documents state; it is measured beside ours."""


class Corpus(NamedTuple):
    """A file of texts: at least (attacks) or at most (innocent) this share is to be refused; None: only shown.

    CRS is what OWASP's core rule set refuses at paranoia level 1, as was measured on the same texts.
    """

    name: str
    what: str
    crs: float
    bar: float | None

    @property
    def attacks(self) -> bool:
        """Whether its texts are attacks."""
        return self.name.startswith("mal_")


CORPORA: tuple[Corpus, ...] = (
    Corpus("mal_sqli_public", "SQL injection, public lists", 0.78, 0.78),
    Corpus("mal_sqli_libinjection", "SQL injection, libinjection's", 1.0, 1.0),
    Corpus("mal_xss_public", "script, public lists", 0.98, 0.98),
    Corpus("mal_xss_libinjection", "script, libinjection's", 1.0, 1.0),
    Corpus("mal_cmdi_public", "commands, public lists", 0.73, 0.73),
    Corpus("mal_path_public", "paths, public lists", 0.87, 0.87),
    Corpus("mal_ssrf_raw", "SSRF", 0.49, 0.49),
    Corpus("ben_prose_sentences", "sentences", 0.008, 0.0008),
    Corpus("ben_prose_paragraphs", "paragraphs", 0.04, 0.004),
    Corpus("ben_commit_subjects", "commit subjects", 0.025, 0.0025),
    Corpus("ben_markdown", "Markdown", 0.13, 0.013),
    Corpus("ben_tool_args", "arguments of tools", 0.006, 0.0006),
    Corpus("ben_names", "names", 0.002, 0.0002),
    Corpus("ben_paths", "paths", 0.08, 0.008),
    Corpus("ben_agent_prompts", "prompts of agents", 0.017, 0.0017),
    Corpus("ben_shell_commands", "shell commands", 0.13, None),
    Corpus("ben_shakespeare", "Shakespeare", 0.001, None),
)

TYPED: tuple[tuple[str, str], ...] = (
    ("identifier", "mal_sqli_*"),
    ("identifier", "mal_xss_*"),
    ("identifier", "mal_cmdi_*"),
    ("identifier", "mal_path_*"),
    ("path", "mal_path_*"),
    ("url", "mal_ssrf_*"),
    ("url", "mal_xss_*"),
)
"""Roles whose values have a form, and the corpora that aim at their sinks: what is not refused can do no harm there."""

TYPED_BAR = 0.999

Judge = Callable[[str], object]


def plain() -> Judge:
    """What a parameter of free text is judged by at the default level."""
    return Screen("text", "medium").check


def untrusted() -> Judge:
    """The same for a tool that declares @sanitize_input."""
    return Screen("text", "medium", untrusted=True).check


def share(judge: Judge, texts: Sequence[str]) -> float:
    """The share that is refused."""
    return sum(1 for text in texts if judge(text)) / len(texts)


_PLAIN_IDENTIFIER = re.compile(r"(?:[@#+]?\w|-\d)(?:[\w.:@/+~#=-]|, ?(?=[\w@#+])|(?<=auth0)\|)*\Z").match
_SCRIPT_OR_PLACE = re.compile(r"(?:javascript|vbscript|data|file):|.*//", re.IGNORECASE).match
_ADDRESS = re.compile(
    r"(?:(?:https?|wss?)://)?([a-z0-9-]+(?:\.[a-z0-9-]+)+)(?::\d{1,5})?(?:[/?#]\S*)?\Z", re.IGNORECASE
).match
_NO_HOST = re.compile(r"(?:mailto|tel|urn):\S+\Z|(?:[?#]|\.{0,2}/(?!/))[^\s\\]*\Z|\Z").match
_INNER = ("local", "localhost", "localdomain", "internal", "intranet", "private", "corp", "home", "lan", "arpa")


def is_harmless(role: str, text: str) -> bool:
    """Whether a text cannot leave its place in that role, as an oracle that knows no rule sees it.

    An identifier has no character that ends a literal, a tag, a command or a path, in whatever form it is written; a
    path stays in its folder however it is decoded; an address has a plain name or number that is not known to be inner.
    """
    if role == "identifier":
        plain = unicodedata.normalize("NFKC", text)
        sane = _PLAIN_IDENTIFIER(plain) is not None and _SCRIPT_OR_PLACE(plain) is None
        return sane and ".." not in plain and "--" not in plain.replace("--", "", 1)
    if role == "path":
        return all(_stays(view.replace("\\", "/")) for view in normalised(text))
    text = text.strip()
    found = _ADDRESS(text)
    if found is None:
        return _NO_HOST(text) is not None
    host = found[1].lower()
    try:
        address = literal(host)
    except (EgressDeniedError, ValueError):  # an address in a form that readers take for different ones
        return False
    if address is None:
        return not host.endswith(tuple(f".{name}" for name in _INNER)) and not host[-1].isdigit()
    return block_of(address) is None


def _stays(path: str) -> bool:
    if path.startswith(("/", "~")) or re.match(r"[A-Za-z][\w+.-]*:/|[A-Za-z]:", path) is not None or "\n" in path:
        return False
    depth = 0
    for part in path.split("/"):
        depth += -1 if part.strip() == ".." else part not in ("", ".")
        if depth < 0:
            return False
    return True
