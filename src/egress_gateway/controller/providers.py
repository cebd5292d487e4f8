"""The clouds that there are; the one place that knows more than one."""

from __future__ import annotations

from pathlib import Path

from egress_gateway.cloud.protocol import Cloud


def open_cloud(configuration: Path) -> Cloud:
    """The cloud that a configuration file describes: Azure. Raises ``errors.CloudConfigError``."""
    from egress_gateway.cloud.azure.account import config
    from egress_gateway.cloud.azure.cloud import AzureCloud

    return AzureCloud(config.load(configuration))
