"""Model cards: their metadata are those that model hubs read, and what they say is what the files say."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from faked import ROOT, content, write
from huggingface_hub import ModelCard
from refusals import refusal

from cm import build, config
from cm.checkpoints import native
from cm.cli import main
from cm.config import Experiments, Weights, licences
from cm.config.layout import Layout
from cm.report.card import Origins, find_origins, write_card
from cm.utils import files

RUN = "digits/edm/default/seed0"
ROW = {"origin": "", "sampler": "onestep", "nfe": 1, "samples": 50_000, "fid": 3.5, "fid_low": 3.4, "fid_high": 3.6}
ROW |= {"protocol": "cifar10", "extractor": "inception", "reference": "train", "commit": "abc", "recall": None}


@pytest.fixture
def model(place, tmp_path) -> Path:
    """A model in a folder of results, with two scores of it and one of another file."""
    path = Path(Layout(str(tmp_path / "results")).model(RUN, 100))
    path.parent.mkdir(parents=True)
    shutil.copy(place / "models" / RUN / "100.safetensors", path)
    for sampler, digest in (("a", files.sha256_of(path)), ("b", files.sha256_of(path)), ("c", "0" * 64)):
        about = {"run": RUN, "progress": 100, "sampler": sampler, "nfe": 1, "model_sha256": digest}
        write(Path(Layout(str(tmp_path / "results")).score(RUN, 100, sampler, "offline")), content(3.0, **about))
    return path


def card_of(capsys, *arguments: object) -> str:
    assert main(["card", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def describe(name: str, **more) -> dict:
    """The description of a model of a run of the project's experiment files."""
    known = Experiments(ROOT / "config/experiments").run(name)
    return build.run_description(known) | {"progress": 100, **more}


def origins_of(run: str) -> Origins:
    return find_origins(run, Experiments(ROOT / "config/experiments"))


def test_the_metadata_are_those_of_a_hub(model, capsys):
    data = ModelCard(card_of(capsys, model), ignore_metadata_errors=False).data
    assert (data.model_name, data.pipeline_tag, data.license) == (RUN, "unconditional-image-generation", "unknown")
    assert data.datasets == ["digits"] and "edm" in data.tags
    found = {(result.metric_args["sampler"], result.metric_type): result for result in data.eval_results}
    assert set(found) == {(s, m) for s in "ab" for m in ("fid", "inception_score", "precision", "recall")}
    fid = found["a", "fid"]
    assert (fid.metric_value, fid.metric_config, fid.dataset_type) == (3.0, "offline", "digits")
    assert (fid.metric_args["low"], fid.metric_args["high"], fid.metric_args["samples"]) == (2.8, 3.3, 2000)
    assert fid.metric_name == "FD, a", "the features of a classifier give no FID"


def test_where_the_scores_are_published_is_their_source(model, capsys):
    data = ModelCard(card_of(capsys, model, "--url", "https://example.org/scores")).data
    assert {(one.source_name, one.source_url) for one in data.eval_results} == {
        ("protocol offline", "https://example.org/scores")
    }


def test_the_text_shows_scores_recipe_and_loading(model, capsys):
    text = card_of(capsys, model)
    assert "| a" in text and "| offline" in text and "| c  " not in text
    assert "| training.total_steps" in text and "| noise.sigma_max" in text
    assert 'model = cm.load("100.safetensors")' in text and "@inproceedings{song2023consistency" in text
    assert "CC BY 4.0" in text and "by `cm card`" in text


def test_a_card_without_scores(place, capsys):
    text = card_of(capsys, place / "models" / RUN / "100.safetensors")
    assert "No scores of this model file were at hand." in text
    assert "model-index" not in ModelCard(text).data.to_dict()


def test_given_scores_of_other_models_are_refused(place, model, tmp_path, capsys):
    other = tmp_path / "other.safetensors"
    tensors, description = native.load(model)
    native.save(other, tensors, description | {"progress": 50})
    assert main(["card", str(other), "--scores", str(tmp_path / "results")]) == 2
    assert f"no score of {other} in {tmp_path / 'results'}" in capsys.readouterr().err


def test_the_licence_of_a_converted_model_is_that_of_its_checkpoint():
    run = "cifar10/edm/released~edm-cifar10-32x32-uncond-vp/seed0"
    entry = Experiments(ROOT / "config/experiments").run(run).released
    made = {"checkpoint": "a.pkl", "url": entry.url, "licence": entry.licence, "sha256": "f" * 64}
    text = write_card(describe(run, made_from=made), origins_of(run), [ROW], file="m.safetensors")
    card = ModelCard(text, ignore_metadata_errors=False)
    assert card.data.license == "cc-by-nc-sa-4.0"
    assert licences.find_licence_of_url(entry.url).describe() in text and entry.url in text


def test_the_teacher_and_the_network_of_the_distance_are_named_with_their_licences():
    run = "cifar10/cd/default/seed0"
    origins = origins_of(run)
    assert origins.inputs["perceptual"] == Weights("lpips-vgg16")
    text = write_card(describe(run), origins, [ROW], file="m.safetensors")
    assert "- teacher: cifar10/edm/default/seed0, trained by this suite, on the same data" in text
    assert f"- perceptual: lpips-vgg16, {licences.find_licence('weights', 'lpips-vgg16').describe()}" in text
    assert "- data: CIFAR-10, no licence stated" in text


def test_a_run_of_other_experiment_files_has_a_card():
    description = describe("cifar10/cd/default/seed0", run="theirs/cd/x~1/seed0", made_from={"teacher": "f" * 64})
    text = write_card(description, origins_of("theirs/cd/x~1/seed0"), file="m.safetensors")
    assert "- data: theirs, not known" in text and f"- teacher: a model of SHA-256 {'f' * 64}, not known" in text


@pytest.mark.parametrize("odd", [None, 3, "x", [], {"url": 3}, {"teacher": [1]}])
def test_odd_descriptions_have_a_card(odd):
    description = describe("cifar10/cd/default/seed0") | {"made_from": odd, "training": odd, "version": odd}
    assert write_card(description, Origins("cifar10", {}), file="m.safetensors")


def test_a_classifier_has_no_card(judge, capsys):
    assert main(["card", str(judge)]) == 2
    assert "makes no images and has no card" in capsys.readouterr().err
    run = config.RunName.parse("digits/classifier/default/seed0")
    assert "has no card" in refusal(
        write_card, {"run": str(run), "preconditioning": None}, Origins("digits", {}), file="m"
    )


def test_a_folder_for_diffusers_has_the_card_and_is_loaded_by_it(tmp_path, capsys):
    """The card stands beside the weights, and its code names the library that loads them."""
    network = {"resolution": 8, "image_channels": 3, "channels": 32, "multipliers": [1, 2], "blocks": 1}
    description = describe("imagenet64/cd/default/seed0")
    description["network"] |= network | {"attention": [4], "head_channels": 8, "classes": 0}
    path = tmp_path / "m.safetensors"
    torch.manual_seed(0)
    native.save(path, build.build_model(description).state_dict(), json.loads(json.dumps(description)))
    assert main(["convert", "--model", str(path), "--to", "diffusers", "--out", str(tmp_path / "folder")]) == 0
    card = ModelCard.load(tmp_path / "folder/README.md")
    assert card.data.library_name == "diffusers"
    assert 'ConsistencyModelPipeline.from_pretrained("folder")' in card.text
    assert "terms of access of ImageNet" in card.text


def test_the_command_imports_no_torch(model):
    code = f"import sys; from cm.cli import main\nassert main(['card', {str(model)!r}]) == 0\n"
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_card_is_written_to_a_file(model, tmp_path, capsys):
    out = tmp_path / "README.md"
    assert main(["card", str(model), "--out", str(out)]) == 0
    assert out.read_text() == card_of(capsys, model)
