"""The plugin's place in the chain; everybody else's words stay as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway.cni import conflist
from egress_gateway.cni.conflist import ConflistError, with_plugin, without_plugin
from egress_gateway.cni.install import Installer, InstallError

ENTRY = conflist.entry(run_dir="/run/egress-gateway", agent_timeout=15)
AZURE = {
    "cniVersion": "0.3.0",
    "name": "azure",
    "adminNetwork": {"ü": [1.5, None]},
    "plugins": [{"type": "azure-vnet", "ipam": {"type": "azure-cns"}}, {"type": "portmap"}],
}


def chain(**changes: Any) -> bytes:
    return json.dumps(AZURE | {"cniVersion": "1.0.0"} | changes).encode()


def types(content: bytes | None) -> list[str]:
    assert content is not None
    return [plugin["type"] for plugin in json.loads(content)["plugins"]]


class TestChain:
    def test_goes_last_and_changes_nothing_else(self) -> None:
        changed = with_plugin(chain(), ENTRY)
        assert types(changed) == ["azure-vnet", "portmap", names.CNI_PLUGIN]
        assert changed is not None
        network = json.loads(changed)
        network["plugins"].pop()
        assert network == json.loads(chain())

    def test_declares_the_capability_for_annotations(self) -> None:
        assert ENTRY["capabilities"] == {"io.kubernetes.cri.pod-annotations": True}
        assert ENTRY["agentTimeoutMilliseconds"] == 15000

    def test_is_idempotent(self) -> None:
        once = with_plugin(chain(), ENTRY)
        assert once is not None
        assert with_plugin(once, ENTRY) is None

    def test_moves_back_to_the_end(self) -> None:
        displaced = chain(plugins=[ENTRY, {"type": "a"}, {"type": "b"}])
        assert types(with_plugin(displaced, ENTRY)) == ["a", "b", names.CNI_PLUGIN]

    def test_takes_the_place_of_the_go_projects_plugin(self) -> None:
        """It asks a program that is gone, and fails the start of every pod of the node."""
        predecessor = {"type": "kube-egress-cni", "socketPath": "localhost:50051"}
        left = chain(plugins=[{"type": "a"}, predecessor, {"type": "b"}])
        changed = with_plugin(left, ENTRY)
        assert types(changed) == ["a", "b", names.CNI_PLUGIN]
        assert changed is not None
        assert with_plugin(changed, ENTRY) is None
        assert types(without_plugin(changed)) == ["a", "b"]

    def test_follows_its_own_settings(self) -> None:
        old = with_plugin(chain(), conflist.entry(run_dir="/old", agent_timeout=1))
        assert old is not None
        new = with_plugin(old, ENTRY)
        assert new is not None
        assert json.loads(new)["plugins"][-1] == ENTRY
        assert len(types(new)) == 3

    def test_single_configuration_becomes_a_chain(self) -> None:
        single = b'{"cniVersion":"0.4.0","name":"n","type":"bridge","mtu":1400}'
        changed = with_plugin(single, ENTRY)
        assert changed is not None
        network = json.loads(changed)
        assert (network["cniVersion"], network["name"]) == ("0.4.0", "n")
        assert network["plugins"] == [{"type": "bridge", "mtu": 1400}, ENTRY]

    def test_is_taken_out_without_a_trace(self) -> None:
        changed = with_plugin(chain(), ENTRY)
        assert changed is not None
        restored = without_plugin(changed)
        assert restored is not None
        assert json.loads(restored) == json.loads(chain())
        assert without_plugin(chain()) is None

    @pytest.mark.parametrize(
        ("versions", "chained"),
        [
            ({"cniVersions": ["0.4.0", "1.1.0"]}, True),
            ({"cniVersion": "0.4.0", "cniVersions": ["1.0.0"]}, True),
            ({"cniVersion": "1.0.0", "cniVersions": ["0.1.0", "0.4.0"]}, True),
            # Runtimes that know no list would take it.
            ({"cniVersion": "0.1.0", "cniVersions": ["1.0.0"]}, False),
            ({"cniVersions": ["1.0.0", None]}, False),
            ({"cniVersions": ["1.0.0", "latest"]}, False),
            # A runtime would choose what we do not know.
            ({"cniVersion": "1.0.0", "cniVersions": ["1.2.0"]}, False),
            ({"cniVersion": "1.0.0", "cniVersions": ["1.10.0"]}, False),
            ({"cniVersions": ["0.1.0", "0.2.0"]}, False),
            ({"cniVersions": []}, False),
            ({}, False),
        ],
    )
    def test_highest_of_several_versions_counts(
        self, versions: dict[str, Any], chained: bool
    ) -> None:
        content = json.dumps({"name": "n", "type": "bridge", **versions}).encode()
        if not chained:
            with pytest.raises(ConflistError, match="cannot chain"):
                with_plugin(content, ENTRY)
            return
        changed = with_plugin(content, ENTRY)
        assert changed is not None
        network = json.loads(changed)
        assert {k: network[k] for k in versions} == versions
        assert network["plugins"] == [{"type": "bridge"}, ENTRY]

    def test_azures_own_version_can_be_chained(self) -> None:
        assert types(with_plugin(json.dumps(AZURE).encode(), ENTRY))[-1] == names.CNI_PLUGIN

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"{", "not JSON"),
            (b"[]", "not a CNI network configuration"),
            (b'{"plugins":{}}', "not a CNI network configuration"),
            (chain(cniVersion="0.2.0"), "cniVersion '0.2.0' cannot chain"),
            (chain(plugins=[]), "chain is empty"),
        ],
    )
    def test_what_cannot_be_chained_says_why(self, content: bytes, reason: str) -> None:
        with pytest.raises(ConflistError, match=reason):
            with_plugin(content, ENTRY)


class TestInstaller:
    @pytest.fixture
    def installer(self, tmp_path: Path) -> Installer:
        plugin = tmp_path / "built"
        plugin.write_bytes(b"\x7fELF")
        conf = tmp_path / "net.d"
        conf.mkdir()
        return Installer(plugin=plugin, bin_dir=tmp_path / "bin", conf_dir=conf, entry=ENTRY)

    def write(self, installer: Installer, name: str, content: bytes | None = None) -> Path:
        path = installer.conf_dir / name
        path.write_bytes(chain() if content is None else content)
        return path

    def test_installs_once(self, installer: Installer) -> None:
        path = self.write(installer, "10-azure.conflist")
        path.chmod(0o600)
        assert len(installer.converge()) == 2
        assert installer.converge() == []
        assert types(path.read_bytes())[-1] == names.CNI_PLUGIN
        assert path.stat().st_mode & 0o777 == 0o600
        assert (installer.bin_dir / names.CNI_PLUGIN).stat().st_mode & 0o777 == 0o755

    def test_only_the_network_that_runtimes_take_is_changed(self, installer: Installer) -> None:
        other = self.write(installer, "20-other.conflist")
        self.write(installer, "10-azure.conflist")
        installer.converge()
        assert other.read_bytes() == chain()

    def test_broken_network_names_the_file(self, installer: Installer) -> None:
        self.write(installer, "10-azure.conflist", b"{")
        with pytest.raises(InstallError, match=r"10-azure\.conflist: not JSON"):
            installer.converge()

    def test_single_configuration_is_replaced_and_restored(self, installer: Installer) -> None:
        single = b'{"cniVersion":"0.4.0","name":"n","type":"bridge"}'
        path = self.write(installer, "10-net.conf", single)
        installer.converge()
        assert not path.exists()
        assert types((installer.conf_dir / "10-net.conf.conflist").read_bytes()) == [
            "bridge",
            names.CNI_PLUGIN,
        ]
        assert installer.converge() == []
        installer.remove()
        assert path.read_bytes() == single
        assert [p.name for p in installer.conf_dir.iterdir()] == ["10-net.conf"]

    def test_remove_leaves_what_was_there(self, installer: Installer) -> None:
        path = self.write(installer, "10-azure.conflist")
        installer.converge()
        installer.remove()
        assert json.loads(path.read_bytes()) == json.loads(chain())
        assert list(installer.bin_dir.iterdir()) == []
        assert installer.remove() == []

    def test_the_go_projects_file_does_not_fail_pods_before_nor_after_us(
        self, installer: Installer
    ) -> None:
        """It makes a copy of the network's file that sorts first, and leaves it behind."""
        network = self.write(installer, "10-azure.conflist")
        plugins = [{"type": "azure-vnet"}, {"type": "kube-egress-cni"}, {"type": "portmap"}]
        copy = self.write(installer, "01-egressgateway.conflist", chain(plugins=plugins))
        installer.converge()
        assert types(copy.read_bytes()) == ["azure-vnet", "portmap", names.CNI_PLUGIN]
        # Its manager, if it still runs, writes the file anew when any other one changes.
        copy.write_bytes(chain(plugins=plugins))
        installer.converge()
        assert types(copy.read_bytes()) == ["azure-vnet", "portmap", names.CNI_PLUGIN]
        installer.remove()
        assert types(copy.read_bytes()) == ["azure-vnet", "portmap"]
        assert network.read_bytes() == chain()

    def test_executable_may_stay_for_running_sandboxes(self, installer: Installer) -> None:
        self.write(installer, "10-azure.conflist")
        installer.converge()
        installer.remove(keep_executable=True)
        assert (installer.bin_dir / names.CNI_PLUGIN).exists()
