"""Regular expressions whose search takes linear time whatever the text: those of the JSON Schema validator's engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

MOST_BYTES: Final = 64 * 1024 * 1024
"""What a compiled expression may take; none of ours takes a tenth of it."""
CACHE_BYTES: Final = 32 * 1024 * 1024
"""What a search may keep, for each thread, of the automaton that it builds while it reads. A tenth of it is not enough
for texts that are made to need many states, and then a character takes a thousand times as long."""


def linear(expression: str) -> Callable[[str], bool]:
    """Compile an expression; what it gives says whether a text holds a match.

    The syntax is that of Rust's crate regex: no look-around and no back references, which is why no text can make a
    search slow. A text with halves of surrogate pairs raises UnicodeEncodeError.
    """
    from jsonschema_rs import RegexOptions, validator_for  # which takes a while, and an executor may never need it

    schema = {"type": "string", "pattern": expression}
    options = RegexOptions(size_limit=MOST_BYTES, dfa_size_limit=CACHE_BYTES)
    return validator_for(schema, pattern_options=options).is_valid
