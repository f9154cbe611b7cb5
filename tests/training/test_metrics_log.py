"""metrics.jsonl: the same lines for a training that was killed, the numbers that it states, and damaged files."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import torch
import yaml
from conftest import FILES, TRAINING, measured, plan_of

from cm.checkpoints import native
from cm.config.measurements import Measurement, find_end, read_measurements
from cm.errors import UserError
from cm.training.metrics_log import gradient_norm
from cm.training.running_mean import RunningMean
from cm.training.trainer import Trainer, train

LINE = Measurement(1, 0.5, 2.0, 1e-3, 18, 0.9, 100.0, 1 << 20, 3.5)


def test_a_killed_training_ends_with_the_weights_and_the_lines_of_one_that_was_not(place, tmp_path):
    """SIGKILL some steps after a state was saved, by the command line; the lines of these steps are written anew."""
    experiments = tmp_path / "experiments"
    (experiments / "digits").mkdir(parents=True)
    for name, document in FILES.items():
        document = document | ({"training": TRAINING | {"total_steps": 60}} if name == "ct" else {})
        (experiments / "digits" / f"{name}.yaml").write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "cm", "train", "--run", "digits/ct/default/seed0", "--save-steps", "4"]
    command += ["--tracker", "none", "--experiments", str(experiments), "--data", str(place / "data")]
    folders = {name: tmp_path / name for name in ("parts", "whole")}
    outs = {name: ["--out", str(folder / "100.safetensors")] for name, folder in folders.items()}
    process = subprocess.Popen([*command, *outs["parts"]], stderr=subprocess.DEVNULL)
    metrics, began = folders["parts"] / "metrics.jsonl", time.monotonic()
    while time.monotonic() - began < 60 and not (metrics.exists() and metrics.read_bytes().count(b"\n") > 6):
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (folders["parts"] / "100.safetensors").exists()
    for out in outs.values():
        subprocess.run([*command, *out], check=True, stderr=subprocess.DEVNULL)
    assert measured(folders["parts"]) == measured(folders["whole"])
    assert len(read_measurements(metrics)) == 60
    parts, whole = (native.load(folder / "100.safetensors")[0] for folder in folders.values())
    assert parts.keys() == whole.keys() and all(torch.equal(parts[name], whole[name]) for name in whole)


def test_a_training_that_starts_anew_starts_its_file_anew(place, tmp_path):
    train(plan_of(place, "digits/edm/default/seed0", tmp_path, stop_at=7))
    train(plan_of(place, "digits/edm/lr~0.002/seed0", tmp_path / "other"))
    (tmp_path / "partial" / "state.safetensors").unlink()
    train(plan_of(place, "digits/edm/default/seed0", tmp_path))
    train(plan_of(place, "digits/edm/default/seed0", tmp_path / "whole"))
    assert measured(tmp_path) == measured(tmp_path / "whole") != measured(tmp_path / "other")


def test_a_superseded_training_keeps_its_lines_beside_its_state(place, tmp_path):
    name = "digits/edm/default/seed0"
    train(plan_of(place, name, tmp_path, stop_at=7))
    plan = plan_of(place, name, tmp_path)
    plan.description = plan.description | {"objective": {"other": 1}}
    train(plan)
    assert len(read_measurements(tmp_path / "superseded" / "metrics.jsonl")) == 7
    assert len(read_measurements(tmp_path / "metrics.jsonl")) == 12


def test_the_numbers_of_a_line(place, tmp_path):
    """The loss is the mean over the steps since the last line, and all else is that of the last step."""
    name = "digits/ct/batch~8,lr_decay~linear/seed0"
    train(plan_of(place, name, tmp_path / "each", log_steps=1))
    train(plan_of(place, name, tmp_path / "four", log_steps=4))
    each, four = (read_measurements(tmp_path / name / "metrics.jsonl") for name in ("each", "four"))
    assert [line.loss for line in four] == pytest.approx(
        [sum(one.loss for one in each[start : start + 4]) / 4 for start in (0, 4, 8)]
    )
    last = ("gradient_norm", "rate", "N", "mu")
    assert [[getattr(line, key) for key in last] for line in four] == [
        [getattr(line, key) for key in last] for line in each[3::4]
    ]
    assert [line.rate for line in each] == pytest.approx([1e-3 * (1 - step / 12) for step in range(12)])
    assert each[0].N == 2 and each[-1].N > each[0].N
    assert each[0].mu < each[-1].mu < 1
    assert [line.seconds for line in each] == sorted(line.seconds for line in each)
    assert all(line.images_per_second > 0 and line.memory > 10**7 for line in each)


def test_a_method_without_a_curriculum_has_no_numbers_of_one(place, tmp_path):
    train(plan_of(place, "digits/edm/default/seed0", tmp_path))
    assert {(line.N, line.mu) for line in read_measurements(tmp_path / "metrics.jsonl")} == {(None, None)}


@pytest.mark.parametrize("variant", ["default", "clip~0.01,microbatch~5", "precision~float16"])
def test_the_norm_is_that_of_the_unscaled_gradient_before_it_is_clipped(place, tmp_path, variant):
    trainer = Trainer(plan_of(place, f"digits/edm/{variant}/seed0", tmp_path, log_steps=1))
    trainer._update = lambda step: None  # leaves the gradients as they are
    trainer.step()
    gradients = [parameter.grad.flatten() for parameter in trainer.state.student.parameters()]
    norm = torch.cat(gradients).double().norm() / trainer.state.scaler.get_scale()
    assert float(trainer.gradient_norm) == pytest.approx(float(norm), rel=1e-4)
    trainer.close()


def test_a_parameter_without_a_gradient_has_no_part_in_the_norm():
    with_gradient, without = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    with_gradient.grad = torch.tensor([6.0, 8.0])
    assert float(gradient_norm([with_gradient, without], scale=2.0)) == 5.0


def test_a_mean_continues_where_it_was_saved():
    whole, parts = RunningMean("cpu"), RunningMean("cpu")
    for number in range(9):
        value = torch.tensor(1.0 / (number + 3))
        whole.add(value)
        parts.add(value)
        saved, parts = json.loads(json.dumps(parts.save())), RunningMean("cpu")
        parts.restore(saved)
    assert whole.take() == parts.take()
    assert whole.take() is None
    whole.add(torch.tensor(float("inf")))
    assert whole.save() == {"sum": None, "count": 1}
    assert whole.take() is None


# ---- the file -------------------------------------------------------------------------------------------------------


def written(*steps: int) -> bytes:
    return b"".join(LINE.to_line().replace(b'"step": 1,', f'"step": {step},'.encode()) for step in steps)


def test_a_file_is_read_as_it_was_written(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(written(1, 4) + b'{"step": 7, "los')
    found = read_measurements(tmp_path / "metrics.jsonl")
    assert [line.step for line in found] == [1, 4] and found[0] == LINE
    assert found[0].values == {
        "loss": 0.5,
        "gradient_norm": 2.0,
        "rate": 1e-3,
        "N": 18,
        "mu": 0.9,
        "images_per_second": 100.0,
        "memory": 1 << 20,
        "seconds": 3.5,
    }


@pytest.mark.parametrize(
    ("data", "step", "kept"),
    [
        (written(1, 2, 3), 2, written(1, 2)),
        (written(1, 2, 3), 0, b""),
        (written(1, 2) + b'{"step": 3', 9, written(1, 2)),
        (written(1, 2) + b"\0\0\0\n" + written(3), 9, written(1, 2)),
        (written(1, 2, 2, 3), 9, written(1, 2)),
        (b"", 9, b""),
    ],
)
def test_what_a_start_keeps_of_a_file(data, step, kept):
    assert data[: find_end(data, step)] == kept


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not JSON\n", "line 1 is not JSON"),
        (b"[1, 2]\n", "line 1: expected the measurements of a step"),
        (written(1) + b'{"step": 2}\n', "line 2: 'loss' is missing"),
        (written(1).replace(b"0.5", b'"half"'), "line 1: 'loss' must be a number"),
        (written(3, 3), "line 2: step 3 does not follow step 3"),
    ],
)
def test_a_file_of_anything_else_is_an_error_of_one_line(tmp_path, data, message):
    (tmp_path / "metrics.jsonl").write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        read_measurements(tmp_path / "metrics.jsonl")
    assert "metrics.jsonl" in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_file_does_not_stop_a_training(place, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe nothing of ours\n")
    train(plan_of(place, "digits/edm/default/seed0", tmp_path))
    assert len(read_measurements(tmp_path / "metrics.jsonl")) == 12
