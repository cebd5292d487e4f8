"""Takes out of texts what could be a secret. Pure.

Guarantee: a value that is known to be secret appears in no text that went through here, neither
plain nor as base64 (at any offset) nor as hex; nor does what looks like one: keys, tokens,
passwords beside their names, anything long and random. Public WireGuard keys look like private ones
and are needed, so those that the cluster's objects name as public stay. In doubt a word goes: a
ticket can ask for it.

Each is replaced by a tag that is the same for the same value within one bundle, and says nothing of
it: its key is thrown away.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import re
import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote

LEAST: Final = 6
"""Characters of a known secret; shorter ones would take words of every text along."""
_NAMED: Final = (
    r"pass(?:word|wd|phrase)?|pwd|secret|token|api[_-]?key|access[_-]?key|account[_-]?key|"
    r"private[_-]?key|preshared[_-]?key|credentials?|signature|sig|connection[_-]?string|cookie|auth"
)
SECRET_NAME: Final = re.compile(rf"(?i)(?:^|[^a-z])(?:{_NAMED})(?:$|[^a-z])|(?:{_NAMED})$")
"""A name of what is likely a secret."""
_PATTERNS: Final = tuple(
    re.compile(pattern)
    for pattern in (
        # PEM (RFC 7468), with real line ends or JSON's.
        r"(?s)(-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|$))",
        # JWT (RFC 7519) and everything else that begins as JSON in base64.
        r"(eyJ[\w-]{8,}(?:\.[\w-]*)*)",
        r"(?i)\b(?:bearer|basic)\s+([\w.~+/=-]{6,})",
        r"(?i)authorization\W+(?:\w+\s+)?([\w.~+/=-]{6,})",
        # user:password@ of a URL (RFC 3986).
        r"://([^/\s:@\"]*:[^/\s@\"]+)@",
        # Microsoft Entra's client secrets (learn.microsoft.com/purview, sit-defn).
        r"([\w.~-]{3}\dQ~[\w.~-]{16,})",
        rf"(?i)(?:{_NAMED})[\w.-]*[\"']*\s*[:=]\s*[\"']?([^\s\"',;&}}\]]{{3,}})",
    )
)
_WORD: Final = re.compile(r"[A-Za-z0-9+/_=~-]{20,}")
_UUID: Final = re.compile(r"(?i)[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_BITS: Final = 3.2
"""Bits a character from which on a long word is random; English in camel case has fewer."""


class Redactor:
    """``known``: secret values. ``public``: words that stay however random they look."""

    def __init__(self, known: Iterable[str] = (), public: Collection[str] = ()) -> None:
        self._key = secrets.token_bytes(32)
        self._public = frozenset(public)
        forms = {f for value in known if len(value) >= LEAST for f in _forms(value)}
        longest = sorted(forms - self._public, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest))) if longest else None

    def text(self, text: str) -> str:
        """``text`` without secrets. A replaced part is not searched again."""
        if self._known is not None:
            text = self._known.sub(lambda m: self._tag(m[0]), text)
        for pattern in _PATTERNS:
            text = pattern.sub(self._group, text)
        return _WORD.sub(lambda m: self._word(m[0]), text)

    def value(self, value: Any) -> Any:
        """A JSON value: each of its strings, and whole strings under a secret's name."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {
                self.text(k): self._tag(v)
                if isinstance(v, str) and v and SECRET_NAME.search(k)
                else self.value(v)
                for k, v in value.items()
            }
        return [self.value(item) for item in value] if isinstance(value, list) else value

    def _group(self, match: re.Match[str]) -> str:
        begin, end = match.span(1)
        if match[1].startswith("<redacted-"):
            return match[0]
        start = match.start()
        return match[0][: begin - start] + self._tag(match[1]) + match[0][end - start :]

    def _word(self, word: str) -> str:
        if word in self._public:
            return word
        if "+" in word or word.endswith("=") or not {"/", "-"} & set(word):
            # Base64 of any kind, and what has no joints: one thing.
            _, joint, value = word.rstrip("=").rpartition("=")
            if joint and (value in self._public or value + "=" in self._public):
                return word
            return self._tag(word) if random(word) else word
        parts = re.split(r"([/=])", word)
        return "".join(
            self._tag(p) if p not in self._public and not _UUID.fullmatch(p) and random(p) else p
            for p in parts
        )

    def _tag(self, value: str) -> str:
        tag = hmac.new(self._key, value.encode(), hashlib.sha256).hexdigest()[:6]
        return f"<redacted-{tag}>"


def random(word: str) -> bool:
    """Whether a word looks like a key and not like a name."""
    if re.fullmatch(r"(?i)[0-9a-f]{32,}", word):
        return True
    bare = word.rstrip("=")
    pieces = [bare] if re.search(r"[A-Z]", bare) else re.split(r"[-_]", bare)
    return any(_random(piece) for piece in pieces if len(piece) >= 16)


def _random(piece: str) -> bool:
    digits, lower = sum(c.isdigit() for c in piece), any(c.islower() for c in piece)
    upper = any(c.isupper() for c in piece)
    if not digits or not (lower or upper):
        return False
    if not (lower and upper) and (len(piece) < 20 or digits < 3):
        return False
    count = Counter(piece)
    bits = -sum(n / len(piece) * math.log2(n / len(piece)) for n in count.values())
    return bits >= _BITS


def _forms(value: str) -> Iterator[str]:
    raw = value.encode()
    yield value
    yield quote(value, safe="")
    yield value.encode("unicode_escape").decode()
    yield raw.hex()
    yield raw.hex().upper()
    for offset in range(3):
        # The characters of base64 that depend on this value alone, within a longer text.
        coded = base64.b64encode(b"\0" * offset + raw)
        first, last = (0, 2, 3)[offset], len(coded.rstrip(b"=")) - bool((offset + len(raw)) % 3)
        inner = coded[first:last].decode()
        if len(inner) >= LEAST:
            yield inner
            yield inner.translate(str.maketrans("+/", "-_"))
