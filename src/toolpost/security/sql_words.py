"""Reads the text that is to be executed word by word: each word, sign and function must be one that is known.

It stands beside the checks on the tree and shares nothing with them: whatever a parser understood, a word that is not
listed here does not reach the database.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from toolpost.security.sql_names import refusal

_COMMON: Final = """
    select from where group by having order limit offset as on using join inner left right full outer cross natural
    union all except intersect distinct with not and or in is null true false like escape between exists case when then
    else end cast asc desc nulls first last over partition window rows range groups unbounded preceding following
    current row exclude ties others no filter values current_date current_time current_timestamp collate
    materialized
"""
_WORDS: Final = {
    "sqlite": frozenset(
        (
            _COMMON
            + "glob match regexp isnull notnull nocase binary "
            + "text integer int real numeric double precision varchar char"
        ).split()
    ),
    "postgres": frozenset(
        (
            _COMMON
            + """
    lateral ilike similar to symmetric any some within grouping sets rollup cube array interval at time zone extract
    localtime localtimestamp both leading trailing for placing position substring overlay trim only fetch next
    ordinality unknown
    year quarter month week day hour minute second millisecond milliseconds microsecond microseconds epoch dow isodow
    doy isoyear decade century millennium timezone timezone_hour timezone_minute julian
    smallint int integer bigint decimal numeric real double precision float text varchar char character varying bpchar
    boolean bool date timestamp timestamptz timetz uuid json jsonb bytea inet cidr
    """
        ).split()
    ),
}
"""Words that may stand in a query. None of them is the name of a function that does something."""

_OPENERS: Final = frozenset(
    """
    select from where by having limit offset as on using join all union except intersect distinct not and or in is like
    between escape exists case when then else cast over filter values group row glob match regexp
    lateral ilike to any some sets rollup cube array extract position substring overlay trim at zone first next
    symmetric placing for window partition returning set conflict materialized
    decimal numeric real varchar char float time timestamp timestamptz timetz bpchar interval character varying
    """.split()
)
"""Words that a bracket may follow without being called."""
_WRITING: Final = frozenset("insert into update set delete returning conflict do nothing default constraint".split())
_RECURSIVE: Final = frozenset(("recursive",))

_PURE: Final = """
    count sum avg min max abs round coalesce nullif lower upper length substr substring trim ltrim rtrim replace sign
    ceil ceiling floor sqrt exp ln log log10 power pow mod pi sin cos tan asin acos atan atan2 degrees radians
    row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value
    concat concat_ws random date
"""
FUNCTIONS: Final = {
    "sqlite": frozenset(
        (
            _PURE
            + """
    total group_concat string_agg iif ifnull typeof instr hex unicode char quote likely unlikely
    format printf time datetime julianday strftime unixepoch trunc log2
    sinh cosh tanh asinh acosh atanh like glob octet_length
    json json_array json_array_length json_extract json_object json_type json_valid json_group_array json_group_object
    json_quote json_each json_tree json_insert json_replace json_set json_remove json_patch
    """
        ).split()
    ),
    "postgres": frozenset(
        (
            _PURE
            + """
    bool_and bool_or every string_agg array_agg json_agg jsonb_agg json_object_agg jsonb_object_agg stddev stddev_pop
    stddev_samp variance var_pop var_samp corr covar_pop covar_samp regr_avgx regr_avgy regr_count regr_intercept
    regr_r2 regr_slope regr_sxx regr_sxy regr_syy mode percentile_cont percentile_disc any_value bit_and bit_or bit_xor
    grouping
    cbrt trunc div cot sinh cosh tanh greatest least width_bucket gcd lcm
    initcap char_length character_length octet_length bit_length btrim left right translate position strpos split_part
    reverse ascii chr md5 starts_with to_char to_number to_date to_timestamp lpad rpad overlay
    regexp_replace regexp_match regexp_matches regexp_split_to_array regexp_split_to_table regexp_count regexp_like
    regexp_substr regexp_instr string_to_array array_to_string encode
    now date_trunc date_part extract age make_date make_time make_timestamp make_interval justify_days justify_hours
    justify_interval isfinite date_bin
    array_length cardinality array_position array_positions array_remove array_append array_prepend array_cat
    array_upper array_lower array_ndims unnest generate_series generate_subscripts
    to_json to_jsonb row_to_json json_build_object jsonb_build_object json_build_array jsonb_build_array
    json_array_elements json_array_elements_text jsonb_array_elements jsonb_array_elements_text json_each json_each_text
    jsonb_each jsonb_each_text json_object_keys jsonb_object_keys json_extract_path json_extract_path_text
    jsonb_extract_path jsonb_extract_path_text json_array_length jsonb_array_length json_typeof jsonb_typeof
    json_strip_nulls jsonb_strip_nulls jsonb_pretty jsonb_set jsonb_insert jsonb_path_query jsonb_path_query_array
    jsonb_path_query_first jsonb_path_exists jsonb_path_match
    """
        ).split()
    ),
}
"""Functions that only compute: they read no file, setting or other session, reach no network, wait for nothing."""

_SIGNS: Final = {
    "sqlite": frozenset("= == <> != < <= > >= + - * / % || & | << >> ~ -> ->>".split()),
    "postgres": frozenset(
        "= <> != < <= > >= + - * / % ^ || & | # << >> ~ ~* !~ !~* ~~ -> ->> #> #>> @> <@ && ? ?| ?&".split()
    ),
}
_TOKEN: Final = re.compile(
    r"(?P<space>[ \n]+)"
    r"|(?P<string>'(?:[^']|'')*+')"
    r"|(?P<name>\"(?:[^\"]|\"\")++\"|`(?:[^`]|``)++`)"
    r"|(?P<place>\$\d{1,4}|:p\d{1,4})(?![A-Za-z0-9_$])"
    r"|(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)(?![A-Za-z0-9_.$\"'`\x80-\U0010ffff])"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_]*+)(?![$'\"`\x80-\U0010ffff])"
    r"|(?P<sign>[-+*/<>=~!@#%^&|?]+)"
    r"|(?P<mark>[(),.\[\]:])"
)


@dataclass(frozen=True, slots=True)
class Token:
    """One token of the text: what sort it is, and how it is spelled."""

    kind: str
    text: str


def tokens_of(text: str) -> Iterator[Token]:
    """The tokens of a rendered statement. Raises SecurityError for a character that begins none."""
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise refusal(
                "sql.literal",
                f"the database could read {text[at : at + 20]!r} otherwise than it was checked",
                "write plain numbers, 'text' and names",
            )
        at = found.end()
        yield Token(found.lastgroup or "", found[0])


def judge_words(
    text: str, dialect: str, *, writes: bool, recursive: bool, functions: Collection[str] = ()
) -> frozenset[str]:
    """The functions that a rendered statement calls. Raises SecurityError for a word, sign or function not listed."""
    words = _WORDS[dialect] | (_WRITING if writes else frozenset()) | (_RECURSIVE if recursive else frozenset())
    known = FUNCTIONS[dialect] | frozenset(functions)
    found = [token for token in tokens_of(text) if token.kind != "space"]
    called: set[str] = set()
    for index, token in enumerate(found):
        after = found[index + 1].text if index + 1 < len(found) else ""
        lower = token.text.lower()
        if token.kind == "sign" and token.text not in _SIGNS[dialect]:
            raise refusal("sql.operator", f"the operator {token.text[:20]!r} is not allowed", "use common operators")
        if token.kind == "word":
            if after == "(" and lower in known:
                called.add(lower)
            elif lower not in words or (after == "(" and lower not in _OPENERS):
                raise _unknown(token.text, after == "(")
        if token.kind == "name" and after == "(" and not _lists_columns(found, index):
            raise _unknown(token.text.strip('"`'), True)
    return frozenset(called)


def _unknown(word: str, called: bool) -> Exception:
    if called:
        return refusal(
            "sql.function",
            f"the function {word[:80]!r} is not among those that only compute",
            "leave it out, or let SqlPolicy(functions=...) allow it",
            subject=word,
        )
    return refusal("sql.word", f"{word[:80]!r} is not allowed in a query", "read with a plain SELECT", subject=word)


def _lists_columns(tokens: list[Token], index: int) -> bool:
    """Whether the bracket after a quoted name lists columns: WITH "a"("b") AS (, AS "t"("b"), INTO "t" ("b")."""
    end = index + 2
    while end < len(tokens) and (tokens[end].kind == "name" or tokens[end].text == ","):
        end += 1
    if end >= len(tokens) or tokens[end].text != ")":
        return False
    start = index
    while start > 1 and tokens[start - 1].text == "." and tokens[start - 2].kind == "name":
        start -= 2
    before = tokens[start - 1].text.lower() if start else ""
    if before == "into" or (start == index and before in ("as", "with", "recursive")):
        return True
    return start == index and before == "," and end + 1 < len(tokens) and tokens[end + 1].text.lower() == "as"
