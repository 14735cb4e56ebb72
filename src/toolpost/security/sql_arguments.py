"""Refuses arguments with which a harmless function takes all memory, or time that nothing interrupts."""

from __future__ import annotations

from typing import Final

from sqlglot import exp

from toolpost.security.sql_names import refusal

MAX_SERIES: Final = 100_000
"""The most numbers that generate_series may give."""
MAX_PAD: Final = 1_000
_LONG: Final = ("day", "week", "month", "quarter", "year", "mon")
"""Steps with which generate_series ends soon, as times end with the year 294276."""


def judge_arguments(node: exp.Func, dialect: str) -> None:
    """Refuse arguments with which a harmless function takes all memory, or time that nothing interrupts."""
    if isinstance(node, (exp.ExplodingGenerateSeries, exp.GenerateSeries)):
        if not _is_bounded(node):
            raise _argument("generate_series", f"over {MAX_SERIES} numbers, or with bounds that are no literals")
    elif isinstance(node, exp.Pad) and not _is_small(node.expression, MAX_PAD):
        raise _argument("lpad or rpad", f"to a length that is no number up to {MAX_PAD}")
    elif dialect == "sqlite":
        _judge_sqlite(node)


def _judge_sqlite(node: exp.Func) -> None:
    if isinstance(node, exp.Trim) or (isinstance(node, exp.Anonymous) and node.name.lower() in ("ltrim", "rtrim")):
        what = node.expressions[1:] if isinstance(node, exp.Anonymous) else [node.args.get("expression")]
        if any(one is not None and not (_is_text(one) and len(one.name) <= 100) for one in what):
            raise _argument("trim", "with characters that are no short text")
    elif isinstance(node, exp.StrPosition) and not _is_given(node.args.get("substr")):
        raise _argument("instr", "for something that is neither a text nor a parameter")
    elif isinstance(node, exp.Replace) and not _is_given(node.expression):
        raise _argument("replace", "of something that is neither a text nor a parameter")
    elif isinstance(node, exp.Format) or (
        isinstance(node, exp.Anonymous) and node.name.lower() in ("printf", "format")
    ):
        template = node.this if isinstance(node, exp.Format) else next(iter(node.expressions), None)
        if template is None or not _is_text(template) or "*" in template.name or _has_long_number(template.name):
            raise _argument("printf", "with a width over 999, or a format that is no text")
    sought = node.expressions[1:2] if isinstance(node, exp.Anonymous) else []
    if node.name.lower() in ("instr", "replace") and not all(_is_given(one) for one in sought):
        raise _argument(node.name.lower(), "of something that is neither a text nor a parameter")


def _argument(function: str, what: str) -> Exception:
    return refusal(
        "sql.argument", f"{function} {what} is not allowed", "use smaller, literal arguments", subject=function
    )


def _is_text(node: exp.Expr) -> bool:
    return isinstance(node, exp.Literal) and bool(node.is_string)


def _is_given(node: exp.Expr | None) -> bool:
    return isinstance(node, (exp.Literal, exp.Placeholder, exp.Parameter))


def _has_long_number(text: str) -> bool:
    run = 0
    for letter in text:
        run = run + 1 if letter.isdigit() else 0
        if run > 3:
            return True
    return False


def _number(node: exp.Expr | None) -> int | None:
    if isinstance(node, exp.Paren):
        return _number(node.this)
    if isinstance(node, exp.Neg):
        inner = _number(node.this)
        return None if inner is None else -inner
    if isinstance(node, exp.Literal) and not node.is_string and node.this.isdigit() and len(node.this) < 19:
        return int(node.this)
    return None


def _is_small(node: exp.Expr | None, most: int) -> bool:
    number = _number(node)
    return number is not None and number <= most


def _is_bounded(node: exp.Expr) -> bool:
    start, end, step = (node.args.get(name) for name in ("start", "end", "step"))
    if isinstance(step, exp.Cast) and step.is_type(exp.DType.INTERVAL) and _is_text(step.this):
        number, _, unit = step.this.name.strip().partition(" ")
        return number.isdigit() and int(number[:9]) > 0 and unit.strip().lower().rstrip("s") in _LONG
    if isinstance(step, exp.Interval):
        amount, unit = step.this, step.args.get("unit")
        days = isinstance(unit, exp.Var) and unit.name.lower().rstrip("s") in _LONG
        return days and isinstance(amount, exp.Literal) and amount.this.isdigit() and int(amount.this[:9]) > 0
    first, last, by = _number(start), _number(end), 1 if step is None else _number(step)
    return first is not None and last is not None and bool(by) and abs(last - first) <= MAX_SERIES * abs(by or 1)
