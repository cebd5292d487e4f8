"""Makes inputs out of good ones: bytes are flipped, cut, joined and repeated, and values of JSON
documents put in each other's place. The same seed gives the same inputs."""

from __future__ import annotations

import json
import random
from typing import Any, Final

_ODD: Final[tuple[Any, ...]] = (
    None,
    True,
    0,
    -1,
    1 << 63,
    10**400,
    1e309,
    "",
    "\0",
    "\ud800",
    "2020-99-99",
    "::ffff:1.2.3.4%x",
    "255.255.255.256",
    "1.2.3.4/33",
    "é" * 300,
    [],
    [None],
    [[]],
    {},
    {"": None},
    {"name": None, "id": None, "properties": None},
)
_WORDS: Final = (
    b"\0",
    b"\xff\xfe",
    b"\n",
    b"=",
    b"public_key=",
    b"errno=",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"9" * 5000,
    b"2020-99-99",
    b"!!python/object:os.system",
    b"&a [*a, *a]",
    b"1e999",
    b"\\ud800",
)


class Mutator:
    def __init__(self, seeds: list[bytes], seed: int) -> None:
        self._seeds = seeds
        self._random = random.Random(seed)

    def next(self) -> bytes:
        """The next input."""
        rng = self._random
        made = rng.choice(self._seeds)
        if rng.random() < 0.5 and (document := _json(made)) is not None:
            for _ in range(rng.randint(1, 3)):
                document = self._misplaced(document)
            try:
                made = json.dumps(document).encode("utf-8", "surrogatepass")
            except (ValueError, RecursionError):
                made = b"{}"
        if rng.random() < 0.6:
            for _ in range(rng.randint(1, 4)):
                made = self._damaged(made)
        return made

    def _misplaced(self, document: Any) -> Any:
        """The document with one of its values replaced, removed or repeated."""
        rng = self._random
        if rng.random() < 0.15 or not isinstance(document, dict | list) or not document:
            return self._value(document)
        if isinstance(document, dict):
            key = rng.choice(list(document))
            if rng.random() < 0.2:
                return {k: v for k, v in document.items() if k != key}
            return document | {key: self._misplaced(document[key])}
        at = rng.randrange(len(document))
        if rng.random() < 0.2:
            return document[:at] + document[at:] * 2
        return [*document[:at], self._misplaced(document[at]), *document[at + 1 :]]

    def _value(self, before: Any) -> Any:
        rng = self._random
        if isinstance(before, str) and before and rng.random() < 0.5:
            at = rng.randrange(len(before))
            return before[:at] + chr(rng.choice((0, 32, 46, 47, 58, 0x660, 0x1F600))) + before[at:]
        return rng.choice(_ODD)

    def _damaged(self, made: bytes) -> bytes:
        rng = self._random
        at = rng.randrange(len(made) + 1)
        end = min(len(made), at + rng.choice((1, 2, 4, 16, 64)))
        match rng.randrange(6):
            case 0:
                return made[:at] + rng.randbytes(rng.choice((1, 2, 4))) + made[end:]
            case 1:
                return made[:at] + made[end:]
            case 2:
                return made[:at] + rng.choice(_WORDS) + made[at:]
            case 3:
                return made[:at] + made[at:end] * rng.choice((2, 3, 50)) + made[end:]
            case 4:
                other = rng.choice(self._seeds)
                return made[:at] + other[rng.randrange(len(other) + 1) :]
            case _:
                byte = bytes([made[at] ^ 1 << rng.randrange(8)]) if at < len(made) else b"?"
                return made[:at] + byte + made[at + 1 :]


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
