"""Where everything is below results/ and reports/: the only module that builds or parses these paths.

Every method gives a path as text. Without arguments its parts are Snakemake's wildcards, so the same method writes the
patterns of the workflow's rules:

    Layout().score()                        results/scores/{run}/{progress}/{sampler}/{protocol}.json
    Layout().score(run="digits/cd/default/seed0", progress=100, sampler="onestep", protocol="offline")

No path leaves the folder that it belongs to: a part that is absolute or has `..` in it is refused.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from cm.errors import UserError

PREVIEW_COUNT = 64  # samples of a preview
EDIT_PREVIEW_COUNT = 16  # edited images of a preview
METRICS_FILE = "metrics.jsonl"  # in the folder of a run
_PARTS = {
    "run": r".+/seed[0-9]+",
    "progress": r"[0-9]+(?:-ema[0-9.e-]+)?",
    "sampler": r"[^/]+",
    "edit": r"[^/]+",
    "protocol": r"[^/]+",
    "dataset": r"[^/]+",
    "split": r"[^/]+",
}


def name_model(progress: int | str, ema_decay: float | None = None) -> str:
    """The name of a model of a run: its percentage of training, and the decay of its averages if not the default.

    `100`, or `100-ema0.9999`: what stands for `{progress}` in the paths of models, samples and scores.
    """
    return f"{progress}" if ema_decay is None else f"{progress}-ema{ema_decay!r}"


def parse_model_name(name: str) -> tuple[int, float | None]:
    """The inverse of `name_model`: the percentage of training, and the decay or None."""
    progress, _, decay = name.partition("-ema")
    return int(progress), float(decay) if decay else None


def join(root: str, *parts: str) -> str:
    """The path of the parts below a folder. Raises UserError for parts with which it would be elsewhere."""
    path = "/".join(parts)
    if "\0" in path or {"", "..", "."} & set(path.split("/")):
        raise UserError(f"'{path}' is not a path below {root}")
    return f"{root}/{path}"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The paths below the folders of results and of reports."""

    results: str = "results"
    reports: str = "reports"

    def data(self, dataset: str = "{dataset}") -> str:
        """The folder of a prepared data set."""
        return join(self.results, "data", dataset)

    def manifest(self, dataset: str = "{dataset}") -> str:
        """What a prepared data set was made of."""
        return join(self.data(dataset), "manifest.json")

    def images(self, dataset: str = "{dataset}", split: str = "{split}") -> str:
        """The images of a split, uint8 [N, H, W, C]."""
        return join(self.data(dataset), split, "images.npy")

    def labels(self, dataset: str = "{dataset}", split: str = "{split}") -> str:
        """The labels of a split, int64 [N]."""
        return join(self.data(dataset), split, "labels.npy")

    def model(self, run: str = "{run}", progress: int | str = "{progress}") -> str:
        """The model of a run at a percentage of its training, or of a name of `name_model`."""
        return join(self.results, "models", run, f"{progress}.safetensors")

    def seconds(self, run: str = "{run}") -> str:
        """How long the training of a run took, over all its starts."""
        return join(self.results, "models", run, "seconds.json")

    def metrics(self, run: str = "{run}") -> str:
        """What a training has measured of itself as it went on; no output of a rule, so that it is never made again."""
        return join(self.results, "models", run, METRICS_FILE)

    def state(self, run: str = "{run}") -> str:
        """The last state of a training that is not complete."""
        return join(self.results, "models", run, "partial/state.safetensors")

    def lock(self, run: str = "{run}") -> str:
        """The lock of a training that is running."""
        return join(self.results, "models", run, "partial/lock")

    def jobs(self, run: str = "{run}") -> str:
        """The folder of the jobs of a training, until its models have been collected."""
        return join(self.results, "jobs", run)

    def weights(self, name: str = "{name}") -> str:
        """Pretrained weights, as this suite reads them."""
        return join(self.results, "weights", f"{name}.safetensors")

    def samples(
        self, run: str = "{run}", progress: int | str = "{progress}", sampler: str = "{sampler}", suffix: str = ".npy"
    ) -> str:
        """The samples of a model through a sampler, uint8 [N, H, W, C]; how they were made has the suffix .json."""
        return join(self.results, "samples", run, str(progress), f"{sampler}{suffix}")

    def preview(
        self, run: str = "{run}", progress: int | str = "{progress}", sampler: str = "{sampler}", suffix: str = ".npy"
    ) -> str:
        """The first samples, which are kept; as a picture with the suffix .png."""
        return join(self.results, "previews", run, str(progress), f"{sampler}{suffix}")

    def features(self, dataset: str = "{dataset}", protocol: str = "{protocol}") -> str:
        """What a protocol needs of the features of a data set's reference images."""
        return join(self.results, "features", dataset, f"{protocol}.npz")

    def score(
        self,
        run: str = "{run}",
        progress: int | str = "{progress}",
        sampler: str = "{sampler}",
        protocol: str = "{protocol}",
    ) -> str:
        """The score of a model through a sampler by a protocol."""
        return join(self.results, "scores", run, str(progress), sampler, f"{protocol}.json")

    def search(self, run: str = "{run}", progress: int | str = "{progress}", sampler: str = "{sampler}") -> str:
        """The time points that were found for a sampler `search,...` of a model, by the first protocol of its run."""
        return join(self.results, "searches", run, str(progress), f"{sampler}.json")

    def edit_preview(
        self, run: str = "{run}", progress: int | str = "{progress}", edit: str = "{edit}", suffix: str = ".npy"
    ) -> str:
        """The first edited images beside what was given and the originals; as a picture with the suffix .png."""
        return join(self.results, "edits", run, str(progress), edit, f"preview{suffix}")

    def edit_score(self, run: str = "{run}", progress: int | str = "{progress}", edit: str = "{edit}") -> str:
        """The score of an edit with a model, by the first protocol of its run."""
        return join(self.results, "edits", run, str(progress), edit, "score.json")

    def baseline(self, dataset: str = "{dataset}", split: str = "{split}", protocol: str = "{protocol}") -> str:
        """The score of the real images of a split by a protocol."""
        return join(self.results, "scores", dataset, "real", split, f"{protocol}.json")

    @property
    def logs(self) -> str:
        """The folder of the logs of jobs."""
        return f"{self.results}/logs"

    def log(self, *parts: str) -> str:
        """The log of a job."""
        return join(self.logs, f"{'/'.join(parts)}.log")

    def table(self, name: str = "{name}", suffix: str = ".csv") -> str:
        """A table."""
        return join(self.reports, "tables", f"{name}{suffix}")

    def figure(self, name: str = "{name}", suffix: str = ".svg") -> str:
        """A figure."""
        return join(self.reports, "figures", f"{name}{suffix}")

    @property
    def page(self) -> str:
        """The report of a suite."""
        return f"{self.reports}/report.html"

    @property
    def workflow_report(self) -> str:
        """Snakemake's own report, to which the report links."""
        return f"{self.reports}/snakemake.html"

    def parse(self, path: str) -> dict[str, str]:
        """The run and, where the path has them, progress, sampler, edit and protocol; nothing for other paths."""
        patterns = (
            self.edit_score(),
            self.edit_preview(suffix="{suffix}"),
            self.score(),
            self.samples(suffix="{suffix}"),
            self.preview(suffix="{suffix}"),
            self.search(),
            self.model(),
        )
        for pattern in patterns:
            match = re.fullmatch(_regular_expression(pattern), path)
            if match:
                return match.groupdict()
        return {}

    def parse_model(self, path: str) -> dict[str, str]:
        """The folder of results (`results`), the run and the progress of a model file; nothing for other paths."""
        pattern = _regular_expression(self.model()).replace(re.escape(self.results), "(?P<results>.*)", 1)
        match = re.fullmatch(pattern, path)
        return match.groupdict() if match else {}

    def parse_baseline(self, path: str) -> dict[str, str]:
        """Data set, split and protocol of the score of real images; nothing for other paths."""
        match = re.fullmatch(_regular_expression(self.baseline()), path)
        return match.groupdict() if match else {}


def _regular_expression(pattern: str) -> str:
    """The regular expression of a pattern with wildcards."""
    expression = re.escape(pattern).replace(r"\{suffix\}", r"\.\w+")
    for name, part in _PARTS.items():
        expression = expression.replace(rf"\{{{name}\}}", f"(?P<{name}>{part})")
    return expression


def check_layout(layout: Layout) -> None:
    """UserError if the results were written in the layout of version 0.1, whose files mean something else."""
    root = Path(layout.results)
    old = (root / "images", *root.glob("scores/*/*/*/seed*/*/*.json"), *root.glob("scores/*/real/*.json"))
    for path in old:
        if path.exists():
            raise UserError(
                f"{layout.results}/ was written by an earlier version ({path}): move or remove it, and start anew"
            )
