"""The shipped suites of the paper hold the paper's hyper-parameters, networks and time points."""

from __future__ import annotations

from pathlib import Path

import pytest

from cm import config, registry
from cm.config import Experiments, load_suite
from cm.config.documents import read_yaml

ROOT = Path(__file__).parent.parent
EXPERIMENTS = ROOT / "config" / "experiments"
CIFAR, IMAGENET, BEDROOM, CAT = "cifar10", "imagenet64", "lsun_bedroom", "lsun_cat"
KEYS = ("lr", "batch", "ema_decay", "total_steps", "dropout", "precision")
# Table 3 of the paper: learning rate, batch, EMA decay, iterations, dropout, fp16.
TABLE3 = {
    (CIFAR, "cd"): (4e-4, 512, 0.9999, 800_000, 0.0, "float32"),
    (CIFAR, "ct"): (4e-4, 512, 0.9999, 800_000, 0.0, "float32"),
    (IMAGENET, "cd"): (8e-6, 2048, 0.999943, 600_000, 0.0, "float16"),
    (IMAGENET, "ct"): (8e-6, 2048, 0.999943, 800_000, 0.0, "float16"),
    (BEDROOM, "cd"): (1e-5, 2048, 0.999943, 600_000, 0.0, "float16"),
    (BEDROOM, "ct"): (1e-5, 2048, 0.999943, 1_000_000, 0.0, "float16"),
    (CAT, "cd"): (1e-5, 2048, 0.999943, 600_000, 0.0, "float16"),
    (CAT, "ct"): (1e-5, 2048, 0.999943, 1_000_000, 0.0, "float16"),
}
MU_N_SOLVER = {CIFAR: (0.0, 18, "heun"), **dict.fromkeys((IMAGENET, BEDROOM, CAT), (0.95, 40, "heun"))}
MU0_S0_S1 = {CIFAR: (0.9, 2, 150), IMAGENET: (0.95, 2, 200), BEDROOM: (0.95, 2, 150), CAT: (0.95, 2, 150)}
TWO_STEP = {  # index and number of times on the grid, of the official launch.sh and notebook
    (CIFAR, "CD"): (11, 18),
    (IMAGENET, "CD"): (22, 40),
    (IMAGENET, "CT"): (106, 201),
    (BEDROOM, "CD"): (17, 40),
    (BEDROOM, "CD, l2"): (18, 40),
    (BEDROOM, "CT"): (67, 151),
    (CAT, "CT"): (62, 151),
}


def load(dataset: str, method: str, variant: str = "default") -> config.Run:
    return Experiments(EXPERIMENTS).run(f"{dataset}/{method}/{variant}/seed0")


@pytest.fixture(scope="module", params=["paper", "released"])
def suite(request):
    return load_suite(ROOT / "config" / "suites" / f"{request.param}.yaml")


def cells(suite: config.Suite) -> list[config.Cell]:
    return [cell for artefact in suite.artefacts.values() for cell in suite.cells(artefact)]


@pytest.mark.parametrize(("dataset", "method"), TABLE3)
def test_table_3(dataset, method):
    run = load(dataset, method)
    assert tuple(run.settings[key] for key in KEYS) == TABLE3[dataset, method]
    assert run.settings["optimiser"] == "radam"
    assert (run.settings["warmup"], run.settings["clip"], run.settings["lr_decay"]) == (0, None, "none")
    assert run.settings["flip"]
    assert run.settings["distance"] == "lpips"
    assert run.settings["weighting"] == "uniform"
    if method == "cd":
        assert tuple(run.settings[key] for key in ("target_mu", "steps", "solver")) == MU_N_SOLVER[dataset]
        assert Experiments(EXPERIMENTS).teacher(run).name == f"{dataset}/edm/default/seed0"
    else:
        assert tuple(run.settings[key] for key in ("mu0", "s0", "s1")) == MU0_S0_S1[dataset]
        assert (run.settings["init"], run.settings["mu_exponent"], run.settings["curriculum"]) == (
            "random",
            "paper",
            "adaptive",
        )
        last = run.objective.curriculum.steps_at(run.training.total_steps, run.training.total_steps)
        assert last == run.settings["s1"] + 1
        assert not Experiments(EXPERIMENTS).inputs(run).keys() & {"teacher"}


@pytest.mark.parametrize("dataset", MU_N_SOLVER)
def test_the_time_grid_of_every_run(dataset):
    noise = load(dataset, "edm").noise
    assert (noise.sigma_min, noise.sigma_max, noise.rho, noise.sigma_data) == (0.002, 80.0, 7.0, 0.5)


def test_the_teachers():
    wanted = {  # Karras et al. 2022; iterations on LSUN: the paper's text
        CIFAR: (1e-3, 512, 400_000, 0.13),
        IMAGENET: (1e-4, 4096, 610_352, 0.1),
        BEDROOM: (1e-4, 2048, 600_000, 0.1),
        CAT: (1e-4, 2048, 300_000, 0.1),
    }
    for dataset, values in wanted.items():
        run = load(dataset, "edm")
        assert tuple(run.settings[key] for key in ("lr", "batch", "total_steps", "dropout")) == values
        assert (run.settings["p_mean"], run.settings["p_std"], run.settings["weighting"]) == (-1.2, 1.2, "karras")
        rise, half_life = (1e7, 5e5) if dataset == CIFAR else (1e7, 5e7)
        assert run.settings["warmup"] == round(rise / values[1])
        if dataset in (CIFAR, IMAGENET):
            assert run.settings["ema_decay"] == pytest.approx(0.5 ** (values[1] / half_life), abs=1e-6)


@pytest.mark.parametrize("dataset", MU_N_SOLVER)
def test_progressive_distillation(dataset):
    """750,000 iterations from 4,096 steps: 50,000 a stage, the last two twice that, as the official schedule has it."""
    run, stages = load(dataset, "pd"), []
    while run.method == "pd":
        stages.append((run.settings["steps"], run.settings["total_steps"]))
        run = Experiments(EXPERIMENTS).teacher(run)
    assert stages == [(2**n, 100_000 if n < 2 else 50_000) for n in range(13)]
    settings = load(dataset, "pd").settings
    assert (settings["optimiser"], settings["lr"], settings["lr_decay"]) == ("adam", 5e-5, "linear")
    assert (settings["clip"], settings["ema_decay"], settings["weighting"]) == (1.0, 0.0, "truncated-snr")


def test_improved_consistency_training():
    """Song & Dhariwal (2024), Table 1 and Appendix A, on CIFAR-10."""
    run = load(CIFAR, "ict")
    assert tuple(run.settings[key] for key in KEYS) == (1e-4, 1024, 0.99993, 400_000, 0.3, "float32")
    assert (run.settings["optimiser"], run.settings["lr_decay"], run.settings["init"]) == ("radam", "none", "random")
    assert (run.settings["fourier_scale"], run.settings["curriculum"], run.settings["times"]) == (
        0.02,
        "doubling",
        "lognormal",
    )
    assert (run.settings["s0"], run.settings["s1"]) == (10, 1280)
    assert (run.settings["p_mean"], run.settings["p_std"]) == (-1.1, 2.0)
    assert (run.settings["distance"], run.settings["c"], run.settings["relative"]) == ("pseudo-huber", 0.00054, True)
    assert run.settings["weighting"] == "inverse-interval"
    assert run.objective == registry.get("method", "ict")()
    assert not Experiments(EXPERIMENTS).inputs(run)


def test_easy_consistency_tuning():
    """The official code's script for CIFAR-10, and its recipe for one GPU hour."""
    run = load(CIFAR, "ect")
    assert tuple(run.settings[key] for key in KEYS) == (1e-4, 128, 0.9999, 200_000, 0.2, "float32")
    assert (run.settings["optimiser"], run.settings["lr_decay"], run.settings["flip"]) == ("radam", "none", False)
    assert run.objective == registry.get("method", "ect")()
    assert (run.settings["q"], run.settings["k"], run.settings["b"]) == (2.0, 8.0, 1.0)
    assert run.settings["total_steps"] == 8 * run.settings["stage_steps"]
    assert (run.settings["p_mean"], run.settings["p_std"]) == (-1.1, 2.0)
    assert (run.settings["distance"], run.settings["weighting"]) == ("l2-norm", "inverse-interval")
    assert Experiments(EXPERIMENTS).teacher(run).settings["released"] == "edm-cifar10-32x32-uncond-vp"
    short = load(CIFAR, "ect", "q~256.0")
    assert (short.settings["stage_steps"], short.settings["ema_decay"]) == (10_000, 0.9993)


def test_l1_has_half_the_rate():
    assert load(CIFAR, "cd", "distance~l1").settings["lr"] == 2e-4
    assert load(CIFAR, "cd", "distance~l2").settings["lr"] == 4e-4


def test_two_step_samples_go_through_the_published_times(suite):
    found = set()
    for cell in cells(suite):
        wanted = TWO_STEP.get((cell.run.dataset, cell.label))
        if wanted and cell.sampler.startswith("multistep") and cell.sampler.count("+") == 0:
            index, steps = wanted
            time = cell.run.noise.times(steps)[index]
            assert config.parse_sampler(cell.sampler).times == (pytest.approx(time, rel=1e-5),)
            found.add((cell.run.dataset, cell.label))
    assert found == set(TWO_STEP)


def test_every_published_number_of_these_methods_has_a_row_beside_it(suite):
    from cm.report.tables import published

    for name, artefact in suite.artefacts.items():
        if artefact.published and "group" not in artefact.published:
            rows = {(cell.label, config.parse_sampler(cell.sampler).evaluations) for cell in suite.cells(artefact)}
            paper = {row for row in published(artefact) if row[0] in ("EDM", "CD", "CT", "PD")}
            paper -= {row for row in paper if row[0] == "PD"} if suite.name == "released" else set()
            assert rows == paper, name
    assert {a.published["dataset"] for a in suite.artefacts.values() if a.published} == set(MU_N_SOLVER)


def test_figures_have_the_settings_of_the_paper():
    suite = load_suite(ROOT / "config/suites/paper.yaml")
    varied = {name: {cell.varied for cell in suite.cells(suite.artefacts[name])} for name in ("fig3a", "fig3c")}
    assert varied["fig3a"] == {(("distance", name),) for name in ("l1", "l2", "lpips")}
    assert varied["fig3c"] == {(("steps", steps),) for steps in (9, 12, 18, 36, 50, 60, 80, 120)}
    solvers = {cell.run.settings["solver"] for cell in suite.cells(suite.artefacts["fig3b"])}
    assert solvers == {"euler", "heun"}
    for dataset in MU_N_SOLVER:
        methods = {(c.run.method, c.run.settings["distance"]) for c in suite.cells(suite.artefacts[f"fig4_{dataset}"])}
        assert methods == {(method, distance) for method in ("pd", "cd") for distance in ("l2", "lpips")}


def test_every_published_checkpoint_is_scored():
    suite = load_suite(ROOT / "config/suites/released.yaml")
    scored = {(cell.run.dataset, cell.run.settings["released"]) for cell in cells(suite)}
    files = [path for path in EXPERIMENTS.glob("*/*.yaml") if path.stem != "base"]
    listed = {(path.parent.name, name) for path in files for name in read_yaml(path).get("released", {})}
    assert scored == listed
    assert len(listed) == 12 + 10 + 5
    assert not any(Experiments(EXPERIMENTS).inputs(cell.run) for cell in cells(suite))
