"""Patterns of SQL: injected where a plain value is wanted, and what is refused where SQL itself is."""

from __future__ import annotations

import re
from string import ascii_lowercase
from typing import Final

from toolpost.security.patterns import CERTAIN, CRUDE, LIKELY, SUSPECT, TEXT, Pattern, refuse

# fmt: off
_OPENED = r"^(?:[^'\"`]|\w'\w)*['\"`] ?\)* ?"  # up to a quote that is no apostrophe
_SHORT = r"^ ?(?:[\w@.%$*-]+(?: [\w@.%-]+){0,3})?['\"`)] ?['\")]* ?"  # a plain value, then a quote
_CLOSED = r"^ ?(?:[\w@. ]*[\w@.])?['\"][ )]*"  # a value or none, and a quote that does not open
_BEFORE_QUOTE = r"(?:[-+*/%^|&<>=!~(]|\b(?:x?or|and|r?like|is|in|regexp|div|mod)) ?['\"] ?\w{0,3} ?$"
_START = r"^ ?[^\s'\"`;]*['\"] ?\)* ?"
_BOOL = r"(?:\|\||&&|(?:or|and|xor|having|where)\b)"
_NOT = r"[ (!~-]*(?:not[ (]+)?"
_NUMBER = r"(?:-?\d+(?:\.\d+)?|0x[0-9a-f]+)"
_QUOTED = r"(?:'[^'\"]*'|\"[^'\"]*\")"
_NAME = r"[\w.\"`\[\]$]+"
_END = r" ?(?:;|--|#|/\*|['\")]|$)"
_SAME_LETTER = "(?:" + "|".join(f"{letter} ?= ?{letter}\\b" for letter in ascii_lowercase) + ")"
_PLAIN_NUMBER = r"^ ?[('\"]{0,3}-?\d[\w.]*['\")]{0,3} ?(?:[-+*/%] ?\(?\w+ ?(?:\(\w*\))?\)* ?)?"
_COMMENTED = r"(?:-- ?-?[a-z]?|--[+-]?|#|/\*|;?%00) ?$"
_COMPARED = r"(?:=|<>|!=|<=>)"
_SLOW = (
    r"(?:sleep|benchmark|pg_sleep|extractvalue|updatexml|load_file|elt|make_set|randomblob|json_keys|exp|ascii|ord"
    r"|substr(?:ing)?|mid|char_length|len(?:gth)?|version|database|(?:current|system|session)_user|user|convert|cast"
    r"|conv|pi|(?:un)?hex|char|chr|concat(?:_ws)?|row|rlike|isnull|ifnull|nullif|lower|upper|floor|row_count|if|exists"
    r"|count|sum|min|max|avg|(?:group_con|con|json_object)cat|string_agg|rand|round|abs|sqrt|pow(?:er)?|sign|bin|oct"
    r"|[lr]?trim|reverse|replace|repeat|instr|locate|position|charindex|patindex|find_in_set|field|strcmp|space|soundex"
    r"|md5|sha[12]?|crc32|uuid|now|sysdate|curdate|curtime|current_(?:date|time|timestamp)|unix_timestamp|schema|stuff"
    r"|coalesce|nvl2?|greatest|least|(?:bit|octet|data|character)_length|to_(?:char|number|date)|quote(?:_literal)?"
    r"|connection_id|last_insert_id|found_rows|host_name|db_name|object_(?:id|name)|suser_s?name|is_(?:srvrole)?member"
    r"|serverproperty|sys_context|generate_series|typeof|sqlite_version|regexp_\w{4,}|inet_\w{4}|json_\w{4,}|iif)"
)
_CONSTANTS = (
    r"[ (!~]*(?:not[ (]+)?(?:" + _NUMBER +
    r" ?\)?(?: ?" + _COMPARED + r" ?\(?[-'\"]?\d| ?[<>] ?\d+ ?(?:--|#|/\*|$)"
    r"| ?(?:=|<>|!=|like\b) ?\(? ?(?:select\b|@@|(?:system|current|session)_user\b|" + _SLOW +
    r" ?\())|" + _QUOTED + r" ?(?:=|<>|!=|like\b) ?\(?['\"\d])"
)
_STATEMENT = (
    r"(?:drop \w+ ?--"
    r"|drop (?:table|database|schema|view|user|index|procedure|function|trigger) (?:if exists )?" + _NAME +
    r"(?:" + _END + r"| cascade| restrict|,)"
    r"|delete from " + _NAME + r"(?:" + _END + r"| where\b| using\b)"
    r"|insert into " + _NAME + r" ?(?:\(|values\b|select\b|set\b)"
    r"|update " + _NAME + r" set \S+ ?="
    r"|truncate table " + _NAME + _END +
    r"|alter (?:table|user|database|login|role|session|system) " + _NAME +
    r" (?:add|drop|rename|modify|alter|set|with|identified|change|column|password|enable|disable|owner|superuser)\b"
    r"|create (?:table|user|login|database|trigger|procedure|(?:or replace )?function) " + _NAME +
    r"(?: ?\(| as\b| identified| with\b| from\b)"
    r"|exec(?:ute)? ?(?:immediate\b|\(|@|xp_|sp_|\w*\.\.?\w)"
    r"|declare ?[@ ]\w+ (?:n?varchar|char|int|cursor|table)"
    r"|shutdown(?: with\b|" + _END + r")|waitfor (?:delay|time)\b"
    r"|grant \w+ (?:on|to) |copy \S+ (?:from|to) |load (?:data|xml) |attach database |begin declare "
    r"|select (?:\*|@@\w|null\b|\d|case when|count ?\(|[a-z_]{2,}\(|\w+ ?, ?\w))"
)
_OPERATOR = (
    r"(?:[-+*/%^&|<>=!~]{1,3}|div|mod|x?or|and|r?like|regexp|sounds like|is(?: not)?|in|between|collate|having|union"
    r"|order by|group by)"
)

# The two ways to read a SQL literal: a backslash is itself, or it escapes. Neither matches one left open.
_READINGS = (
    re.compile(
        r"'(?:[^']|'')*+'|\"(?:[^\"]|\"\")*+\"|`[^`]*+`"
        r"|\$([A-Za-z_]{0,30})\$.*?(?:\$\1\$|\Z)|--[^\n]*+|/\*.*?(?:\*/|\Z)",
        re.DOTALL,
    ),
    re.compile(
        r"'(?:[^'\\]|\\.|'')*+'|\"(?:[^\"\\]|\\.|\"\")*+\"|`[^`]*+`"
        r"|(?:--|\#)[^\n]*+|/\*.*?(?:\*/|\Z)",
        re.DOTALL,
    ),
)
_QUOTE = re.compile("['\"`]")
_SECOND = re.compile(r";\s*+[^\s;]")


def _several_statements(sql: str) -> bool:
    return ";" in sql and any(_SECOND.search(code) for code in _codes(sql))


def _open_literal(sql: str) -> bool:
    return ("'" in sql or '"' in sql or "`" in sql) and not _codes(sql)


def _codes(sql: str) -> list[str]:
    """SQL without its literals and comments, by each reading that leaves no quote open."""
    codes = (reading.sub(" ", sql) for reading in _READINGS)
    return [code for code in codes if _QUOTE.search(code) is None]


SQL: Final[tuple[Pattern, ...]] = (
    # Where a plain value is wanted.
    refuse(
        "sql.breakout-statement", TEXT, CERTAIN,
        "a quote closes and another SQL statement follows; send the plain value",
        r"^ ?(?:[^\s'\"`;]+ )?[^\s'\"`;]*['\"] ?\)* ?; ?" + _STATEMENT,
        spaced=True,
    ),
    refuse(
        "sql.breakout-tautology", TEXT, CERTAIN,
        "a quote closes and a condition that is always true follows; send the plain value",
        _START + r"(?:or|and|\|\||&&)[ (]+(?:['\"]?\d+['\"]? ?= ?['\"]?\d|'\w+' ?= ?'\w|\"\w+\" ?= ?\"\w"
        r"|" + _SAME_LETTER + ")",
        spaced=True,
    ),
    refuse(
        "sql.breakout-union", TEXT, CERTAIN,
        "a value ends and a UNION SELECT follows; send the plain value",
        r"^ ?-?\d+(?:\.\d+)? ?\)* ?union (?:all |distinct )?select\b",
        _START + r"union (?:all |distinct )?select\b",
        r"^ ?(?:0x)?-?\d+[ \d/#-]*f?union\b(?: ?#| ?$| select\b)",
        spaced=True,
    ),
    refuse(
        "sql.union-select", TEXT, LIKELY,
        "UNION SELECT with columns looks like an appended query; send the plain value",
        r"\bunion[ (]+(?:(?:all|distinct)[ (]+)?select[ (]*(?:all |distinct |top \d{1,3} )?"
        r"(?:null\b|select\b|\d|@|\*|'|\"|(?:group_concat|" + _SLOW + r") ?\("
        r"|[\w.$\"`]+ ?(?:,|from\b|--|#|as\b))",
        r"^ ?union (?:all |distinct )?select\b",
        spaced=True,
    ),
    refuse(
        "sql.breakout-condition", TEXT, LIKELY,
        "a quote closes and a SQL condition follows; send the plain value",
        _OPENED + _BOOL + _NOT + r"(?:(?:" + _NUMBER + "|" + _QUOTED + r") ?"
        r"(?:=[^=]|=$|<|>|!=|r?like\b|ilike\b|in ?\(|is (?:not )?null|between\b|regexp\b|sounds like|;|--)"
        r"|" + _NUMBER + r" ?(?:[-+*/^&|%#)]|$|(?:group|order) by\b|having\b|union\b|limit\b)"
        r"|(?:''|\"\") ?[-+*/^&|=%]|(?:true|false|null)(?:" + _END +
        r"| ?\)| (?:or|and|is|like)\b))",
        spaced=True,
    ),
    refuse(
        "sql.breakout-expression", TEXT, LIKELY,
        "a quote closes and a SQL expression follows; send the plain value",
        _SHORT + _BOOL + _NOT + r"(?:[a-z_@][\w.@$]*(?: ?\([^()]*\))? ?(?::?=[^=]|=$|<|>|!="
        r"|(?:r?like|regexp|between) ?['\"(\d]|ilike\b|in ?\(|is (?:not )?(?:null|true)\b|sounds like\b"
        r"|similar to\b)|(?:exists|select|case when)\b|" + _SLOW + r" ?\()",
        spaced=True,
    ),
    refuse(
        "sql.appended-condition", TEXT, LIKELY,
        "a number is followed by a SQL condition; send the number alone",
        r"^ ?(?:-?\w?\d[\w.]*(?: ?= ?\d+)?|[)('\"` ]*) ?\)* ?(?:(?:or|and|xor)\b|\|\||&&)" + _NOT +
        r"(?:select\b|(?:current|session|system)_user ?=|" + _SLOW + r" ?\([^()]*[()]|" + _SAME_LETTER +
        r" ?(?:--|#|/\*|$)"
        r"|(?:true|false|\d+) ?(?:--|#|/\*|group by))",
        r"^ ?\w+ having[ (]+(?:true|false|\d+) (?:or|and)\b|\) ?(?:rlike|and|or) ?\( ?select\b",
        # what is compared may be anything, when it is a call or a comment ends the value
        _PLAIN_NUMBER + _BOOL + r"[^'\"]*[\w)] ?(?:=|<>|!=|[<>]=?) ?-?\w*\([^'\"]*\)",
        _PLAIN_NUMBER + _BOOL + r"[^a-z]*\w{1,30}\([^()]*\) ?[=<>!]",
        _PLAIN_NUMBER + _BOOL + r"[^'\"]*[=<>][^'\"]*" + _COMMENTED,
        r"^[ (]*-?\d+ ?(?:=|<>|!=|[<>]) ?-?\d+\)* ?" + _BOOL,
        r"^ ?-?\d+ ?\([ (]*select\b.*\bfrom\b",
        spaced=True,
    ),
    refuse(
        "sql.tautology", TEXT, LIKELY,
        "a condition compares constants or database functions, as injected SQL does; send the plain value",
        r"(?:^|[^a-z_.])(?:or|and|xor|having|where)" + _CONSTANTS,
        r"(?:\|\||&&)[ (!~]?" + _CONSTANTS,
        r"\bcase when[ (]+" + _NUMBER + r" ?[=<>] ?-?\d",
        spaced=True,
    ),
    refuse(
        "sql.stacked-statement", TEXT, LIKELY,
        "another SQL statement follows a semicolon; send the plain value, without SQL",
        "; ?" + _STATEMENT,
        spaced=True,
    ),
    refuse(
        "sql.breakout-stacked", TEXT, LIKELY,
        "a quote or bracket closes and a semicolon starts another SQL statement; send the plain value",
        _OPENED + r"; ?(?:select|insert|update|delete|drop|alter|create|exec|execute|declare|shutdown"
        r"|waitfor|truncate|grant|merge|begin|if(?: \d|\b ?\()|desc)",
        spaced=True,
    ),
    refuse(
        "sql.declared-batch", TEXT, LIKELY,
        "it declares a variable to run as SQL; send the plain value",
        r"^ ?[\w'\"]* ?;? ?declare @\w+ (?:as )?(?:n?varchar|n?char|int)\b",
        spaced=True,
    ),
    refuse(
        "sql.breakout-comment", TEXT, LIKELY,
        "a quote closes and a comment hides what should follow; send the plain value",
        _OPENED + r";? ?(?:--[ -]?|#|/\*|%00)$",
        spaced=True,
    ),
    refuse(
        "sql.injected-call", TEXT, LIKELY,
        "it calls a function that delays the database where an injected query would; send the plain value",
        r"(?:\b(?:or|and|xor|select|by|having|when|then|like)|\|\||&&|[\d'\"][=,]|,\w+,|[=+*/(,]\(|^\)*"
        r"|['\"`)] ?[,+*=-]?)"
        r" ?[(!~ ]*(?:if ?\( ?|case when )?(?:sleep|benchmark|randomblob) ?\( ?(?:\d|__time__|\(|@)",
        spaced=True,
    ),
    refuse(
        "sql.probing-function", TEXT, LIKELY,
        "it calls a SQL function that injected queries use to delay, read or fail; send the plain value",
        r"\bbenchmark ?\( ?\d{3,} ?, ?\w+ ?\(|\bpg_sleep ?\( ?[\d(_]"
        r"|\bwaitfor (?:delay|time) ?['\"(\\]|\b(?:extractvalue|updatexml) ?\( ?(?:\d|rand|null|['\"(@x])"
        r"|\brandomblob ?\( ?\d{6}"
        r"|\bdbms_\w{2,}\.\w|\butl_(?:inaddr|http|smtp|file|tcp)\.\w|\bctxsys\.\w|\biif ?\( ?\d+ ?=|\bdiv ?\( ?select\b"
        r"|\bload_file ?\( ?(?:['\"(]|0x|char|concat)|\binto (?:out|dump)file\b|\bprocedure analyse ?\("
        r"|\bgtid_sub(?:set|tract) ?\(|\bjson_keys ?\( ?\(|\bexp\(~|\bpolygon\( ?\(select|\bfiletoclob ?\(",
        spaced=True,
    ),
    refuse(
        "sql.system-object", TEXT, LIKELY,
        "it reads a database's own tables, settings or procedures; send the plain value",
        r"(?:from|join|into) ?[(\[ ]{0,3}(?:(?:information|performance)_schema\.|mysql\.\w|master\.|msysaccessobjects"
        r"|rdb\$\w|syscat\.\w|sysibm\.\w"
        r"|sys\.?(?:objects|columns|users|databases|tables|logins|xlogins|tab|dba|comments|processes"
        r"|indexes|types|schemas|views|all_\w{5,})\b"
        r"|pg_(?:shadow|user|authid|tables|catalog|database|roles|class|settings|stat_\w{3,})\b|sqlite_(?:master|schema)\b"
        r"|(?:all|user|dba)_(?:tables|users|tab_columns|catalog|objects)\b|v\$version)",
        r"(?:exec|execute|dbo\.)(?: ?master\.\.?(?:dbo\.)?| )?xp_\w{3}|master\.\.?(?:dbo\.)?xp_\w{3}"
        r"|exec(?:ute)? (?:master\.\.?(?:dbo\.)?)?sp_\w{4}",
        r"(?:select|union|=|,|\() ?\(?@@\w{3}",
        spaced=True,
    ),
    refuse(
        "sql.column-probe", TEXT, LIKELY,
        "it probes the number of columns with ORDER BY; send the plain value",
        r"^ ?[\w,.-]*['\"]? ?\)* ?(?:order|group) by \d+ ?(?:,[^,]+)*"
        r"(?:(?:--|#|/\*).*)?$",
        spaced=True,
    ),
    refuse(
        "sql.conditional-comment", TEXT + " sql", LIKELY,
        "a comment that MySQL executes hides a keyword; write the keyword plainly",
        r"/\*!(?:\d{5,6} ?[a-z(@'\"]|(?:union|select|and|or|from|where|all|insert|drop|update|delete"
        r"|concat|table)\b)",
    ),
    refuse(
        "sql.subquery", TEXT, SUSPECT,
        "it holds a nested SELECT; send the plain value",
        r"(?:[=(,<>+*|&-]|\b(?:or|and|in|exists|union|by)) ?\(? ?select\b[^;]+\bfrom\b",
        spaced=True,
    ),
    refuse(
        "sql.encoded-literal", TEXT, SUSPECT,
        "it builds text from character codes inside SQL; send the text itself",
        r"\bn?char ?\( ?\d{1,3} ?[,)]|\bchr ?\( ?\d{1,3} ?\) ?\|\||\b0x(?:[0-9a-f]{2}){10}"
        r"|\bconcat(?:_ws)? ?\( ?(?:0x|n?char|')",
        spaced=True,
    ),
    refuse(
        "sql.quoted-operator", TEXT, LIKELY,
        "an operator stands between two quotes, as when a value breaks out of one; send the plain value",
        _CLOSED + _OPERATOR + r"[ (]*(?:['\"] ?\w{0,3} ?$|$|null\b|true\b|\d+['\" )]*(?:--|#|$)|\w+ ?[=(,]"
        r"|.*\) ?(?:--|#) ?$)",
        # a value, a quote, an operator, an expression, an operator, and the quote that the query has after it
        _CLOSED + r"[-+*/%^|&<>=!~]+[^'\"]*" + _BEFORE_QUOTE,
        _CLOSED + r"(?:x?or|and|div|mod|like|is|between|in)\b[^'\"]*[=<>*@!()|&^~][^'\"]*" + _BEFORE_QUOTE,
        _CLOSED + r"between \d+ and \d",
        _CLOSED + r"\([ (]*select\b[^;]*\bfrom\b",
        _CLOSED + r"[-+*/%^|&<>=!~]+ ?['\"][^'\"]*['\"][^'\"]*[=<>] ?['\"]?\w{0,3} ?$",
        r"^ ?\w{0,2} ?['\"]" + _OPERATOR + r"['\"] ?\w{0,2} ?$",
        # a quote, a condition, and a comment at the end
        r"^ ?[\w@.-]*['\"].*\b(?:x?or|and|having|r?like|between|union|div|mod|is|in)\b.*[=<>()!].*" + _COMMENTED,
        r"^[^'\"]*['\"].*\b(?:and|or) ?\( ?select\b",
        spaced=True,
    ),
    refuse(
        "sql.bracketed-expression", TEXT, LIKELY,
        "it is a SQL expression, and a comment hides what should follow; send the plain value",
        r"^ ?\(.*\) ?(?:--|#|/\*) ?-?$",
        r"^ ?(?:@\w+|[\d'\"()*/=~.,]{1,12}) ?(?:--|/\*) ?$|^[\d*/ .()-]{1,20}/\* ?$|^ ?-?\d+ ?--.*\( ?select\b",
        spaced=True,
    ),
    refuse(
        "sql.probing-statement", TEXT, LIKELY,
        "it is a SQL statement that probes a database; send the plain value",
        r"^[ (+-]*select [ (+-]*(?:(?:binary )*[ (+-]*(?:@|'\w?'|\d)|sin ?\(|cos ?\(|" + _SLOW + r" ?\()",
        r"^ ?\w* ?\([ (]*select [ (+-]*(?:@|\d|'\w?'|" + _SLOW + r" ?\()",
        r"^ ?\( ?select\b.*\bfrom\b.*\) ?(?:--|#|/\*|as \w|\w* where\b)",
        r"^ ?\( ?select ?\( ?select\b|^ ?select \W*information_schema\b",
        r"^[ (+-]*select .* from \w+ where ?$",
        spaced=True,
    ),
    refuse("sql.statement", TEXT, CRUDE, "it holds a SQL keyword", r"\b(?:select|insert)\b"),
    refuse("sql.punctuation", TEXT, CRUDE, "it holds a semicolon or a SQL comment mark", r"--|;|/\*"),
    # Where SQL is wanted.
    refuse(
        "sql.several-statements", "sql", LIKELY,
        "several statements stand there; send one at a time",
        _several_statements,
        own=True,
    ),
    refuse(
        "sql.open-literal", "sql", LIKELY,
        "a quote is left open, so where the statement ends is unclear; close it",
        _open_literal,
        own=True,
    ),
    refuse(
        "sql.server-access", "sql", LIKELY,
        "it reads files, runs programs or waits on the database server; query tables only",
        r"\b(?:load_file|pg_read_(?:binary_)?file|pg_ls_\w{2,}|pg_stat_file|lo_(?:im|ex)port|pg_sleep\w*"
        r"|dblink\w*|xp_\w{3,}|sp_oa\w{3,}|sp_execute_external_script|sp_addextendedproc|openrowset"
        r"|opendatasource|openquery|load_extension|readfile|writefile|fts3_tokenizer|sys_eval|sys_exec|benchmark|sleep"
        r"|query_to_xml|pg_terminate_backend|pg_reload_conf|set_config|httpuritype) ?\("
        r"|\bexec(?:ute)? (?:master\.\.?(?:dbo\.)?)?(?:xp_\w|sp_oa)|\binto (?:out|dump)file\b"
        r"|\bload data (?:local |low_priority |concurrent ){0,2}infile\b"
        r"|\bcopy\b[^;]+\b(?:from|to) (?:program |'|e')|\bwaitfor (?:delay|time)\b|\bbulk insert\b"
        r"|\bdbms_(?:pipe|lock|java|scheduler|ldap|xmlquery|xslprocessor|advisor)\w*\."
        r"|\butl_(?:http|file|smtp|tcp|inaddr)\.|^ ?attach (?:database )?['\"]"
        r"|\bpragma (?:writable_schema|temp_store_directory|trusted_schema)\b"
        r"|\bcreate (?:or replace )?(?:extension|library|assembly|server|language)\b"
        r"|^ ?shutdown\b|\balter system\b",
        spaced=True,
    ),
    refuse(
        "sql.credentials-table", "sql", LIKELY,
        "it reads the database's accounts; query tables of your own",
        r"\bmysql\.user\b|\bpg_(?:shadow|authid|auth_members|user_mapping|hba_file_rules)\b|\bdba_users\b"
        r"|\bsys\.(?:sql_logins|syslogins|user\$|password_hash)|\bmaster\.\.?(?:dbo\.)?sysx?logins\b",
        spaced=True,
    ),
    refuse(
        "sql.split-keyword", "sql", LIKELY,
        "a comment glues or splits words to hide them; write plain spaces",
        r"[a-z]/\*[^*]*\*/[a-z(]",
    ),
    refuse(
        "sql.catalog", "sql", SUSPECT,
        "it reads the database's own tables or settings; query tables of your own",
        r"\binformation_schema\b|\bpg_(?:catalog|tables|class|user|roles|settings)\b|\bsqlite_(?:master|schema)\b"
        r"|\bsys\.\w|\bsys(?:objects|columns|users|databases)\b|@@\w{3}|\ball_tables\b"
        r"|\b(?:version|current_user|user|database|schema) ?\(\)",
        spaced=True,
    ),
    refuse(
        "sql.comment", "sql", SUSPECT,
        "it holds a comment, which can hide the rest of a statement; remove it",
        r"--|/\*|#",
        own=True,
    ),
    refuse(
        "sql.constant-condition", "sql", SUSPECT,
        "a condition compares two constants; remove it",
        r"\bor[ (]+(?:" + _NUMBER + r" ?= ?\d|" + _QUOTED + r" ?= ?['\"])"
        r"|\bunion\b[^;]*\bselect[ (]+(?:null|\d)\b ?,",
        spaced=True,
    ),
    refuse(
        "sql.changes-data", "sql", SUSPECT,
        "it changes data, structure or rights; query only",
        r"^[ (]*(?:insert|update|delete|drop|alter|create|truncate|grant|revoke|merge|replace|call|exec"
        r"|execute|vacuum|attach|set|copy|do|lock|rename)\b",
        spaced=True, own=True,
    ),
)
