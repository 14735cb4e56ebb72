"""Patterns of script and markup: pages, headers, templates, and XML."""

from __future__ import annotations

from typing import Final

from toolpost.security.patterns import CERTAIN, CRUDE, LIKELY, SUSPECT, TEXT, Pattern, refuse, scattered, unless

# fmt: off
_EVENT = (
    r"(?:error|load|click|focus\w{0,3}|blur|mouse[a-z]{2,5}|toggle|start|begin|end|key[a-z]{2,5}|input|change|submit"
    r"|copy|paste|cut|drag[a-z]*|drop|scroll|wheel|resize|select|animation[a-z]{3,}|transition[a-z]{3,6}"
    r"|pointer[a-z]{2,})"
)
_NAMES = "|".join(map(scattered, ("javascript", "vbscript", "livescript", "mocha", "jscript")))
_RUNS = r"(?:" + _NAMES + r")[\x00-\x20]*:"
_DATA = scattered("data") + r"[\x00-\x20]*:[\x00-\x20]*"
_GAP = r"(?:[\x00-\x20\\]|/\*[^*/]*\*/)*"
_CSS = (
    r"(?:" + _GAP + "e?" + _GAP + "x?" + _GAP + scattered("pression", _GAP) + _GAP + r"(?:\(|\\28)"
    r"|" + scattered("-moz-binding", _GAP) + _GAP + r":|behaviou?r\s*:\s*url\(|-o-link\s*:)"
)
_ELEMENTS = (
    r"a|abbr|address|applet|area|article|aside|audio|b|base|basefont|big|blink|blockquote|body|br|button|canvas|caption|center"
    r"|circle|code|col|colgroup|dd|defs|del|desc|details|dialog|dir|div|dl|dt|ellipse|em|embed|fieldset|figcaption|figure|font"
    r"|footer|form|frame|frameset|g|h[1-6]|head|header|hr|html|i|iframe|image|img|input|ins|kbd|label|legend|li|line|link|main"
    r"|map|marquee|math|menu|meta|nav|noembed|noframes|noscript|object|ol|optgroup|option|output|p|param|path|picture|plaintext"
    r"|polygon|pre|q|rect|s|samp|script|section|select|small|source|span|strike|strong|style|sub|summary|sup|svg|table|tbody"
    r"|td|template|text|textarea|tfoot|th|thead|title|tr|track|tt|u|ul|use|var|video|wbr|xmp"
)
_CALLED = r"(?:alert|prompt|confirm|eval|settimeout|setinterval|fetch|location|document|window|self|top)"

SCRIPT: Final[tuple[Pattern, ...]] = (
    refuse(
        "script.breakout", TEXT, CERTAIN,
        "a quote and a tag close and active markup follows; send the plain text",
        r"^\s*[\w -]*['\"`]{1,3}\s*/?>{1,3}\s*<"
        r"(?:script|img|svg|iframe|body|video|audio|input)\b",
    ),
    refuse(
        "script.tag", TEXT + " html url", LIKELY,
        "it holds a script element; remove the script",
        r"<[\x00-\x20/%!?\\]*(?:\w+:)?script(?:[^\w-]|$)|\+adw-/?script",
    ),
    refuse(
        "script.handler", TEXT + " html url", LIKELY,
        "an attribute of a tag runs script on an event; remove the on… attribute",
        r"<(?:[a-z!/?%][^<>]*[\s/\"'`;:\x00-\x1f]on[a-z]{3,}[\s\x00-\x1f]*=\s*(?:[^\s{]|$)"
        r"|[a-z!/?%\"'][^<]*[\s/\"'`;]on" + _EVENT + r"\s*=\s*[\"'`\w(])",
        hint=r"[\s/\"'`;:\x00-\x1f]on[a-z]{3}[a-z]*[\s\x00-\x1f]*=",
    ),
    refuse(
        "script.attribute-breakout", TEXT, LIKELY,
        "a quote closes and an event attribute follows; send the plain text",
        r"[\"'`>]\s*/?\s*on" + _EVENT + r"\s*=\s*[\"'`]?[\w.]*\s*[(`=\\]",
        r"^[\"'][^<>]*\son" + _EVENT + r"\s*=",
        r"(?:^|\s)on" + _EVENT + r"\s*=\s*[\"'`]?(?:alert|prompt|confirm|eval)\b|\bon" + _EVENT + r"\s+cdata\b",
    ),
    refuse(
        "script.bare-handler", TEXT, LIKELY,
        "it is an event attribute that calls script; send the plain text",
        r"^[\s\"'`/\\]*on[a-z]{3,}=[\"'`(]{0,2}(?:alert|prompt|confirm|eval|fetch|document|window|location|this"
        r"|top|throw|function|\$\.|\w+=>|[\w.]+\()|^\s*on" + _EVENT + r"\s*=\s*[\"'\\]",
    ),
    refuse(
        "script.uri", TEXT + " html", LIKELY,
        "a link or address runs script; give an http or https address",
        r"(?:=|url\(|\]\(|<)[\x00-\x20]*[\"'`]{0,2}[^a-z0-9<>\"'/.]*" + _RUNS + r"[\x00-\x20]*" + unless("void(0)"),
        r"=[\x00-\x20]*[\"'`]?" + _DATA + r"(?:text/html|application/xhtml|image/svg|text/xml|application/xml"
        r"|[^,<>]*;\s*base64\s*,\s*phn|,<|,%3c)",
        r"(?:javascript|vbscript):(?:alert|prompt|confirm|eval|document|window|location)\b",
    ),
    refuse(
        "script.uri-value", TEXT, LIKELY,
        "the value is an address that runs script; give an http or https address",
        r"^[\"'`>)\s]*(?:(?:javascript|vbscript|livescript):(?:\S*[(`=%\\]|[a-z/\[\"']\S)"
        r"|data:(?:text/html|image/svg|text/xml)[^\s,]*,)",
    ),
    refuse(
        "script.active-element", TEXT + " html", LIKELY,
        "it holds an element that loads or runs foreign content; remove the element",
        r"<(?:(?:object|embed|applet|base|frame|frameset|isindex|bgsound|i?layer|portal|foreignobject)\b[^<>]*"
        r"[\s/](?:src|data|code|codebase|classid|href|archive|type)\s*="
        r"|i?frame\b[^<>]*\bsrcdoc\s*="
        r"|meta\b[^<>]*http-equiv\s*=\s*[\"']?\s*(?:refresh|set-cookie|link)"
        r"|(?:set|animate\w*)\b[^<>]*attributename\s*=\s*[\"']?(?:on|href|xlink|innerhtml|src|values)"
        r"|link\b[^<>]*\brel\s*=\s*[\"']?import|\?xml-stylesheet\b|\w+:include\b"
        r"|xml\b[^<>]*\b(?:src|id)\s*=|\w+\b[^<>]*\bdatasrc\s*=)",
        hint=r"<(?:object|embed|applet|base|frame|frameset|isindex|bgsound|i?layer|portal|foreignobject|iframe|meta|set|animate"
        r"|link|xml|\?xml-stylesheet|\w+:include)\b|\bdatasrc\b",
    ),
    refuse(
        "script.frame", TEXT, LIKELY,
        "it holds a frame that loads foreign content; remove the frame",
        r"<iframe\b[^<>]*\bsrc\s*=",
        hint="<iframe",
    ),
    refuse(
        "script.style", TEXT + " html", LIKELY,
        "a style runs script or loads more; remove the style",
        r"style\s*=[^<]*" + _CSS,
        r"<[a-z/][^<]*[:\\]" + _CSS,
        r"style\s*=\s*[\"'][^\"'<>]*url\s*\(\s*[\"']?(?:https?:)?//",
        r"<[a-z][^<>]*[\s/\"']style\s*=\s*[\"'][^\"'<>]*(?:url\s*\(|[{}\[])",
        r"<style[^<>]*>[^<]*" + scattered("@import", r"[\x00-\x20\\]*"),
        scattered("@import") + r"[\s\"'(]*(?:url\([\"']?)?(?:javascript|data):",
    ),
    refuse(
        "script.call-breakout", TEXT, LIKELY,
        "a quote closes and a script call follows; send the plain text",
        r"^[^'\"`]*['\"`][\s)\]};,+*/&|^%<>=?:!~-]+(?:\w+\.)?" + _CALLED + r"\b\s*[(`.\[=]",
    ),
    refuse(
        "script.decoded-call", TEXT, LIKELY,
        "it decodes text to run it as script; send the plain text",
        r"(?:eval|settimeout|setinterval|function|execscript)\s*\(\s*(?:window\.)?"
        r"(?:atob|unescape|string\.fromcharcode|decodeuri\w*|location\.(?:hash|search))\b",
    ),
    refuse(
        "script.puzzle", TEXT, LIKELY,
        "it spells script in symbols to hide it; send the plain text",
        r"\[\]\[\(!\[\]|\$=~\[\]|constructor(?:[\"']\])?\(\s{0,2}[\"'`]\s*(?:alert|eval|return|fetch)",
    ),
    refuse(
        "script.sent-cookie", TEXT, LIKELY,
        "it sends cookies away; leave the cookies out",
        r"(?:location|src|href|fetch\(|open\()[^;\n]*\bdocument\.cookie\b",
        hint=r"\bdocument\.cookie\b",
    ),
    refuse(
        "script.call-value", TEXT, LIKELY,
        "the value is a call of a browser's function; send the plain text",
        r"^[^a-z]*(?:(?:window|self|top|this|parent|frames|document)\s*[.\[].*)?(?:alert|prompt|confirm)[\"'`]?\]?\s*"
        r"(?:[(`]|\.(?:call|apply|bind)\b)",
        r"^[^a-z]*(?:window|self|top|parent|frames)\s*\[\s*(?:[\[/(]|\d+\.\.|/\*|[\"'](?:al|pro|con|ev|doc|set|fet))",
        r"(?:\.map|\.find(?:index)?|\.some|\.every|\.foreach|\.filter|\.reduce|\.from|\.call|\.apply|\.then|\[\w\])\s*[(`]\s*(?:\$\{)?(?:alert|confirm|prompt)\b",
        r"^[\"'`;]{0,3}\w{1,3}=(?:alert|prompt|confirm),",
        r"^\W*eval\s*\(\s*(?:url|location|name|window|document|self|top)\b|\bnew\s+activexobject\b|&\{(?:alert|\()",
    ),
    refuse(
        "script.page-element", TEXT, LIKELY,
        "it holds an element that changes or leaves a page; remove the element",
        r"<(?:style|link|form|svg|math|meta|base|frameset|xml|handler|listener|xsl|xss|\w+:stylesheet|stylesheet)\b[^<]*",
    ),
    refuse(
        "script.encoded-bracket", TEXT, LIKELY,
        "the value is an encoded '<' and nothing else, as probes are; send the plain text",
        r"^\s*(?:(?:&#x0*3[ce];?|&#0*6[02];?|&[lg]t;?|\\x3[ce]|\\u00(?:3c|3e)|\\u\{0*3[ce]\}|\\0?7[46]|%(?:25)*3[ce])\s*)+$",
    ),
    refuse(
        "script.any-call", TEXT, SUSPECT,
        "it calls a function of a browser; send the plain text",
        r"\b(?:alert|prompt|confirm)\s*[(`]|\bdocument\s*\.\s*(?:cookie|domain|write|location|body)"
        r"|\bwindow\s*[.\[]|\.innerhtml\s*=|\beval\s*\(|string\.fromcharcode",
    ),
    refuse(
        "script.embedded", "html", SUSPECT,
        "it embeds a frame, form, style sheet or drawing; remove the element",
        r"<(?:iframe|form|style|link|meta|svg|math|object|embed|template|noscript|base)\b",
    ),
    refuse(
        "script.markup-value", TEXT, LIKELY,
        "the value is markup; send the plain text",
        r"^\s*<[a-z][\w:-]*(?:\s*/\s*|\s+)[\w:-]+\s*=[^<>]*>(?:[^\n]*>)?\s*$",
        r"^\s*</?(?:" + _ELEMENTS + r")\s*/?>(?:[^\n]*>)?\s*$",
    ),
    refuse("script.any-tag", TEXT, CRUDE, "it holds markup", r"<[a-z!/?]"),
    refuse(
        "markup.external-entity", TEXT + " html", LIKELY,
        "an XML entity reads from outside; remove the entity",
        r"<!entity\s+%?\s*\w+\s+(?:system|public)\b|<!doctype[^<>\[]*\[\s*<!e|<!attlist\b",
        hint=r"<!(?:entity|doctype|attlist)\b",
    ),
    refuse(
        "markup.server-include", TEXT + " html", LIKELY,
        "a server-side include runs or reads on the server; remove the comment",
        r"<!--#\s*(?:exec|include|echo|config|printenv|set|fsize|flastmod)\b",
    ),
    refuse(
        "header.injection", TEXT + " url", LIKELY,
        "an encoded line break adds a protocol header; remove the line break",
        r"%0[ad](?:%0[ad]){0,3}\s?(?:set-cookie|location|content-(?:type|length|disposition)|transfer-encoding|bcc"
        r"|rcpt to|mail from|x-forwarded-\w{2,})\s?:",
    ),
    refuse(
        "template.object-access", TEXT + " template", LIKELY,
        "a template expression reaches into the language's own objects; use plain variables",
        r"[#{]\{%?[^{}]*(?:__(?:class|mro|base|globals|builtins|import|subclasses|init)__|runtime|processbuilder"
        r"|(?:lipsum|cycler|joiner|namespace)\.)|\{%[^{}]*__(?:class|mro|base|globals|builtins|import|subclasses|init)__",
        r"freemarker\.template\.utility|t\(java\.lang|java\.lang\.(?:runtime|processbuilder)|\$\{jndi:",
    ),
    refuse(
        "template.arithmetic", TEXT, LIKELY,
        "it probes for a template engine; send the plain text",
        r"(?:\{\{|[$#@*]\{|<%=)\s?\d+\s?\*\s?['\"]?\d+['\"]?\s?(?:\}|%>)",
    ),
    refuse(
        "template.directive", "template", SUSPECT,
        "a template loads or calls code; use plain variables",
        r"\{%-?\s*(?:import|include|from|extends|load|debug|set)\b|<%|<#(?:assign|include|import)"
        r"|\.(?:constructor|getclass|forname|popen|system)\b|\|\s*attr\b|\b(?:self|config|request|settings)\s*[.\[]",
    ),
)
