"""References: secrets by name, secret://provider/path#field, as authors and operators write them into declarations.

A text is either a reference and nothing else, or has references in braces: "Bearer {secret://env/TOKEN}".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from toolpost.calls.errors import ConfigurationError

REFERENCE: Final = "secret://"
"""What a value starts with that names a secret rather than being one."""

_FORM: Final = re.compile(r"secret://([a-z][a-z0-9_+.-]*)/([^\s{}#]+)(?:#([^\s{}]*))?")
_BRACED: Final = re.compile(r"\{(secret://[^{}\s]*)\}")
_ALONE: Final = re.compile(r"(?:[A-Za-z][\w-]{0,20} )?(?:secret://\S+|\{secret://[^{}\s]+\})")


class Reference(NamedTuple):
    """Which secret: the provider that has it, its path there, and a field where the secret is a JSON object."""

    provider: str
    path: str
    field: str | None = None

    def __str__(self) -> str:
        return f"{REFERENCE}{self.provider}/{self.path}" + ("" if self.field is None else f"#{self.field}")


def reference_of(text: str) -> Reference:
    """A reference, read. Raises ConfigurationError for what is none."""
    found = _FORM.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        shown = text if isinstance(text, str) and text.startswith(REFERENCE) else f"a {type(text).__name__}"
        raise ConfigurationError(
            f"a secret is named as secret://provider/path, such as secret://env/API_KEY or "
            f"secret://file/app.json#/token, got {shown!r:.200}"
        )
    return Reference(found[1], found[2], found[3])


def is_reference(text: object) -> bool:
    """Whether a text is meant as one reference, and nothing else."""
    return isinstance(text, str) and text.startswith(REFERENCE)


def only_names(text: object) -> bool:
    """Whether a text holds no more than a reference, with the name of a scheme before it perhaps: Bearer, Basic."""
    return isinstance(text, str) and _ALONE.fullmatch(text) is not None


def references_in(value: Any) -> Iterator[str]:
    """All references in the texts of a JSON value, as they are written.

    Raises ConfigurationError for one that stands in a text without braces, or is none: it would be taken for text.
    """
    if isinstance(value, str):
        if REFERENCE not in value:
            return
        found = [value] if value.startswith(REFERENCE) else _BRACED.findall(value)
        for text in found:
            reference_of(text)
        yield from found
        rest = "" if value.startswith(REFERENCE) else _BRACED.sub("", value)
        if REFERENCE in rest:
            bare = re.split(r"[{}\s]", rest[rest.index(REFERENCE) :])[0]
            raise ConfigurationError(f"within a text a reference stands in braces: {{{bare:.100}}}")
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from references_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from references_in(item)


def replaced(value: Any, make: Callable[[str], str]) -> Any:
    """A JSON value with each reference in its texts replaced by make(reference)."""
    if isinstance(value, str):
        if REFERENCE not in value:
            return value
        return make(value) if value.startswith(REFERENCE) else _BRACED.sub(lambda found: make(found[1]), value)
    if isinstance(value, Mapping):
        return {name: replaced(item, make) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [replaced(item, make) for item in value]
    return value


__all__ = ["REFERENCE", "Reference", "is_reference", "only_names", "reference_of", "references_in", "replaced"]
