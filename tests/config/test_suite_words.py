"""Suites: artefacts that are made once for each data set, and entries that ask for the averages of an EMA decay."""

from __future__ import annotations

import re

import pytest
import yaml

from cm.config import load_suite
from cm.config.layout import Layout, name_model, parse_model_name
from cm.errors import UserError

ENTRY = {"method": "ct", "samplers": ["onestep", "multistep,times~{time}"], "label": "CT at {time}"}
BOTH = {"lsun_cat": {"time": "0.821", "title": "small"}, "imagenet64": {"time": "1.5", "title": "large"}}


def load(tmp_path, entry=ENTRY, **artefact):
    one = {"kind": "comparison", "caption": "Of {title} images.", "entries": [entry], **artefact}
    document = {"dataset": "digits", "experiments": "config/experiments", "artefacts": {"table": one}}
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    (tmp_path / "config").symlink_to("/".join([*__file__.split("/")[:-3], "config"]))
    return load_suite(path)


def test_an_artefact_is_made_for_each_data_set_with_its_words(tmp_path):
    published = {"table": "table2", "dataset": "{dataset}"}
    suite = load(tmp_path, datasets=BOTH, published=published)
    assert list(suite.artefacts) == ["table_lsun_cat", "table_imagenet64"]
    for (dataset, words), artefact in zip(BOTH.items(), suite.artefacts.values(), strict=True):
        assert artefact.caption == f"Of {words['title']} images."
        assert artefact.published == {"table": "table2", "dataset": dataset}
        cells = suite.cells(artefact)
        assert {cell.run.dataset for cell in cells} == {dataset}
        assert [cell.sampler for cell in cells] == ["onestep", f"multistep,times~{words['time']}"]
        assert cells[0].label == f"CT at {words['time']}"


def test_a_word_that_no_data_set_has_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match="names 'title' in braces") as caught:
        load(tmp_path, datasets={"cifar10": {"time": "0.821"}})
    assert "\n" not in str(caught.value)


def test_braces_in_the_caption_of_a_single_artefact_are_text(tmp_path):
    suite = load(tmp_path, {"method": "ct"})
    assert suite.artefacts["table"].caption == "Of {title} images."


AVERAGES = {"method": "ct", "settings": {"ema_decay": [0.9, 0.5]}, "label": "EMA {ema_decay}"}


@pytest.mark.parametrize(
    ("decay", "name", "label"),
    [(None, "100", "EMA 0.9"), (0.9, "100", "EMA 0.9"), (0.5, "100-ema0.5", "EMA 0.5")],
)
def test_an_entry_may_ask_for_the_averages_of_another_decay(tmp_path, decay, name, label):
    suite = load(tmp_path, {**AVERAGES, "ema_decay": decay})
    (cell,) = suite.cells(suite.find("table"))
    assert (cell.samples[1], cell.label, cell.progress) == (name, label, 100)
    path = Layout().score(*cell.samples, "offline")
    assert Layout().parse(path)["progress"] == name
    assert parse_model_name(name) == (100, decay if name != "100" else None)
    assert name_model(*parse_model_name(name)) == name


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**AVERAGES, "ema_decay": 0.7}, "unknown ema_decay '0.7'; known: 0.5, 0.9"),
        ({"method": "ct", "settings": {"ema_decay": [0.9, 0.9]}}, "ema_decay must be one value, or up to 8 different"),
        ({"method": "ct", "settings": {"ema_decay": []}}, "ema_decay must be one value, or up to 8 different"),
        ({"method": "ct", "settings": {"ema_decay": [0.9, 1.0]}}, "ema_decay must be below 1.0, not 1.0"),
    ],
)
def test_a_bad_decay_is_refused_in_one_line(tmp_path, entry, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        load(tmp_path, entry)
    assert "\n" not in str(caught.value)
