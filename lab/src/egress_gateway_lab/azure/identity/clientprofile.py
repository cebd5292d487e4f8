"""The configuration folder of `az` for one lab: a person has neither to register nor to log in.

It holds what `az cloud register`, `az cloud set` and `az login --service-principal` write, in
the same files (read with azure-cli 2.91, which has kept these formats for years), so all three
still work afterwards. Nothing in it leads away from the lab: telemetry and instance discovery are
off by ``environment``, and the version check, which would ask the Internet, counts as done.
"""

from __future__ import annotations

import configparser
import datetime
import json
import shutil
from pathlib import Path
from typing import Any, Final

from egress_gateway_lab.azure.identity.signin import endpoints

CLOUD: Final = "lab"
USER: Final = "lab-user"
"""Any name would do: the emulator makes whoever signs in an Owner."""
_DISTRIBUTION: Final = "azure_cli-"
_PACKAGED: Final = Path("/opt/az")
"""Where Microsoft's own packages for Linux put az."""


def environment(folder: Path, ca: Path) -> dict[str, str]:
    """Variables that make `az` use ``folder`` and trust the lab."""
    return {
        "AZURE_CONFIG_DIR": str(folder),
        "REQUESTS_CA_BUNDLE": str(ca),
        "AZURE_CORE_COLLECT_TELEMETRY": "0",
        "AZURE_CORE_INSTANCE_DISCOVERY": "false",
    }


def prepare(folder: Path, *, base: str, subscription: str, tenant: str) -> None:
    """Fills ``folder`` for the lab whose Resource Manager is ``base``, unless `az` has used it."""
    if (folder / "azureProfile.json").exists():
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write_ini(folder / "config", {"cloud": {"name": CLOUD}})
    _write_ini(folder / "clouds.config", {CLOUD: {**_cloud(base), "subscription": subscription}})
    secret = {"client_id": USER, "tenant": "adfs", "client_secret": "any"}
    _write(folder / "service_principal_entries.json", [secret])
    version = installed_version()
    if version is not None:
        parts = {name: {"local": version} for name in ("azure-cli", "core")}
        stamp = datetime.datetime.now().isoformat(" ", "microseconds")
        _write(folder / "versionCheck.json", {"versions": parts, "update_time": stamp})
    # NB: last, for its presence says that the folder is complete
    _write(folder / "azureProfile.json", {"subscriptions": [_signed_in(subscription, tenant)]})


def installed_version(command: str = "az") -> str | None:
    """The version of the `az` on PATH, told from its files; None if there is none or it hides."""
    found = shutil.which(command)
    if found is None:
        return None
    home = Path(found).resolve().parent
    for root in (home, home.parent, home / "venv", _PACKAGED):
        for metadata in root.glob(f"lib/python3*/site-packages/{_DISTRIBUTION}*.dist-info"):
            return metadata.name.removeprefix(_DISTRIBUTION).removesuffix(".dist-info")
    return None


def _cloud(base: str) -> dict[str, str]:
    known: dict[str, Any] = endpoints(base, "2022-09-01")
    suffixes = known["suffixes"]
    return {
        "endpoint_active_directory": known["authentication"]["loginEndpoint"],
        "endpoint_active_directory_resource_id": known["authentication"]["audiences"][0],
        "endpoint_active_directory_graph_resource_id": known["graphAudience"],
        "endpoint_microsoft_graph_resource_id": known["microsoftGraphResourceId"],
        "endpoint_resource_manager": known["resourceManager"],
        "endpoint_management": base,
        "endpoint_gallery": known["gallery"],
        "endpoint_portal": known["portal"],
        "suffix_storage_endpoint": suffixes["storage"],
        "suffix_keyvault_dns": f".{suffixes['keyVaultDns']}",
        "suffix_acr_login_server_endpoint": f".{suffixes['acrLoginServer']}",
        "suffix_sql_server_hostname": f".{suffixes['sqlServerHostname']}",
    }


def _signed_in(subscription: str, tenant: str) -> dict[str, Any]:
    return {
        "id": subscription,
        "name": "Lab",
        "state": "Enabled",
        "user": {"name": USER, "type": "servicePrincipal"},
        "isDefault": True,
        "tenantId": "adfs",
        "environmentName": CLOUD,
        "homeTenantId": tenant,
        "managedByTenants": [],
    }


def _write_ini(path: Path, sections: dict[str, dict[str, str]]) -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read_dict(sections)
    with path.open("w") as file:
        config.write(file)


def _write(path: Path, content: Any) -> None:
    path.touch(mode=0o600)
    path.write_text(json.dumps(content))
