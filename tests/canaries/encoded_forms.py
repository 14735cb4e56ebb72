"""The forms in which a secret may come back: every one of them is looked for in every sink."""

import base64
import html
import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

ENCODINGS: dict[str, Callable[[str], str]] = {
    "as it is": lambda s: s,
    "within a text": lambda s: f"the key is {s}, it says",
    "percent": lambda s: quote(s, safe=""),
    "percent, small": lambda s: "".join(f"%{b:02x}" for b in s.encode()),
    "percent, every second": lambda s: "".join(
        quote(c, safe="") if i % 2 else "".join(f"%{b:02X}" for b in c.encode()) for i, c in enumerate(s)
    ),
    "percent, twice": lambda s: quote(quote(s, safe=""), safe=""),
    "form": quote_plus,
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "base64 of a login": lambda s: base64.b64encode(b"user:" + s.encode()).decode(),
    "base64, second place": lambda s: base64.b64encode(b"x" + s.encode() + b"yy").decode(),
    "base64, third place": lambda s: base64.b64encode(b"xy" + s.encode() + b"y").decode(),
    "base64 for URLs": lambda s: base64.urlsafe_b64encode(b"k=" + s.encode()).decode().rstrip("="),
    "base64 in lines": lambda s: base64.encodebytes(b"x" * 50 + s.encode() + b"y" * 50).decode(),
    "base64 in a URL": lambda s: quote(base64.b64encode(s.encode()).decode(), safe=""),
    "hex": lambda s: s.encode().hex(),
    "HEX": lambda s: s.encode().hex().upper(),
    "JSON": lambda s: json.dumps({"a": s}),
    "JSON in JSON": lambda s: json.dumps({"a": json.dumps(s)}),
    "JSON in a URL": lambda s: quote(json.dumps(s), safe=""),
    "JSON, all escaped": lambda s: "".join(f"\\u{u:04x}" for u in _units(s)),
    "JSON with \\/": lambda s: json.dumps(s).replace("/", "\\/"),
    "HTML": lambda s: html.escape(s),
    "HTML, decimal": lambda s: "".join(f"&#{ord(c)};" for c in s),
    "HTML, hexadecimal": lambda s: "".join(f"&#x{ord(c):X};" for c in s),
    "repr": repr,
    "ascii": ascii,
    "repr of bytes": lambda s: repr(s.encode()),
    "\\x": lambda s: "".join(f"\\x{b:02x}" for b in s.encode()),
    "octal": lambda s: "".join(f"\\{b:03o}" for b in s.encode()),
    "SQL": lambda s: s.replace("'", "''"),
    "CSV": lambda s: s.replace('"', '""'),
    "UTF-16 as Latin-1": lambda s: s.encode("utf-16-le").decode("latin-1"),
    "UTF-8 as Latin-1": lambda s: s.encode().decode("latin-1"),
}


def _units(text: str) -> list[int]:
    raw = text.encode("utf-16-be")
    return [raw[i] << 8 | raw[i + 1] for i in range(0, len(raw), 2)]


def shows(secret: str, text: str) -> list[str]:
    """By which encodings the secret stands in text, found by encoding alone: not by the code that is tested."""
    found = [name for name, encode in ENCODINGS.items() if encode(secret) in text]
    cores = [
        base64.b64encode(b"\0" * k + secret.encode()).decode()[-(-8 * k // 6) : (k + len(secret.encode())) * 8 // 6]
        for k in range(3)
    ]
    flat = text.replace("-", "+").replace("_", "/").replace("\n", "").replace("\\n", "")
    return found + [f"base64 at {k}" for k, core in enumerate(cores) if core in flat]
