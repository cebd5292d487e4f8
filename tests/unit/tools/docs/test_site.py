"""`make docs`: every page, whole, from this machine alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.unit.tools.pages import ROOT


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """As the Makefile does."""
    options = ["--quiet", "--fail-on-warning", "--keep-going", "-c", str(ROOT / "tools/site")]
    command = [sys.executable, "-m", "sphinx", *options, str(source), str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT, out)
    assert (done.returncode, done.stderr) == (0, "")
    return out


class _Loads(HTMLParser):
    """What a browser fetches for a page without being asked."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src"}
        wanted = names.get(tag)
        self.found += [value for name, value in attrs if name == wanted and value]


def loaded(site: Path) -> Iterator[tuple[str, str]]:
    for page in site.rglob("*.html"):
        loads = _Loads()
        loads.feed(page.read_text())
        yield from ((page.name, url) for url in loads.found)
    for sheet in site.rglob("*.css"):
        urls = re.findall(r"(?:@import\s+|url\()[\"']?([^\"')]+)", sheet.read_text())
        yield from ((sheet.name, url) for url in urls)


def test_every_page_is_in_the_site_and_in_its_menu(site: Path) -> None:
    pages = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]
    home = (site / "docs/index.html").read_text()
    for page in pages:
        html = page.relative_to(ROOT).with_suffix(".html")
        assert (site / html).exists(), html
        if "design" not in page.parts:
            there = os.path.relpath(html, "docs")
            assert f'href="{there}"' in home or there == "index.html", html
    assert "docs/index.html" in (site / "index.html").read_text()


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    everything = list(loaded(site))
    assert len(everything) > 100
    elsewhere = [
        (page, url)
        for page, url in everything
        if re.match(r"([a-z]+:)?//", url) and not url.startswith("http://www.w3.org/")
    ]
    assert elsewhere == []


DEAD_ENDS = {
    "page": ("[x](nosuch-page.md)", "nosuch-page.md"),
    "others": ("[x](page.md#nosuch-anchor)", "nosuch-anchor"),
    "own": ("[x](#nosuch-heading)", "nosuch-heading"),
    "block": ("```nosuchlanguage\nx\n```", "nosuchlanguage"),
}
"""By page, its text and what must be said of it."""


def test_what_leads_nowhere_ends_the_build(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "docs").mkdir(parents=True)
    entries = "".join(f"- [{name}]({name}.md)\n" for name in DEAD_ENDS)
    (source / "docs/index.md").write_text(f"# Home\n\n## Part\n\n{entries}")
    (source / "docs/lost.md").write_text("# In no index\n")
    for name, (text, _) in DEAD_ENDS.items():
        (source / f"docs/{name}.md").write_text(f"# {name}\n\n{text}\n")
    done = build(source, tmp_path / "out")
    assert done.returncode != 0
    lines = done.stderr.splitlines()
    for name, said in (*((name, said) for name, (_, said) in DEAD_ENDS.items()), ("lost", "")):
        assert [line for line in lines if f"/{name}.md" in line and said in line], name
