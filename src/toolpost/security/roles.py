"""What a parameter's text is for: its role, which is declared, or told by its format or its name."""

from __future__ import annotations

import difflib
import re
from typing import Final, Literal, get_args

from toolpost.calls.errors import ConfigurationError

Role = Literal["text", "document", "identifier", "path", "url", "sql", "html", "shell", "regex", "template", "skip"]
Level = Literal["low", "medium", "high", "strict"]

ROLES: Final[tuple[Role, ...]] = get_args(Role)
LEVELS: Final[tuple[Level, ...]] = get_args(Level)

_FORMATS: Final[tuple[tuple[Role, str], ...]] = (
    ("url", "uri uri-reference iri iri-reference url"),
    ("path", "path file-path directory-path"),
    ("identifier", "uuid"),
    ("regex", "regex"),
    ("template", "uri-template"),
    ("sql", "sql"),
    ("html", "html"),
)
_LAST_WORDS: Final[tuple[tuple[Role, str], ...]] = (
    ("path", "path file filename filepath pathname dir dirname directory folder cwd"),
    ("path", "file_name dir_name directory_name folder_name"),
    ("url", "url uri link href endpoint webhook"),
    ("sql", "sql sql_query sql_statement sql_text sql_string"),
    ("html", "html html_content html_body html_text html_fragment"),
    ("shell", "cmd cmdline cmd_line command command_line shell script bash"),
    ("identifier", "id uid uuid guid slug identifier"),
    ("regex", "regex regexp pattern"),
    ("template", "template template_string template_text"),
    ("document", "content contents body document markdown code source source_code snippet diff patch"),
)
_BY_FORMAT: Final = {word: role for role, words in _FORMATS for word in words.split()}
_BY_LAST_WORDS: Final = {word: role for role, words in _LAST_WORDS for word in words.split()}
_WORD_EDGE: Final = re.compile(
    r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})|[^A-Za-z0-9]+|(?<=[A-Za-z])(?=\d+$)"
)


def role_of(name: str, *, format: str | None = None, declared: str | None = None) -> Role:
    """The role of a parameter: the declared one, else by its JSON Schema format, else by its name.

    Names are read by their last words, numbers aside: `target_path`, `filePath`, `paths` and `path2` are paths,
    `file_content` is a document. Raises ConfigurationError when the declared role does not exist.
    """
    if declared is not None:
        return _declared(name, declared)
    if format is not None and format.lower() in _BY_FORMAT:
        return _BY_FORMAT[format.lower()]
    words = [word.lower() for word in _WORD_EDGE.split(name) if word and not word.isdecimal()]
    if not words:
        return "text"
    return _BY_LAST_WORDS.get("_".join(words[-2:])) or _BY_LAST_WORDS.get(_singular(words[-1]), "text")


def _declared(name: str, declared: str) -> Role:
    for role in ROLES:
        if role == declared:
            return role
    near = difflib.get_close_matches(str(declared), ROLES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the roles are {', '.join(ROLES)}"
    raise ConfigurationError(f"parameter {name!r}: {declared!r} is not a role; {hint}")


def _singular(word: str) -> str:
    if word == "directories":
        return "directory"
    return word[:-1] if word.endswith("s") and word[:-1] in _BY_LAST_WORDS else word
