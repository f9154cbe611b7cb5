"""The documentation as MkDocs builds it: no warning, nothing from another host, and all that is generated is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cm import registry
from cm.cli import cli
from cm.config import WorkflowFile

ROOT = Path(__file__).parents[1]
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
BUILD = """
import sys
from mkdocs.__main__ import cli

cli({arguments!r}, standalone_mode=False)
print("torch" in sys.modules)
"""


class Loaded(HTMLParser):
    """What a browser loads to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(LOADED.get(tag, ""))
        if address:
            self.addresses.append(address)


def build(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Build the site in a folder; the last line of the output says whether that imported torch."""
    arguments = ["build", "--strict", "--site-dir", str(folder), *options]
    program = [sys.executable, "-c", BUILD.format(arguments=arguments)]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(program, cwd=ROOT, env=variables, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.split()[-1] == "False", "building the documentation imported torch"
    return folder


def test_every_page_is_built(site):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {path.stem for path in site.glob("*.html")}


def test_nothing_is_loaded_from_another_host(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        parser = Loaded()
        parser.feed(page.read_text())
        assert parser.addresses
        for address in parser.addresses:
            assert not re.match(r"(?:\w+:)?//", address), f"{page.name} loads {address}"
            assert address.startswith("data:") or (site / address.lstrip("/")).exists(), address
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", style.read_text()), style


def test_commands_and_settings_are_generated(site):
    commands, settings = ((site / f"{page}.html").read_text() for page in ("commands", "settings"))
    assert all(f'id="{name}"' in commands for name in cli.commands)
    assert all(
        f"<strong>{name}:</strong>" in settings for kind in ("method", "network") for name in registry.names(kind)
    )
    assert WorkflowFile().container in settings


def test_the_python_interface_is_documented(site):
    text = (site / "python.html").read_text()
    assert all(
        f'id="cm.{name}"' in text for name in ("api.load", "api.Model.sample", "api.score", "diffusion.solvers.heun")
    )


def test_a_broken_link_stops_the_build(tmp_path):
    text = (ROOT / "mkdocs.yml").read_text().replace("docs_dir: docs", f"docs_dir: {tmp_path}/docs")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("# A page\n\n[nowhere](nowhere.md)\n")
    nav = text.index("nav:")
    (tmp_path / "mkdocs.yml").write_text(text[:nav].replace("[docs/hooks.py]", f"[{ROOT}/docs/hooks.py]"))
    done = build(tmp_path / "site", "--config-file", str(tmp_path / "mkdocs.yml"))
    assert done.returncode != 0
    assert "nowhere.md" in done.stdout + done.stderr
