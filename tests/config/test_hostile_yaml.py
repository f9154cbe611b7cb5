"""YAML that is damaged, too large or hostile: values, or one line that names the file and the line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from refusals import outcome, refusal

from cm.config.yaml_reader import parse_scalar, parse_yaml, read_yaml

ROOT = Path(__file__).parents[2]
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGE_BOMB = "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{x: *a{n - 1}, <<: *a{n - 1}}}\n" for n in range(1, 40))
CHAIN = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 200))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' stands here for the second time"),
        ("s:\n  lr: 1\n  lr: 1\n", "line 3: the key 'lr' stands here"),
        ("a: {b: 1, b: 2}", "line 1: the key 'b' stands here"),
        ("1: a\n1.0: b", "line 2: the key '1.0' stands here"),
        ("a: 1\n'a': 2", "line 2: the key 'a' stands here"),
        ("<<: {a: 1}\n<<: {a: 2}", "line 2: the key '<<' stands here"),
        (BOMB, "more than 100000 values"),
        (MERGE_BOMB, "more than 100000 values"),
        (CHAIN, "nested more than 32 levels deep"),
        ("a: [" + ", ".join(["1"] * 100_001) + "]", "more than 100000 values"),
        ("[" * 100_000, "nested more than 32 levels deep"),
        ("{a: " * 100_000, "nested more than 32 levels deep"),
        ("- " * 100_000 + "a", "nested more than 32 levels deep"),
        ("a: &a [*a]", "the alias *a stands for nothing"),
        ("a: &a {b: *a}", "the alias *a stands for nothing"),
        ("a: *b", "the alias *b stands for nothing"),
        ("[1, 2]: a", "a key must be text or a number, not [1, 2]"),
        ("{a: 1}: a", "a key must be text or a number, not {'a': 1}"),
        ("null: a", "a key must be text or a number, not None"),
        ("~: a", "a key must be text or a number, not None"),
        ("? [1]\n: a", "a key must be text or a number"),
        ("a: !!python/object/apply:os.system ['true']", "tags, such as tag:yaml.org,2002:python"),
        ("a: !!python/name:os.system", "tags, such as"),
        ("a: !!timestamp 2020-99-99", "tags, such as"),
        ("a: !!binary '!'", "tags, such as"),
        ("a: !!set {b, c}", "tags, such as"),
        ("a: !!int '1'", "tags, such as"),
        ("a: !own 1", "tags, such as !own"),
        ("a: ! 1", "tags, such as !"),
        ("a: .inf", "numbers must be finite, not .inf"),
        ("a: -.inf", "numbers must be finite"),
        ("a: .nan", "numbers must be finite"),
        ("a: 1.0e+999", "numbers must be finite"),
        (f"a: {'9' * 5000}", "a number of 5000 characters is too long"),
        (f"a: 0.{'9' * 5000}", "a number of 5002 characters is too long"),
        (f"{'9' * 5000}: a", "a number of 5000 characters is too long"),
        ("a: 0x_", "'0x_' is not a number"),
        ("a: 0b_", "'0b_' is not a number"),
        ("a: [1, 2", "is not YAML"),
        ("a: 'b", "is not YAML"),
        ("a: b: c", "is not YAML"),
        ("\ta: b", "is not YAML"),
        ("a: \x01", "is not YAML"),
        ("%YAML 9.9\n---\na: 1", "is not YAML"),
        ("@a: 1", "is not YAML"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("", "expected a mapping"),
        ("---", "expected a mapping"),
        ("just text", "expected a mapping"),
        ("- a\n- b", "expected a mapping"),
        ("<<: 3", "'<<' must be followed by a mapping"),
        ("<<: [{a: 1}, 2]", "'<<' must be followed by a mapping"),
    ],
    ids=lambda value: value[:25],
)
def test_a_hostile_document_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    found = refusal(read_yaml, path)
    assert message in found and found.startswith(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: \xff\xfe", "cannot be read"),
        (b"a: b\n" * 300_000, "larger than a configuration file may be"),
        (b"\x00" * 10, "is not YAML"),
    ],
    ids=["not text", "large", "zeros"],
)
def test_a_file_that_is_no_text_is_refused(tmp_path, content, message):
    (tmp_path / "file.yaml").write_bytes(content)
    assert message in refusal(read_yaml, tmp_path / "file.yaml")


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    assert "is not a file" in refusal(read_yaml, tmp_path)
    assert "is not a file" in refusal(read_yaml, tmp_path / "pipe.yaml")
    assert "no file" in refusal(read_yaml, tmp_path / "loop.yaml")
    assert "no file" in refusal(read_yaml, tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "config").rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_every_shipped_file_means_what_yaml_says(path):
    assert read_yaml(path) == yaml.safe_load(path.read_text())


@pytest.mark.parametrize(
    "text",
    [
        "{a: 1, b: [1.5, x, true, null, ~, '1', \"2\"]}",
        "a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\ne: {<<: [*x, {c: 4, f: 5}]}",
        "a: 0x10\nb: 0b11\nc: 017\nd: 1_000\ne: 1:30\nf: +1\ng: -.5\nh: 1e5\ni: 1.0e+5",
        "a: |\n  text\n  more\nb: >-\n  folded\n  text",
        "a: yes\nb: No\nc: off\nd: y\ne: ''\nf:",
        "9: nine\n1.5: more\ntrue: yes",
        "\ufeffa: 1",
    ],
)
def test_plain_yaml_means_what_yaml_says(text):
    assert parse_yaml(text.lstrip("\ufeff"), "here") == yaml.safe_load(text)


def test_dates_are_text():
    assert parse_yaml("[2020-01-01, 2020-99-99]", "here") == ["2020-01-01", "2020-99-99"]


@pytest.mark.parametrize("text", ["[", "{", "!!python/name:os.system", "'", '"', "&a", "*a", "#", "- -", "%", "@", "`"])
def test_syntax_in_a_scalar_is_text(text):
    assert parse_scalar(text, "here") == text


@pytest.mark.parametrize("text", [".inf", "9" * 50, "0x_", "1.0e+400"])
def test_a_bad_number_in_a_scalar_is_refused(text):
    assert outcome(parse_scalar, text, "here").startswith("here: ")
