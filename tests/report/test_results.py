"""Scores as one table: from folders, zips and tables without a loss, and what does not compare is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas
import pytest
from faked import PROTOCOL, content, demo, fake, write
from pandas.testing import assert_frame_equal
from refusals import outcome, refusal

import cm
from cm.cli import main
from cm.config.layout import Layout
from cm.report import published, result_files

RUN = "digits/cd/default/seed0"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The results of the demo, made up."""
    folder = tmp_path_factory.mktemp("made")
    return fake(demo(folder / "all.yaml", lambda text: text), folder / "results")


def put(folder: Path, run: str = RUN, sampler: str = "onestep", fid: float = 3.0, **changes) -> Path:
    """A score of a run in a folder of results."""
    about = {"run": run, "progress": 100, "sampler": sampler, "nfe": 1, **changes}
    path = Path(Layout(str(folder)).score(run, 100, sampler, about.get("protocol", PROTOCOL)["name"]))
    write(path, content(fid, **about))
    return path


def protocol(**changes) -> dict:
    return {"protocol": {**PROTOCOL, **changes}}


def pack(folder: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.json")):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


# ---- what a table holds ----


def test_a_row_says_all_that_a_score_depends_on(tmp_path):
    put(tmp_path, "digits/cd/steps~9/seed2", trained_at="abc", model_sha256="f" * 64, quantization="round")
    (row,) = cm.results(tmp_path).to_dict("records")
    expected = {"origin": str(tmp_path), "dataset": "digits", "method": "cd", "variant": "steps~9", "seed": 2}
    expected |= {"progress": 100, "sampler": "onestep", "nfe": 1, "protocol": "offline", "samples": 2000}
    expected |= {"fid": 3.0, "fid_low": 2.8, "fid_high": 3.3, "precision": 0.9, "extractor": PROTOCOL["extractor"]}
    expected |= {"quantization": "round", "commit": "abc123", "trained_at": "abc", "version": "cm 0.1.0, torch 2.15.0"}
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert row["file"] == "scores/digits/cd/steps~9/seed2/100/onestep/offline.json"


def test_real_images_are_rows_of_their_split(made):
    frame = cm.results(made)
    real = frame[frame.method == "real images"]
    assert list(real.variant) == ["test"] and list(real.dataset) == ["digits"]
    assert real.nfe.isna().all() and list(real.samples) == [899]


def test_every_score_is_a_row_and_nothing_else_is(made):
    assert len(cm.results(made)) == len(list((made / "scores").rglob("*.json")))


def test_an_unavailable_metric_is_missing(tmp_path):
    put(tmp_path, metrics={"fid": 3.0, "inception_score": None}, unavailable={"inception_score": "no logits"})
    assert cm.results(tmp_path).inception_score.isna().all()


def test_the_end_of_an_interval_stands_behind_its_metric(made):
    columns = list(cm.results(made).columns)
    start = columns.index("fid")
    assert columns[start : start + 5] == ["fid", "fid_low", "fid_high", "fid_at_infinity", "inception_score"]


def test_the_origin_can_be_named_and_tables_keep_theirs(tmp_path):
    put(tmp_path / "a")
    put(tmp_path / "b", fid=4.0)
    result_files.write(cm.results(tmp_path / "a", origin="lab A"), tmp_path / "a.csv")
    frame = cm.results([tmp_path / "a.csv", tmp_path / "b"], origin="lab B")
    assert list(frame.origin) == ["lab A", "lab B"] and list(frame.fid) == [3.0, 4.0]


# ---- round trips ----


@pytest.mark.parametrize("suffix", result_files.SUFFIXES)
def test_a_table_is_read_as_it_was_written(made, tmp_path, suffix):
    frame = cm.results(made)
    path = tmp_path / f"table{suffix}"
    result_files.write(frame, path)
    assert_frame_equal(cm.results(path), frame)
    other = tmp_path / f"again{suffix}"
    result_files.write(cm.results(path), other)
    assert other.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("prefix", ["", "results/", "lab/results/"])
def test_a_zip_is_read_as_its_folder(made, tmp_path, prefix):
    path = pack(made, tmp_path / "results.zip", prefix)
    frame = cm.results(path, origin="o")
    assert set(frame.file.str.removeprefix(prefix)) == set(cm.results(made, origin="o").file)
    assert_frame_equal(frame.drop(columns="file"), cm.results(made, origin="o").drop(columns="file"))


def test_a_score_alone_and_a_folder_of_scores(tmp_path):
    path = put(tmp_path / "results")
    assert list(cm.results(path).file) == ["offline.json"]
    assert list(cm.results(path.parent).file) == ["offline.json"]


def test_hidden_files_are_not_read(tmp_path):
    put(tmp_path)
    (tmp_path / "scores/.writing-x").mkdir()
    (tmp_path / "scores/.writing-x/half.json").write_text("{")
    assert len(cm.results(tmp_path)) == 1


def test_the_command_writes_what_python_returns(made, tmp_path, capsys):
    assert main(["results", str(made)]) == 0
    printed = tmp_path / "printed.csv"
    printed.write_text(capsys.readouterr().out)
    assert main(["results", str(made), "--out", str(tmp_path / "a.parquet")]) == 0
    assert_frame_equal(cm.results(printed), cm.results(made))
    assert_frame_equal(cm.results(tmp_path / "a.parquet"), cm.results(made))


# ---- what does not compare ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (protocol(resizer="clean"), "resizer none in {a}, resizer clean in {b}"),
        ({"extractor": {"name": PROTOCOL["extractor"], "sha256": "0" * 64}}, f"extractor_sha256 {'e' * 16} in {{a}}"),
        ({"reference": {"split": "train", "images": 9, "sha256": "1" * 64}}, f"reference_sha256 {'1' * 16} in {{b}}"),
        (protocol(reference_images=10), "protocol_digest "),
    ],
)
def test_protocols_of_one_name_that_differ_are_refused_even_if_mixed(tmp_path, changes, message):
    a, b = put(tmp_path / "a"), put(tmp_path / "b", **changes)
    for mixed in (False, True):
        line = refusal(cm.results, [tmp_path / "a", tmp_path / "b"], mixed=mixed)
        assert line.startswith("scores by different protocols of the name 'offline' cannot stand in one table: ")
        assert message.format(a=a, b=b) in line


def test_several_protocols_are_refused_unless_one_is_chosen_or_all_are_asked_for(tmp_path):
    a, b = put(tmp_path), put(tmp_path, **protocol(name="strict"))
    line = refusal(cm.results, tmp_path)
    assert line.startswith(f"scores by several protocols do not compare: offline in {a}, strict in {b}; ")
    assert list(cm.results(tmp_path, protocol="strict").protocol) == ["strict"]
    assert list(cm.results(tmp_path, mixed=True).protocol) == ["offline", "strict"]
    assert refusal(cm.results, tmp_path, protocol="x") == "unknown protocol 'x'; known: offline, strict"


def test_several_numbers_of_samples_are_refused(tmp_path):
    a, b = put(tmp_path, sampler="a"), put(tmp_path, sampler="b", samples=100)
    line = refusal(cm.results, tmp_path)
    assert line.startswith(f"scores by several numbers of samples do not compare: 100 in {b}, 2000 in {a}; ")
    assert sorted(cm.results(tmp_path, mixed=True).samples) == [100, 2000]


def test_data_sets_may_have_protocols_of_their_own(tmp_path):
    put(tmp_path)
    put(tmp_path, "cifar10/cd/default/seed0", samples=100, **protocol(name="cifar10"))
    assert list(cm.results(tmp_path).protocol) == ["cifar10", "offline"]


def test_a_score_given_twice_is_refused(tmp_path):
    path = put(tmp_path)
    assert "is given twice" in refusal(cm.results, [tmp_path, tmp_path])
    assert str(path) in refusal(cm.results, [tmp_path, tmp_path])


# ---- files of others ----


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"metrics": {"fid": 1.0}}'])
def test_a_foreign_file_in_a_folder_or_a_zip_is_one_line(tmp_path, text):
    put(tmp_path / "results")
    foreign = tmp_path / "results/scores/foreign.json"
    foreign.write_text(text)
    assert refusal(cm.results, tmp_path / "results").startswith(f"{foreign} is not ")
    path = pack(tmp_path / "results", tmp_path / "a.zip")
    assert refusal(cm.results, path).startswith(f"{path}/scores/foreign.json is not ")


def test_a_path_without_scores_is_one_line(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    assert refusal(cm.results, tmp_path).startswith(f"no score in {tmp_path}: expected")
    assert "is neither a folder, a zip, a score (.json) nor a table" in refusal(cm.results, tmp_path / "a.txt")
    assert refusal(cm.results, tmp_path / "absent") == f"no file {tmp_path / 'absent'}"


def test_a_zip_bomb_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("scores/a.json", b" " * (100 << 20))
    assert "more than the" in refusal(cm.results, path)


HEADING = "origin,nfe,fid,seed\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has no column 'origin'"),
        ("a,b\n1,2\n", "it has no column 'origin'"),
        (f"{HEADING}lab,1,2.0\n", "do not have one value for each column"),
        ("origin,origin,nfe\na,b,1\n", "do not have one value for each column"),
        (f"{HEADING}lab,one,2.0,0\n", "nfe must be a whole number that is not negative, not 'one'"),
        (f"{HEADING}lab,-1,2.0,0\n", "nfe must be a whole number that is not negative, not '-1'"),
        (f"{HEADING}lab,1,two,0\n", "fid must be a number, not 'two'"),
        (f"{HEADING}lab,1,-2.0,0\n", "fid is -2.0, but must be at least 0"),
        (f"{HEADING}lab,1,inf,0\n", "fid is inf, not a finite number"),
        ("origin,nfe,My Column\nlab,1,2\n", "'My Column' is no name of a column"),
        ("origin,nfe\n" + '"lab', "is not a CSV file"),
    ],
)
def test_a_damaged_csv_is_one_line(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_text(text)
    line = refusal(cm.results, path)
    assert message in line and str(path) in line


def test_damaged_tables_are_refused_or_read(made, tmp_path):
    path = tmp_path / "a.parquet"
    result_files.write(cm.results(made), path)
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        line = outcome(cm.results, path)
        assert not line or str(path) in line
    for length in (0, 3, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "is not a Parquet file" in refusal(cm.results, path)


def test_a_table_that_repeats_long_text_takes_no_memory(tmp_path):
    """A Parquet file of some kilobytes whose text would take a terabyte."""
    path = tmp_path / "a.parquet"
    text = pandas.Categorical.from_codes([0] * 100_000, ["x" * 1_000_000])
    pandas.DataFrame({"origin": text, "nfe": 1, "file": [str(n) for n in range(100_000)]}).to_parquet(path)
    assert path.stat().st_size < 4 << 20
    columns = result_files._read_parquet(path)
    assert len({id(value) for value in columns["origin"]}) == 1


# ---- published numbers ----


def test_published_numbers_are_those_of_the_file():
    frame = cm.published()
    lines = published._read_rows(published.FILE)
    assert list(frame.columns) == list(cm.published("table1").columns)
    others = [line[published.FASTGEN] for line in lines if line[published.FASTGEN]]
    assert others and list(frame[frame.origin == published.FASTGEN_ORIGIN].fid) == list(map(float, others))
    frame = frame[frame.origin != published.FASTGEN_ORIGIN]
    assert len(frame) == len(lines)
    for column in ("table", "dataset", "group", "method", "note"):
        assert list(frame[column]) == [line[column] for line in lines]
    for column in ("nfe", *published.METRICS):
        assert list(frame[column].astype("float64").fillna(-1)) == [float(line[column] or -1) for line in lines]
    assert set(frame.extractor) == {"inception"} and all(frame.origin)


def test_published_numbers_can_be_chosen_and_joined_with_measured_ones(made):
    frame = cm.published("table1", "cifar10")
    assert set(frame.table) == {"table1"} and set(frame.origin) == {"Song et al. 2023, Table 1"}
    assert frame[(frame.method == "CD") & (frame.nfe == 2)].fid.item() == 2.93
    both = pandas.concat([cm.results(made), frame])
    assert list(both.columns) == list(cm.results(made).columns)
    assert both.nfe.dtype == "Int64" and both.fid.dtype == "float64"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("table9", None), "published numbers: unknown table 'table9'; known: successors, table1, table2"),
        ((None, "digits"), "published numbers: unknown dataset 'digits'; known: cifar10"),
        (("table1", "imagenet64"), "table1 has no published numbers of imagenet64"),
    ],
)
def test_unknown_published_numbers_are_refused(arguments, message):
    assert refusal(cm.published, *arguments).startswith(message)


# ---- commands ----


@pytest.mark.parametrize("command", [["results", "absent"], ["published"]])
def test_another_suffix_is_refused_at_once(tmp_path, capsys, command):
    assert main([*command, "--out", str(tmp_path / "a.txt")]) == 2
    assert capsys.readouterr().err == f"cm {command[0]}: error: {tmp_path / 'a.txt'} must end in .csv or .parquet\n"


def test_the_commands_import_no_torch(tmp_path):
    put(tmp_path)
    code = f"import sys; from cm.cli import main\nassert main(['results', {str(tmp_path)!r}]) == 0\n"
    code += "assert main(['published', '--table', 'table2']) == 0\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_score_of_a_run_of_no_such_name_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content(1.0, run="../x")))
    assert refusal(cm.results, path).startswith(f"{path}: run '../x' is not of the form")
