"""Hides what looks like a secret in a text."""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = "[hidden]"
"""What is shown in the place of a secret."""

_KEY_LIKE: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]+-----[\s\S]*?(?:-----END [A-Z0-9 ]+-----|\Z)"
    r"|\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,4}"
    r"|\b(?i:bearer)\s+[A-Za-z0-9._~+/=-]{8,}|\b(?i:basic)\s+(?=[A-Za-z+/]*[A-Z0-9=])[A-Za-z0-9+/=]{8,}"
    r"|\b[rsp]k[-_][A-Za-z0-9_-]{20,}"
    r"|\bgh[a-z]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{12,}|\bAIza[\w-]{30,}|\bxox[a-z]-[\w-]{10,}|\bya29\.[\w-]{16,}"
    r"|\b(?:hf|npm|pypi|whsec|dop_v1)[_-][A-Za-z0-9_-]{20,}"
    r"|(?<=://)[^\s/@:'\"]*:[^\s/@'\"]+(?=@)"
)
_ASSIGNED: Final = re.compile(
    r"(?i)(\b[\w.-]{0,40}(?:password|passwd|pwd|passphrase|secret|token|api_?-?key|access_?-?key|private_?-?key"
    r"|credential|authorization)s?[\"']?\s{0,4}[=:]\s{0,4})(?:\"[^\"]{1,500}\"|'[^']{1,500}'|[^\s,;&\"']{3,500})"
)


def scrub(text: str) -> str:
    """text with what looks like a key, a token or a password in a URL hidden."""
    if len(text) < 11 and "@" not in text:  # shorter than any key; most names and values are
        return text
    return _KEY_LIKE.sub(HIDDEN, text)


def scrub_message(text: str) -> str:
    """scrub for sentences written by others: what is assigned to a secret's name (password=...) is hidden too."""
    return _ASSIGNED.sub(lambda found: found[1] + HIDDEN, scrub(text))
