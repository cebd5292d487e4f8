"""Tests that read source text fail for no garbage that others left."""

from __future__ import annotations

import ast
import gc


class Untidy:
    """Parses when it is collected, deeper than anybody else, as a traceback that is logged."""

    def __init__(self) -> None:
        self.cycle = self

    def __del__(self) -> None:
        self.parse(30)

    def parse(self, depth: int) -> None:
        if depth:
            self.parse(depth - 1)
        else:
            ast.parse("x = 1")


def test_garbage_of_others_fails_no_parse() -> None:
    for _ in range(1000):
        Untidy()
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        assert len(ast.parse("x = [1, 2, (3, 4)]\n" * 2000).body) == 2000
    finally:
        gc.set_threshold(*before)
