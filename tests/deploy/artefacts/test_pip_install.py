"""`pip install static-egress-gateway`: a person's commands, without what only components need."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PERSONS = ("crds", "migrate", "rotate-keys", "status", "uninstall")
COMPONENTS = ("controller", "gateway", "node", "webhook", "wireguard")
_BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
from egress_gateway.cli.main import main
sys.argv = ["egress-gateway", *sys.argv[1:]]
main()
"""
_NOBODY = """
apiVersion: v1
kind: Config
current-context: nobody
contexts: [{name: nobody, context: {cluster: nobody, user: nobody}}]
clusters: [{name: nobody, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: nobody, user: {token: t}}]
"""
_OF_COMPONENTS = ("azure", "cryptography", "prometheus_client", "msal")
"""What ``pip install static-egress-gateway`` does not bring."""


def without(
    blocked: tuple[str, ...], *arguments: str, kubeconfig: str = "/nonexistent"
) -> subprocess.CompletedProcess[str]:
    """The command where the packages ``blocked`` are not installed."""
    return subprocess.run(
        [sys.executable, "-c", _BLOCKED.format(blocked=set(blocked)), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "KUBECONFIG": kubeconfig, "KUBERNETES_SERVICE_HOST": ""},
        timeout=300,
    )


@pytest.mark.parametrize("command", PERSONS)
def test_a_persons_command_needs_nothing_of_the_components(command: str) -> None:
    done = without(_OF_COMPONENTS, command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: egress-gateway {command}")


@pytest.mark.parametrize("command", ["status", "migrate --dry-run", "rotate-keys --all"])
def test_it_goes_as_far_as_the_cluster(command: str, tmp_path: Path) -> None:
    """Not only its help: what it imports when it works is there too."""
    nobody = tmp_path / "kubeconfig"
    nobody.write_text(_NOBODY)
    done = without(_OF_COMPONENTS, *command.split(), kubeconfig=str(nobody))
    assert done.returncode
    (line,) = done.stderr.splitlines()
    assert "127.0.0.1:1" in line


@pytest.mark.parametrize("component", ["controller", "gateway", "node", "webhook"])
def test_a_component_says_which_extra_it_lacks(component: str) -> None:
    name = {"node": ["--node-name", "n"], "gateway": ["--node-name", "n"]}.get(component, [])
    done = without(_OF_COMPONENTS, component, *name)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"pip install 'static-egress-gateway[{component}]'" in line


def test_every_component_has_an_extra_of_its_name_and_all_has_them_all() -> None:
    extras = PROJECT["optional-dependencies"]
    assert set(extras) == {*COMPONENTS, "all"}
    (everything,) = extras["all"]
    assert set(everything.partition("[")[2].rstrip("]").split(",")) == {
        name for name in COMPONENTS if extras[name]
    }
    assert not [need for need in PROJECT["dependencies"] if "azure" in need]


def test_kubectl_finds_it_as_a_plugin(tmp_path: Path) -> None:
    """Any program on PATH that is called so: kubectl writes - as _ in it."""
    own = Path(sys.executable).with_name("kubectl-egress_gateway")
    if not own.exists():
        pytest.skip("this environment was made without entry points")
    done = subprocess.run([str(own), "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("egress-gateway")
    kubectl = _kubectl()
    if kubectl is None:
        pytest.skip("NO KUBECTL: the plugin was NOT tried (make clients)")
    done = subprocess.run(
        [str(kubectl), "egress-gateway", "status", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": f"{own.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)},
    )
    assert "configurations" in done.stdout


def _kubectl() -> Path | None:
    path = ROOT / "tools/kubernetes_clients.py"
    spec = importlib.util.spec_from_file_location("kubernetes_clients", path)
    assert spec
    assert spec.loader
    clients = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(clients)
    return clients.folder() / "kubectl" if clients.present() else None


@pytest.mark.parametrize(
    ("shell", "typed", "offered"),
    [
        ("bash", ["egress-gateway", "sta"], "plain,status"),
        ("bash", ["egress-gateway", "status", "--all"], "plain,--all-namespaces"),
        ("zsh", ["egress-gateway", "rot"], "rotate-keys"),
        ("fish", ["egress-gateway", "uni"], "plain,uninstall"),
    ],
)
def test_shells_complete_commands_and_options(shell: str, typed: list[str], offered: str) -> None:
    program = Path(sys.executable).with_name("egress-gateway")
    done = subprocess.run(
        [str(program)],
        env={
            **os.environ,
            "_EGRESS_GATEWAY_COMPLETE": f"{shell}_complete",
            "COMP_WORDS": " ".join(typed),
            "COMP_CWORD": typed[-1] if shell == "fish" else str(len(typed) - 1),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert offered in done.stdout, done.stderr


def test_bash_takes_the_script_that_the_page_shows() -> None:
    assert shutil.which("bash")
    page = (ROOT / "docs/reference/cli.md").read_text()
    assert 'eval "$(_EGRESS_GATEWAY_COMPLETE=bash_source egress-gateway)"' in page
    own = Path(sys.executable).parent
    script = (
        'eval "$(_EGRESS_GATEWAY_COMPLETE=bash_source egress-gateway)"; '
        "complete -p egress-gateway; COMP_WORDS=(egress-gateway mig); COMP_CWORD=1; "
        "_egress_gateway_completion egress-gateway; echo ${COMPREPLY[0]}"
    )
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": f"{own}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "migrate", done.stderr


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["status", "--help"]])
def test_what_takes_long_to_load_is_not_loaded_to_answer_a_person(arguments: list[str]) -> None:
    """Counted, not timed: these four were two thirds of the time."""
    code = (
        "import sys\nfrom egress_gateway.cli.main import main\n"
        f"sys.argv = ['egress-gateway', *{arguments!r}]\n"
        "try:\n    main()\nfinally:\n"
        "    print(sorted({'aiohttp', 'azure', 'cryptography', 'importlib.metadata'} & "
        "set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == "[]", done.stderr
