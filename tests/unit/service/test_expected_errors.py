"""What is expected to go wrong has one root, and shows no traceback; what is not, does."""

from __future__ import annotations

import asyncio
import errno
import logging
import os

import pytest

from egress_gateway.cli.components import expected_lines
from egress_gateway.cloud import errors as cloud
from egress_gateway.cni.binary import PluginMissing
from egress_gateway.cni.conflist import ConflistError
from egress_gateway.cni.install import InstallError
from egress_gateway.cni.protocol import ProtocolError
from egress_gateway.datapath import errors as datapath
from egress_gateway.datapath.wireguard.host import TunnelError
from egress_gateway.kube import errors as kube
from egress_gateway.kube.workqueue.queue import WorkQueue, run_workers
from egress_gateway.service.errors import ExpectedError, OperatorError
from egress_gateway.service.settings import SettingsError
from egress_gateway.webhook.review import ReviewError

EXPECTED: list[ExpectedError] = [
    cloud.NotFound("x"),
    cloud.CloudConfigError("x"),
    kube.NotFound(404, "NotFound", "x"),
    datapath.DatapathError("x"),
    datapath.KernelRefused("x", 1),
    TunnelError("missing", "x"),
    InstallError("x"),
    ConflistError("x"),
    ProtocolError("x"),
    PluginMissing("x"),
    ReviewError("x"),
    SettingsError("x"),
    OperatorError("x"),
]


async def traces(error: Exception, caplog: pytest.LogCaptureFixture) -> set[bool]:
    """Whether lines that the queue logs for ``error`` carry a traceback. On a slow machine it has
    tried again, and logged again, before it is stopped."""

    queue: WorkQueue[str] = WorkQueue()
    queue.add("key")
    failed = asyncio.Event()

    async def handler(_: str) -> None:
        failed.set()
        raise error

    with caplog.at_level(logging.WARNING):
        worker = asyncio.create_task(run_workers(queue, handler))
        await failed.wait()
        await asyncio.sleep(0)
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
    told = [r for r in caplog.records if r.name == "egress_gateway.kube.workqueue.queue"]
    return {bool(record.exc_info) for record in told}


@pytest.mark.parametrize("error", EXPECTED, ids=lambda e: type(e).__name__)
async def test_an_expected_error_logs_no_trace(
    error: ExpectedError, caplog: pytest.LogCaptureFixture
) -> None:
    assert await traces(error, caplog) == {False}


async def test_an_error_that_happens_to_have_a_message_shows_its_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Surprise(Exception):
        message = "looks like one of ours"

    assert await traces(Surprise("x"), caplog) == {True}


def test_expected_errors_of_a_task_group_are_a_line_each() -> None:
    group = ExceptionGroup(
        "g", [InstallError("one"), ExceptionGroup("h", [TunnelError("c", "two")])]
    )
    assert expected_lines(group) == ["one", "two"]
    assert expected_lines(ExceptionGroup("g", [InstallError("one"), KeyError("k")])) == []
    assert expected_lines(KeyError("k")) == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC])
def test_a_file_that_the_machine_refuses_is_a_line_that_names_it(number: int) -> None:
    line = f"/run/x: {os.strerror(number)}"
    assert expected_lines(OSError(number, os.strerror(number), "/run/x")) == [line]
    assert expected_lines(OSError(number, os.strerror(number))) == [], "of which file?"
    assert expected_lines(OSError(errno.ENOENT, "No such file", "/run/x")) == [], "a fault of ours"
