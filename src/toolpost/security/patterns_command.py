"""Patterns of commands: smuggled in where a plain value is wanted, and what is refused where a command is."""

from __future__ import annotations

from typing import Final

from toolpost.security.patterns import CERTAIN, CRUDE, LIKELY, SUSPECT, TEXT, Pattern, refuse

# fmt: off
_PROGRAM = (
    r"(?:/?(?:usr/)?(?:local/)?s?bin/)?['\"\\]{0,2}(?:"
    r"(?:id|whoami|uname|ifconfig|ipconfig|netstat|systeminfo|tasklist|phpinfo|pwd|ls|dir|ps|env|printenv|reboot|hostname)"
    r"(?:\s+[-/\w.:*\\]+){0,3}\s*(?:$|[;|&`)'\"#<>\n\r])"
    r"|(?:cat|wget|curl|nc|ncat|netcat|bash|zsh|ksh|powershell|cmd|nslookup|chmod|chown|ping|rm|ssh|scp|telnet|perl"
    r"|python\d?|ruby|php|sh|dig|sudo|su|useradd|crontab|type|echo|sleep|touch|net|netsh|reg|t?ftp|head|tail|more|less"
    r"|find|awk|sed|xterm|kill|timeout|busybox|system|exec|passthru|eval)(?:\.exe)?"
    r"(?:\s+(?:-{1,2}\w|/\w|\w{2,6}://|\d+(?:\D|$)|[\w.-]+[./:\\]\w|['\"$%<>{]|(?:user|view|localgroup)\b"
    r"|\w+\s*(?:$|[>|]))|\s?[(<>]|\s*$))"
)
_SHELL = r"(?:ba|z|k|c|da)?sh"
_HANDED_SHELL = r"[^\n;|]*\s-\w*[ec]\s+\S*(?:sh|cmd)\b"

COMMAND: Final[tuple[Pattern, ...]] = (
    refuse(
        "command.breakout", TEXT, CERTAIN,
        "a separator starts a command that reads the accounts or deletes everything; send the plain value",
        r"^[\w.@-]*['\"]?\s*(?:[;|&]{1,2}|\$\(|`)\s*(?:/(?:usr/)?bin/)?"
        r"(?:cat\s+/etc/(?:passwd|shadow)|rm\s+-\w+\s+/)",
    ),
    refuse(
        "command.chained", TEXT, LIKELY,
        "a separator starts a shell command; send the plain value",
        r"^[^\s;|&`$<>(){}=,]*['\"]?\s*(?:;|\|{1,2}|&{1,2}|%0a|`|\$\()\s*" + _PROGRAM,
    ),
    refuse(
        "command.broken-out", TEXT, LIKELY,
        "a quote, bracket or line break ends a value and a shell command follows; send the plain value",
        r"^[\w.@-]*[)'\"$%*?]*[\s+]*(?:[;|&]{1,3}|\\n|%0[ad])[;|&\s+\\]*" + _PROGRAM,
        r"^[\w.@-]*[)'\"$%]*[\s+]*(?:[;|&]{1,3}|\\n)[\s+|]*(?:\{\w|\$\w|\w+=\$|dir\b|[a-z](?:\\{1,2}[a-z]){2}|[a-z]+\$\w)",
        r"^[)'\"$%*|\s]*[+|]+[\s+|]*dir[\s+|]+[a-z]:",
        r"^['\"]?\\n/?(?:usr/)?bin/\w",
        r"^\W*\$\(`?\s*(?:curl|wget|type|whoami|id|cat|ls|ping|nslookup|sleep)\b",
    ),
    refuse(
        "command.command-value", TEXT, LIKELY,
        "the value is a command of the system; send the plain value",
        r"^\s*(?:(?:curl|wget)\s+(?:-\S+\s+)*(?:https?|ftp)://\S+|sleep\s+\d+|which\s+\w+|ls\s+-\w+\s+/\S*"
        r"|cat\s+/\S+|netsh\s+firewall\b.*|net\s+(?:localgroup|user)\b.*|reg\s+(?:add|query)\s.*|perl\s+-e\s.*"
        r"|(?:whoami|ifconfig|ipconfig|netstat(?:\s+-\w+)?|uname\s+-a|systeminfo|tasklist)|n(?:c|cat)\s+-\w+\s.*)\s*$",
        r"^[^a-z]*echo\s+[\"']<\?",
    ),
    refuse(
        "command.code-value", TEXT, LIKELY,
        "the value is code that runs commands; send the plain value",
        r"^[^a-z]*(?:system|exec|passthru|shell_exec|popen|eval|assert)\s*\(\s*['\"].*['\"]\s*\)\W*$",
        r"^\W*php(?:info|version)\s*\(\s*\)",
        r"\{\$\{|\$\{@\w+\(",
        r"@\{\s*\[|\brequire\s*\(\s*['\"]child_process|\brequire\.main\.|\bprocess\.(?:binding|mainmodule)\b"
        r"|#\{\s*(?:process|require|`|%x|system|global)\b|!!python/(?:object|name|module)",
        r"^\W*(?:console(?:\.\w+|\[.+\])(?:\.(?:call|apply))?\s*\(|while\s*\(\s*[!+\w`\[\]-]+\s*\)\s*;)",
    ),
    refuse(
        "command.php-code", TEXT, LIKELY,
        "it holds PHP that runs commands or reads what was sent; send the plain value",
        r"<\?(?:\s*echo\b|(?:php|=).*(?:(?:system|exec|passthru|shell_exec|popen|eval|assert)\s*\(|`|\$_(?:get|post|request|server|cookie)\b))",
        hint=r"<\?(?:php|=|\s*echo)",
    ),
    refuse(
        "command.sensitive-read", TEXT + " shell", LIKELY,
        "it reads the system's accounts or someone's keys; leave those files alone",
        r"(?:\b(?:cat|less|more|head|tail|tac|nl|strings|xxd|od|base64|cp|scp|grep|awk|sed|curl|type|get-content|vim?"
        r"|nano)\b|<)[^\n;|&<]*(?:/etc/(?:passwd|g?shadow|sudoers|master\.passwd)\b"
        r"|/\.ssh/(?:id_[a-z0-9]{2,}|authorized_keys)(?:[^\w.]|\.[^p]|$)|/\.aws/credentials"
        r"|/\.(?:netrc|pgpass|git-credentials|docker/config\.json|kube/config)\b"
        r"|/proc/(?:self|\d+)/(?:environ|mem|maps)|/run/secrets/|\\(?:config|repair)\\sam)",
        hint=r"/etc/(?:passwd|g?shadow|sudoers|master)|/\.(?:ssh|aws|netrc|pgpass|git-|docker|kube)|/proc/|/run/secrets|\\(?:config|repair)\\sam",
    ),
    refuse(
        "command.reverse-shell", TEXT + " shell", LIKELY,
        "it opens a shell to another machine; leave the connection out",
        r"/dev/(?:tcp|udp)/[^\s/]+/\d|mkfifo\b[^\n]*\b(?:nc|ncat|telnet|openssl)\b"
        r"|socat\b[^\n]*\bexec:|socket\.socket\([^\n]*(?:dup2|subprocess|pty\.spawn)"
        r"|fsockopen\([^\n]*\b(?:exec|sh)\b|net\.socket[^\n]*/bin/sh|powershell[^\n]*tcpclient",
        hint=r"/dev/(?:tcp|udp)/|mkfifo|socat|socket\.socket\(|fsockopen\(|net\.socket|tcpclient",
    ),
    refuse(
        "command.netcat-shell", TEXT + " shell", LIKELY,
        "it hands a shell to whoever connects; leave the shell out",
        r"\b(?:nc|ncat|netcat)\b" + _HANDED_SHELL,
        r"sh\s+-i\b[^\n]*[<>]&",
        hint=r"\s-\w*[ec]\s+\S*(?:sh|cmd)\b|sh\s+-i\b",
    ),
    refuse(
        "command.shellshock", TEXT + " shell", LIKELY,
        "it is a function definition that old shells run; send the plain value",
        r"\(\)\s{0,3}\{\s{0,3}:?;?\s{0,3}:;\s{0,3}\}\s{0,3};|\(\)\s{0,3}\{\s{0,3}_?;\s{0,3}\}\s{0,3}>_",
    ),
    refuse(
        "command.evasion", TEXT + " shell", LIKELY,
        "it hides a command's spaces or letters from a reader; write the command plainly",
        r"\w\$(?:ifs\b|\{ifs\b)",
        r"/e[?*]{1,2}c?/p[?*]{2}|/\?{3}/[?\w]{2}",
        r"(?:''|\"\"|\$@)\w+ {1,3}/etc/",
    ),
    refuse(
        "command.piped-download", "shell", LIKELY,
        "it runs what it downloads; download, look, then run",
        r"\b(?:curl|wget|fetch|iwr|invoke-webrequest)\b[^\n;|]*\|\s*"
        r"(?:tee\s+\S+\s*\|\s*)?(?:sudo\s+(?:-\w\s+)?)?(?:/\S*/)?"
        r"(?:env\s+)?(?:" + _SHELL + r"|python\d?|perl|ruby|node|iex)\b"
        r"|\b" + _SHELL + r"\s+(?:-c\s+[\"']?\$\(|<\()\s*(?:curl|wget)\b"
        r"|\biex\b[^\n]*(?:downloadstring|iwr|invoke-webrequest)",
        hint=r"\|\s*(?:tee|sudo|/|env|" + _SHELL + r"|python\d?|perl|ruby|node|iex)\b|\b" + _SHELL +
        r"\s+(?:-c\s|<\()|\biex\b",
    ),
    refuse(
        "command.decoded", "shell", LIKELY,
        "it runs a command that it decodes; write the command plainly",
        r"\bbase(?:64|32)\b[^\n;|]*-(?:d|-decode)\b[^\n;|]*\|\s*(?:sudo\s+)?(?:" + _SHELL +
        r"|python\d?|perl)\b|\bxxd\s[^\n;|]*\|\s*" + _SHELL + r"\b"
        r"|\bpowershell(?:\.exe)?\b[^\n]*\s-e(?:nc|ncodedcommand|c)?\s+[\w+/=]{12}"
        r"|\beval\s+[\"']?(?:\$\(|`)[^\n)`]*\b(?:base64|base32|xxd|rev|curl|wget|printf)\b",
        hint=r"base(?:64|32)|\bxxd\s|powershell|\beval\s",
    ),
    refuse(
        "command.destructive", "shell", LIKELY,
        "it destroys a whole disk or system; name the files",
        r"\brm\s+(?:-\S+\s+)+[\"']?(?:/(?:\*|(?:etc|usr|var|home|boot|bin|lib|root)/?\*?)?[\"']?(?:\s|$|[;&|])"
        r"|(?:~|\$home)/?(?:\s|$))|--no-preserve-root|\bmkfs(?:\.\w{2,})?\s[^\n;|]*/dev/(?:sd|hd|nvme|x?vd)"
        r"|\bdd\b[^\n;|]*\bof=/dev/(?:sd|hd|nvme|x?vd|k?mem)|>\s{0,2}/dev/(?:sd|hd|nvme|x?vd)\w"
        r"|:\s?\(\)\s?\{\s?:\s?\|\s?:\s?&|\bchmod\s+(?:-\w+\s+){0,2}\d?777\s+/\s{0,2}(?:$|[;&|\n])"
        r"|\bformat\s+c:|\bdel\s+/\w\s+(?:/\w\s+){0,3}c:\\",
        hint=r"\brm\s|preserve-root|mkfs|of=/dev|>\s*/dev/|:\s?\(\)|\bchmod\s|\bformat\s|\bdel\s",
    ),
    refuse(
        "command.any-chaining", "shell", SUSPECT,
        "it chains, substitutes or redirects commands; send one plain command",
        r"[;|&`\n]\s*(?:/(?:usr/)?bin/)?\w|\$\(|\$\{|[<>]\(|>{1,2}\s?[/\w]",
        own=True,
    ),
    refuse(
        "command.metacharacter", TEXT + " shell", CRUDE,
        "it holds a character that shells act on",
        r"[;&|`$<>\n\\]",
    ),
)
