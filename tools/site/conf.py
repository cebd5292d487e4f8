"""The site of the documentation: the repository's own pages, as they are, by Sphinx.

Its source is the repository's root, so that a link means the same here as in the repository.
docs/index.md is home page and navigation in one: each of its sections is a part of the menu, each
link there an entry. A page that no index names is a warning, and so an error. A page loads nothing
from elsewhere.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, join, normpath

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
INDEXES = ("docs/index", "docs/design/README")
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_ENTRY = re.compile(r"^(?:- |\| )\[([^]]+)\]\(([^)#:]+)\.md\)", re.MULTILINE)

project = "Static Egress Gateway"
html_title = project
project_copyright = "Apache-2.0"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = INDEXES[0]
include_patterns = ["*.md", "docs/**.md", "lab/README.md", "deploy/chart/*/README.md"]
myst_heading_anchors = 4
html_theme = "furo"
html_show_sourcelink = False
html_copy_source = False


def navigation(name: str, text: str) -> str:
    """What makes the entries of an index the menu: a hidden ``toctree`` for each section."""
    title, *parts = _SECTION.split(text)
    sections = [("", title), *zip(parts[::2], parts[1::2], strict=True)]
    trees = []
    for caption, body in sections:
        entries = [
            f"{label} </{normpath(join(dirname(name), page))}>"
            for label, page in _ENTRY.findall(body)
        ]
        if entries:
            head = [":hidden:", *([f":caption: {caption}"] if caption else [])]
            trees.append("\n".join(("```{toctree}", *head, "", *entries, "```")))
    return "\n\n".join(trees)


def _read(_app: Sphinx, name: str, source: list[str]) -> None:
    if name in INDEXES:
        source[0] += "\n\n" + navigation(name, source[0]) + "\n"


def _finished(app: Sphinx, failure: Exception | None) -> None:
    """Whoever opens the folder comes to the home page."""
    if failure is None:
        there = f"{root_doc}.html"
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={there}">'
        (Path(app.outdir) / "index.html").write_text(f'{page}<a href="{there}">{project}</a>\n')


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _read)
    app.connect("build-finished", _finished)
