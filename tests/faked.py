"""Made-up results: score files, previews, real images and training seconds of every cell of a suite."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np

from cm import config
from cm.config.layout import Layout
from cm.report import scores

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "config" / "suites" / "demo.yaml"
FD = "FD, digits, classifier features"
IS = "IS, digits, classifier features"
EXTRACTOR = {"name": "digits/classifier/default/seed0", "sha256": "e" * 64}
PROTOCOL = {
    "name": "offline",
    "extractor": EXTRACTOR["name"],
    "resizer": "none",
    "quantization": "truncate",
    "reference": "train",
    "statistics": None,
    "samples": 2000,
    "reference_images": 10000,
    "metrics": ["fid", "inception_score", "precision", "recall"],
}
HALVES = {"images": 449, "metrics": {"fid": 0.05, "inception_score": None, "precision": 0.85, "recall": 0.95}}
NEAREST = {  # of the 64 samples of a preview; those in the middle are most like copies
    "places": list(range(64)),
    "distances": [1.0 + abs(index - 32) for index in range(64)],
    "spacings": [2.0] * 64,
}
HARDWARE = "1 x Imaginary GPU, Imaginary CPU (8 cores)"
NO_LOGITS = "the weights of the extractor have no logits"


class FakeCounter:
    """Counts the FLOPs of an evaluation with a function of the run; an image of training costs three times as much."""

    def __init__(self, evaluation) -> None:
        self.of_evaluation = evaluation

    def of_training(self, run, experiments) -> int:
        return 3 * self.of_evaluation(run)


def content(fid: float, **more) -> dict:
    """A score file with that FD, and the other metrics as functions of it."""
    return {
        "metrics": {"fid": fid, "inception_score": 10 - fid / 10, "precision": 0.9, "recall": 0.5},
        "unavailable": {},
        "uncertainty": {"fid": {"low": fid - 0.2, "high": fid + 0.3}},
        "samples": 2000,
        "protocol": PROTOCOL,
        "extractor": EXTRACTOR,
        "reference": {"split": "train", "images": 898, "sha256": "r" * 64, "split_halves": HALVES},
        "seconds": {"sampling": 1.5, "scoring": 0.4},
        "versions": {"cm": "0.1.0", "torch": "2.15.0"},
        "commit": "abc123",
        "hardware": HARDWARE,
        **more,
    }


def write(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def save_images(path: Path, images: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, images)


def fid_of(cell: config.Cell) -> float:
    """Some FD, of which the mean over seeds 0, 1, 2 is that of seed 1."""
    nfe = config.parse_sampler(cell.sampler).evaluations
    return (2 + len(cell.run.variant) / 10 + 100 / cell.progress) / math.sqrt(nfe) + 0.1 * cell.run.seed


def fake(suite: config.Suite, root: Path, fid=fid_of) -> Path:
    """Scores, previews, real images and training seconds of every cell of a suite."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), np.uint8)
    layout = Layout(str(root))
    cells = {(*cell.samples, cell.protocol.name, cell.edit): cell for cell in suite.all_cells()}.values()
    for cell in cells:
        if cell.edit:
            fake_edit(root, cell)
            continue
        nfe = config.parse_sampler(cell.sampler).evaluations
        about = {"run": cell.run.name, "progress": cell.progress, "sampler": cell.sampler, "nfe": nfe}
        about |= {"nearest": NEAREST, "protocol": {**PROTOCOL, "name": cell.protocol.name}}
        write(scores.score_path(cell, root), content(fid(cell), **about))
        if cell.sampler.startswith("search"):
            fake_search(root, cell)
        save_images(Path(layout.preview(*cell.samples)), noise)
    for dataset, protocol in {(cell.run.dataset, cell.protocol.name) for cell in cells if not cell.edit}:
        fake_baseline(root, dataset, protocol)
        save_images(Path(layout.images(dataset, "train")), noise)
    for run in suite.all_runs():
        seconds = {"wall": 10.0 + run.seed, "processor": 20.0, "hardware": HARDWARE}
        write(Path(Layout(str(root)).seconds(run.name)), seconds)
    return root


def fake_search(root: Path, cell: config.Cell) -> None:
    """The searches for the points of a cell: the first is in the middle of the times, the others at the lower end."""
    sampler, searches = config.parse_sampler(cell.sampler), []
    while len(searches) < sampler.steps - 1:
        fixed = [one["time"] for one in searches]
        times = sampler.candidates(cell.run.noise, fixed)[:: 3 if fixed else 4]
        middle = len(times) - 1 if fixed else len(times) // 2
        fids = [2.0 + abs(place - middle) - len(fixed) for place in range(len(times))]
        found = [
            {"time": t, "fid": fid, "low": fid - 0.2, "high": fid + 0.3} for t, fid in zip(times, fids, strict=True)
        ]
        about = {"fixed": fixed, "time": times[middle], "at_end": bool(fixed), "candidates": len(times)}
        searches.append({**about, "evaluations": found, "violations": []})
    how = {key: value for key, value in content(1.0).items() if key not in ("metrics", "uncertainty", "seconds")}
    about = {"run": cell.run.name, "progress": cell.progress, "sampler": cell.sampler, "quantization": "truncate"}
    times = [one["time"] for one in searches]
    write(Path(Layout(str(root)).search(*cell.samples)), {**how, **about, "times": times, "searches": searches})


def fake_edit(root: Path, cell: config.Cell) -> None:
    """The preview and the score of an edit."""
    layout, edit = Layout(str(root)), config.parse_edit(cell.edit)
    columns = edit.points if cell.edit.startswith("interpolation") else 2 + edit.results
    images = np.random.default_rng(0).integers(0, 256, (16 * columns, 8, 8, 1), np.uint8)
    save_images(Path(layout.edit_preview(*cell.edited)), images)
    write(Path(layout.edit_score(*cell.edited)), edit_content(cell.edit, 10.0 + cell.run.seed, nfe=edit.evaluations))


def edit_content(edit: str, psnr: float, **more) -> dict:
    """The score file of an edit with that PSNR, and of one baseline."""
    numbers = {"ssim": 0.5, "lpips": 1.5, "fid": 9.0, "known": 0.25, "uncertainty": {"fid": {"low": 8.0, "high": 9.5}}}
    return {
        "run": "digits/cd/default/seed0",
        "edit": edit,
        "nfe": 1,
        "images": 898,
        "source": "digits/test",
        "methods": {"model": {"psnr": psnr, **numbers}, "baseline": {"psnr": 5.0, **numbers, "known": None}},
        "perceptual": "digits/classifier/default/seed1",
        "protocol": PROTOCOL,
        "extractor": EXTRACTOR,
        **more,
    }


def fake_baseline(root: Path, dataset: str, protocol: str) -> None:
    """The score of the test split of a data set."""
    path = Path(Layout(str(root)).baseline(dataset, "test", protocol))
    interval = {"fid": {"low": 0.3, "high": 0.33, "at_infinity": 0.21}}
    about = {"sampler": None, "protocol": {**PROTOCOL, "name": protocol}}
    write(path, content(0.31, samples=899, uncertainty=interval, **about))


def demo(path: Path, change) -> config.Suite:
    """The demo suite, its text changed."""
    text = f"{change(DEMO.read_text())}\nexperiments: {ROOT / 'config' / 'experiments'}\n"
    path.write_text(text)
    return config.load_suite(path)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
