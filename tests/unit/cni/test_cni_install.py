"""Installing in a folder that belongs to others: whole files only, and every byte given back."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from egress_gateway.api import names
from egress_gateway.cni import binary, conflist
from egress_gateway.cni.install import Installer, InstallError, Superseded
from egress_gateway.cni.tenure import Tenure

ENTRY = conflist.entry(run_dir="/run/egress-gateway", agent_timeout=15)
# As people write it: nothing that a JSON library would give back by itself.
AZURE = b"""{
   "cniVersion":"0.3.0", "name":"azure",
\t"plugins":[ {"type":"azure-vnet", "mtu": 1.5e3, "x": "\\u00fc"},
   {"type":"portmap","capabilities":{"portMappings":true},"snat":true}]
}"""
SINGLE = b'{ "cniVersion":"0.3.1", "name":"n", "type":"bridge" }  '


class Crash(BaseException):
    """The process ends here."""


@pytest.fixture
def installer(tmp_path: Path) -> Installer:
    plugin = tmp_path / "built"
    plugin.write_bytes(b"\x7fELF")
    conf = tmp_path / "net.d"
    conf.mkdir()
    return Installer(plugin=plugin, bin_dir=tmp_path / "bin", conf_dir=conf, entry=ENTRY)


def again(installer: Installer, plugin: bytes, timeout: float, run: Path) -> Installer:
    """Another version's agent on the same node."""
    built = installer.plugin.with_name(f"built-{timeout:g}")
    built.write_bytes(plugin)
    return Installer(
        plugin=built,
        bin_dir=installer.bin_dir,
        conf_dir=installer.conf_dir,
        entry=conflist.entry(run_dir="/run/egress-gateway", agent_timeout=timeout),
        tenure=Tenure(run),
    )


def network(installer: Installer) -> list[str]:
    """The chain that a runtime would use now; it must be there and be JSON at any time."""
    files = sorted(p for p in os.listdir(installer.conf_dir) if p.endswith(conflist.EXTENSIONS))
    found = json.loads((installer.conf_dir / files[0]).read_bytes())
    return [plugin["type"] for plugin in found.get("plugins", [found])]


def listing(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize(("name", "content"), [("10-a.conflist", AZURE), ("10-a.conf", SINGLE)])
class TestEveryByte:
    def test_comes_back(self, installer: Installer, name: str, content: bytes) -> None:
        path = installer.conf_dir / name
        path.write_bytes(content)
        path.chmod(0o640)
        os.utime(path, (1_000_000, 1_000_000))
        installer.converge()
        assert network(installer)[-1] == names.CNI_PLUGIN
        installer.remove()
        assert listing(installer.conf_dir) == {name: content}
        found = path.stat()
        assert (found.st_mode & 0o777, found.st_mtime) == (0o640, 1_000_000)

    def test_comes_back_after_other_settings(
        self, installer: Installer, name: str, content: bytes, tmp_path: Path
    ) -> None:
        (installer.conf_dir / name).write_bytes(content)
        installer.converge()
        later = again(installer, b"\x7fELF", 30, tmp_path / "run")
        assert len(later.converge()) == 1
        later.remove()
        assert listing(installer.conf_dir) == {name: content}

    def test_comes_back_after_a_rewrite(
        self, installer: Installer, name: str, content: bytes
    ) -> None:
        path = installer.conf_dir / name
        path.write_bytes(content)
        installer.converge()
        path.write_bytes(content + b"\n\n")  # the cluster's own plugin has started anew
        installer.converge()
        assert network(installer)[-1] == names.CNI_PLUGIN
        installer.remove()
        assert listing(installer.conf_dir) == {name: content + b"\n\n"}

    def test_rewrite_that_we_have_not_seen_stays(
        self, installer: Installer, name: str, content: bytes
    ) -> None:
        path = installer.conf_dir / name
        path.write_bytes(content)
        installer.converge()
        path.write_bytes(content + b" ")
        installer.remove()
        assert listing(installer.conf_dir) == {name: content + b" "}

    def test_whatever_is_interrupted_is_finished_and_undone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
    ) -> None:
        for step in range(100):
            folder = tmp_path / str(step)
            (folder / "net.d").mkdir(parents=True)
            (folder / "built").write_bytes(b"\x7fELF")
            (folder / "net.d" / name).write_bytes(content)
            made = Installer(
                plugin=folder / "built",
                bin_dir=folder / "bin",
                conf_dir=folder / "net.d",
                entry=ENTRY,
            )
            crashed = [crashes(work, step, monkeypatch) for work in (made.converge, made.remove)]
            network(made)
            made.converge()
            assert network(made)[-1] == names.CNI_PLUGIN
            crashed.append(crashes(made.remove, step, monkeypatch))
            network(made)
            made.remove()
            left = listing(made.conf_dir)
            # Half-written files go later, and no runtime reads them.
            assert {k: v for k, v in left.items() if not k.endswith("-new")} == {name: content}
            if not any(crashed):
                return
        raise AssertionError("no end")


def crashes(work: Callable[[], object], after: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Does ``work`` and kills it before its ``after``-th change of the file system."""
    left = [after]

    def counting(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            if not left[0]:
                raise Crash
            left[0] -= 1
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("link", "fsync"):
            patch.setattr(os, name, counting(getattr(os, name)))
        for name in ("rename", "unlink"):
            patch.setattr(Path, name, counting(getattr(Path, name)))
        try:
            work()
        except Crash:
            return True
    return False


class TestWhole:
    def test_no_reader_sees_half_a_file(self, installer: Installer) -> None:
        versions = [b"a" * 300_000, b"b" * 300_000]
        path = installer.conf_dir / "10-a.conflist"
        path.write_bytes(AZURE)
        installer.plugin.write_bytes(versions[0])
        installer.converge()
        done = threading.Event()

        def upgrades() -> None:
            try:
                for i in range(40):
                    installer.plugin.write_bytes(versions[i % 2])
                    installer.converge()
                    installer.remove(keep_executable=True)
            finally:
                done.set()

        writer = threading.Thread(target=upgrades)
        writer.start()
        target = installer.bin_dir / names.CNI_PLUGIN
        while not done.is_set():
            assert target.read_bytes() in versions
            assert network(installer)[:2] == ["azure-vnet", "portmap"]
        writer.join()

    def test_running_plugin_is_replaced_and_ends_as_it_began(self, installer: Installer) -> None:
        (installer.conf_dir / "10-a.conflist").write_bytes(AZURE)
        installer.plugin.write_bytes(binary.path().read_bytes())
        installer.converge()
        target = installer.bin_dir / names.CNI_PLUGIN
        running = subprocess.Popen(
            [target],
            env={"CNI_COMMAND": "VERSION"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        installer.plugin.write_bytes(binary.path().read_bytes() + b"newer")
        assert installer.converge() == [f"installed {target}"]
        out, _ = running.communicate(b"{}")
        assert json.loads(out)["supportedVersions"]
        assert subprocess.run([target], env={"CNI_COMMAND": "VERSION"}, input=b"{}").returncode == 0

    def test_full_disk_leaves_what_was_there(
        self, installer: Installer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (installer.conf_dir / "10-a.conflist").write_bytes(AZURE)
        installer.converge()
        before = listing(installer.conf_dir) | listing(installer.bin_dir)

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        installer.plugin.write_bytes(b"new")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(InstallError, match="No space left"):
            installer.converge()
        assert listing(installer.conf_dir) | listing(installer.bin_dir) == before

    def test_what_a_killed_agent_left_half_written_is_swept(self, installer: Installer) -> None:
        (installer.conf_dir / "10-a.conflist").write_bytes(AZURE)
        installer.bin_dir.mkdir()
        old = installer.bin_dir / f".{names.CNI_PLUGIN}.0a.egress-gateway-new"
        old.write_bytes(b"half")
        fresh = installer.conf_dir / ".10-a.conflist.0b.egress-gateway-new"
        fresh.write_bytes(b"half")  # perhaps somebody is at it
        os.utime(old, (1, 1))
        installer.converge()
        assert not old.exists()
        assert fresh.exists()


class TestFollows:
    def test_a_file_that_appears_late(self, installer: Installer) -> None:
        with pytest.raises(InstallError, match="no CNI configuration"):
            installer.converge()
        assert (installer.bin_dir / names.CNI_PLUGIN).exists()
        (installer.conf_dir / "10-a.conflist").write_bytes(AZURE)
        installer.converge()
        assert network(installer)[-1] == names.CNI_PLUGIN

    def test_a_name_that_sorts_first(self, installer: Installer) -> None:
        (installer.conf_dir / "10-a.conflist").write_bytes(AZURE)
        installer.converge()
        other = AZURE.replace(b"azure", b"calico")
        (installer.conf_dir / "05-b.conflist").write_bytes(other)
        (installer.conf_dir / "07-c.conf").write_bytes(SINGLE)
        installer.converge()
        assert network(installer) == ["calico-vnet", "portmap", names.CNI_PLUGIN]
        installer.remove()
        assert listing(installer.conf_dir) == {
            "05-b.conflist": other,
            "07-c.conf": SINGLE,
            "10-a.conflist": AZURE,
        }

    @pytest.mark.parametrize("first", ["10-a.conf", "10-a.conflist"])
    def test_a_single_one_and_a_chain_of_one_name(self, installer: Installer, first: str) -> None:
        contents = {"10-a.conf": SINGLE, "10-a.conflist": AZURE}
        [second] = contents.keys() - {first}
        for name in (first, second):
            (installer.conf_dir / name).write_bytes(contents[name])
            installer.converge()
            assert network(installer)[-1] == names.CNI_PLUGIN
        assert network(installer) == ["bridge", names.CNI_PLUGIN]
        installer.remove()
        assert listing(installer.conf_dir) == contents

    def test_a_file_that_goes(self, installer: Installer) -> None:
        first = installer.conf_dir / "05-b.conflist"
        for name in (first.name, "10-a.conflist"):
            (installer.conf_dir / name).write_bytes(AZURE)
        installer.converge()
        first.unlink()
        installer.converge()
        assert network(installer)[-1] == names.CNI_PLUGIN
        installer.remove()
        assert listing(installer.conf_dir) == {"10-a.conflist": AZURE}

    def test_somebody_puts_his_own_behind_ours(self, installer: Installer) -> None:
        path = installer.conf_dir / "10-a.conflist"
        path.write_bytes(AZURE)
        installer.converge()
        chained = json.loads(path.read_bytes())
        chained["plugins"].append({"type": "bandwidth"})
        path.write_text(json.dumps(chained))
        installer.converge()
        assert network(installer) == ["azure-vnet", "portmap", "bandwidth", names.CNI_PLUGIN]
        installer.remove()
        # Not the original: what has been added since is not ours to take away.
        assert network(installer) == ["azure-vnet", "portmap", "bandwidth"]
        assert [*listing(installer.conf_dir)] == ["10-a.conflist"]

    def test_a_symbolic_link_stays_one(self, installer: Installer, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").write_bytes(AZURE)
        path = installer.conf_dir / "10-a.conflist"
        path.symlink_to(tmp_path / "elsewhere")
        installer.converge()
        assert (tmp_path / "elsewhere").read_bytes() == AZURE
        installer.remove()
        assert path.readlink() == tmp_path / "elsewhere"


class TestTwoAgents:
    def test_the_later_one_has_its_way_and_the_other_keeps_still(
        self, installer: Installer, tmp_path: Path
    ) -> None:
        (installer.conf_dir / "10-a.conflist").write_bytes(AZURE)
        old = again(installer, b"\x7fELF-old", 10, tmp_path / "run")
        old.converge()
        new = again(installer, b"\x7fELF-new", 30, tmp_path / "run")
        with pytest.raises(Superseded):  # before the later one has done anything
            old.converge()
        new.converge()
        before = listing(installer.conf_dir) | listing(installer.bin_dir)
        for work in (old.converge, old.remove):
            with pytest.raises(Superseded):
                work()
        assert listing(installer.conf_dir) | listing(installer.bin_dir) == before
        assert before[names.CNI_PLUGIN] == b"\x7fELF-new"
        assert new.converge() == []

    def test_going_back_to_the_old_version_is_a_start_too(
        self, installer: Installer, tmp_path: Path
    ) -> None:
        (installer.conf_dir / "10-a.conflist").write_bytes(AZURE)
        again(installer, b"\x7fELF-new", 30, tmp_path / "run").converge()
        again(installer, b"\x7fELF-old", 10, tmp_path / "run").converge()
        assert (installer.bin_dir / names.CNI_PLUGIN).read_bytes() == b"\x7fELF-old"

    def test_one_that_takes_the_plugin_out_is_not_undone(
        self, installer: Installer, tmp_path: Path
    ) -> None:
        (installer.conf_dir / "10-a.conflist").write_bytes(AZURE)
        old = again(installer, b"\x7fELF", 10, tmp_path / "run")
        old.converge()
        again(installer, b"\x7fELF", 10, tmp_path / "run").remove()
        with pytest.raises(Superseded):
            old.converge()
        assert listing(installer.conf_dir) == {"10-a.conflist": AZURE}

    def test_nobody_claims_while_another_is_at_it(self, tmp_path: Path) -> None:
        first = Tenure(tmp_path)
        claimed = threading.Event()

        def claim_it() -> None:
            Tenure(tmp_path)
            claimed.set()

        claim = threading.Thread(target=claim_it)
        with first.held() as ours:
            assert ours
            claim.start()
            assert not claimed.wait(0.2)
        claim.join()
        with first.held() as ours:
            assert not ours
