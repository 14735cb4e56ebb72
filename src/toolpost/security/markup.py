"""Markup: texts made safe to stand in a page, as text or as the little HTML that an allow-list leaves."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Final

from toolpost.calls.errors import ConfigurationError

TAGS: Final = frozenset(
    "a abbr b blockquote br caption code dd del dl dt em h1 h2 h3 h4 h5 h6 hr i ins kbd li ol p pre q s samp small "
    "span strong sub sup table tbody td tfoot th thead tr u ul var".split()
)
"""What safe_html leaves: text with its structure, links and tables. No images, which call their host when shown."""

ATTRIBUTES: Final[Mapping[str, frozenset[str]]] = {
    "a": frozenset({"href", "title"}),
    "abbr": frozenset({"title"}),
    "ol": frozenset({"start"}),
    "td": frozenset({"colspan", "rowspan"}),
    "th": frozenset({"colspan", "rowspan", "scope"}),
}
SCHEMES: Final = frozenset({"http", "https", "mailto"})

_NEVER: Final = frozenset(
    "script style iframe frame frameset object embed applet base meta link svg math template noscript noembed "
    "noframes xmp plaintext title textarea select option form input button video audio source track portal html head "
    "body".split()
)
_WITH_CONTENT: Final = frozenset(
    {"script", "style", "iframe", "template", "noscript", "noembed", "noframes", "title", "svg", "math"}
)


def escape_html(text: str) -> str:
    """text as it reads, for the content of an element or a quoted attribute: & < > " ' are written as references.

    It makes nothing safe within script, style, an unquoted attribute, or a URL.
    """
    return html.escape(text.replace("\0", "\ufffd"), quote=True)


def safe_html(
    text: str,
    *,
    tags: Iterable[str] = TAGS,
    attributes: Mapping[str, Iterable[str]] = ATTRIBUTES,
    schemes: Iterable[str] = SCHEMES,
) -> str:
    """HTML with all gone that an allow-list does not have: it is parsed as browsers do, filtered, and written anew.

    Tags that are not allowed are taken away and their text stays, but for that of script, style and the like, which
    goes too; comments go. Links are marked rel="noopener noreferrer nofollow", and lead only to the schemes and to
    absolute addresses. Raises ConfigurationError for tags and attributes that run code or leave HTML, and where the
    package nh3 is missing.
    """
    try:
        import nh3
    except ModuleNotFoundError as missing:
        raise ConfigurationError(f"safe_html needs the package {missing.name}; install toolpost[html]") from missing
    allowed = _checked(tags, attributes, schemes)
    return nh3.clean(
        text,
        tags=allowed,
        clean_content_tags=set(_WITH_CONTENT),
        attributes={tag: set(names) for tag, names in attributes.items() if tag in allowed},
        url_schemes=set(schemes),
        strip_comments=True,
        link_rel="noopener noreferrer nofollow",
        url_relative="deny",
        generic_attribute_prefixes=set(),
    )


def _checked(tags: Iterable[str], attributes: Mapping[str, Iterable[str]], schemes: Iterable[str]) -> set[str]:
    """tags as a set. Raises ConfigurationError for what no allow-list may hold."""
    allowed = set(tags)
    if bad := sorted(allowed & _NEVER):
        raise ConfigurationError(f"safe_html cannot allow {', '.join(bad)}: such tags run code, load or leave HTML")
    if any(name.lower() == "rel" for name in attributes.get("a", ())):
        raise ConfigurationError("safe_html writes the attribute rel of links itself; leave it out")
    names = {name.lower() for some in attributes.values() for name in some}
    if bad := sorted(
        n for n in names if n.startswith("on") or n in ("style", "srcdoc", "formaction", "action", "ping")
    ):
        raise ConfigurationError(f"safe_html cannot allow the attribute {', '.join(bad)}, which runs code or sends")
    if bad := sorted(
        scheme for scheme in schemes if scheme.lower() in ("javascript", "vbscript", "data", "file", "blob")
    ):
        raise ConfigurationError(f"safe_html cannot allow the scheme {', '.join(bad)}, whose addresses run or reveal")
    return allowed


__all__ = ["escape_html", "safe_html"]
