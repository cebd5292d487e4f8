"""How a component ends: one line for what its operator can mend, a trace for the unexpected."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from egress_gateway.cli import components
from egress_gateway.datapath.linux.door import FolderLost
from egress_gateway.service.errors import OperatorError


async def _ended(*errors: Exception) -> int:
    async def fail(error: Exception) -> None:
        raise error

    async def run(settings: None) -> None:
        async with asyncio.TaskGroup() as group:
            for error in errors:
                group.create_task(fail(error))

    return await components._until_signal(run, None)


@pytest.mark.parametrize("error", [OperatorError("set x"), FolderLost("the folder is gone")])
async def test_one_line_also_out_of_a_group_of_tasks(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        assert await _ended(error) == 1
    [line] = caplog.records
    assert (line.getMessage(), line.exc_info) == (str(error), None)


async def test_what_nobody_expected_is_not_hidden_behind_what_somebody_did() -> None:
    with pytest.raises(ExceptionGroup):
        await _ended(OperatorError("set x"), KeyError("y"))


def test_looks_for_garbage_go_on_after_the_imports() -> None:
    assert components._imported("json:dumps")(1) == "1"
    assert gc.isenabled()
    with pytest.raises(ModuleNotFoundError):
        components._imported("no.such.module:x")
    assert gc.isenabled()
    gc.unfreeze()
