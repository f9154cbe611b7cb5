"""What `cm describe` counts: closed forms, evaluations per iteration, sums over suites, and the text itself."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from cm import build, config, cost
from cm.cli import main
from cm.config import Experiments
from cm.cost import backbones, costs, counting, pages, text
from cm.cost.evaluations import Evaluations, count_evaluations
from cm.errors import UserError
from cm.evaluation.ternary import most_evaluations
from cm.methods.edm import ScoreMatching

ROOT = Path(__file__).parents[2]
MICRO = ROOT / "tests/micro"
FOLDER = MICRO / "experiments"
DIGITS = Experiments(FOLDER)
ADM = {"name": "adm", "resolution": 8, "image_channels": 1, "channels": 8, "multipliers": [1, 2], "blocks": 1}


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    """The micro experiments under three more settings: ADM in half precision, checkpointed, and released weights."""
    folder = tmp_path_factory.mktemp("experiments")
    base = yaml.safe_load((FOLDER / "digits/base.yaml").read_text())
    half = {"precision": "float16", "checkpointing": True}
    bases = {
        "digits": base,
        "halves": base | {"network": ADM | {"attention": [4], "head_channels": 8, "classes": 10}, "training": half},
    }
    for dataset, document in bases.items():
        (folder / dataset).mkdir()
        (folder / dataset / "base.yaml").write_text(yaml.safe_dump(document))
        for method in ("cd", "ct", "edm", "pd", "classifier"):
            own = yaml.safe_load((FOLDER / f"digits/{method}.yaml").read_text())
            if method == "edm":
                own["released"] = {"theirs": {"url": "https://example.org/theirs.pt", "licence": "MIT"}}
            (folder / dataset / f"{method}.yaml").write_text(yaml.safe_dump(own))
    return Experiments(folder)


def load(name: str, experiments: Experiments = DIGITS) -> config.Run:
    return experiments.run(f"{name}/seed0")


# ---- networks ----


def test_a_classifier_costs_what_its_layers_do():
    """Convolutions 1 -> 8 -> 8 at 8x8 and 8 -> 16 -> 16 at 4x4, then 64 -> 16 -> 10: all worked out by hand."""
    run = load("digits/classifier/default")
    first, second = 8 * 8 * 9 * (1 * 8 + 8 * 8), 4 * 4 * 9 * (8 * 16 + 16 * 16)
    assert counting.flops(run) == 2 * (first + second + 64 * 16 + 16 * 10)
    assert counting.maps_flops(run) == 2 * (first + second)
    assert counting.output_shape(run) == (10,)
    weights = 9 * (8 + 64 + 128 + 256) + 3 * (8 + 8 + 16 + 16) + (64 + 1) * 16 + (16 + 1) * 10
    assert counting.parameters(run) == weights


@pytest.mark.parametrize(
    ("name", "parameters", "gigaflops"),
    [("cifar10/edm/default", 56_395_523, 42.47), ("imagenet64/cd/default", 295_899_267, 219.3)],
)
def test_the_papers_networks(name, parameters, gigaflops):
    run = load(name, Experiments(ROOT / "config/experiments"))
    assert counting.parameters(run) == parameters
    assert counting.flops(run) / 1e9 == pytest.approx(gigaflops, abs=0.05)
    assert counting.output_shape(run) == (3, run.network.resolution, run.network.resolution)


@pytest.mark.parametrize("name", ["digits/edm/default", "halves/edm/default"])
@pytest.mark.parametrize(
    "how", [{}, {"checkpointed": True}, {"precision": "bfloat16"}, {"precision": "float16"}], ids=str
)
def test_activations_grow_with_the_batch(experiments, name, how):
    run = load(name, experiments)
    one, two, eight = (counting.activations(run, batch=batch, **how) for batch in (1, 2, 8))
    assert one > 0
    assert eight - one == 7 * (two - one)
    assert eight == pytest.approx(8 * one, rel=0.02)


@pytest.mark.parametrize("name", ["digits/edm/default", "halves/edm/default"])
def test_checkpoints_and_half_precision_keep_less(experiments, name):
    run = load(name, experiments)
    plain = counting.activations(run, batch=8)
    assert counting.activations(run, batch=8, checkpointed=True) < 0.5 * plain
    assert 0.5 * plain < counting.activations(run, batch=8, precision="float16") < plain
    assert counting.activations(run, batch=8) == plain


def test_half_precision_normalises_in_single_precision_as_gpus_do():
    x = torch.zeros(1, 4, 2, 2, dtype=torch.bfloat16)
    with counting._autocast("bfloat16"):
        assert torch.nn.functional.group_norm(x, 2).dtype == torch.float32
        with torch.autocast("cpu", enabled=False):
            assert torch.nn.functional.group_norm(x, 2).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["digits/edm/default", "halves/edm/default", "digits/classifier/default"])
def test_kept_bytes_agree_with_a_real_forward_pass(experiments, name):
    """The same hooks on real tensors of the processor."""
    run, kept = load(name, experiments), {}
    module = build.build_model(build.run_description(run)).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    classes = torch.arange(4) if name.startswith("halves") else None
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(torch.randn(4, 1, 8, 8), *(() if "classifier" in name else (torch.ones(4), classes)))
    real = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
    assert counting.activations(run, batch=4) == real


@pytest.mark.parametrize(("name", "kind"), [("lpips-vgg16", "vgg"), ("lpips-alexnet", "alex")])
@pytest.mark.parametrize("size", [32, 224, 256])
def test_backbones_cost_what_the_lpips_networks_do(name, kind, size):
    from torch.utils.flop_counter import FlopCounterMode

    lpips = pytest.importorskip("lpips")
    with torch.device("meta"), pytest.warns():
        net = lpips.LPIPS(net=kind, pretrained=False, pnet_rand=True, verbose=False).net
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(1, 3, size, size, device="meta"))
    assert backbones.flops(name, size) == counter.get_total_flops()
    assert backbones.parameters(name) == sum(weight.numel() for weight in net.parameters())


def test_backbones_that_nobody_knows_are_refused():
    with pytest.raises(UserError, match="unknown network of a perceptual distance 'inception'; known: lpips-alexnet"):
        backbones.flops("inception", 224)


# ---- iterations ----


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("edm/default", Evaluations(student=1)),
        ("classifier/default", Evaluations(student=1)),
        ("cd/default", Evaluations(student=1, target=1, teacher=2, distance=1)),
        ("cd/solver~euler", Evaluations(student=1, target=1, teacher=1, distance=1)),
        ("cd/distance~lpips,steps~5", Evaluations(student=1, target=1, teacher=2, distance=1)),
        ("ct/default", Evaluations(student=1, target=1, distance=1)),
        ("ct/solver~heun", Evaluations(student=1, target=1, distance=1)),
        ("pd/default", Evaluations(student=1, teacher=2, distance=1)),
        ("pd/steps~2", Evaluations(student=1, teacher=2, distance=1)),
    ],
)
def test_evaluations_of_an_iteration(name, expected):
    assert count_evaluations(load(f"digits/{name}")) == expected


def test_a_student_without_gradient_costs_one_pass():
    @dataclasses.dataclass(frozen=True)
    class Twice(ScoreMatching):
        def loss(self, nets, batch):
            with torch.no_grad():
                nets.student(batch.x, batch.x[:, 0, 0, 0], None)
            return super().loss(nets, batch)

    run = load("digits/edm/default")
    run = dataclasses.replace(run, objective=Twice())
    assert count_evaluations(run) == Evaluations(student=1, frozen=1)
    (part,) = costs.training_parts(run, DIGITS)
    assert (part.evaluations, part.passes) == (2, 4)


@pytest.mark.parametrize(
    ("dataset", "method", "passes"),
    [
        ("digits", "edm", 3),
        ("digits", "cd", 3 + 1 + 2),
        ("digits", "ct", 3 + 1),
        ("digits", "pd", 3 + 2),
        ("halves", "edm", 4),
        ("halves", "cd", 4 + 1 + 2),
    ],
)
def test_passes_of_an_iteration(experiments, dataset, method, passes):
    run = load(f"{dataset}/{method}/default", experiments)
    assert sum(part.total for part in costs.training_parts(run, experiments)) == passes * counting.flops(run)


@pytest.mark.parametrize(
    ("name", "evaluations", "passes"),
    [
        ("cd-inf/distance~l2", Evaluations(student=1, teacher=1, distance=1), 4 + 1),
        ("ct-inf/distance~l2", Evaluations(student=1, distance=1), 4),
        ("ct-inf/distance~l1,stop_gradient~false", Evaluations(student=1, distance=1), 6),
    ],
)
def test_passes_of_an_iteration_in_continuous_time(name, evaluations, passes):
    """Value and derivative are two passes, and so is each backward pass, of which stop-gradient leaves out one."""
    shipped = Experiments(ROOT / "config/experiments")
    run = load(f"digits/{name}", shipped)
    assert count_evaluations(run) == evaluations
    assert sum(part.total for part in costs.training_parts(run, shipped)) == passes * counting.flops(run)


def test_a_perceptual_distance_costs_three_passes_of_its_network():
    plain, learned = (load(f"digits/cd/{variant}") for variant in ("default", "distance~lpips"))
    extra = [sum(part.total for part in costs.training_parts(run, DIGITS)) for run in (plain, learned)]
    assert extra[1] - extra[0] == 3 * counting.maps_flops(load("digits/classifier/default"))


def test_published_networks_compare_at_their_own_size():
    folder = Experiments(ROOT / "config/experiments")
    sizes = {
        "cifar10/ct/default": 224,
        "cifar10/ct/size~null": 32,
        "cifar10/ct/size~64": 64,
        "lsun_cat/ct/default": 256,
    }
    for name, size in sizes.items():
        run = load(name, folder)
        distance = next(part for part in costs.training_parts(run, folder) if part.role == "distance")
        assert (distance.passes, distance.flops) == (3, backbones.flops("lpips-vgg16", size))


@pytest.mark.parametrize(("variant", "width"), [("default", 4), ("distance.precision~bfloat16", 2)])
def test_the_network_of_a_distance_is_in_memory(variant, width):
    page = cost.describe(f"cifar10/ct/{variant}/seed0", experiments=Experiments(ROOT / "config/experiments"))
    size = text.si(width * backbones.parameters("lpips-vgg16"), "B")
    assert re.search(rf"\n  network of the distance +{re.escape(size)}\n", page)
    plain, learned = (load(f"digits/cd/{variant}") for variant in ("default", "distance~lpips"))
    assert costs.distance_parameters(plain, DIGITS) == 0
    classifier = load("digits/classifier/default")
    assert costs.distance_parameters(learned, DIGITS) == counting.parameters(classifier)


def test_images_too_small_for_a_distance_are_refused_before_anything_is_trained():
    folder = Experiments(ROOT / "config/experiments")
    with pytest.raises(UserError, match=r"^cifar10/cd/size~8/seed0: distance 'lpips' with size 8 compares images of 8"):
        folder.inputs(folder.run("cifar10/cd/size~8/seed0"))


# ---- runs and suites ----


def test_a_run_costs_its_iterations_times_its_batch():
    run = load("digits/cd/default")
    (cost,) = costs.training_costs([run], DIGITS)
    assert (cost.images, cost.flops_per_image) == (20 * 16, 6 * counting.flops(run))
    assert cost.flops == 20 * 16 * 6 * counting.flops(run)


def test_released_weights_cost_nothing(experiments):
    (priced,) = costs.training_costs([load("digits/edm/released~theirs", experiments)], experiments)
    assert (priced.released, priced.images, priced.flops) == (True, 0, 0)
    page = cost.describe("digits/edm/released~theirs/seed0", experiments=experiments)
    assert "released: https://example.org/theirs.pt" in page
    assert "Memory" not in page


@pytest.fixture(scope="module")
def suite():
    return config.load_suite(MICRO / "micro.yaml")


def test_a_suite_costs_the_sum_of_its_runs(suite):
    trainings, samplings = costs.suite_costs(suite)
    runs = [DIGITS.run(f"{cost.name}/seed{seed}") for cost in trainings for seed in range(cost.count)]
    alone = sum(cost.flops for run in runs for cost in costs.training_costs([run], DIGITS))
    assert sum(cost.flops for cost in trainings) == alone > 0
    drawn = [one for one in (*suite.artefacts.values(), *suite.ablations.values()) if one.name != "table3"]
    samples = {(*cell.samples, cell.edit) for one in drawn for cell in suite.cells(one)}
    tried = 2 * most_evaluations(6)  # in the searches for the points of search,points~6,steps~2 and steps~3
    assert sum(one.sets for one in samplings) == len(samples) + tried
    page = pages.describe_suite(suite, rate=1e14)
    total = alone + sum(one.flops for one in samplings)
    assert page.startswith(f"suite micro: {len(runs)} trainings, 0 released checkpoints\n")
    assert re.search(rf"\n  sum +{re.escape(text.scientific(total))} ", page)


def test_a_suite_has_its_teachers_classifiers_and_stages(suite):
    names = {cost.name: cost.count for cost in costs.suite_costs(suite)[0]}
    assert names["digits/classifier/default"] == 2  # one is the extractor, one the network of the lpips distance
    assert names["digits/pd/steps~2"] == names["digits/edm/default"] == 2
    assert names["digits/cd/solver~euler"] == 1


def test_samples_cost_their_evaluations(suite):
    cells = {cell.samples: cell for one in suite.artefacts.values() for cell in suite.cells(one)}
    some = [
        cells["digits/edm/default/seed0", "100", "ode,solver~heun,steps~4"],
        cells["digits/cd/default/seed0", "50", "onestep"],
    ]
    (sampling,) = costs.sampling_costs(some, suite.experiments)
    assert (sampling.sets, sampling.images) == (2, 2 * 40)
    assert sampling.flops == 40 * (7 + 1) * counting.flops(load("digits/edm/default"))


def test_tables_without_samples_ask_for_no_training(tmp_path):
    document = {"dataset": "digits", "experiments": str(FOLDER), "artefacts": {}}
    document["artefacts"]["a"] = {"kind": "recipes", "caption": "A.", "entries": [{"method": "edm"}]}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(document))
    assert costs.suite_costs(config.load_suite(tmp_path / "s.yaml")) == ([], [])
    assert "suite s: 0 trainings" in cost.describe(str(tmp_path / "s.yaml"))


# ---- text ----


@pytest.mark.parametrize(
    ("value", "expected"),
    [(219.33e9, "219.3 GFLOPs"), (8, "8 FLOPs"), (1000, "1.000 kFLOPs"), (5.64e7, "56.40 MFLOPs"), (0, "0 FLOPs")],
)
def test_numbers_have_prefixes(value, expected):
    assert text.si(value, "FLOPs") == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (3.6, "< 0.01"), (360, "0.10"), (36_000, "10.0"), (3_600_000, "1,000"), (360_000, "100")],
)
def test_hours(value, expected):
    assert text.hours(value) == expected


def test_tables_are_aligned():
    assert text.table([("a", "bb", "c"), (), ("long", "1")]) == "  a     bb  c\n\n  long   1"
    assert text.table([("a", "b"), ("c", "dd")], left=2) == "  a  b\n  c  dd"


def test_a_run_is_described(experiments):
    page = cost.describe("halves/cd/default/seed0", batch=4, rate=1e6, experiments=experiments)
    weights = 4 * counting.parameters(load("halves/cd/default", experiments))
    for label, times in {"student ": 1, "its gradients": 1, "radam": 2, "target": 1, "teacher": 1, "sum": 7}.items():
        assert re.search(rf"\n  {label} +{re.escape(text.si(times * weights, 'B'))}\n", page), label
    assert "batch 4 (the run has 16)" in page
    assert "sampling      onestep: 1 x" in page
    assert "student's activations, float16, checkpointed" in page
    run = load("halves/cd/default", experiments)
    assert f"halves/edm/default{' ':>6}" in page
    assert text.hours(20 * 16 * 7 * counting.flops(run) / 1e6) in page
    assert "GPU hours assume that one GPU reaches 1e-06 TFLOPS" in page


def test_each_decay_has_an_average_in_memory(experiments):
    page = cost.describe("digits/edm/ema_decay~0.5+0.9+0.99/seed0", experiments=experiments)
    size = text.si(3 * 4 * counting.parameters(load("digits/edm/default", experiments)), "B")
    assert re.search(rf"\n  averaged weights \(EMA\) +{re.escape(size)}\n", page), page


def test_a_run_without_target_or_teacher_has_none(experiments):
    page = cost.describe("digits/edm/default/seed0", experiments=experiments)
    assert not re.search(r"\n  (target|teacher)", page)


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        ("cifar11", r"'cifar11' is neither a run, .+, nor a suite; known suites: demo, laptop, laptop_networks, paper"),
        ("cifar10/cd", "not of the form <dataset>/<method>/<variant>/seed<seed>"),
        ("cifar10/cd/default/seed0", "unknown dataset 'cifar10'; known: digits"),
        ("digits/cd/solver~hune/seed0", "unknown solver 'hune'; known: dpm2, dpmpp2m, euler, heun, midpoint"),
        ("nowhere.yaml", "no file nowhere.yaml"),
    ],
)
def test_mistakes_are_reported_in_a_line(subject, message, capsys):
    assert main(["describe", subject, "--experiments", str(FOLDER)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1


def test_a_rate_of_nothing_is_refused(capsys):
    assert main(["describe", "demo", "--teraflops", "0"]) == 2
    assert "the rate of a GPU must be above 0" in capsys.readouterr().err


def test_mistakes_do_not_wait_for_torch():
    check = "from cm import cost, errors\nimport sys\ntry: cost.describe('x')\nexcept errors.UserError: pass\n"
    subprocess.run([sys.executable, "-c", f"{check}assert 'torch' not in sys.modules"], cwd=ROOT, check=True)


# ---- one step of each training, really taken ----


def test_a_training_step_is_measured_part_by_part(monkeypatch):
    spec = importlib.util.spec_from_file_location("training_benchmark", ROOT / "benchmarks/training.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr("sys.argv", ["training.py", "--device", "cpu", "--steps", "1", "--batch", "2"])
    options = benchmark.parse_options()
    cells = benchmark.measure("digits/cd/distance~lpips/seed0", DIGITS, options)
    assert cells.keys() == set(benchmark.COLUMNS)
    assert cells["networks"] == "student, ema, target, teacher" and cells["batch"] == "2"
    parts = {part: float(cells[part]) for part in (*benchmark.PARTS, "rest")}
    assert all(milliseconds > 0 for milliseconds in parts.values())
    assert sum(parts.values()) == pytest.approx(float(cells["ms per step"]), rel=0.02)
    assert all(float(cells[column]) > 0 for column in ("loss", "images/s", "TFLOP/s"))
