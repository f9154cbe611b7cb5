"""The page of a suite: what it shows, that text of files stays text, and what it says about what does not exist."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from faked import DEMO, HARDWARE, ROOT, demo, fake

from cm import config, registry, report
from cm.cli import main
from cm.config.layout import Layout
from cm.errors import UserError
from cm.report import page, page_artefacts, page_tables, writing

ATTACK = """"><script>attack()</script><img src=x onerror=attack()> {{ 7 * 7 }} 'a' [t](javascript:x)"""
SHOWN = "the script takes it from the picture"
DRAWN = ("table1", "fig3a", "fig5", "ablation_N", "runs", "costs")


class Reader(HTMLParser):
    """The elements of a page, each with its attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def find(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> config.Suite:
    return demo(tmp_path_factory.mktemp("suite") / "demo.yaml", lambda text: text)


@pytest.fixture(scope="module")
def made(suite, tmp_path_factory) -> Path:
    """Made-up `results`, and `reports` with some of the artefacts."""
    folder = tmp_path_factory.mktemp("made")
    fake(suite, folder / "results")
    for name in DRAWN:
        report.draw(suite, name, folder / "results", folder / "reports")
    return folder


@pytest.fixture
def own(made, tmp_path) -> Path:
    """A copy of them of a test's own."""
    return Path(shutil.copytree(made, tmp_path / "own"))


def write(suite: config.Suite, folder: Path, link: str = "") -> Reader:
    layout = Layout(str(folder / "results"), str(folder / "reports"))
    page.write_page(suite, Path("demo.yaml"), layout, folder / "report.html", link)
    return Reader((folder / "report.html").read_text(encoding="utf-8"))


def test_every_artefact_has_a_card_with_its_caption(suite, made):
    found = write(suite, made)
    cards = [attributes["data-name"] for attributes in found.find("article")]
    assert sorted(cards) == sorted(suite.all_artefacts)
    for artefact in suite.all_artefacts.values():
        assert report.caption(artefact) in found.text
    assert {f"#artefact-{name}" for name in cards} <= {attributes.get("href") for attributes in found.find("a")}
    assert "Song et al. 2023, Figure 3a" in found.text


def test_what_was_run_is_that_of_the_files(suite, made):
    text = write(suite, made).text
    trained = len([run for run in suite.all_runs() if not run.released])
    scored = re.search(rf"{trained} of {trained} trainings, (\d+) of (\d+) sets of samples scored", text)
    assert scored and scored[1] == scored[2] and int(scored[1]) > 100
    for fact in ("cm 0.1.0, torch 2.15.0", "scored at abc123", "trained at not recorded", "Seeds: 0, 1, 2", HARDWARE):
        assert fact in text
    assert "offline: FD, IS, precision, recall of 2,000 samples against 898 train images, resizer none" in text


def test_a_score_that_does_not_exist_is_counted_as_missing(suite, own):
    needed = next((own / "results/scores/digits/cd/default/seed0/100/onestep").glob("*.json"))
    before = re.search(r"(\d+) of (\d+) sets", write(suite, own).text)
    needed.unlink()
    after = re.search(r"(\d+) of (\d+) sets", write(suite, own).text)
    assert int(after[1]) == int(before[1]) - 1 and after[2] == before[2]


def test_versions_that_differ_are_all_named(suite, own):
    path = next((own / "results/scores/digits/ct").rglob("*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "commit": "def456", "hardware": "another"}))
    text = write(suite, own).text
    assert "scored at def456 (1)" in text and "scores: another (1)" in text


def test_the_page_loads_nothing(suite, made):
    found = write(suite, made, link="snakemake.html")
    for tag, attributes in found.elements:
        assert tag not in ("iframe", "object", "embed", "form", "base")
        for name, value in attributes.items():
            assert not name.startswith("on") and name != "style"
            if name in ("src", "href"):
                assert value.startswith(("data:", "#")) or value == "snakemake.html"
    (policy,) = [meta["content"] for meta in found.find("meta") if meta.get("http-equiv")]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert not re.search(r"url\(|@import", (Path(page.__file__).parent / "page.css").read_text())


def test_figures_and_downloads_are_the_files(suite, made):
    found = write(suite, made)
    downloads = {a["download"]: a.get("href", SHOWN) for a in found.find("a") if "download" in a}
    for name, kind in (("tables/table1.csv", "text/csv"), ("figures/fig3a.png", "image/png")):
        head, _, body = downloads[Path(name).name].partition(",")
        assert head == f"data:{kind};base64"
        assert base64.b64decode(body) == (made / "reports" / name).read_bytes()
    assert {Path(name).suffix for name in downloads} == {".csv", ".md", ".tex", ".svg", ".png"}
    assert downloads["fig3a.svg"] == downloads["fig5.png"] == SHOWN
    shown = {image["alt"].partition(".")[0]: image["src"].partition(";")[0] for image in found.find("img")}
    assert shown["Figure 3a"] == "data:image/svg+xml"
    assert shown["Figure 5"] == "data:image/png", "a drawing that is made of pixels"


def test_previews_of_the_rows_of_the_tables_are_shown(suite, own):
    (own / "results/previews/digits/cd/default/seed0/100/onestep.png").write_bytes(b"\x89PNG")
    found = write(suite, own)
    assert [image["alt"] for image in found.find("img") if image["alt"].startswith("Samples")] == [
        "Samples of CD, one step"
    ]


def test_what_is_not_drawn_is_named(suite, made):
    found = write(suite, made)
    assert "Not drawn yet: there are no " in found.text
    assert str(made / "reports/figures/fig14.svg") in found.text
    assert f"{len(DRAWN)} of {len(suite.all_artefacts)} tables and figures have been drawn" in found.text


def test_a_suite_of_which_nothing_was_run_has_a_page(suite, tmp_path):
    found = write(suite, tmp_path)
    assert f"0 of {len(suite.all_artefacts)} tables and figures" in found.text
    assert "not known: nothing has been scored yet" in found.text and "not prepared here" in found.text
    assert not found.find("img") and not found.find("table")


def test_text_of_files_is_no_markup(own, tmp_path):
    document = yaml.safe_load(DEMO.read_text())
    document["experiments"] = str(ROOT / "config" / "experiments")
    document["artefacts"]["fig3a"]["caption"] = ATTACK
    document["artefacts"]["table1"]["entries"][0]["label"] = ATTACK.replace("{{ 7 * 7 }}", "")
    (tmp_path / "hostile.yaml").write_text(yaml.safe_dump(document))
    hostile = config.load_suite(tmp_path / "hostile.yaml")
    for path in (own / "results/scores").rglob("*.json"):
        score = json.loads(path.read_text())
        path.write_text(json.dumps({**score, "commit": ATTACK, "hardware": ATTACK, "versions": {ATTACK: ATTACK}}))
    report.draw(hostile, "table1", own / "results", own / "reports")
    report.draw(hostile, "fig3a", own / "results", own / "reports")
    found = write(hostile, own)
    assert found.text.count("<script>attack()") > 5
    assert "{{ 7 * 7 }}" in found.text
    assert len(found.find("script")) == 1
    assert not [attributes for _, attributes in found.elements if "onerror" in attributes]
    assert not [attributes for attributes in found.find("img") if attributes["src"] == "x"]


@pytest.mark.parametrize("cell", ["a | b", "x~0.5", "<b>", "[t](u)", "1.5", writing.DASH, "\\", "a\\| b"])
def test_reading_a_table_is_the_inverse_of_writing_it(cell, tmp_path):
    frame = writing.table([{"FID": 2.0, cell: "other"}, {"FID": 1.0, cell: cell}], [cell], best=(1, "FID"))
    writing.save(frame, tmp_path / "t", cell)
    table = page_tables.read_table(tmp_path / "t.md")
    assert [column.heading for column in table.columns] == ["FID", cell]
    assert [[one.text for one in row] for row in table.rows] == [["2.00", "other"], ["1.00", cell]]
    assert [[one.best for one in row] for row in table.rows] == [[False, False], [True, False]]
    assert (table.columns[0].numeric, table.columns[1].numeric) == (True, False)
    assert table.notes == [cell]


def test_published_numbers_follow_measured_ones_of_their_metric(tmp_path):
    names = ["Method", "FD, digits", "IS, digits", "seeds", "published FID, CIFAR-10", "published IS, CIFAR-10"]
    frame = writing.table([{name: f"of {name}" for name in (*names, "published recall")}], [])
    writing.save(frame, tmp_path / "t", "")
    table = page_tables.read_table(tmp_path / "t.md")
    paired = [names[0], names[1], names[4], names[2], names[5], names[3], "published recall"]
    assert [column.heading for column in table.columns] == paired
    assert [cell.text for cell in table.rows[0]] == [f"of {name}" for name in paired]


@pytest.mark.parametrize("content", [b"", b"no table", b"| a |\n|:--|\n| 1 | 2 |", b"\xff\xfe"])
def test_a_damaged_table_is_one_line(suite, own, content):
    path = own / "reports/tables/table1.md"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(path))) as error:
        write(suite, own)
    assert "\n" not in str(error.value)


def test_every_kind_has_one_section(suite):
    kinds = [kind for kinds in page_artefacts.SECTIONS.values() for kind in kinds]
    assert len(kinds) == len(set(kinds))
    assert set(registry.names("artefact")) <= set(kinds), "a kind without a section stands last on the page"


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("table1", "Table 1"),
        ("fig3a", "Figure 3a"),
        ("table1_cifar10", "Table 1, cifar10"),
        ("training_samples", "Training samples"),
        ("figment", "Figment"),
    ],
)
def test_titles(name, title):
    assert page_artefacts.make_title(name) == title


def test_the_command_links_to_the_report_of_the_workflow(suite, made, tmp_path, capsys):
    other = tmp_path / "a #b" / "snakemake.html"
    other.parent.mkdir()
    other.write_text("")
    arguments = ["--suite", "config/suites/demo.yaml", "--results", made / "results", "--reports", made / "reports"]
    out = tmp_path / "report.html"
    assert main(["report", *map(str, arguments), "--workflow-report", str(other), "--out", str(out)]) == 0
    assert re.fullmatch(rf"{re.escape(str(out))}: \d+\.\d MB\n", capsys.readouterr().out)
    assert 'href="a%20%23b/snakemake.html"' in html.unescape(out.read_text())
    assert main(["report", *map(str, arguments), "--workflow-report", "absent.html", "--out", str(out)]) == 2
    assert capsys.readouterr().err == "cm report: error: no file absent.html\n"


def test_the_page_is_written_without_torch(made, tmp_path):
    arguments = ["--results", made / "results", "--reports", made / "reports", "--out", tmp_path / "r.html"]
    check = (
        "import sys; from cm.cli import main; main(sys.argv[1:]); "
        "assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", check, "report", "--suite", "config/suites/demo.yaml", *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, check=True)
