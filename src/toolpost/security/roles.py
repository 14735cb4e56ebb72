"""What a parameter's text is for, and the patterns each purpose refuses; running them is left to rules.py."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from toolpost.calls.errors import ConfigurationError

Role = Literal["text", "identifier", "path", "url", "sql", "html", "shell", "regex", "template", "skip"]
Level = Literal["low", "medium", "high", "strict"]
Form = Literal["raw", "low", "flat", "dense"]

ROLES: Final[tuple[Role, ...]] = get_args(Role)
LEVELS: Final[tuple[Level, ...]] = get_args(Level)

_FORMATS: Final[tuple[tuple[Role, str], ...]] = (
    ("url", "uri uri-reference iri iri-reference url"),
    ("path", "path file-path directory-path"),
    ("identifier", "uuid"),
    ("regex", "regex"),
    ("template", "uri-template"),
    ("sql", "sql"),
    ("html", "html"),
)
_LAST_WORDS: Final[tuple[tuple[Role, str], ...]] = (
    ("path", "path file filename filepath pathname dir directory folder"),
    ("path", "file_name dir_name directory_name folder_name"),
    ("url", "url uri link href endpoint webhook"),
    ("sql", "sql sql_query sql_statement sql_text sql_string"),
    ("html", "html html_content html_body html_text html_fragment"),
    ("shell", "cmd cmdline command command_line shell script bash"),
    ("identifier", "id uid uuid guid slug identifier"),
    ("regex", "regex regexp pattern"),
    ("template", "template template_string template_text"),
)
_BY_FORMAT: Final = {word: role for role, words in _FORMATS for word in words.split()}
_BY_LAST_WORDS: Final = {word: role for role, words in _LAST_WORDS for word in words.split()}
_WORD_EDGE: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+")


def role_of(name: str, *, format: str | None = None, declared: str | None = None) -> Role:
    """The role of a parameter: the declared one, else by its JSON Schema format, else by its name.

    Names are read by their last words: `target_path`, `filePath` and `paths` are paths, `file_content` is
    text. Raises ConfigurationError when the declared role does not exist.
    """
    if declared is not None:
        return _declared(name, declared)
    if format is not None and format.lower() in _BY_FORMAT:
        return _BY_FORMAT[format.lower()]
    words = [word.lower() for word in _WORD_EDGE.split(name) if word]
    if not words:
        return "text"
    return _BY_LAST_WORDS.get("_".join(words[-2:])) or _BY_LAST_WORDS.get(_singular(words[-1]), "text")


def _declared(name: str, declared: str) -> Role:
    for role in ROLES:
        if role == declared:
            return role
    near = difflib.get_close_matches(str(declared), ROLES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the roles are {', '.join(ROLES)}"
    raise ConfigurationError(f"parameter {name!r}: {declared!r} is not a role; {hint}")


def _singular(word: str) -> str:
    if word == "directories":
        return "directory"
    return word[:-1] if word.endswith("s") and word[:-1] in _BY_LAST_WORDS else word


CERTAIN: Final = 0  # the whole value, from its start, is an attack
LIKELY: Final = 1  # hardly ever innocent in this role
SUSPECT: Final = 2  # often an attack, sometimes not
CRUDE: Final = 3  # single words and characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """One thing that some roles refuse.

    find is one or more regular expressions, tried at the start only when they begin with ^, or a function; it gets
    the value in the pattern's form: `raw` is the value itself, `low` a decoded view in lower case, `flat` that with
    SQL comments and runs of space as one space, `dense` that without comments, space and control characters.
    words are literals without space of which that form must hold one, else find is not tried; none means always
    try. A pattern of its `own` roles stays with them even at level strict. A `bare` one may be found in text of
    letters, digits, spaces and .,!? alone.
    """

    rule: str
    roles: str
    sure: int
    why: str
    find: str | tuple[str, ...] | Callable[[str], object]
    form: Form = "low"
    words: tuple[str, ...] = ()
    own: bool = False
    bare: bool = False

    def search(self) -> Callable[[str], object]:
        """find as a function, compiled when a role first needs it."""
        if isinstance(self.find, str):
            return _compiled(self.find)
        if not isinstance(self.find, tuple):
            return self.find
        tries = tuple(_compiled(find) for find in self.find)
        return lambda text: any(search(text) for search in tries)


def _compiled(find: str) -> Callable[[str], object]:
    compiled = re.compile(find.removeprefix("^"), re.DOTALL)
    return compiled.match if find.startswith("^") else compiled.search


def patterns_for(role: Role, level: Level, untrusted: bool) -> tuple[Pattern, ...]:
    """The patterns that run for a role at a level, surest first."""
    if level == "low" or role == "skip":
        return ()
    limit = _limit(role, level, untrusted)
    everywhere = level == "strict"
    chosen = [p for p in PATTERNS if role in p.roles.split() or (everywhere and not p.own)]
    return tuple(sorted((p for p in chosen if p.sure <= limit), key=lambda p: p.sure))


def _limit(role: Role, level: Level, untrusted: bool) -> int:
    if level == "strict":
        return CRUDE
    if role == "text":
        return CERTAIN + (level == "high") + untrusted
    return SUSPECT if level == "high" else LIKELY


def _refuse(
    rule: str,
    roles: str,
    sure: int,
    why: str,
    find: str | tuple[str, ...] | Callable[[str], object],
    *,
    words: str = "",
    form: Form = "low",
    own: bool = False,
    bare: bool = False,
) -> Pattern:
    return Pattern(
        rule=rule,
        roles=roles,
        sure=sure,
        why=why,
        find=find,
        form=form,
        words=tuple(words.split(" ")) if words else (),
        own=own,
        bare=bare,
    )


# A value is searched wholly, however long, so no search may take more than linear time: every repeat is
# bounded, unless it starts where the value starts, or takes all up to a character that ends it.
# fmt: off
_TEXT = "text identifier"
_OPENED = r"[^'\"`]*+(?:(?<=\w)'(?=\w)[^'\"`]*+)*['\"`] ?\){0,8} ?"  # up to a quote not opened
_SHORT = r" ?(?:[\w@.%$*-]+(?: [\w@.%-]+){0,3})?['\"`)] ?['\")]{0,8} ?"  # a plain value, then a quote
_START = r" ?[^\s'\"`;]{0,40}['\"] ?\){0,8} ?"
_BOOL = r"(?:\|\||&&|(?:or|and|xor|having|where)(?![\w.-]))"
_NOT = r"[ (!~-]{0,8}(?:not[ (]{1,4})?"
_NUMBER = r"-?\d{1,16}(?:\.\d{1,8})?(?![\w.])"
_QUOTED = r"(?:'[^'\"]{0,40}'|\"[^'\"]{0,40}\")"
_NAME = (
    r"(?!(?:the|an?|your|my|our|their|this|that|these|those|all|any|for|of|to|and|in|on|from|with|at|it|me)\b)"
    r"[\w.\"`\[\]$]{1,80}"
)
_END = r"(?: ?;| ?--| ?#| ?/\*| ?$)"
_SLOW = (
    r"(?:sleep|benchmark|pg_sleep|extractvalue|updatexml|load_file|elt|make_set|randomblob|json_keys|exp|ascii|ord"
    r"|substr(?:ing)?|mid|char_length|len(?:gth)?|version|database|(?:current|system|session)_user|user|convert|cast"
    r"|conv|(?:un)?hex|char|chr|concat(?:_ws)?|row|rlike|isnull|ifnull|nullif|lower|upper|floor|row_count|if|exists)"
)
_CONSTANTS = (
    r"[ (!~]{0,5}(?:not[ (]{1,4})?(?:" + _NUMBER +
    r"(?: ?(?:=(?!=)|<>|!=|<=>) ?\(?[-'\"]?\d| ?[<>] ?\d{1,16} ?(?:--|#|/\*|$)"
    r"| ?(?:=(?!=)|<>|!=|like\b) ?\(? ?(?:select\b|@@|(?:system|current|session)_user\b|" + _SLOW +
    r" ?\())|" + _QUOTED + r" ?(?:=(?!=)|<>|!=|like\b) ?\(?['\"])"
)
_STATEMENT = (
    r"(?:drop (?:table|database|schema|view|user|index|procedure|function|trigger) (?:if exists )?" + _NAME +
    r"(?! (?:for|of|to|and|in|on|from|with|at|is)\b)"
    r"|delete from " + _NAME + r"(?:" + _END + r"| where\b| using\b)"
    r"|insert into " + _NAME + r" ?(?:\(|values\b|select\b|set\b)"
    r"|update " + _NAME + r" set \S{1,80} ?="
    r"|truncate table " + _NAME +
    r"|alter (?:table|user|database|login|role|session|system) " + _NAME +
    r"|create (?:table|user|login|database|trigger|procedure|(?:or replace )?function) " + _NAME +
    r"(?: ?\(| as\b| identified| with\b| from\b)"
    r"|exec(?:ute)? ?(?:immediate\b|\(|@|xp_|sp_|\w{0,30}\.\.?\w)"
    r"|declare ?[@ ]\w{1,30} (?:n?varchar|char|int|cursor|table)"
    r"|shutdown(?: with\b|" + _END + r")|waitfor (?:delay|time)\b"
    r"|grant \w{1,20} (?:on|to) |copy \S{1,60} (?:from|to) |load data |attach database |begin declare "
    r"|select (?:\*|@@\w|null\b|\d|case when|count ?\(|[a-z_]{2,30}\(|\w{1,40} ?, ?\w))"
)
_PROGRAM = (
    r"(?:/(?:usr/)?(?:local/)?s?bin/)?['\"\\]{0,2}(?:"
    r"(?:id|whoami|uname|ifconfig|ipconfig|netstat|systeminfo|tasklist|phpinfo|pwd|ls|dir|ps|env|printenv|reboot|hostname)"
    r"(?:\s{1,4}[-/\w.:*\\]{1,80}){0,3}\s{0,4}(?:$|[;|&`)'\"#<>\n\r])"
    r"|(?:cat|wget|curl|nc|ncat|netcat|bash|zsh|ksh|powershell|cmd|nslookup|chmod|chown|ping|rm|ssh|scp|telnet|perl"
    r"|python\d?|ruby|php|sh|dig|sudo|su|useradd|crontab|type|echo|sleep|touch|net|netsh|reg|t?ftp|head|tail|more|less"
    r"|find|awk|sed|xterm|kill|timeout|busybox|system|exec|passthru|eval)(?:\.exe)?"
    r"(?:\s{1,4}(?:-{1,2}\w|/\w|\d{1,5}(?:\D|$)|[\w.-]{1,60}[./:\\]\w|['\"$%<>{]|(?:user|view|localgroup)\b"
    r"|\w{1,20}\s{0,4}(?:$|[>|]))|\s?[(<>]|\s{0,4}$))"
)
_EVENT = (
    r"(?:error|load|click|focus\w{0,3}|blur|mouse[a-z]{2,5}|toggle|start|begin|end|key[a-z]{2,5}|input|change|submit"
    r"|copy|paste|cut|drag[a-z]{0,6}|drop|scroll|wheel|resize|select|animation[a-z]{3,9}|transition[a-z]{3,6}"
    r"|pointer[a-z]{2,12})"
)
_DOT = r"(?:%(?:25){0,3}2e|%(?:25){0,3}c0%(?:25){0,3}ae|%u002e|%e0%80%ae|%f0%80%80%ae|%%32%%65|0x2e|\.)"
_SLASH = (
    r"(?:%(?:25){0,3}(?:2f|5c)|%(?:25){0,3}c[01]%?(?:25)?\w\w|%u221[56]"
    r"|%uefc8|%uf025|%e0%80%af|%%[35]\w|0x2f|0x5c)"
)
_SHELL = r"(?:ba|z|k|c|da)?sh"
_HANDED_SHELL = r"[^\n;|]{0,60}?\s-\w{0,6}[ec]\s{1,4}\S{0,20}?(?:sh|cmd)\b"
_INVISIBLE = r"\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff"

# The two ways to read a SQL literal: a backslash is itself, or it escapes. A group that matches marks one left open.
_READINGS = (
    re.compile(
        r"'(?:[^']|'')*+(?:'|(\Z))|\"(?:[^\"]|\"\")*+(?:\"|(\Z))|`[^`]*+(?:`|(\Z))"
        r"|\$(?P<tag>[A-Za-z_]{0,30})\$.*?(?:\$(?P=tag)\$|\Z)|--[^\n]*|/\*.*?(?:\*/|\Z)",
        re.DOTALL,
    ),
    re.compile(
        r"'(?:[^'\\]|\\.|'')*+(?:'|(\Z))|\"(?:[^\"\\]|\\.|\"\")*+(?:\"|(\Z))|`[^`]*+(?:`|(\Z))"
        r"|(?:--|\#)[^\n]*|/\*.*?(?:\*/|\Z)",
        re.DOTALL,
    ),
)
_SECOND = re.compile(r";\s*+[^\s;]")
_PROBE = re.compile(r"(?<![.\w])(?:sleep|benchmark|randomblob) ?\( ?(?:\d|__time__|\(|@)")
_BEFORE_PROBE = re.compile(
    r"(?:\b(?:or|and|xor|select|by|having|when|then|like)|\|\||&&|[\d'\"][=,]|,\w{1,20},|[=+*/(,]\(|\A\)* ?"
    r"|['\"`)] ?[,+*=-]?) ?[(!~ ]{0,6}(?:if ?\( ?|case when )?\Z"
)


def _several_statements(sql: str) -> bool:
    return ";" in sql and any(_SECOND.search(code) for code in _codes(sql))


def _open_literal(sql: str) -> bool:
    return not _codes(sql)


def _codes(sql: str) -> list[str]:
    """SQL without its literals and comments, by each reading that leaves no quote open."""
    codes = []
    for reading in _READINGS:
        gaps = list(reading.finditer(sql))
        if not gaps or gaps[-1].lastgroup == "tag" or gaps[-1].lastindex is None:
            codes.append(reading.sub(" ", sql))
    return codes


def _probed(flat: str) -> bool:
    """Whether a call that delays or exhausts stands where an injected expression would."""
    return any(
        _BEFORE_PROBE.search(flat[max(0, call.start() - 40) : call.start()]) for call in _PROBE.finditer(flat)
    )


PATTERNS: Final[tuple[Pattern, ...]] = (
    # Values that are attacks as a whole: what every text is searched for.
    _refuse(
        "sql.breakout-statement", _TEXT, CERTAIN,
        "a quote closes and another SQL statement follows; send the plain value",
        "^ ?(?:[^\\s'\"`;]{1,40} )?" + _START + "; ?" + _STATEMENT,
        words=";", form="flat",
    ),
    _refuse(
        "sql.breakout-tautology", _TEXT, CERTAIN,
        "a quote closes and a condition that is always true follows; send the plain value",
        "^" + _START + r"(?:or|and|\|\||&&)[ (]{1,4}(['\"]?)(\w{1,20})\1 ?= ?['\"]?\2(?!\w)",
        words="=", form="flat",
    ),
    _refuse(
        "sql.breakout-union", _TEXT, CERTAIN,
        "a value ends and a UNION SELECT follows; send the plain value",
        r"^(?: ?-?\d{1,32}(?:\.\d{1,8})? ?\){0,8} ?|" + _START + r")union (?:all |distinct )?select\b",
        words="union", form="flat",
    ),
    _refuse(
        "script.breakout", _TEXT, CERTAIN,
        "a quote and a tag close and active markup follows; send the plain text",
        r"^\s{0,8}[\w -]{0,20}['\"`]{1,3}\s{0,4}/?>{1,3}\s{0,4}<"
        r"(?:script|img|svg|iframe|body|video|audio|input)\b",
        words="<",
    ),
    _refuse(
        "path.traversal-value", _TEXT, CERTAIN,
        "the value climbs out of its folder to a file of the system; name a file inside it",
        r"^\s{0,8}(?:\.\.[/\\]){2,40}"
        r"(?:etc[/\\](?:passwd|shadow|hosts|group|sudoers)|windows[/\\]|winnt[/\\]|boot\.ini|proc[/\\]self)",
        words="..",
    ),
    _refuse(
        "command.breakout", _TEXT, CERTAIN,
        "a separator starts a command that reads the accounts or deletes everything; send the plain value",
        r"^[\w.@-]{0,40}['\"]?\s{0,4}(?:[;|&]{1,2}|\$\(|`)\s{0,4}(?:/(?:usr/)?bin/)?"
        r"(?:cat\s{1,4}/etc/(?:passwd|shadow)|rm\s{1,4}-\w{1,4}\s{1,4}/)",
        words="/etc/ rm",
    ),
    _refuse(
        "control.nul", "text identifier sql html shell regex template", CERTAIN,
        "it holds a NUL character; remove it",
        r"\x00",
        words="\x00", form="raw",
    ),
    # SQL where a plain value is wanted.
    _refuse(
        "sql.union-select", _TEXT, LIKELY,
        "UNION SELECT with columns looks like an appended query; send the plain value",
        r"\bunion[ (]{1,4}(?:(?:all|distinct)[ (]{1,4})?select[ (]{0,4}(?:all |distinct |top \d{1,3} )?"
        r"(?:null\b|select\b|\d|@|\*|'|\"|(?:group_concat|sleep|" + _SLOW + r") ?\("
        r"|[\w.$\"`]{1,60} ?(?:,|from\b|--|#|as\b))",
        words="union", form="flat", bare=True,
    ),
    _refuse(
        "sql.breakout-condition", _TEXT, LIKELY,
        "a quote closes and a SQL condition follows; send the plain value",
        "^" + _OPENED + _BOOL + _NOT + r"(?:(?:" + _NUMBER + "|" + _QUOTED + r") ?"
        r"(?:=(?!=)|<|>|!=|r?like\b|ilike\b|in ?\(|is (?:not )?null|between\b|regexp\b|sounds like|;|--)"
        r"|" + _NUMBER + r" ?(?:[-+*/^&|%#)]|$)|(?:''|\"\") ?[-+*/^&|=%]|(?:true|false|null)(?:" + _END +
        r"| ?\)| (?:or|and|is|like)\b))",
        form="flat",
    ),
    _refuse(
        "sql.breakout-expression", _TEXT, LIKELY,
        "a quote closes and a SQL expression follows; send the plain value",
        "^" + _SHORT + _BOOL + _NOT + r"(?:[a-z_@][\w.@$]{0,40}(?: ?\([^()]{0,60}\))? ?(?:=(?!=)|<|>|!="
        r"|(?:r?like|regexp|between) ?['\"(\d]|ilike\b|in ?\(|is (?:not )?(?:null|true)\b|sounds like\b"
        r"|similar to\b)|(?:exists|select|case when)\b|" + _SLOW + r" ?\()",
        form="flat",
    ),
    _refuse(
        "sql.appended-condition", _TEXT, LIKELY,
        "a number is followed by a SQL condition; send the number alone",
        r"^ ?(?:-?\d[\w.]{0,20}|[)('\"` ]{0,8}) ?\){0,8} ?(?:or|and|xor|\|\||&&)(?!\w)" + _NOT +
        r"(?:select\b|" + _SLOW + r" ?\([^()]{0,60}[()]|([a-z]\w{0,20}) ?= ?\1 ?(?:--|#|/\*|$)"
        r"|(?:true|false|\d{1,9}) ?(?:--|#|/\*|group by))",
        words="or and || &&", form="flat", bare=True,
    ),
    _refuse(
        "sql.tautology", _TEXT, LIKELY,
        "a condition compares constants or database functions, as injected SQL does; send the plain value",
        (
            r"(?:or|and|xor|having|where)(?<![a-wyz_.]or)(?<![a-z_.]and)(?=[ (!~'\"\d-])" + _CONSTANTS,
            r"(?:\|\||&&)[ (!~]?" + _CONSTANTS,
        ),
        words="= < like", form="flat", bare=True,
    ),
    _refuse(
        "sql.stacked-statement", _TEXT, LIKELY,
        "another SQL statement follows a semicolon; send the plain value, without SQL",
        "; ?" + _STATEMENT,
        words=";", form="flat",
    ),
    _refuse(
        "sql.breakout-stacked", _TEXT, LIKELY,
        "a quote or bracket closes and a semicolon starts another SQL statement; send the plain value",
        "^" + _OPENED + r"; ?(?:select|insert|update|delete|drop|alter|create|exec|execute|declare|shutdown"
        r"|waitfor|truncate|grant|merge|begin|if ?\(|desc)\b",
        words=";", form="flat",
    ),
    _refuse(
        "sql.declared-batch", _TEXT, LIKELY,
        "it declares a variable to run as SQL; send the plain value",
        r"^ ?[\w'\"]{0,20} ?;? ?declare @\w{1,30} (?:as )?(?:n?varchar|n?char|int)\b",
        words="declare", form="flat",
    ),
    _refuse(
        "sql.breakout-comment", _TEXT, LIKELY,
        "a quote closes and a comment hides what should follow; send the plain value",
        "^" + _OPENED + r";? ?(?:--[ -]?|#|/\*|%00)$",
        words="-- # /* %00", form="flat",
    ),
    _refuse(
        "sql.injected-call", _TEXT, LIKELY,
        "it calls a function that delays the database where an injected query would; send the plain value",
        _probed,
        words="sleep benchmark randomblob", form="flat",
    ),
    _refuse(
        "sql.probing-function", _TEXT, LIKELY,
        "it calls a SQL function that injected queries use to delay, read or fail; send the plain value",
        r"\bbenchmark ?\( ?\d{3,12} ?, ?\w{1,20} ?\(|\bpg_sleep ?\( ?[\d(_]"
        r"|\bwaitfor (?:delay|time) ?['\"(\\]|\b(?:extractvalue|updatexml) ?\( ?(?:\d|rand|null|['\"(@x])"
        r"|\brandomblob ?\( ?\d{6}"
        r"|\bdbms_\w{2,20}\.\w{2,40}|\butl_(?:inaddr|http|smtp|file|tcp)\.\w|\bctxsys\.\w"
        r"|\bload_file ?\( ?(?:['\"(]|0x|char|concat)|\binto (?:out|dump)file\b|\bprocedure analyse ?\("
        r"|\bgtid_sub(?:set|tract) ?\(|\bjson_keys ?\( ?\(|\bexp\(~|\bpolygon\( ?\(select",
        words="benchmark pg_sleep randomblob waitfor extractvalue updatexml dbms_ utl_ ctxsys. load_file "
        "outfile dumpfile analyse gtid_ json_keys exp(~ polygon(",
        form="flat", bare=True,
    ),
    _refuse(
        "sql.system-object", _TEXT, LIKELY,
        "it reads a database's own tables, settings or procedures; send the plain value",
        (
            r"(?:from|join|into) ?[(\[ ]{0,3}(?:information_schema\.|mysql\.user\b|master\.|msysaccessobjects"
            r"|sys\.?(?:objects|columns|users|databases|tables|logins|xlogins|tab|dba)\b"
            r"|pg_(?:shadow|user|authid|tables|catalog|database)\b|sqlite_(?:master|schema)\b"
            r"|(?:all|user|dba)_(?:tables|users|tab_columns|catalog|objects)\b|v\$version)",
            r"(?:exec|execute|dbo\.)(?: ?master\.\.?(?:dbo\.)?| )?xp_\w{3,30}|master\.\.?(?:dbo\.)?xp_\w{3,30}"
            r"|exec(?:ute)? (?:master\.\.?(?:dbo\.)?)?sp_\w{4,40}",
            r"(?:select|union|=|,|\() ?\(?@@\w{3,20}",
        ),
        words="information_schema. mysql.user master. msysaccess sysobj sys.obj syscol sys.col sysus sys.us sysdat "
        "sys.dat sys.tab systab syslog sys.log sysxl sys.xl sysdba sys.dba pg_sha pg_us pg_au pg_tab pg_cat pg_dat "
        "sqlite_ _tables _users _tab_c _catalog _objects v$ver xp_ sp_ @@",
        form="flat", bare=True,
    ),
    _refuse(
        "sql.column-probe", _TEXT, LIKELY,
        "it probes the number of columns with ORDER BY; send the plain value",
        r"^ ?[\w-]{0,20}['\"]? ?\){0,8} ?(?:order|group) by \d{1,5} ?(?:,[^,]{1,60}){0,99}"
        r"(?:(?:--|#|/\*).*)?$",
        words="by", form="flat", bare=True,
    ),
    _refuse(
        "sql.conditional-comment", _TEXT + " sql", LIKELY,
        "a comment that MySQL executes hides a keyword; write the keyword plainly",
        r"/\*!(?:\d{5,6} ?[a-z(@'\"]|(?:union|select|and|or|from|where|all|insert|drop|update|delete"
        r"|concat|table)\b)",
        words="/*!",
    ),
    _refuse(
        "sql.subquery", _TEXT, SUSPECT,
        "it holds a nested SELECT; send the plain value",
        r"(?:[=(,<>+*|&-]|\b(?:or|and|in|exists|union|by)) ?\(? ?select\b[^;]{1,120}?\bfrom\b",
        words="select", form="flat", bare=True,
    ),
    _refuse(
        "sql.encoded-literal", _TEXT, SUSPECT,
        "it builds text from character codes inside SQL; send the text itself",
        r"\bn?char ?\( ?\d{1,3} ?[,)]|\bchr ?\( ?\d{1,3} ?\) ?\|\||\b0x(?:[0-9a-f]{2}){10}"
        r"|\bconcat(?:_ws)? ?\( ?(?:0x|n?char|')",
        words="char chr 0x concat", form="flat", bare=True,
    ),
    _refuse(
        "sql.quoted-operator", _TEXT, SUSPECT,
        "an operator stands between two quotes, as when a value breaks out of one; send the plain value",
        r"^[\w@. ]{0,40}(['\"])[ )]{0,4}(?:[-+*/%^&|<>=!~]{1,3}|div|mod|x?or|and|r?like|regexp|sounds like"
        r"|is(?: not)?|in|between|collate|having|union|order by|group by)"
        r"[ (]{0,4}(?:\1|\d|$|null|true|\w{1,30} ?[=(,])",
        form="flat",
    ),
    _refuse(
        "sql.statement", _TEXT, CRUDE,
        "it holds a SQL keyword",
        r"\b(?:select|insert)\b",
        words="select insert", bare=True,
    ),
    _refuse("sql.punctuation", _TEXT, CRUDE, "it holds a semicolon or a SQL comment mark", r"--|;|/\*"),
    # SQL where SQL is wanted.
    _refuse(
        "sql.several-statements", "sql", LIKELY,
        "several statements stand there; send one at a time",
        _several_statements,
        form="raw", own=True,
    ),
    _refuse(
        "sql.open-literal", "sql", LIKELY,
        "a quote is left open, so where the statement ends is unclear; close it",
        _open_literal,
        form="raw", own=True,
    ),
    _refuse(
        "sql.server-access", "sql", LIKELY,
        "it reads files, runs programs or waits on the database server; query tables only",
        r"\b(?:load_file|pg_read_(?:binary_)?file|pg_ls_\w{2,20}|pg_stat_file|lo_(?:im|ex)port|pg_sleep\w{0,10}"
        r"|dblink\w{0,20}|xp_\w{3,30}|sp_oa\w{3,20}|sp_execute_external_script|sp_addextendedproc|openrowset"
        r"|opendatasource|openquery|load_extension|readfile|writefile|fts3_tokenizer|sys_eval|sys_exec|benchmark|sleep"
        r"|query_to_xml|pg_terminate_backend|pg_reload_conf|set_config|httpuritype) ?\("
        r"|\bexec(?:ute)? (?:master\.\.?(?:dbo\.)?)?(?:xp_\w|sp_oa)|\binto (?:out|dump)file\b"
        r"|\bload data (?:local |low_priority |concurrent ){0,2}infile\b"
        r"|\bcopy\b[^;]{1,200}?\b(?:from|to) (?:program |'|e')|\bwaitfor (?:delay|time)\b|\bbulk insert\b"
        r"|\bdbms_(?:pipe|lock|java|scheduler|ldap|xmlquery|xslprocessor|advisor)\w{0,10}\."
        r"|\butl_(?:http|file|smtp|tcp|inaddr)\.|^ ?attach (?:database )?['\"]"
        r"|\bpragma (?:writable_schema|temp_store_directory|trusted_schema)\b"
        r"|\bcreate (?:or replace )?(?:extension|library|assembly|server|language)\b"
        r"|^ ?shutdown\b|\balter system\b",
        words="load_file pg_read_ pg_ls_ pg_stat_ lo_ pg_sleep dblink xp_ sp_ openrowset opendatasource openquery "
        "load_extension readfile writefile fts3_ sys_e benchmark sleep query_to_xml pg_terminate pg_reload set_config "
        "httpuri outfile dumpfile infile copy waitfor bulk dbms_ utl_ attach pragma create shutdown system",
        form="flat",
    ),
    _refuse(
        "sql.credentials-table", "sql", LIKELY,
        "it reads the database's accounts; query tables of your own",
        r"\bmysql\.user\b|\bpg_(?:shadow|authid|auth_members|user_mapping|hba_file_rules)\b|\bdba_users\b"
        r"|\bsys\.(?:sql_logins|syslogins|user\$|password_hash)|\bmaster\.\.?(?:dbo\.)?sysx?logins\b",
        words="mysql pg_ sys dba_", form="flat",
    ),
    _refuse(
        "sql.split-keyword", "sql", LIKELY,
        "a comment glues or splits words to hide them; write plain spaces",
        r"[a-z]/\*[^*]{0,20}\*/[a-z(]",
        words="/*",
    ),
    _refuse(
        "sql.catalog", "sql", SUSPECT,
        "it reads the database's own tables or settings; query tables of your own",
        r"\binformation_schema\b|\bpg_(?:catalog|tables|class|user|roles|settings)\b|\bsqlite_(?:master|schema)\b"
        r"|\bsys\.\w|\bsys(?:objects|columns|users|databases)\b|@@\w{3}|\ball_tables\b"
        r"|\b(?:version|current_user|user|database|schema) ?\(\)",
        words="information pg_ sqlite_ sys @@ all_ ()", form="flat",
    ),
    _refuse(
        "sql.comment", "sql", SUSPECT,
        "it holds a comment, which can hide the rest of a statement; remove it",
        r"--|/\*|#",
        own=True,
    ),
    _refuse(
        "sql.constant-condition", "sql", SUSPECT,
        "a condition compares two constants; remove it",
        r"\bor[ (]{1,4}(?:" + _NUMBER + r" ?= ?\d|" + _QUOTED + r" ?= ?['\"])"
        r"|\bunion\b[^;]{0,40}\bselect[ (]{1,4}(?:null|\d)\b ?,",
        words="or union", form="flat",
    ),
    _refuse(
        "sql.changes-data", "sql", SUSPECT,
        "it changes data, structure or rights; query only",
        r"^[ (]{0,4}(?:insert|update|delete|drop|alter|create|truncate|grant|revoke|merge|replace|call|exec"
        r"|execute|vacuum|attach|set|copy|do|lock|rename)\b",
        form="flat", own=True,
    ),
    # Script and markup.
    _refuse(
        "script.tag", _TEXT + " html url", LIKELY,
        "it holds a script element; remove the script",
        r"<[\x00-\x20/%!?\\]{0,4}(?:\w{1,20}:)?script(?![\w-])|\+adw-/?script",
        words="script",
    ),
    _refuse(
        "script.handler", _TEXT + " html url", LIKELY,
        "an attribute of a tag runs script on an event; remove the on… attribute",
        r"<(?:[a-z!/?%][^<>]{0,400}?[\s/\"'`;\x00-\x1f]on[a-z]{3,30}[\s\x00-\x1f]{0,8}=(?!\s{0,3}\{)"
        r"|[a-z!/?%][^<]{0,300}?[\s/\"'`;]on" + _EVENT + r"\s{0,8}=\s{0,4}[\"'`\w(])",
        words="<",
    ),
    _refuse(
        "script.attribute-breakout", _TEXT, LIKELY,
        "a quote closes and an event attribute follows; send the plain text",
        r"[\"'`>]\s{0,4}/?\s{0,4}on" + _EVENT + r"\s{0,4}=\s{0,4}[\"'`]?[\w.]{1,40}\s{0,4}[(`=\\]",
        words="on",
    ),
    _refuse(
        "script.bare-handler", _TEXT, LIKELY,
        "it is an event attribute that calls script; send the plain text",
        r"^[\s\"'`/\\]{0,6}on[a-z]{3,30}=[\"'`(]{0,2}(?:alert|prompt|confirm|eval|fetch|document|window|location|this"
        r"|top|throw|function|\$\.|\w{1,20}=>|[\w.]{1,20}\()",
        words="on",
    ),
    _refuse(
        "script.uri", _TEXT + " html", LIKELY,
        "a link or address runs script; give an http or https address",
        r"(?:=|url\(|\]\(|<)[\"'`]{0,2}(?:javascript|vbscript|livescript|mocha|jscript):(?!void\(0\))"
        r"|=[\"'`]?data:(?:text/html|application/xhtml|image/svg|text/xml|application/xml|[^,<>\s]{0,60};base64,phn"
        r"|,<|,%3c)",
        words="script: mocha: data:", form="dense",
    ),
    _refuse(
        "script.uri-value", _TEXT, LIKELY,
        "the value is an address that runs script; give an http or https address",
        r"^[\"'`>)\s]{0,8}(?:(?:javascript|vbscript|livescript):[^\s]{0,100}?[(`=%\\]"
        r"|data:(?:text/html|image/svg|text/xml)[^\s,]{0,60},)",
        words="script: data:",
    ),
    _refuse(
        "script.active-element", _TEXT + " html", LIKELY,
        "it holds an element that loads or runs foreign content; remove the element",
        r"<(?:(?:object|embed|applet|base|frame|frameset|isindex|bgsound|i?layer|portal|foreignobject)\b[^<>]{0,300}?"
        r"[\s/](?:src|data|code|codebase|classid|href|archive|type)\s{0,4}="
        r"|i?frame\b[^<>]{0,300}?\bsrcdoc\s{0,4}="
        r"|meta\b[^<>]{0,200}?http-equiv\s{0,4}=\s{0,4}[\"']?\s{0,4}(?:refresh|set-cookie|link)"
        r"|(?:set|animate\w{0,9})\b[^<>]{0,300}?attributename\s{0,4}=\s{0,4}[\"']?(?:on|href|xlink|innerhtml|src|values)"
        r"|link\b[^<>]{0,200}?\brel\s{0,4}=\s{0,4}[\"']?import|\?xml-stylesheet\b|\w{1,20}:include\b"
        r"|xml\b[^<>]{0,200}?\b(?:src|id)\s{0,4}=|\w{1,20}\b[^<>]{0,200}?\bdatasrc\s{0,4}=)",
        words="<",
    ),
    _refuse(
        "script.frame", _TEXT, LIKELY,
        "it holds a frame that loads foreign content; remove the frame",
        r"<iframe\b[^<>]{0,300}?\bsrc\s{0,4}=",
        words="<iframe",
    ),
    _refuse(
        "script.style", _TEXT + " html", LIKELY,
        "a style runs script; remove the style",
        r"(?:style=|<)[^<]{0,300}?(?:[:\\]e?x?pression\(|-moz-binding:|behaviou?r:url\(|-o-link:)"
        r"|@import[\"'(]{0,3}(?:url\([\"']?)?(?:javascript|data):",
        words="pression( -moz-binding -o-link behavio @import", form="dense",
    ),
    _refuse(
        "script.call-breakout", _TEXT, LIKELY,
        "a quote closes and a script call follows; send the plain text",
        r"^[^'\"`]*+['\"`][\s)\]};,+*/&|^%<>=?:!~-]{1,10}(?:\w{1,10}\.)?(?:alert|prompt|confirm|eval|settimeout"
        r"|setinterval|fetch|location|document|window|self|top)\b\s{0,4}[(`.\[=]",
        words="alert prompt confirm eval set fetch location document window self top",
    ),
    _refuse(
        "script.decoded-call", _TEXT, LIKELY,
        "it decodes text to run it as script; send the plain text",
        r"(?:eval|settimeout|setinterval|function|execscript)\s{0,4}\(\s{0,4}(?:window\.)?"
        r"(?:atob|unescape|string\.fromcharcode|decodeuri\w{0,10}|location\.hash)\b",
        words="atob unescape fromcharcode decodeuri location.hash",
    ),
    _refuse(
        "script.puzzle", _TEXT, LIKELY,
        "it spells script in symbols to hide it; send the plain text",
        r"\[\]\[\(!\[\]|\$=~\[\]|constructor\(\s{0,2}[\"'`]\s{0,4}(?:alert|eval|return|fetch)",
        words="[][(![] $=~[] constructor(",
    ),
    _refuse(
        "script.sent-cookie", _TEXT, LIKELY,
        "it sends cookies away; leave the cookies out",
        r"(?:location|src|href|fetch\(|open\()[^;\n]{0,80}?\bdocument\.cookie\b",
        words="document.cookie",
    ),
    _refuse(
        "script.any-call", _TEXT, SUSPECT,
        "it calls a function of a browser; send the plain text",
        r"\b(?:alert|prompt|confirm)\s{0,4}[(`]|\bdocument\s{0,4}\.\s{0,4}(?:cookie|domain|write|location|body)"
        r"|\bwindow\s{0,4}[.\[]|\.innerhtml\s{0,4}=|\beval\s{0,4}\(|string\.fromcharcode",
        words="alert prompt confirm document window innerhtml eval fromcharcode",
        bare=True,
    ),
    _refuse(
        "script.embedded", "html", SUSPECT,
        "it embeds a frame, form, style sheet or drawing; remove the element",
        r"<(?:iframe|form|style|link|meta|svg|math|object|embed|template|noscript|base)\b",
        words="<",
    ),
    _refuse("script.any-tag", _TEXT, CRUDE, "it holds markup", r"<[a-z!/?]", words="<"),
    _refuse(
        "markup.external-entity", _TEXT + " html", LIKELY,
        "an XML entity reads from outside; remove the entity",
        r"<!entity\s{1,8}%?\s{0,8}\w{1,40}\s{1,8}(?:system|public)\b|<!doctype[^<>\[]{0,100}\[\s{0,8}<!e",
        words="<!",
    ),
    _refuse(
        "markup.server-include", _TEXT + " html", LIKELY,
        "a server-side include runs or reads on the server; remove the comment",
        r"<!--#\s{0,4}(?:exec|include|echo|config|printenv|set|fsize|flastmod)\b",
        words="<!--",
    ),
    _refuse(
        "header.injection", _TEXT + " url", LIKELY,
        "an encoded line break adds a protocol header; remove the line break",
        r"%0[ad](?:%0[ad]){0,3}\s?(?:set-cookie|location|content-(?:type|length|disposition)|transfer-encoding|bcc"
        r"|rcpt to|mail from|x-forwarded-\w{2,10})\s?:",
        words="%0a %0d",
    ),
    _refuse(
        "template.object-access", _TEXT + " template", LIKELY,
        "a template expression reaches into the language's own objects; use plain variables",
        r"\{[{%][^{}]{0,200}__(?:class|mro|base|globals|builtins|import|subclasses|init)__"
        r"|freemarker\.template\.utility|t\(java\.lang|java\.lang\.(?:runtime|processbuilder)|\$\{jndi:"
        r"|#\{[^{}]{0,100}(?:runtime|processbuilder)|\{\{[^{}]{0,100}(?:lipsum|cycler|joiner|namespace)\.",
        words="__ freemarker java.lang jndi: runtime processbuilder lipsum cycler joiner namespace",
    ),
    _refuse(
        "template.arithmetic", _TEXT, LIKELY,
        "it probes for a template engine; send the plain text",
        r"(?:\{\{|[$#@*]\{|<%=)\s?\d{1,6}\s?\*\s?['\"]?\d{1,6}['\"]?\s?(?:\}|%>)",
        words="{{ ${ #{ @{ *{ <%=",
    ),
    _refuse(
        "template.directive", "template", SUSPECT,
        "a template loads or calls code; use plain variables",
        r"\{%-?\s{0,8}(?:import|include|from|extends|load|debug|set)\b|<%|<#(?:assign|include|import)"
        r"|\.(?:constructor|getclass|forname|popen|system)\b|\|\s{0,4}attr\b|\b(?:self|config|request|settings)\s{0,4}[.\[]",
    ),
    # Commands.
    _refuse(
        "command.chained", _TEXT, LIKELY,
        "a separator starts a shell command; send the plain value",
        r"^[^\s;|&`$<>(){}=,]{0,60}['\"]?\s{0,4}(?:;|\|{1,2}|&{1,2}|%0a|`|\$\()\s{0,4}" + _PROGRAM,
        words="; | & ` $( %0a",
    ),
    _refuse(
        "command.sensitive-read", _TEXT + " shell", LIKELY,
        "it reads the system's accounts or someone's keys; leave those files alone",
        r"(?:\b(?:cat|less|more|head|tail|tac|nl|strings|xxd|od|base64|cp|scp|grep|awk|sed|curl|type|get-content|vim?"
        r"|nano)\b|<)[^\n;|&<]{0,80}?(?:/etc/(?:passwd|g?shadow|sudoers|master\.passwd)\b"
        r"|/\.ssh/(?:id_\w{2,10}|authorized_keys)\b(?!\.pub)|/\.aws/credentials"
        r"|/\.(?:netrc|pgpass|git-credentials|docker/config\.json|kube/config)\b"
        r"|/proc/(?:self|\d{1,7})/(?:environ|mem|maps)|/run/secrets/|\\(?:config|repair)\\sam)",
        words="/etc/ /.ssh/ /.aws/ /.netrc /.pgpass /.git /.docker /.kube /proc/ /run/ \\sam",
    ),
    _refuse(
        "command.reverse-shell", _TEXT + " shell", LIKELY,
        "it opens a shell to another machine; leave the connection out",
        r"/dev/(?:tcp|udp)/[^\s/]{1,80}/\d|mkfifo\b[^\n]{0,80}\b(?:nc|ncat|telnet|openssl)\b"
        r"|socat\b[^\n]{0,80}\bexec:|socket\.socket\([^\n]{0,300}(?:dup2|subprocess|pty\.spawn)"
        r"|fsockopen\([^\n]{0,120}\b(?:exec|sh)\b|net\.socket[^\n]{0,80}/bin/sh|powershell[^\n]{0,80}tcpclient",
        words="/dev/tcp/ /dev/udp/ mkfifo socat socket.socket( fsockopen( net.socket tcpclient",
    ),
    _refuse(
        "command.netcat-shell", _TEXT + " shell", LIKELY,
        "it hands a shell to whoever connects; leave the shell out",
        (
            r"nc(?<!\wnc)(?:at)?\b" + _HANDED_SHELL,
            r"netcat\b" + _HANDED_SHELL,
            r"sh\s{1,4}-i\b[^\n]{0,20}[<>]&",
        ),
        words="nc netcat sh",
    ),
    _refuse(
        "command.shellshock", _TEXT + " shell", LIKELY,
        "it is a function definition that old shells run; send the plain value",
        r"\(\)\s{0,3}\{\s{0,3}:?;?\s{0,3}:;\s{0,3}\}\s{0,3};|\(\)\s{0,3}\{\s{0,3}_?;\s{0,3}\}\s{0,3}>_",
        words="{",
    ),
    _refuse(
        "command.evasion", _TEXT + " shell", LIKELY,
        "it hides a command's spaces or letters from a reader; write the command plainly",
        (
            r"\$(?:ifs\b(?<=\w\$ifs)|\{ifs\b(?<=\w\$\{ifs))",
            r"/e[?*]{1,2}c?/p[?*]{2}|/\?{3}/[?\w]{2}",
            r"(?:''|\"\"|\$@)\w{1,12} {1,3}/etc/",
        ),
        words="$ifs ${ifs /etc/ /e? /e* /???/",
    ),
    _refuse(
        "command.piped-download", "shell", LIKELY,
        "it runs what it downloads; download, look, then run",
        r"\b(?:curl|wget|fetch|iwr|invoke-webrequest)\b[^\n;|]{0,200}\|\s{0,4}"
        r"(?:tee\s{1,4}\S{1,80}\s{0,4}\|\s{0,4})?(?:sudo\s{1,4}(?:-\w\s{1,4})?)?(?:/\S{0,20}/)?"
        r"(?:env\s{1,4})?(?:" + _SHELL + r"|python\d?|perl|ruby|node|iex)\b"
        r"|\b" + _SHELL + r"\s{1,4}(?:-c\s{1,4}[\"']?\$\(|<\()\s{0,4}(?:curl|wget)\b"
        r"|\biex\b[^\n]{0,40}(?:downloadstring|iwr|invoke-webrequest)",
        words="curl wget fetch iwr invoke-webrequest iex",
    ),
    _refuse(
        "command.decoded", "shell", LIKELY,
        "it runs a command that it decodes; write the command plainly",
        r"\bbase(?:64|32)\b[^\n;|]{0,60}-(?:d|-decode)\b[^\n;|]{0,60}\|\s{0,4}(?:sudo\s{1,4})?(?:" + _SHELL +
        r"|python\d?|perl)\b|\bxxd\s[^\n;|]{0,40}\|\s{0,4}" + _SHELL + r"\b"
        r"|\bpowershell(?:\.exe)?\b[^\n]{0,80}\s-e(?:nc|ncodedcommand|c)?\s{1,4}[\w+/=]{12}"
        r"|\beval\s{1,4}[\"']?(?:\$\(|`)[^\n)`]{0,80}\b(?:base64|base32|xxd|rev|curl|wget|printf)\b",
        words="base64 base32 xxd powershell eval",
    ),
    _refuse(
        "command.destructive", "shell", LIKELY,
        "it destroys a whole disk or system; name the files",
        r"\brm\s{1,4}(?:-\S{1,20}\s{1,4}){1,4}[\"']?(?:/(?:\*|(?:etc|usr|var|home|boot|bin|lib|root)/?\*?)?[\"']?(?=\s|$|[;&|])"
        r"|(?:~|\$home)/?(?=\s|$))|--no-preserve-root|\bmkfs(?:\.\w{2,8})?\s[^\n;|]{0,60}?/dev/(?:sd|hd|nvme|x?vd)"
        r"|\bdd\b[^\n;|]{0,80}?\bof=/dev/(?:sd|hd|nvme|x?vd|k?mem)|>\s{0,2}/dev/(?:sd|hd|nvme|x?vd)\w"
        r"|:\s?\(\)\s?\{\s?:\s?\|\s?:\s?&|\bchmod\s{1,4}(?:-\w{1,4}\s{1,4}){0,2}\d?777\s{1,4}/\s{0,2}(?:$|[;&|\n])"
        r"|\bformat\s{1,4}c:|\bdel\s{1,4}/\w\s{1,4}(?:/\w\s{1,4}){0,3}c:\\",
        words="rm preserve-root mkfs dd /dev/ :( chmod format del",
    ),
    _refuse(
        "command.any-chaining", "shell identifier", SUSPECT,
        "it chains, substitutes or redirects commands; send one plain command",
        r"[;|&`\n]\s{0,4}(?:/(?:usr/)?bin/)?\w|\$\(|\$\{|[<>]\(|>{1,2}\s?[/\w]",
        own=True,
    ),
    _refuse(
        "command.metacharacter", _TEXT + " shell", CRUDE,
        "it holds a character that shells act on",
        r"[;&|`$<>\n\\]",
    ),
    # Paths in text, then paths where a path is wanted.
    _refuse(
        "path.deep-traversal", _TEXT, LIKELY,
        "the value climbs out of its folder; name a file inside it",
        r"^\s{0,8}(?:[\w:-]{0,20}[/\\])?(?:\.{2,4}[/\\]{1,3}){2,200}\S{0,200}\s{0,8}$",
        words="..",
    ),
    _refuse(
        "path.system-file", _TEXT, LIKELY,
        "a path climbs to a file of the system; name a file inside the folder",
        r"\.\.[/\\]{1,3}(?:etc[/\\]|windows[/\\]|winnt[/\\]|boot\.ini|proc[/\\](?:self|\d|version|cmdline)"
        r"|var[/\\]log[/\\]|root[/\\]|web-inf)|[?&=:](?:/etc/(?:passwd|shadow)|php://(?:filter|input)|expect://|phar://)",
        words="../ ..\\ /etc/ php:// expect:// phar://",
    ),
    _refuse(
        "path.encoded-traversal", _TEXT + " path url", LIKELY,
        "an encoded '..' climbs out of the folder; write the path plainly, without '..'",
        _DOT + "{2}" + _SLASH + r"|(?!\.\.)" + _DOT + r"{2}[/\\]",
        words="%2e %252e %2525 %c0 %25c0 %u002e %e0%80 %f0%80 %%32 0x2e ..% ..0x",
    ),
    _refuse(
        "path.traversal", "path identifier", LIKELY,
        "'..' climbs out of the folder; write the path without it",
        r"(?:^|[/\\\s=:,;&?\"'(\[])\.\.(?:[/\\]|;/|$)|[/\\]\.{2}[\x00-\x1f;?#]|\.{4}[/\\]|\.{3}[/\\]{1,3}\.{3}[/\\]"
        r"|(?:[.?]{2}[/\\]){2}|\.\.[\x00-\x20]{1,3}[/\\]",
        words=".. ?",
    ),
    _refuse(
        "path.odd-encoding", "path", LIKELY,
        "it is encoded in a way no plain file name is; write the path plainly",
        r"%25(?:2e|2f|5c|c0|c1|00|af|e0|f0|25)|%c[01](?:[%./\\]|\w)|%(?:e0%80|f0%80%80|f8%80|fc%80)|%u[0-9a-f]{4}"
        r"|%%\w\w|%bg%qf|[./\\]0x(?:2e|2f|5c)|0x2e0x2e",
        words="% 0x",
    ),
    _refuse(
        "path.control-character", "path", LIKELY,
        "a file name holds a NUL or another control character; remove it",
        r"[\x00-\x1f\x7f]",
    ),
    _refuse(
        "path.wrapper", "path", LIKELY,
        "it is an address, not a path; give the path of a file",
        r"^\s{0,4}(?:(?:file|php|zip|phar|expect|glob|gopher|jar|netdoc|dict|ldap|compress\.\w{2,6}|rar|ogg|ssh2\.?\w{0,6}"
        r"|classpath|javascript|view-source):/{0,3}(?:/|\w{1,40}/|\w{1,40};)|data:)",
        words=":",
    ),
    _refuse(
        "path.sensitive-file", "path", LIKELY,
        "it holds the system's accounts or someone's keys; name another file",
        r"(?:^|[/\\=:])etc[/\\]{1,3}(?:(?:passwd|g?shadow|sudoers|master\.passwd|krb5\.keytab)\b|group(?![\w.-]))"
        r"|(?:^|[/\\])\.ssh[/\\]|\bid_(?:rsa|dsa|ecdsa|ed25519)$"
        r"|(?:^|[/\\])\.(?:aws[/\\]credentials|netrc|pgpass|my\.cnf|git-credentials|docker[/\\](?:config\.json|secrets)"
        r"|kube[/\\]config|htpasswd|(?:bash_|zsh_|mysql_|psql_)?history|gnupg[/\\])"
        r"|(?:^|[/\\])proc[/\\]{1,2}(?:self|\d{1,7}|kcore|kallsyms)"
        r"(?:[/\\](?:environ|mem|maps|fd|cmdline|root|cwd|status|exe|stat|net)\b|$)"
        r"|(?:^|[/\\])(?:boot\.ini|win\.ini|system\.ini|ntuser\.dat)(?:$|[%\x00?])|[/\\](?:config|repair)[/\\]sam(?![\w.-])"
        r"|windows[/\\]{1,2}(?:system32|repair|(?:system|win|php|my)\.ini)|winnt[/\\]"
        r"|[/\\]run[/\\]secrets[/\\]|[/\\]dev[/\\](?:k?mem\b|tcp[/\\]|udp[/\\])",
        words="etc ssh id_ .aws .netrc .pgpass .my .git- .docker .kube .ht history gnupg proc ini ntuser sam "
        "windows winnt secrets dev",
    ),
    _refuse(
        "path.stream-or-share", "path", LIKELY,
        "it names a network share, device or alternate stream; name a plain file",
        r"^(?:\\\\[?.]\\|\\\\[^\\\s]{1,80}\\[^\\]|.{0,400}::\$(?:data|index))",
        words="\\\\ ::$",
    ),
    _refuse(
        "path.device-name", "path", SUSPECT,
        "it has a name that Windows keeps for a device; choose another name",
        r"^(?:[^:]{0,400}[/\\])?(?:con|nul|aux|prn|com\d|lpt\d)(?:\.\w{1,8})?$",
        words="con nul aux prn com lpt", own=True,
    ),
    _refuse(
        "path.system-directory", "path", SUSPECT,
        "it lies in a directory of the system; name a file of your own",
        r"^[/\\]{1,2}(?:etc|proc|sys|dev|root|boot|var[/\\]log|usr[/\\]local[/\\](?:apache|etc|php|nginx))(?:[/\\]|$)"
        r"|[a-z]:[/\\]{1,2}(?:windows|winnt|boot)",
    ),
    _refuse(
        "path.settings-file", "path", SUSPECT,
        "it is a settings file that often holds secrets, or lies in a home folder; name another file",
        r"(?:^|[/\\])(?:\.env(?:\.\w{1,20})?$|\.(?:git|svn|hg)[/\\]|web-inf[/\\]|web\.config$)|^~",
        words=".env .git .svn .hg web ~", own=True,
    ),
    _refuse(
        "path.shell-character", "path", SUSPECT,
        "a file name holds characters that shells act on; rename the file",
        r"[;|`$<>*?]",
        own=True,
    ),
    # Addresses.
    _refuse(
        "url.script-scheme", "url", LIKELY,
        "the address runs script instead of naming a place; give an http or https address",
        r"^[\"'<(]{0,3}(?:(?:javascript|vbscript|livescript):"
        r"|data:(?:text/html|image/svg|application/xhtml|text/xml|application/xml|,<|[^,]{0,60};base64,phn))",
        words="script: data:", form="dense",
    ),
    _refuse(
        "url.local-scheme", "url", LIKELY,
        "the address reads files or speaks another protocol; give an http or https address",
        r"^(?:url:)?(?:file|gopher|dict|jar|netdoc|php|phar|expect|zip|glob|tftp|ldaps?|view-source|chrome"
        r"|resource|classpath|rmi|iiop|jndi|smb|unix|blob|filesystem|ms-\w{2,30}|mhtml|intent):",
        words=":", form="dense",
    ),
    _refuse(
        "url.control-character", "url", LIKELY,
        "the address holds a control or invisible character, or a space in its host; encode or remove it",
        r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f" + _INVISIBLE + r"]|[\r\n](?!\s{0,4}\Z)"
        r"|^[^/?#]{0,40}//[^/?#\s]{0,300} {1,4}[^/?#\s]",
        form="raw",
    ),
    _refuse(
        "url.backslash", "url", LIKELY,
        "a backslash in the host makes readers disagree which host is meant; use forward slashes",
        r"^\s{0,8}(?:[a-z][a-z0-9+.-]{0,20}:[/\\]{0,4}[^/?#]{0,300}\\|\\\\)",
        words="\\",
    ),
    _refuse(
        "url.credentials", "url", SUSPECT,
        "the address carries a user or password; leave them out",
        r"^\s{0,8}(?:[a-z][a-z0-9+.-]{0,20}:)?//[^/?#]{0,300}@",
        words="@",
    ),
    _refuse(
        "url.encoded-host", "url", SUSPECT,
        "the host is encoded, a bare number or not ASCII; write its plain name",
        r"^\s{0,8}https?:/{0,4}(?:0x[0-9a-f]|\d{6,}|0\d|[^/?#]{0,200}[%\u0080-\U0010ffff])",
        form="raw",
    ),
    # Identifiers and regular expressions.
    _refuse(
        "identifier.control-character", "identifier", LIKELY,
        "an identifier holds a control or invisible character; remove it",
        r"[\x00-\x1f\x7f" + _INVISIBLE + "]",
        form="raw",
    ),
    _refuse(
        "identifier.format", "identifier", SUSPECT,
        "an identifier may hold letters, digits and . _ : @ / + = ~ - only, at most 256",
        r"^(?![\w.:@/+=~-]{1,256}\Z)",
        form="raw", own=True,
    ),
    _refuse(
        "regex.nested-repeat", "regex", LIKELY,
        "a repeat inside a repeat can take exponential time; repeat one of them only",
        r"\((?:\?[:>]|\?P?<\w{1,40}>)?(?:\\?[^\\()\[\]|]|\\.|\[[^\]]{1,80}\])[+*](?:\\?\s?[*?])?\)(?:[+*]|\{\d{0,4},\})",
        words="(", form="raw",
    ),
    _refuse(
        "regex.size", "regex", SUSPECT,
        "a pattern has over 1000 characters or a repeat over 1000; make it smaller",
        r"(?:\A.{1001})|\{\d{4}|\{\d{0,4},\d{4}",
        form="raw", own=True,
    ),
)
# fmt: on
