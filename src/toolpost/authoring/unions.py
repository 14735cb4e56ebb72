"""Says what to mend when a value fits no branch of a union: the least that lets the call be mended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolpost.authoring.problems import Finding, Loc, bracketed, either, one_of, sentence, wrong_kind

__all__ = ["condense"]


def condense(loc: Loc, branches: Sequence[Sequence[Finding]], value: Any, *, code: str = "any_of") -> list[Finding]:
    """What to say when a value fits no branch of a union at loc: the least that lets the call be mended.

    branches holds each branch's findings. When every branch wants another kind of value, one finding joins the
    kinds. When the kind (or the tag, as in {"kind": "circle", …}) singles out a branch, that branch's findings
    stand alone. Else one finding names the nearest branch's complaint.
    """
    fitting = [branch for branch in branches if not any(_rules_out(finding, loc) for finding in branch)]
    if not fitting:
        return [_joined(loc, [f for branch in branches for f in branch if _rules_out(f, loc)], value)]
    tagged = [branch for branch in fitting if not any(_is_tag(finding, loc) for finding in branch)]
    if not tagged:
        return _joined_tags(loc, fitting)
    if len(tagged) == 1:
        return list(tagged[0])
    others = [{finding.key for finding in branch} for branch in tagged[1:]]
    shared = [finding for finding in tagged[0] if all(finding.key in other for other in others)]
    if shared:
        return shared
    best = min(tagged, key=len)
    reason = "; ".join(sentence(finding) for finding in best[:3])
    says = f"fits none of its {len(branches)} allowed forms; the nearest says: {reason}"
    return [Finding(loc=loc, type=code, says=says, expected=f"one of {len(branches)} forms")]


def _rules_out(finding: Finding, loc: Loc) -> bool:
    return finding.loc == loc and bool(finding.choices)


def _is_tag(finding: Finding, loc: Loc) -> bool:
    return finding.type in ("const", "enum") and len(finding.loc) == len(loc) + 1


def _joined(loc: Loc, findings: Sequence[Finding], value: Any) -> Finding:
    kinds = list(dict.fromkeys(c for f in findings if f.type not in ("enum", "const") for c in f.choices))
    values = list(dict.fromkeys(c for f in findings if f.type in ("enum", "const") for c in f.choices))
    if not values:
        return wrong_kind(loc, kinds, value)
    if not kinds:
        return one_of(loc, values, value)
    words = [*kinds, values[0] if len(values) == 1 else f"one of {bracketed(values, value)}"]
    return Finding(loc=loc, type="any_of", says=f"must be {either(words)}", got=value, choices=tuple(words))


def _joined_tags(loc: Loc, branches: Sequence[Sequence[Finding]]) -> list[Finding]:
    first = next(finding for finding in branches[0] if _is_tag(finding, loc))
    same = [f for branch in branches for f in branch if _is_tag(f, loc) and f.loc == first.loc]
    return [_joined(first.loc, same, first.got)]
