"""One table of licences: it covers all that the suite uses, and every other statement agrees with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cm import registry
from cm.config import licences
from cm.evaluation.pretrained import sources

ROOT = Path(__file__).parents[2]
RELEASED = {
    name: entry
    for path in sorted((ROOT / "config/experiments").rglob("*.yaml"))
    for name, entry in (yaml.safe_load(path.read_text()).get("released") or {}).items()
}


@pytest.mark.parametrize(("kind", "component"), [("data", "dataset"), ("weights", "weights")])
def test_every_component_has_a_licence(kind, component):
    stated = [line.name for line in licences.read_licences() if line.kind == kind]
    assert sorted(stated) == registry.names(component)


@pytest.mark.parametrize("name", RELEASED)
def test_experiment_files_state_the_licence_of_the_table(name):
    found = licences.find_licence_of_url(RELEASED[name]["url"])
    assert found is not None and found.kind == "checkpoints"
    assert RELEASED[name]["licence"] == found.licence


@pytest.mark.parametrize("name", sources.KNOWN)
def test_weights_have_the_licence_of_their_line(name):
    line = licences.find_licence("weights", name)
    assert line is not None and sources.KNOWN[name].licence == line.licence


def test_every_line_is_complete():
    for line in licences.read_licences():
        assert line.kind in ("data", "weights", "checkpoints")
        assert all((line.name, line.title, line.licence, line.hub, line.source)), line


def test_an_unknown_address_has_no_licence():
    assert licences.find_licence_of_url("https://example.org/model.pt") is None
    assert licences.find_licence("data", "absent") is None


@pytest.mark.parametrize("kind", ["data", "weights", "checkpoints"])
def test_the_page_shows_the_table(kind):
    page = (ROOT / "docs/licences.md").read_text()
    assert licences.write_table(kind) in page, "put the output of cm.config.licences.write_table into docs/licences.md"
