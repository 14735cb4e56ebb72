"""Requests: what an HttpBody and a call's arguments make together; sending it is the http runner's."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import orjson

from toolpost.calls.definition import HttpBody, ToolDefinition
from toolpost.calls.errors import ConfigurationError, InputValidationError, SecretUnavailableError
from toolpost.calls.references import is_reference, references_in, replaced

PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
READS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that have no effect (RFC 9110, section 9.2.1)."""
IN_QUERY = READS | {"DELETE"}
"""Methods whose arguments go into the query; those of the others go into a JSON body."""
NO_SECRETS: Mapping[str, str] = {}
_SLASH = re.compile(r"[/\\]")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
HEADER_VALUE = re.compile(r"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?\Z")


class Request(NamedTuple):
    """One request, ready to send. content is None where there is no body."""

    method: str
    url: str
    headers: dict[str, str]
    content: bytes | None


class Template:
    """An HttpBody, read once. Scheme, host and port are the author's; arguments fill what the author left open.

    A `{name}` of a parameter in the path, the query, a header or the body takes that argument. Arguments without a
    place go into the query, or, for methods that have one, into the JSON body; what the author wrote there stays.
    Raises ConfigurationError for places that no parameter fills, or that stand where no argument may.
    """

    def __init__(self, tool: ToolDefinition, body: HttpBody) -> None:
        self._tool = tool.name
        body, self._secrets = lifted(body, tool)
        self.references = frozenset(self._secrets.values())
        """The secrets that each request needs."""
        self._names = frozenset(tool.parameters.get("properties", {})) | set(self._secrets)
        self._body = body
        self.method = body.method.upper()
        parts = urlsplit(body.url)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        if "{" in self.origin or "}" in self.origin:
            raise ConfigurationError(
                f"{tool.name}: scheme, host and port of its url are fixed, got {self.origin!r:.200}"
            )
        self._path = parts.path or "/"
        self._pairs = [pair for pair in parts.query.split("&") if pair]
        for name in PLACE.findall(f"{self._path}?{parts.query}"):
            if name not in self._names:
                raise ConfigurationError(f"{tool.name}: its url has a place {{{name}}}, which is no parameter")
        for header, value in body.headers.items():
            if not _HEADER_NAME.match(header) or not HEADER_VALUE.match(value):
                raise ConfigurationError(
                    f"{tool.name}: header {header!r:.100} must be a name and Latin text of one line, without spaces "
                    "around it"
                )
        fixed = [self._path, parts.query, *body.headers.values(), *strings_in(body.query), *strings_in(body.body)]
        self._placed = frozenset(name for text in fixed for name in PLACE.findall(text) if name in self._names)
        self._written = {unquote(pair.partition("=")[0]) for pair in self._pairs} | set(body.query)
        path = PLACE.sub(lambda place: f"{{{self._secrets.get(place[1], place[1])}}}", self._path)
        self.shown = f"{self.method} {parts.scheme}://{parts.netloc.rpartition(chr(64))[2]}{path}"
        """For messages: without query and arguments, which may hold secrets."""

    def fill(
        self, arguments: Mapping[str, Any], idempotency_key: str | None, secrets: Mapping[str, str] = NO_SECRETS
    ) -> Request:
        """The request of one call; secrets has the values of references.

        Raises InputValidationError for an argument that cannot stand in its place, SecretUnavailableError for such a
        secret.
        """
        if self._secrets:
            arguments = {**arguments, **{place: str(secrets[name]) for place, name in self._secrets.items()}}
        try:
            return self._made(arguments, idempotency_key)
        except (UnicodeEncodeError, orjson.JSONEncodeError) as error:
            name = next((name for name, value in arguments.items() if not _can_be_sent(value)), "arguments")
            raise self._wrong(name, "holds text or a number that JSON cannot") from error

    def _made(self, arguments: Mapping[str, Any], idempotency_key: str | None) -> Request:
        rest = {name: value for name, value in arguments.items() if name not in self._placed}
        pairs = [*self._url_query(arguments), *self._fixed_query(arguments)]
        content: bytes | None = None
        if self.method in IN_QUERY or (self._body.body is not None and not isinstance(self._body.body, dict)):
            for name, value in rest.items():
                if name not in self._written:
                    pairs += _pairs_of(name, value)
            rest = {}
        if self.method not in READS and (self._body.body is not None or (rest and self.method not in IN_QUERY)):
            content = orjson.dumps(self._json(rest, arguments))
        url = self.origin + self._filled_path(arguments)
        return Request(
            self.method,
            f"{url}?{'&'.join(pairs)}" if pairs else url,
            self._headers(arguments, content is not None, idempotency_key),
            content,
        )

    def _filled_path(self, arguments: Mapping[str, Any]) -> str:
        segments = []
        for segment in self._path.split("/"):
            filled = PLACE.sub(
                lambda place: quote(self._text(place[1], arguments), safe="/" if place[1] in self._secrets else ""),
                segment,
            )
            # Many a server decodes before it resolves dots, so that an encoded slash is one to it.
            if filled != segment and any(piece in (".", "..") for piece in _SLASH.split(unquote(filled))):
                raise self._wrong(PLACE.findall(segment)[0], "would lead to another path of the server")
            segments.append(filled)
        return "/".join(segments)

    def _text(self, name: str, arguments: Mapping[str, Any]) -> str:
        """An argument as a piece of the path: it must be there, plain and not empty."""
        value = arguments.get(name)
        if value is None or value == "":
            raise self._wrong(name, "is part of the address and must not be missing or empty")
        if isinstance(value, (dict, list)):
            raise self._wrong(name, "is part of the address and must be text, a number or a boolean")
        return _plain(value)

    def _url_query(self, arguments: Mapping[str, Any]) -> Iterable[str]:
        """The url's own query; a pair whose argument is missing is left out."""
        for pair in self._pairs:
            if all(arguments.get(name) is not None for name in PLACE.findall(pair) if name in self._names):
                yield PLACE.sub(lambda place: quote(_plain(arguments[place[1]]), safe=""), pair)

    def _fixed_query(self, arguments: Mapping[str, Any]) -> Iterable[str]:
        for name, value in self._body.query.items():
            yield from _pairs_of(name, self._filled(value, arguments))

    def _headers(self, arguments: Mapping[str, Any], has_json: bool, key: str | None) -> dict[str, str]:
        headers: dict[str, str] = {}
        for name, value in self._body.headers.items():
            places = [place for place in PLACE.findall(value) if place in self._names]
            if all(arguments.get(place) is not None for place in places):
                filled = self._filled(value, arguments)
                headers[name] = text = filled if isinstance(filled, str) else _plain(filled)
                if places and not HEADER_VALUE.match(text):
                    must = "goes into a header, which takes Latin text of one line, without spaces around it"
                    raise self._wrong(places[0], must)
        given = {name.lower() for name in headers}
        if has_json and "content-type" not in given:
            headers["Content-Type"] = "application/json"
        if "accept-encoding" not in given:
            headers["Accept-Encoding"] = "identity"  # so that the bound on what comes back is one on what is held
        if key is not None and "idempotency-key" not in given:
            headers["Idempotency-Key"] = quoted_key(key)
        return headers

    def _json(self, rest: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
        written = self._filled(self._body.body, arguments)
        if written is None:
            return dict(rest)
        return {**rest, **written} if isinstance(written, dict) else written

    def _filled(self, value: Any, arguments: Mapping[str, Any]) -> Any:
        """A JSON value with its places filled. A text that is nothing but a place becomes the argument itself."""
        if isinstance(value, str):
            whole = PLACE.fullmatch(value)
            if whole and whole[1] in self._names:
                return arguments.get(whole[1])
            return PLACE.sub(
                lambda place: _plain(arguments.get(place[1])) if place[1] in self._names else place[0], value
            )
        if isinstance(value, dict):
            return {name: self._filled(item, arguments) for name, item in value.items()}
        if isinstance(value, list):
            return [self._filled(item, arguments) for item in value]
        return value

    def _wrong(self, name: str, must: str) -> InputValidationError | SecretUnavailableError:
        if name in self._secrets:
            return SecretUnavailableError(f"{self._tool}: {self._secrets[name]} {must}")
        problem = {"path": f"/{name}", "loc": (name,), "parameter": name, "type": "place", "msg": f"'{name}' {must}"}
        return InputValidationError(problems=[problem | {"expected": "a value that fits its place", "got": "another"}])


def lifted(body: HttpBody, tool: ToolDefinition) -> tuple[HttpBody, dict[str, str]]:
    """A body with a place in the stead of each reference to a secret, and the reference of each such place.

    So that both are filled in one go, and no argument is ever read for a reference.
    """
    try:
        written = dict.fromkeys(references_in([body.url, dict(body.headers), dict(body.query), body.body]))
    except ConfigurationError as error:
        raise ConfigurationError(f"{tool.name}: {error.message}") from None
    if not written:
        return body, {}
    if is_reference(body.url):
        raise ConfigurationError(
            f"{tool.name}: scheme, host and port of its url are fixed; put what is secret of it into its path or "
            f"query: https://host/{{{body.url}}}"
        )
    taken = set(tool.parameters.get("properties", {}))
    names = (name for number in itertools.count() if (name := f"secret_{number}") not in taken)
    places = dict(zip(written, names, strict=False))

    def place(reference: str) -> str:
        return f"{{{places[reference]}}}"

    filled = HttpBody(
        method=body.method,
        url=replaced(body.url, place),
        headers=replaced(body.headers, place),
        query=replaced(body.query, place),
        body=replaced(body.body, place),
    )
    return filled, {name: reference for reference, name in places.items()}


def _can_be_sent(value: Any) -> bool:
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return False
    return True


def quoted_key(key: str) -> str:
    """A key as the header has it, a string of structured fields (RFC 9651; draft-ietf-httpapi-idempotency-key-header).

    What such a string cannot hold is percent-encoded.
    """
    printable = "".join(c if " " <= c <= "~" else quote(c) for c in key)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'


def strings_in(value: Any) -> Iterable[str]:
    """Every text within a JSON value, names of members excepted."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from strings_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from strings_in(item)


def _pairs_of(name: str, value: Any) -> list[str]:
    """name=value, once for each item of a list, never for what is missing."""
    values = value if isinstance(value, list) else [value]
    return [f"{quote(name, safe='')}={quote(_plain(item), safe='')}" for item in values if item is not None]


def _plain(value: Any) -> str:
    """A JSON value as text: text is itself, everything else is written as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()
