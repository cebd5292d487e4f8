"""``python -m tests.fuzz INPUTS [TARGET…]``: as the tests, for longer. Prints how many inputs each
parser had, and each kind of surprise once; exit code 1 if there was one."""

from __future__ import annotations

import logging
import secrets
import sys
import time
import traceback

from tests.fuzz.mutate import Mutator
from tests.fuzz.targets import TARGETS


def main(inputs: int, names: list[str]) -> int:
    logging.disable()
    surprises = 0
    for name in names or TARGETS:
        target = TARGETS[name]
        seed = secrets.randbits(32)
        mutator, begun = Mutator(target.seeds, seed), time.monotonic()
        count = inputs // 10 if target.slow else inputs
        seen: set[tuple[str, str]] = set()
        for _ in range(count):
            content = mutator.next()
            try:
                target.parse(content)
            except target.answers:
                continue
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                kind = (type(error).__name__, f"{where.filename}:{where.lineno}")
                if kind not in seen:
                    seen.add(kind)
                    print(f"{name}: {error!r} at {kind[1]} for {content[:200]!r}", flush=True)
        surprises += len(seen)
        took = time.monotonic() - begun
        print(f"{name}: {count} inputs in {took:.1f} s (seed {seed}), {len(seen)} surprises")
    return 1 if surprises else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
