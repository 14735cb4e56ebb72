"""Patterns of places: paths and addresses, in text and where one is wanted; and of regular expressions."""

from __future__ import annotations

import re
from typing import Final

from toolpost.security.patterns import CERTAIN, LIKELY, SUSPECT, TEXT, Pattern, refuse
from toolpost.security.typed import is_no_address, is_no_identifier, is_not_public

# fmt: off
_PERCENT = r"%(?:25){0,3}"
_DOT = (
    r"(?:" + _PERCENT + r"2e|" + _PERCENT + r"c0%?(?:25)?(?:ae|2e|fe|5e|6e|ee)|" + _PERCENT +
    r"c0\.|%u(?:002e|2024|ff0e)"
    r"|%e0%80%ae|%f0%80%80%ae|%f8%80%80%80%ae|%fc%80%80%80%80%ae|%%32%%?65|0x2e"
)
_ENCODED_DOT = _DOT + ")"
_ANY_DOT = _DOT + r"|\.)"
_SLASH = (
    r"(?:" + _PERCENT + r"(?:2f|5c)|" + _PERCENT + r"c[01]%?(?:25)?\w\w|%u221[56]|%uefc8|%uf025|%e0%80%af|%f0%80%80%af"
    r"|%f8%80%80%80%af|%bg%qf|%%[35]\w|%%3[25]%%[63]\w|0x2f|0x5c)"
)
_ODD = (
    r"(?:%(?:25)?c[01]%?(?:25)?[\w.]{1,2}|%e0%80|%f0%80%80|%f8%80|%fc%80|%u(?:221[56]|efc8|f025|002[ef]|005c|ff0[ef]|2024)"
    r"|%bg%qf|%%(?:3[25]|32|35)|0x2[ef]0x|0x5c)"
)
_INVISIBLE = r"\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff"
_SYSTEM = (
    r"(?:etc|proc|sys|boot|bin|sbin|run|lib(?:32|64|x32)?|system volume information"
    r"|dev/(?:[a-mo-rt-z]|s[a-su-z])|root/\.[\w.-]+"
    r"|var/(?:log|adm|spool|mail|run|lib|cpanel|backups?|db|cache|lock|games|www/logs?|apache2?|mysql|named|yp)"
    r"|usr/(?:(?:local/)?(?:etc|s?bin|lib(?:exec|32|64)?|include|games|apache\d?|httpd|nginx|php\d?|mysql|pgsql|tomcat\d?"
    r"|www|cpanel|psa|zeus|jakarta)|spool|lib|home|adm)|private/(?:etc|var/(?:log|db|root)|root)|library/webserver|xampp|apache\d?)"
)
_KEPT = (
    r"(?:^|[/\\=:])etc[/\\]{1,3}(?:(?:passwd|g?shadow|sudoers|master\.passwd|krb5\.keytab)\b|group(?:[^\w.-]|$))"
    r"|(?:^|[/\\])\.ssh[/\\]|\bid_(?:rsa|dsa|ecdsa|ed25519)$"
    r"|(?:^|[/\\])\.(?:aws[/\\]credentials|netrc|pgpass|my\.cnf|git-credentials|docker[/\\](?:config\.json|secrets)"
    r"|kube[/\\]config|ht(?:passwd|access)|(?:bash_|zsh_|mysql_|psql_|sh_)?history|gnupg[/\\])"
    r"|(?:^|[/\\])proc[/\\]{1,2}(?:self|\d+|kcore|kallsyms)"
    r"(?:[/\\](?:environ|mem|maps|fd|cmdline|root|cwd|status|exe|stat|net)\b|$)"
    r"|(?:^|[/\\])(?:boot\.ini|win\.ini|system\.ini|ntuser\.dat)(?:$|[%\x00?])|[/\\](?:config|repair)[/\\](?:sam|system|security)(?:[^\w.-]|$)"
    r"|windows[/\\]{1,2}(?:system32|repair|(?:system|win|php|my)\.ini)|winnt[/\\]"
    r"|[/\\]run[/\\]secrets[/\\]|[/\\]dev[/\\](?:k?mem\b|tcp[/\\]|udp[/\\])"
)
_INNER_HOST = (
    # Those of one's own machine but for the ports where people try things out.
    r"(?:(?:localhost|127(?:\.\d+){3}|0\.0\.0\.0|\[::1?\])(?::(?:\d{1,3}|[12679]\d{3}|\d{5}))?(?:[^\w.:-]\S*)?"
    r"|(?:[\w-]+\.(?:localhost|localdomain|internal)|(?:ip6|ipv6)-\w+|0\.?|0x[0-9a-f]+|\d{6,}"
    r"|(?:o?0177|0x7f)(?:\.[0-9a-fx]+){1,3}|127(?:\.\d+){1,2}|169\.254(?:\.\d+){1,2}|169\.\d{4,}"
    r"|100\.100\.100\.200|192\.0\.0\.192|0[xo0-7][0-9a-fx]*(?:\.[0-9a-fx]+){1,3}"
    r"|\[[0-9a-f:.%]*\]|metadata(?:\.[\w.-]+)?|instance-data|[\w.-]*(?:nip\.io|xip\.io|sslip\.io|localtest\.me|lvh\.me))"
    r"(?:[^\w.-]\S*)?)"
)

PLACE: Final[tuple[Pattern, ...]] = (
    # In text.
    refuse(
        "path.traversal-value", TEXT, CERTAIN,
        "the value climbs out of its folder to a file of the system; name a file inside it",
        r"^\s*(?:\.\.[/\\]){2,}"
        r"(?:etc[/\\](?:passwd|shadow|hosts|group|sudoers)|windows[/\\]|winnt[/\\]|boot\.ini|proc[/\\]self)",
    ),
    refuse(
        "path.deep-traversal", TEXT, LIKELY,
        "the value climbs out of its folder; name a file inside it",
        r"^\s*(?:[\w:-]*[/\\])?(?:\.{2,4}[/\\]{1,3}){2}\S*\s*$",
    ),
    refuse(
        "path.system-file", TEXT, LIKELY,
        "a path climbs to a file of the system; name a file inside the folder",
        r"\.\.[/\\]{1,3}(?:etc[/\\]|windows[/\\]|winnt[/\\]|boot\.ini|proc[/\\](?:self|\d|version|cmdline)"
        r"|var[/\\]log[/\\]|root[/\\]|web-inf)|[?&=:](?:/etc/(?:passwd|shadow)|php://(?:filter|input)|expect://|phar://)",
    ),
    refuse(
        "path.encoded-traversal", TEXT + " path url", LIKELY,
        "an encoded '..' climbs out of the folder; write the path plainly, without '..'",
        _ANY_DOT + "{2}" + _SLASH,
        _ENCODED_DOT + _ANY_DOT + r"[/\\]",
        r"\." + _ENCODED_DOT + r"[/\\]",
    ),
    refuse(
        "path.odd-value", TEXT, LIKELY,
        "it is a path encoded in a way no plain name is; write the plain value",
        r"^\S*" + _ODD + r"\S*$",
        r"^\s*(?:[.?/\\]+(?:%(?:25)?(?:2f|5c)|[/\\])){1,}\S*(?:[/\\]etc[/\\]|boot\.ini|windows[/\\]|win\.ini|passwd)\S*$",
        r"^\s*(?:\.{2,4}(?:;[/\\]|2f|5c)){2}\S*$",
        r"^\s*/a{64}",
    ),
    refuse(
        "path.system-value", TEXT, LIKELY,
        "the value names a file of the system; name a file of yours",
        r"^\s*(?:file:/{0,3}(?:localhost/)?|/|[a-z]:[/\\]|/[a-z]:[/\\])"
        r"(?:etc|proc|boot|root/\.|var/(?:log|adm|spool|cpanel)|private/etc|windows|winnt|boot\.ini|program files)"
        r"(?:[/\\]\S*)?\s*(?:%00\S*)?$",
        r"^\s*/\S*(?:access|error)[._-]log(?:\.\w+)?\s*$",
    ),
    refuse(
        "url.internal-value", TEXT, LIKELY,
        "the value is an address of a machine that is not public, or one written to hide it; name a public host",
        r"^\s*(?:\w+=)?\w[\w+.-]+:/*(?:[^/?#\s]+@)?" + _INNER_HOST + r"\s*$",
        r"^\s*(?:\w+=)?(?:file|gopher|dict|netdoc|ldaps?|t?ftp|jar|sftp|expect|php|phar|pop3|view-source):(?:/|//\S*|\S*)\s*$",
        r"^\s*https?:/*(?:[^/?#\s]*[\u2460-\u24ff\u3002\uff61\uff0e]|[^/?#\s]*\\|\d+/?$|[^/?#\s]+[ &+]+@)",
    ),
    # Where a path is wanted.
    refuse(
        "path.traversal", "path", LIKELY,
        "'..' climbs out of the folder; write the path without it",
        r"(?:^|[/\\\s=:,;&?\"'(\[])\.\.(?:[/\\]|;/|$)|[/\\]\.{2}[\x00-\x1f;?#]|\.\.[\x00-\x20]{1,3}[/\\]",
        r"(?:^|[/\\])[.?]{2,}\s*[/\\]|\.{4}[/\\]|/\.?\\|\\\.?/",
    ),
    refuse(
        "path.odd-encoding", "path", LIKELY,
        "it is encoded in a way no plain file name is; write the path plainly",
        r"%25(?:2e|2f|5c|c0|c1|00|af|e0|f0|25)|%c[01](?:[%./\\]|\w)|%(?:e0%80|f0%80%80|f8%80|fc%80)|%u[0-9a-f]{4}"
        r"|%%\w\w|%bg%qf|%[01][0-9a-f]|%7f|[./\\?]0x(?:2e|2f|5c)|0x2e0x2e|\.\.(?:2f|5c)|^[a-z0-9+/]{16,}={1,2}$",
    ),
    refuse(
        "path.control-character", "path", LIKELY,
        "a file name holds a NUL or another control or invisible character; remove it",
        r"[\x00-\x1f\x7f" + _INVISIBLE + "]",
    ),
    refuse(
        "path.wrapper", "path", LIKELY,
        "it is an address, not a path; give the path of a file",
        r"^\s*(?:(?:file|php|zip|phar|expect|glob|gopher|jar|netdoc|dict|ldap|compress\.\w{2,6}|rar|ogg|ssh2\.?\w*"
        r"|classpath|javascript|view-source|https?|t?ftp)(?::/{0,3}(?:/|\w+/|\w+;)|:%)|data:)",
    ),
    refuse(
        "path.sensitive-file", "path", LIKELY,
        "it holds the system's accounts or someone's keys; name another file",
        _KEPT,
        r"(?:^|[/\\])(?:config(?:uration)?\.inc\.php|wp-config\.php|database\.asp|web\.config|(?:http|sshd|smb)d?\.conf)$",
    ),
    refuse(
        "path.server-file", "path", LIKELY,
        "it lies where the system or a server keeps its own files; name a file of yours",
        r"^\s*[/\\]{1,3}(?:[a-z]:)?(?:" + _SYSTEM.replace("/", r"[/\\]{1,2}") + r")(?:[/\\]|$)",
        r"^\s*[/\\]{0,2}[a-z]:[/\\]{1,2}"
        r"(?:windows|winnt|boot|program files|programdata|inetpub|xampp|apache|system volume)",
        r"^\s*(?:[/\\]|[a-z]:[/\\]).*(?:access|error)[._-]log(?:\.\w+)?$",
    ),
    refuse(
        "path.stream-or-share", "path", LIKELY,
        "it names a network share, device or alternate stream; name a plain file",
        r"^(?:\\\\[?.]\\|\\\\[^\\\s]+\\[^\\]|.*::\$(?:data|index))",
    ),
    refuse(
        "path.forbidden-character", "path", LIKELY,
        "a path holds quotes, brackets or separators that no file name has; write the plain path",
        r"[;|<>\"`]|&&|\$\(|\$\{|^#\s",
        own=True,
    ),
    refuse(
        "path.device-name", "path", SUSPECT,
        "it has a name that Windows keeps for a device; choose another name",
        r"^(?:[^:]*[/\\])?(?:con|nul|aux|prn|com\d|lpt\d)(?:\.\w+)?$",
        own=True,
    ),
    refuse(
        "path.system-directory", "path", SUSPECT,
        "it lies in a directory of the system; name a file of your own",
        r"^[/\\]{1,2}(?:etc|proc|sys|dev|root|boot|var[/\\]log|usr)(?:[/\\]|$)|[a-z]:[/\\]{1,2}(?:windows|winnt|boot)",
    ),
    refuse(
        "path.settings-file", "path", SUSPECT,
        "it is a settings file that often holds secrets, or lies in a home folder; name another file",
        r"(?:^|[/\\])(?:\.env(?:\.\w+)?$|\.(?:git|svn|hg)[/\\]|web-inf[/\\])|^~",
        own=True,
    ),
    refuse(
        "path.shell-character", "path", SUSPECT,
        "a file name holds characters that shells act on; rename the file",
        r"[$*?&]",
        own=True,
    ),
    # Where an address is wanted.
    refuse(
        "url.script-scheme", "url", LIKELY,
        "the address runs script instead of naming a place; give an http or https address",
        r"^[\x00-\x20\"'<(]*(?:j\s*a\s*v\s*a|v\s*b|live)\s*s\s*c\s*r\s*i\s*p\s*t\s*:"
        r"|^[\x00-\x20\"'<(]*data\s*:",
    ),
    refuse(
        "url.local-scheme", "url", LIKELY,
        "the address reads files or speaks another protocol; give an http or https address",
        r"^\s*(?:url:|url=)?(?:file|gopher|dict|jar|netdoc|php|phar|expect|zip|glob|t?ftps?|sftp|ldaps?|view-source|chrome"
        r"|resource|classpath|rmi|iiop|jndi|smb|unix|blob|filesystem|ms-\w{2,}|mhtml|intent|pop3s?|imaps?|smtps?|telnet"
        r"|ssh2?|redis|memcached?):",
    ),
    refuse(
        "url.control-character", "url", LIKELY,
        "the address holds a control or invisible character, or a space in its host; encode or remove it",
        r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f" + _INVISIBLE + r"]|[\r\n]\s*\S"
        r"|^[^/?#]*//[^/?#\s]* +[^/?#\s]",
        raw=True,
    ),
    refuse(
        "url.backslash", "url", LIKELY,
        "a backslash in the host makes readers disagree which host is meant; use forward slashes",
        r"^\s*(?:[a-z][a-z0-9+.-]*:[/\\]*[^/?#]*\\|\\\\)",
    ),
    refuse(
        "url.address", "url", LIKELY,
        "it is no whole http or https address with a plain host, without user and password; write https://host/path",
        is_no_address,
        own=True,
    ),
    refuse(
        "url.internal-host", "url", LIKELY,
        "its host is not public, or stands for one that is not; name a public host, or let the tool reach this one",
        is_not_public,
        own=True,
    ),
    # Identifiers and regular expressions.
    refuse(
        "identifier.control-character", "identifier", LIKELY,
        "an identifier holds a control or invisible character; remove it",
        r"[\x00-\x1f\x7f" + _INVISIBLE + "]",
        raw=True,
    ),
    refuse(
        "identifier.format", "identifier", LIKELY,
        "an identifier is at most 256 letters, digits and . _ : @ / + ~ # - between them, without spaces",
        is_no_identifier,
        own=True,
    ),
    refuse(
        "regex.nested-repeat", "regex", LIKELY,
        "a repeat inside a repeat can take exponential time; repeat one of them only",
        r"\((?:\?[:>]|\?P?<\w+>)?(?:\\?[^\\()\[\]|]|\\.|\[[^\]]+\])[+*](?:\\?\s?[*?])?\)(?:[+*]|\{\d*,\})",
        raw=True,
    ),
    refuse(
        "regex.size", "regex", SUSPECT,
        "a pattern has over 1000 characters or a repeat over 1000; make it smaller",
        lambda value: len(value) > 1000 or re.search(r"\{\d{4}|\{\d{0,4},\d{4}", value),
        own=True,
    ),
)
