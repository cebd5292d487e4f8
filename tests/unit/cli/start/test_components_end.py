"""A component's modules are imported without looks for garbage; those go on afterwards."""

from __future__ import annotations

import gc

import pytest

from egress_gateway.cli import components


def test_looks_for_garbage_go_on_after_the_imports() -> None:
    assert components.imported("json:dumps")(1) == "1"
    assert gc.isenabled()
    with pytest.raises(ModuleNotFoundError):
        components.imported("no.such.module:x")
    assert gc.isenabled()
    gc.unfreeze()
