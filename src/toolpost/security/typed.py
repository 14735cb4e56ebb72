"""What an identifier or an address may be: what is not of that form is refused, whatever it is."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from toolpost.calls.egress import Opening
from toolpost.calls.errors import EgressDeniedError

if TYPE_CHECKING:
    from toolpost.security.egress_addresses import Address
    from toolpost.security.egress_urls import Target

MAX_IDENTIFIER: Final = 256


def is_no_identifier(value: str) -> bool:
    """Whether a text is no identifier.

    One is words of letters, digits and underscores, at most 256 characters in all, with one of . : @ / + ~ # - between
    them (or "::", "--", "+@" and the like, but neither ".." nor "//"); before the first may stand @, #, + or, with a
    number, -; after the last one or two =. Several may be listed with commas. So are numbers, UUIDs, slugs, e-mail
    addresses, ARNs, phone numbers, base64, "user:7", "owner/repository", "@scope/package" and "auth0|5f7c".
    """
    if _SLUG(value) is not None and "0x" not in value:
        return False
    if value.isascii():
        return _IDENTIFIER(value) is None or len(value) > MAX_IDENTIFIER
    if len(value) > MAX_IDENTIFIER or unicodedata.normalize("NFKC", value) != unicodedata.normalize("NFC", value):
        return True
    # Letters with their marks, of any script, stand for one of ASCII.
    plain = "".join(c if c.isascii() else "x" if unicodedata.category(c)[0] in "LMN" else " " for c in value)
    return _IDENTIFIER(plain) is None


_SLUG = re.compile(r"\w(?:[\w-]{0,62}\w)?\Z", re.ASCII).match
"""Most identifiers; to know these quickly is all that it is for."""
_IDENTIFIER = re.compile(
    r"(?!(?:https?|data|file|t?ftp|javascript|vbscript|gopher|dict|ldaps?|jar|php|phar):|.*0x.*0x)(?:[@#+]|-(?=\d))?\w+(?:(?:[.:@/+~#-]|::|--|\+@)\w+|__)*+={0,2}"
    r"(?:, ?[@#+]?\w+(?:[.:@/+~#-]\w+)*+)*+(?:(?<=auth0)\|[\w.-]+|(?<=oauth2)\|[\w.-]+|(?<=samlp)\|[\w.@-]+)?\Z",
    re.ASCII,
).match


def is_no_address(value: str) -> bool:
    """Whether a text is no whole http, https, ws or wss address with a plain host, and none of the harmless kinds.

    Those are a relative reference that begins with / . ? or #, mailto:, tel:, urn:, and the addresses of objects in
    clouds' stores. A host without a scheme is read as one with https.
    """
    text = value.strip()
    if _ORDINARY(text) is not None or _RELATIVE(text) is not None or _HARMLESS(text) is not None:
        return False
    return _target(text) is None


def is_not_public(value: str) -> bool:
    """Whether an address has a host that is not public, as far as its text tells."""
    return reaches_inside(value, ())


def reaches_inside(value: str, private: Iterable[str]) -> bool:
    """Whether an address has a host that is not public and that no entry, as of Egress.private, opens; ports aside."""
    text = value.strip()
    ordinary = _ORDINARY(text)
    if ordinary is not None:
        host = ordinary[1].lower()
        return _INNER(host) is not None and not _opened(host, None, private)
    if _RELATIVE(text) is not None:
        return text.startswith("//")
    target = _target(text)
    if target is None:
        return False
    from toolpost.security.egress_addresses import block_of  # which most programs never need
    from toolpost.security.egress_urls import literal

    host = target.host
    address = literal(host)
    if address is not None:
        return block_of(address) is not None and not _opened(host, address, private)
    return _INNER(host) is not None and not _opened(host, None, private)


def _target(text: str) -> Target | None:
    from toolpost.security.egress_urls import read_url

    scheme = _SCHEME(text)
    if scheme is None:
        text = f"https://{text}"
    elif scheme[1].lower() in ("ws", "wss"):
        text = "http" + text[2:]
    try:
        return read_url(text.replace(" ", "%20"))
    except EgressDeniedError:
        return None


def _opened(host: str, address: Address | None, private: Iterable[str]) -> bool:
    for entry in private:
        opening = Opening.read(entry, "private")
        if opening.network is not None:
            if address is not None and address in opening.network:
                return True
        elif host == opening.name or (opening.name.startswith("*.") and host.endswith(opening.name[1:])):
            return True
    return False


_ORDINARY = re.compile(
    r"https?://((?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.){1,9}[a-z]{2,24})(?::[1-9]\d{0,3})?(?:[/?#][!-\[\]-~]*)?\Z",
    re.ASCII | re.IGNORECASE,
).match
"""Most addresses, whose host is a name; to know these quickly is all that it is for."""
_RELATIVE = re.compile(r"(?:[/?#]|\.{1,2}/)(?!/)[^\s\\<>{}\"'`|^]*\Z|\Z").match
_HARMLESS = re.compile(
    r"(?:mailto|tel|sms|urn):[^\s<>\"'\\]+\Z"
    r"|(?:s3[an]?|gs|az|abfss?|wasbs?|hdfs|dbfs|adl|oci|r2)://[a-z0-9][\w.@-]*(?:/[^\s\\]*)?\Z",
    re.IGNORECASE,
).match
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?!\d{1,5}(?:[/?#]|\Z))").match
_INNER = re.compile(
    r"[^.]*\Z"  # a single word: a machine of the network around
    r"|.*\.(?:localhost|local|localdomain|internal|intranet|private|corp|home|lan|arpa)\Z"
    r"|(?:.*\.)?(?:nip\.io|sslip\.io|xip\.io|localtest\.me|lvh\.me|vcap\.me|lacolhost\.com|1u\.ms|rbndr\.us|r3dir\.me|localdomain\.pw|ipq\.co)\Z"
    r"|(?:.*[.-])?(?:127[.-]\d+[.-]\d+[.-]\d+|169[.-]254[.-]\d+[.-]\d+|192[.-]168[.-]\d+[.-]\d+)[.-]"
).match
