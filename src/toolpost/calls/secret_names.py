"""What is hidden for its name: which names of parameters, headers and settings say that a secret stands under them."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

HIDDEN: Final = "[hidden]"
"""What is shown in the place of a secret."""

CREDENTIAL: Final = re.compile(
    r"auth|cookie|token|secret|passw|passphrase|credential|(api|access|private)[-_]?key|^key$", re.I
)
"""Names under which credentials usually travel in declarations, taken broadly: their values are never written."""

ASSIGNED: Final = re.compile(
    r"(?i)(\b[\w.-]{0,40}(?:password|passwd|pwd|passphrase|passcode|secret|token|api_?-?key|access_?-?key"
    r"|private_?-?key|credential|authorization|cookie)s?[\"']?\s{0,4}[=:]\s{0,4})"
    r"(?:\"[^\"]{1,500}\"|'[^']{1,500}'|[^\s,;&\"']{3,500})"
)
"""What is assigned to a secret's name in a sentence: password=..., "token": "..."."""

_SECRET_WORDS: Final = frozenset({
    "password", "passwords", "passwd", "pwd", "passphrase", "passcode", "secret", "secrets", "credential",
    "credentials", "authorization", "cookie", "cookies", "jwt", "otp", "totp",
})  # fmt: skip
_SECRET_ENDS: Final = (
    "password", "passwd", "passphrase", "apikey", "apikeys", "secretkey", "privatekey", "accesskey", "sessionkey",
    "signingkey", "encryptionkey", "masterkey", "authkey", "sshkey", "accesstoken", "accesstokens", "refreshtoken",
    "refreshtokens", "authtoken", "authtokens", "apitoken", "apitokens", "bearertoken", "sessiontoken", "idtoken",
    "clientsecret", "basicauth", "authheader",
)  # fmt: skip
_NOT_A_CREDENTIAL: Final = frozenset({
    "next", "page", "previous", "prev", "continuation", "sync", "max", "min", "num", "per", "stop", "start",
    "end", "eos", "bos", "pad", "unk", "mask", "special", "first", "last",
})  # fmt: skip
_ABOUT_IT: Final = frozenset({
    "count", "counts", "limit", "limits", "budget", "usage", "length", "size", "policy", "type", "kind",
    "name", "names", "id", "ids", "index", "expiry", "expires", "ttl", "rotation", "required", "enabled",
    "strength", "url", "uri", "path", "rate", "price", "cost", "position", "offset", "window", "age", "field",
})  # fmt: skip
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")


@functools.lru_cache(maxsize=4096)
def _secret_name(name: str) -> bool:
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or words[-1] in _ABOUT_IT:
        return False
    if words == ["auth"] or not _SECRET_WORDS.isdisjoint(words):
        return True
    pairs = [*words, *("".join(pair) for pair in itertools.pairwise(words))]
    return any(pair.endswith(_SECRET_ENDS) for pair in pairs) or any(
        word == "token" and _is_credential(words, at) for at, word in enumerate(words)
    )


def _is_credential(words: Sequence[str], at: int) -> bool:
    """Whether the word token at that index is one to log in with, not one of a page, a text or a count."""
    before = words[at - 1] if at else ""
    after = words[at + 1] if at + 1 < len(words) else ""
    return before not in _NOT_A_CREDENTIAL and after not in _ABOUT_IT


def secret_name(name: str) -> bool:
    """Whether a parameter or key of that name holds a secret: api_key and authToken do, max_tokens and author not."""
    return _secret_name(name[:200])


def could_be_secret(value: Any) -> bool:
    """Whether a value under a secret's name is to be hidden: truth and absence tell nothing."""
    return value is not None and not isinstance(value, bool)


def is_marked(schema: Any) -> bool:
    """Whether a JSON Schema says that its value is a secret: writeOnly, format password, or x-secret."""
    return isinstance(schema, Mapping) and (
        schema.get("writeOnly") is True or schema.get("format") == "password" or schema.get("x-secret") is True
    )


def marked_in(schema: Any, depth: int = 8) -> frozenset[str]:
    """The names of all properties, nested ones too, that a JSON Schema marks as secrets."""
    if not isinstance(schema, Mapping) or depth == 0:
        return frozenset()
    found: set[str] = set()
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        found.update(name for name, inner in properties.items() if is_marked(inner))
    for key in ("properties", "$defs", "definitions"):
        inner = schema.get(key)
        for one in inner.values() if isinstance(inner, Mapping) else ():
            found |= marked_in(one, depth - 1)
    for key in ("items", "additionalProperties"):
        found |= marked_in(schema.get(key), depth - 1)
    for key in ("anyOf", "allOf", "oneOf", "prefixItems"):
        inner = schema.get(key)
        for one in inner if isinstance(inner, list) else ():
            found |= marked_in(one, depth - 1)
    return frozenset(found)


def hide_named(value: Any, marked: Collection[str] = ()) -> Any:
    """A JSON value in which what stands under a secret's name, or a marked one, is hidden; the same where none is."""
    if isinstance(value, Mapping):
        shown = {
            name: HIDDEN
            if isinstance(name, str) and (name in marked or secret_name(name)) and could_be_secret(item)
            else hide_named(item, marked)
            for name, item in value.items()
        }
        return shown if any(shown[name] is not item for name, item in value.items()) else value
    if isinstance(value, (list, tuple)):
        items = [hide_named(item, marked) for item in value]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    return value
