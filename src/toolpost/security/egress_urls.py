"""URLs, read more strictly than by anything behind the guard: what two parsers could differ about is refused."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, NamedTuple

from toolpost.calls.errors import EgressDeniedError, Outcome
from toolpost.security.egress_addresses import Address

MAX_URL_CHARS: Final = 8192
MAX_HOST_CHARS: Final = 253
DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]{0,31}):(?://([^/?#]*)([^#]*)(?:#.*)?)?", re.S)
_AUTHORITY: Final = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]*))?\Z")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}\Z")
_NAME: Final = re.compile(r"(?:(?!-)[a-z0-9_-]{1,63}(?<!-)\.)*(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
_NUMERIC: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\Z")
"""What ends in a number is an address to some parsers (WHATWG URL, section 4.5.1), and to inet_aton."""
_DOTS: Final = re.compile("[\u3002\uff0e\uff61]")
_BANNED: Final = re.compile(
    "[\x00-\x20\x7f-\xa0\\\\\u00ad\u034f\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff"
    "\ufff9-\uffff\ud800-\udfff]"
)
"""What parsers strip, take for a slash or cannot encode: controls, spaces, backslashes, marks without a shape."""


class Target(NamedTuple):
    """One address of the web. host is in ASCII and lower case, an IPv6 one without brackets; rest is path and query."""

    scheme: str
    host: str
    port: int
    rest: str = "/"

    @property
    def netloc(self) -> str:
        """Host and port as a Host header has them (RFC 9110, section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS.get(self.scheme) else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """The part before the path."""
        return f"{self.scheme}://{self.netloc}"

    @property
    def url(self) -> str:
        """The whole of it, without a fragment."""
        return self.origin + self.rest


def denied(
    rule: str, message: str, *, host: str | None = None, port: int | None = None, outcome: Outcome = "not_run"
) -> EgressDeniedError:
    """The refusal by a rule; "egress." is put before its name."""
    details: dict[str, object] = {"rule": f"egress.{rule}"}
    if host is not None:
        details["host"] = host
    if port is not None:
        details["port"] = port
    return EgressDeniedError(message, outcome=outcome, details=details)


def read_url(url: object) -> Target:
    """A whole http or https URL. Raises EgressDeniedError, whose message never has path, query or credentials."""
    if not isinstance(url, str):
        raise denied("url", f"a URL must be text, got a value of type {type(url).__name__}")
    if len(url) > MAX_URL_CHARS:
        raise denied("url", f"a URL may have {MAX_URL_CHARS} characters, got {len(url)}")
    if (banned := _BANNED.search(url)) is not None:
        raise denied(
            "url", f"a URL holds {_named(banned[0])}, which must be percent-encoded, at character {banned.start() + 1}"
        )
    found = _URL.match(url)
    if found is None:
        raise denied("scheme", "a URL must begin with https:// or http://")
    scheme, authority, rest = found[1].lower(), found[2], found[3]
    if scheme not in DEFAULT_PORTS:
        raise denied("scheme", f"only https and http are allowed, got the scheme {scheme!r}")
    if not authority:
        raise denied("url", f"a URL must have // and a host after {scheme}:")
    if "@" in authority:
        raise denied("credentials", "a URL must not hold a user or password; send them in a header")
    parts = _AUTHORITY.match(authority)
    if parts is None:
        raise denied("host-form", f"{authority!r:.100} is no host, or no host and port")
    host = read_host(parts[1])
    port = DEFAULT_PORTS[scheme] if parts[2] is None else read_port(parts[2], host)
    return Target(scheme, host, port, rest if rest.startswith("/") else f"/{rest}")


def read_port(text: str, host: str) -> int:
    """A port as a URL has it: without leading zeros, and not left out after its colon."""
    port = int(text) if _PORT.match(text) else 0
    if not 1 <= port <= 65535:
        raise denied("port", f"a port is a number from 1 to 65535, got {text!r:.20}", host=host)
    return port


def read_host(text: str) -> str:
    """A host in the one form in which it is checked, connected to and named: ASCII, in lower case, no brackets.

    Refused is what somebody could take for another host: numbers but for the dotted four of an IPv4 address, IPv6
    addresses with zones or dots, percent signs, empty labels, and text that IDNA (RFC 5891) does not allow as it is.
    """
    if text.startswith("["):
        return str(_ipv6(text))
    if len(text) > MAX_HOST_CHARS:
        raise denied("host-form", f"a host has at most {MAX_HOST_CHARS} characters, got {len(text)}")
    host = text.lower()
    if not text.isascii() or "xn--" in host:
        host = _in_ascii(text)
    if len(host) > MAX_HOST_CHARS or not _NAME.match(host):
        why = "it ends in a dot" if host.endswith(".") and _NAME.match(host[:-1]) else "it is no host name"
        raise denied("host-form", f"{host!r:.100} cannot be a host: {why}")
    if _NUMERIC.match(host):
        try:
            return str(IPv4Address(host))
        except AddressValueError:
            raise denied(
                "host-form", f"{host!r:.100} cannot be a host: an IPv4 address is written as 192.0.2.1"
            ) from None
    return host


def literal(host: str) -> Address | None:
    """The address that a host, as read_host gives it, is; None for a name."""
    if ":" in host:
        return IPv6Address(host)
    return IPv4Address(host) if _NUMERIC.match(host) else None


def _ipv6(text: str) -> IPv6Address:
    inner = text[1:-1] if text.endswith("]") else ""
    if "." not in inner and "%" not in inner:
        try:
            return IPv6Address(inner)
        except AddressValueError:
            pass
    raise denied("host-form", f"{text!r:.100} cannot be a host: an IPv6 address has no dots and no zone here")


def _in_ascii(text: str) -> str:
    """The host in ASCII. Only what IDNA takes unchanged: no full-width letters, circled digits, odd dots, no xn-- that
    stands for nothing.
    """
    try:
        import idna  # which httpx brings; a host in ASCII needs nothing
    except ModuleNotFoundError:
        raise denied("host-form", "a host beyond ASCII needs the package idna; install toolpost[http]") from None
    lowered = text.lower()
    try:
        if _DOTS.search(lowered) or any(not c.isascii() and any(map(str.isascii, c.lower())) for c in text):
            raise idna.IDNAError("what is taken for a dot or a letter of ASCII")
        encoded = lowered if text.isascii() else idna.encode(lowered).decode("ascii").lower()
        idna.decode(encoded)  # as httpx will: an xn-- label that is none would fail there
        return encoded
    except (idna.IDNAError, UnicodeError):
        raise denied("host-form", f"{text!a:.100} cannot be a host: it is no valid international name") from None


def _named(char: str) -> str:
    if char == " ":
        return "a space"
    return "a backslash" if char == "\\" else f"the character U+{ord(char):04X}"
