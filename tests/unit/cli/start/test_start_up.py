"""What a process imports before it works: counted, because time depends on the machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from egress_gateway.cli import commands

AGENTS = ("egress_gateway.node.main", "egress_gateway.gateway.main")
COMPONENTS = (*AGENTS, "egress_gateway.webhook.main", "egress_gateway.controller.main")
AZURE = "egress_gateway.cloud.azure.cloud"

FORBIDDEN = {
    # Microsoft's models of all Azure: 60 MB, 0.4 s of processor time.
    AZURE: ("azure.mgmt.network", "azure.mgmt.compute", "aiohttp.web", "rich"),
    # Certificates, and parsers of files that a component in a pod does not have.
    **{
        agent: ("cryptography.x509", "yaml", "azure", "click", "egress_gateway.cloud")
        for agent in AGENTS
    },
    "egress_gateway.controller.main": ("azure", "yaml", "cryptography.x509"),
    "egress_gateway.webhook.main": ("azure", "yaml", "egress_gateway.datapath"),
    # A person waits for this one.
    "egress_gateway.cli.commands": (
        "asyncio",
        "aiohttp",
        "msgspec",
        "ssl",
        "yaml",
        "importlib.metadata",
    ),
    "egress_gateway.cli.components": ("aiohttp", "yaml", "cryptography", "prometheus_client"),
}
FOR_PEOPLE = {entry.partition(":")[0] for entry, _ in commands.COMMANDS.values()}
"""Modules of commands whose ``--help`` a person waits for."""
MOST = {
    "egress_gateway.cli.commands": (32, 97),
    "egress_gateway.node.main": (287, 257),
    "egress_gateway.gateway.main": (267, 257),
    "egress_gateway.webhook.main": (255, 248),
    "egress_gateway.controller.main": (249, 255),
    AZURE: (555, 292),
}
"""Modules, a little more than today: ours and those of packages; the interpreter's. For the same
imports Python 3.14 has up to sixteen more of the latter than 3.11."""


def imported(module: str) -> set[str]:
    """All modules of a fresh interpreter that has imported ``module``."""
    return set(printed(f"import sys, {module}; print(*sys.modules)"))


def printed(code: str, *arguments: str) -> list[str]:
    """The words that a fresh interpreter prints."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("module", FORBIDDEN)
def test_a_process_leaves_out_what_it_does_not_need(module: str) -> None:
    found = imported(module)
    loaded = [name for name in FORBIDDEN[module] if name in found]
    assert not loaded, f"{module} imports {', '.join(loaded)}"


@pytest.mark.parametrize("module", [*sorted(FOR_PEOPLE), "egress_gateway_lab.commands.lab"])
def test_a_commands_help_waits_for_no_http_library(module: str) -> None:
    """It alone takes as long as all else that a command needs."""
    assert not imported(module) & {"aiohttp", "azure", "pyroute2", "prometheus_client", "rich"}


def test_nobody_looks_for_garbage_among_what_a_command_imports() -> None:
    """It would take a tenth of the start."""
    code = """if True:
        import atexit, gc
        from egress_gateway.cli.main import main

        among = []  # those that are set aside, at each look
        gc.callbacks.append(lambda *_: among.append(gc.get_freeze_count()))
        atexit.register(lambda: print("looks", among.count(0), gc.isenabled()))
        main()
    """
    assert printed(code, "gateway", "--help")[-3:] == ["looks", "0", "True"]


@pytest.mark.parametrize("agent", ["node", "gateway"])
def test_an_agent_reads_no_certificate_authorities_but_the_clusters(agent: str) -> None:
    """aiohttp would parse all of the machine's, twice, before the agent begins."""
    code = """if True:
        import os, sys
        from egress_gateway.cli import components

        def run(until):
            until.close()
            from aiohttp.connector import _SSL_CONTEXT_VERIFIED as trusted
            print(len(trusted.get_ca_certs()), os.environ.get("SSL_CERT_FILE"))

        components.asyncio.run = run
        getattr(components, sys.argv[1]).main(["--node-name", "worker"])
    """
    assert printed(code, agent) == ["0", str(os.environ.get("SSL_CERT_FILE"))]


@pytest.mark.parametrize("module", MOST)
def test_a_process_imports_few_modules(module: str) -> None:
    found = imported(module)
    own = {name for name in found if name.partition(".")[0] in sys.stdlib_module_names}
    packages, interpreter = MOST[module]
    assert len(found - own) <= packages
    assert len(own) <= interpreter
