"""Training: killed and resumed to the same weights, and no model where it went wrong."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import measured, plan_of

from cm import build, config, cost, registry
from cm.checkpoints import native
from cm.cli import main, models
from cm.cost.evaluations import count_evaluations
from cm.errors import UserError
from cm.training.trainer import Trainer, train
from cm.utils import files

ROOT = Path(__file__).parents[2]


def weights(folder: Path, progress: int = 100) -> dict[str, torch.Tensor]:
    return native.load(folder / f"{progress}.safetensors")[0]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


RUNS = [
    "edm/default",
    "cd/default",
    "cd/solver~euler,target_mu~0.9",
    "ct/default",
    "ct/clip~1.0,microbatch~6,precision~float16",
    "ict/default",
    "ect/default",
    "tcm/default",
    "meanflow/default",
    "cd-inf/default",
    "ct-inf/init~random,stop_gradient~false",
    "sct/checkpointing~true,init~random,microbatch~6,parametrization~trigflow",
    "scd/clip~1.0,precision~float16",
    "pd/steps~2",
    "classifier/default",
]


LOGGED_EVERY_STEP = ["edm/default", "cd/default", "ct/precision~float16", "ict/default", "ect/default", "pd/steps~2"]


@pytest.mark.parametrize(
    ("name", "log_steps"), [*((name, 5) for name in RUNS), *((name, 1) for name in LOGGED_EVERY_STEP)]
)
def test_a_stopped_training_resumes_to_the_same_weights_and_lines(place, tmp_path, name, log_steps):
    """With an interval of 5 steps, a start ends between two lines, so that the mean loss continues over two starts."""
    name = f"digits/{name}/seed0"
    train(plan_of(place, name, tmp_path / "whole", log_steps=log_steps))
    for stop in (3, 7, None):
        train(plan_of(place, name, tmp_path / "parts", stop_at=stop, log_steps=log_steps))
    for progress in (50, 100):
        assert same(weights(tmp_path / "whole", progress), weights(tmp_path / "parts", progress))
    assert measured(tmp_path / "whole") == measured(tmp_path / "parts")
    steps = [line["step"] for line in measured(tmp_path / "parts")]
    assert steps == sorted({*range(log_steps, 13, log_steps), 12})
    left = sorted(path.name for path in (tmp_path / "parts").iterdir())
    assert left == ["100.safetensors", "50.safetensors", "metrics.jsonl", "seconds.json"]
    assert not same(weights(tmp_path / "whole", 50), weights(tmp_path / "whole", 100))


def test_checkpointed_activations_give_the_same_weights(place, tmp_path):
    """Dropout included: the second computation draws the same."""
    for variant in ("default", "checkpointing~true"):
        train(plan_of(place, f"digits/edm/{variant}/seed0", tmp_path / variant))
    assert same(weights(tmp_path / "default"), weights(tmp_path / "checkpointing~true"))


@pytest.mark.parametrize(
    ("plain", "compiled", "functions"),
    [
        ("default", "compile~true", 5),  # student, target, teacher, distance and update
        ("distance~l2", "compile~true,distance~l2", 4),
    ],
)
def test_a_compiled_training_gives_nearly_the_same_weights(place, tmp_path, monkeypatch, plain, compiled, functions):
    modes, original = [], torch.compile

    def graph_only(function, mode, backend="inductor"):
        modes.append(mode)
        return original(function, backend="eager")

    monkeypatch.setattr(torch, "compile", graph_only)
    for variant in (plain, compiled):
        train(plan_of(place, f"digits/cd/{variant}/seed0", tmp_path / variant))
    assert modes == [None] * functions
    want, found = weights(tmp_path / plain), weights(tmp_path / compiled)
    assert want.keys() == found.keys()
    assert all(torch.allclose(want[name], found[name], atol=1e-4) for name in want)


@pytest.mark.parametrize("size", [5, 16, 40])
def test_gradients_of_microbatches_add_up_to_those_of_the_batch(place, tmp_path, size):
    found = []
    for variant in ("dropout~0.0,jitter~0.0", f"dropout~0.0,jitter~0.0,microbatch~{size}"):
        trainer = Trainer(plan_of(place, f"digits/classifier/{variant}/seed0", tmp_path))
        loss = trainer._backward()
        found.append((loss, torch.cat([p.grad.flatten() for p in trainer.state.student.parameters()])))
    (loss, gradient), (parted_loss, parted) = found
    torch.testing.assert_close(parted_loss, loss)
    torch.testing.assert_close(parted, gradient, rtol=1e-5, atol=1e-7)


def test_float16_with_clipping_goes_where_float32_goes(place, tmp_path):
    """Gradients are unscaled before they are clipped: otherwise nearly nothing of them would be left."""
    ends = {}
    for variant in ("clip~1.0", "clip~1.0,precision~float16"):
        trainer = Trainer(plan_of(place, f"digits/ct/{variant}/seed0", tmp_path))
        before = torch.cat([parameter.detach().flatten().clone() for parameter in trainer.state.student.parameters()])
        for _ in range(6):
            trainer.step()
        ends[variant] = torch.cat([p.detach().flatten() for p in trainer.state.student.parameters()]) - before
    plain, half = ends.values()
    assert (half - plain).norm() < 0.1 * plain.norm()


def test_the_loss_scale_of_float16_is_kept(place, tmp_path):
    first, second = (Trainer(plan_of(place, "digits/ct/precision~float16/seed0", tmp_path)) for _ in range(2))
    first.state.scaler.load_state_dict(first.state.scaler.state_dict() | {"scale": 8.0})
    first.step()
    first.state.save()
    second.state.resume()
    assert second.state.scaler.get_scale() == first.state.scaler.get_scale() == 8.0


def test_a_state_of_other_settings_or_inputs_is_set_aside(place, tmp_path):
    name = "digits/ct/default/seed0"
    plan = plan_of(place, name, tmp_path, stop_at=3)
    plan.description = plan.description | {"made_from": {"images": "others"}}
    train(plan)
    state = files.sha256_of(tmp_path / "partial/state.safetensors")
    train(plan_of(place, name, tmp_path))
    train(plan_of(place, name, tmp_path / "fresh"))
    assert same(weights(tmp_path), weights(tmp_path / "fresh"))
    assert files.sha256_of(tmp_path / "superseded/state.safetensors") == state


def test_a_state_written_before_steps_had_their_name_is_set_aside(place, tmp_path, capsys):
    plan = plan_of(place, "digits/ct/default/seed0", tmp_path, stop_at=3)
    train(plan)
    path = tmp_path / "partial/state.safetensors"
    tensors, description = native.load(path)
    native.save(path, tensors, {"k" if key == "step" else key: value for key, value in description.items()})
    train(plan_of(place, "digits/ct/default/seed0", tmp_path))
    assert (tmp_path / "superseded/state.safetensors").exists() and (tmp_path / "100.safetensors").exists()
    assert capsys.readouterr().out.count("\n") == 1


def test_the_state_of_another_run_is_left_alone(place, tmp_path):
    train(plan_of(place, "digits/ct/default/seed0", tmp_path, stop_at=3))
    with pytest.raises(UserError, match="belongs to digits/ct/default/seed0, not to digits/ct/default/seed1"):
        train(plan_of(place, "digits/ct/default/seed1", tmp_path))
    assert (tmp_path / "partial/state.safetensors").exists()


def test_a_model_says_what_it_was_made_from(place):
    teacher = place / "models/digits/edm/default/seed0/100.safetensors"
    description = plan_of(place, "digits/cd/distance~l1/seed0").description
    manifest = files.read_json(place / "data/manifest.json")
    images = manifest["splits"]["train"]["sha256"]
    assert description["made_from"] == {"images": images, "teacher": files.sha256_of(teacher)}


def test_a_model_says_how_many_threads_trained_it(place, tmp_path):
    """They change it by rounding, so another number continues the same training, and both are recorded."""
    try:
        for threads, stop in ((2, 7), (1, None)):
            torch.set_num_threads(threads)
            train(plan_of(place, "digits/ct/default/seed0", tmp_path, stop_at=stop))
    finally:
        torch.set_num_threads(1)
    recorded = [native.description(tmp_path / f"{progress}.safetensors")["threads"] for progress in (50, 100)]
    assert recorded == [[2], [1, 2]]
    assert not (tmp_path / "superseded").exists()
    train(plan_of(place, "digits/ct/default/seed0", tmp_path))
    assert recorded[1] == native.description(tmp_path / "100.safetensors")["threads"]


def test_a_training_by_hand_has_the_threads_of_a_suite_that_states_none():
    (option,) = (param for param in models.train.params if param.name == "threads")
    assert option.default == config.load_suite(ROOT / "config/suites/demo.yaml").threads == 1


def test_a_state_is_resumed_though_some_weights_get_no_gradient(place, tmp_path):
    name = "digits/ct/augment_dim~3/seed0"
    train(plan_of(place, name, tmp_path / "whole"))
    for stop in (5, None):
        train(plan_of(place, name, tmp_path / "parts", stop_at=stop))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_a_training_that_diverges_writes_no_model_and_keeps_its_last_good_state(place, tmp_path):
    train(plan_of(place, "digits/edm/default/seed0", tmp_path, stop_at=3))
    plan = plan_of(place, "digits/edm/default/seed0", tmp_path, save_seconds=0.0)
    plan.training = dataclasses.replace(plan.training, lr=1e30)
    with pytest.raises(UserError, match=r"step \d+: no model is written; the last good state is") as caught:
        train(plan)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.safetensors"))
    tensors, description = native.load(tmp_path / "partial" / "state.safetensors")
    assert all(t.isfinite().all() for t in tensors.values())
    assert description["step"] >= 3


DECAYS = {0.9: "default", 0.5: "ema_decay~0.5", 0.0: "ema_decay~0.0"}
FOLLOWERS = [
    ("cd/default", 0.0),
    ("cd/target_mu~0.9", 0.9),
    ("ct/default", None),
    ("ict/default", 0.0),
    ("ect/default", 0.0),
    ("tcm/default", 0.0),
]


@pytest.mark.parametrize(("name", "mu"), FOLLOWERS)
def test_target_and_ema_follow_the_student(place, name, mu):
    """theta-minus <- mu theta-minus + (1 - mu) theta after each step (Eq. 8), with mu(k) of that step."""
    trainer = Trainer(plan_of(place, f"digits/{name}/seed0"))
    for k in range(3):
        before = [[p.clone() for p in net.parameters()] for net in (trainer.state.target, trainer.state.ema)]
        decays = [trainer.plan.objective.mu_at(k, 12) if mu is None else mu, 0.9]
        trainer.step()
        for old, net, decay in zip(before, (trainer.state.target, trainer.state.ema), decays, strict=True):
            for then, now, student in zip(old, net.parameters(), trainer.state.student.parameters(), strict=True):
                torch.testing.assert_close(now, decay * then + (1 - decay) * student)


def test_each_ema_decay_becomes_a_model_and_the_first_is_the_default(place, tmp_path):
    """They follow the student like those of trainings with a single decay, also over a restart."""
    single = {decay: plan_of(place, f"digits/ct/{name}/seed0", tmp_path / f"{decay}") for decay, name in DECAYS.items()}
    for plan in single.values():
        train(plan)
    assert single[0.9].description["training"]["ema_decay"] == 0.9
    name, folder = "digits/ct/ema_decay~0.9+0.5+0.0/seed0", tmp_path / "several"
    for stop in (4, None):
        train(plan_of(place, name, folder, stop_at=stop))
    files_of_decays = {0.9: "{}", 0.5: "{}-ema0.5", 0.0: "{}-ema0.0"}
    assert {path.name for path in folder.glob("*.safetensors")} == {
        f"{stem.format(progress)}.safetensors" for stem in files_of_decays.values() for progress in (50, 100)
    }
    for decay, stem in files_of_decays.items():
        for progress in (50, 100):
            tensors, description = build.read_model(folder / f"{stem.format(progress)}.safetensors")
            assert same(tensors, weights(tmp_path / f"{decay}", progress))
            assert description.get("ema_decay", 0.9) == decay
    assert not same(weights(tmp_path / "0.9"), weights(tmp_path / "0.5"))


def test_a_training_of_which_a_model_of_one_decay_is_missing_is_not_complete(place, tmp_path, capsys):
    name = "digits/ct/ema_decay~0.9+0.5/seed0"
    train(plan_of(place, name, tmp_path))
    kept = files.sha256_of(tmp_path / "100-ema0.5.safetensors")
    train(plan_of(place, name, tmp_path))
    assert "is trained already" in capsys.readouterr().out
    (tmp_path / "100-ema0.5.safetensors").unlink()
    train(plan_of(place, name, tmp_path))
    assert "is trained already" not in capsys.readouterr().out
    assert files.sha256_of(tmp_path / "100-ema0.5.safetensors") == kept


@pytest.mark.parametrize("decay", ["0.5", "0.9"])
def test_samples_of_another_ema_decay(place, tmp_path, capsys, decay):
    train(plan_of(place, "digits/ct/ema_decay~0.9+0.5/seed0", tmp_path))
    command = ["sample", "--model", str(tmp_path / "100.safetensors"), "--sampler", "onestep", "--count", "3"]
    status = main([*command, "--ema-decay", decay, "--out", str(tmp_path / "samples.npy")])
    if decay == "0.5":
        assert status == 0
        assert files.read_json(tmp_path / "samples.json")["ema_decay"] == 0.5
    else:
        assert status != 0
        assert capsys.readouterr().err.rstrip().endswith("has no averaged weights of decay 0.9 besides its default")


def test_students_start_from_their_teacher_unless_told_otherwise(place):
    teacher = weights(place / "models/digits/edm/default/seed0")
    for name, starts_there in (
        ("cd/default", True),
        ("cd/init~random", False),
        ("pd/steps~2", True),
        ("ct/default", False),
        ("ict/default", False),
        ("ect/default", True),
        ("sct/default", True),
    ):
        student = plan_of(place, f"digits/{name}/seed0").student.state_dict()
        assert same(dict(student), teacher) is starts_there


@pytest.mark.parametrize("method", registry.names("method"))
def test_a_teacher_stays_in_memory_if_and_only_if_the_loss_evaluates_it(place, method):
    experiments = config.Experiments(place / "experiments")
    run = experiments.run(f"digits/{method}/{'steps~2' if method == 'pd' else 'default'}/seed0")
    evaluated = count_evaluations(run).teacher > 0
    assert (plan_of(place, run.name).teacher is not None) is evaluated
    memory = cost.describe(run.name, experiments=experiments).partition("One image of training")[0]
    assert ("\n  teacher " in memory) is evaluated


@pytest.mark.parametrize(
    ("method", "training", "sampling"),
    [("ect", "edm", "ect"), ("ict", "boundary", "boundary"), ("tcm", "edm", "tcm"), ("scd", "velocity-edm", "scm-edm")],
)
def test_a_model_is_sampled_with_a_preconditioning_of_its_own(place, method, training, sampling):
    plan = plan_of(place, f"digits/{method}/default/seed0")
    assert plan.student.preconditioning is registry.get("preconditioning", training)
    assert build.build_model(plan.description).preconditioning is registry.get("preconditioning", sampling)


def other_network(teacher: Path, bad: Path) -> None:
    tensors, description = native.load(teacher)
    description["network"]["channels"] = 16
    native.save(bad, tensors, description)


def state_of_a_training(teacher: Path, bad: Path) -> None:
    tensors, description = native.load(teacher)
    native.save(bad, tensors, {"step": 3, "of": description})


BAD_MODELS = {
    "missing": lambda teacher, bad: None,
    "truncated": lambda teacher, bad: bad.write_bytes(teacher.read_bytes()[:5000]),
    "foreign": lambda teacher, bad: bad.write_text("hello"),
    "other network": other_network,
    "state": state_of_a_training,
}


@pytest.mark.parametrize("problem", [*BAD_MODELS, "no classifier", "no diffusion model", "no data", "bad data"])
def test_a_bad_file_is_named_in_one_line_before_training(place, tmp_path, capsys, problem):
    teacher = place / "models/digits/edm/default/seed0/100.safetensors"
    judge = place / "models/digits/classifier/default/seed1/100.safetensors"
    folder, bad = place / "data", tmp_path / "bad.safetensors"
    if problem in BAD_MODELS:
        BAD_MODELS[problem](teacher, bad)
        teacher = bad
    elif problem == "no classifier":
        judge = bad = teacher
    elif problem == "no diffusion model":
        teacher = bad = judge
    elif problem == "no data":
        folder = bad = tmp_path / "data"
    elif problem == "bad data":
        folder, bad = tmp_path / "data", tmp_path / "data/train/images.npy"
        shutil.copytree(place / "data", folder)
        bad.write_bytes((place / "data/train/images.npy").read_bytes()[:3000])
    arguments = ["train", "--run", "digits/cd/default/seed0", "--experiments", str(place / "experiments")]
    arguments += ["--data", str(folder), "--out", str(tmp_path / "out/100.safetensors")]
    code = main([*arguments, "--teacher", str(teacher), "--perceptual", str(judge)])
    error = capsys.readouterr().err
    assert code == 2
    assert str(bad) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_samples_do_not_depend_on_the_batch(place):
    from cm.diffusion import sampling

    model, description = build.load_model(place / "models/digits/edm/default/seed0/100.safetensors")
    settings = sampling.SamplingSettings(build.build_noise(description), shape=(1, 8, 8), count=10, seed=5)
    sampler = config.parse_sampler("multistep,times~0.8")
    whole = sampling.images(model, sampler, settings)
    parts = sampling.images(model, sampler, dataclasses.replace(settings, batch=3))
    assert whole.dtype == np.uint8
    assert np.abs(whole.astype(int) - parts).max() <= 1
    assert np.abs(whole[0].astype(int) - whole[1]).max() > 1
    other = sampling.images(model, sampler, dataclasses.replace(settings, seed=6))
    assert np.abs(whole.astype(int) - other).max() > 1


def test_eight_bits_are_truncated_or_rounded():
    from cm.diffusion.sampling import to_uint8

    x = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 3.0]).reshape(1, 1, 1, 6)
    assert to_uint8(x, "truncate").flatten().tolist() == [0, 0, 127, 254, 255, 255]
    assert to_uint8(x, "round").flatten().tolist() == [0, 0, 128, 255, 255, 255]
