"""A real Prometheus on one of the lab's machines: it scrapes what runs there."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from egress_gateway.api import names
from egress_gateway_lab.demo.world import World, until

_LISTEN = "127.0.0.1:19090"


class Prometheus:
    """Asked by its HTTP API, from inside of the machine's network."""

    def __init__(self, netns: str) -> None:
        self._enter = ["nsenter", f"--net={netns}"]

    async def get(self, path: str, *, host: str = _LISTEN, **query: str) -> str:
        data: list[str] = []
        for key, value in query.items():
            data += ["--data-urlencode", f"{key}={value}"]
        process = await asyncio.create_subprocess_exec(
            *self._enter,
            *("curl", "-sS", "--get", "--max-time", "60", *data, f"http://{host}{path}"),
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        return said.decode()

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The vector that the expression comes to now."""
        text = await self.get("/api/v1/query", query=expression)
        answer = json.loads(text) if text else {}
        if answer.get("status") == "error":
            raise AssertionError(f"{expression}: {answer['error']}")
        found: list[dict[str, Any]] = answer.get("data", {}).get("result", [])
        return found

    async def becomes(self, expression: str, *, timeout: float = 120) -> list[dict[str, Any]]:
        """Waits until the expression has a value."""

        async def look() -> list[dict[str, Any]]:
            return await self.query(expression)

        found: list[dict[str, Any]] = await until(look, timeout=timeout, what=expression)
        return found

    async def firing(self) -> dict[str, list[dict[str, str]]]:
        """Labels of the alerts that fire, by name."""
        found: dict[str, list[dict[str, str]]] = {}
        for one in await self.query('ALERTS{alertstate="firing"}'):
            found.setdefault(one["metric"]["alertname"], []).append(one["metric"])
        return found


async def targets(world: World) -> list[dict[str, Any]]:
    """Every component's metrics, with the labels that the chart's ServiceMonitor gives."""
    ports = {"controller": 9081, "gateway": 9082, "node": 9083, "webhook": 9084}
    found = []
    for pod in await world.kube.list("pods", namespace=names.SYSTEM_NAMESPACE):
        component = pod["metadata"]["labels"].get("app.kubernetes.io/component")
        address = pod.get("status", {}).get("podIP")
        if component in ports and address:
            labels = {"component": component, "node": pod["spec"]["nodeName"]}
            found.append({"targets": [f"{address}:{ports[component]}"], "labels": labels})
    return found


@asynccontextmanager
async def scraping(
    world: World, folder: Path, rules: dict[str, Any] | None = None
) -> AsyncIterator[Prometheus]:
    """A Prometheus that scrapes the lab and evaluates ``rules`` every second."""
    state = await world.control.call("status")
    machine = next(m for m in state["machines"] if not m["pool"] or m["pool"] == "nodepool1")
    netns = f"/proc/{world.lab.pid}/root/proc/{machine['pid']}/ns/net"
    config: dict[str, Any] = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "scrape_configs": [
            {"job_name": "egress", "honor_labels": True, "static_configs": await targets(world)}
        ],
    }
    if rules is not None:
        (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
        config["rule_files"] = [str(folder / "rules.yaml")]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                *("nsenter", f"--net={netns}", "prometheus"),
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={_LISTEN}",
            ],
            stdout=log,
            stderr=log,
        )
        try:
            asked = Prometheus(netns)

            async def ready() -> bool:
                return "Ready" in await asked.get("/-/ready")

            await until(ready, timeout=120, what="Prometheus to be ready")
            yield asked
        finally:
            process.terminate()
            process.wait()
