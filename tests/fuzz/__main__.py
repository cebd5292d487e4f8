"""``python -m tests.fuzz INPUTS [TARGET…]``: as the tests, for longer. Prints each kind of surprise
once; exit code 1 if there was one."""

from __future__ import annotations

import logging
import secrets
import sys
import time
import traceback

from tests.fuzz.targets import TARGETS, surprises


def main(inputs: int, names: list[str]) -> int:
    logging.disable()
    status = 0
    for name in names or TARGETS:
        seed, begun = secrets.randbits(32), time.monotonic()
        seen: set[tuple[str, str]] = set()
        for error, content in surprises(name, inputs, seed=seed):
            where = traceback.extract_tb(error.__traceback__)[-1]
            kind = (type(error).__name__, f"{where.filename}:{where.lineno}")
            if kind not in seen:
                seen.add(kind)
                print(f"{name}: {error!r} at {kind[1]} for {content[:200]!r}", flush=True)
        status |= bool(seen)
        took = time.monotonic() - begun
        print(f"{name}: seed {seed}, {took:.1f} s, {len(seen)} surprises")
    return status


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
