"""Where everything is below results/ and reports/: the only module that builds or parses these paths.

Every method gives a path as text. Without arguments its parts are Snakemake's wildcards, so the same method writes the
patterns of the workflow's rules:

    Layout().score()                        results/scores/{run}/{progress}/{sampler}/{protocol}.json
    Layout().score(run="digits/cd/default/seed0", progress=100, sampler="onestep", protocol="offline")
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from cm.errors import UserError

PREVIEW_COUNT = 64  # samples of a preview
_PARTS = {"run": r".+/seed\d+", "progress": r"\d+", "sampler": r"[^/]+", "protocol": r"[^/]+"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """The paths below the folders of results and of reports."""

    results: str = "results"
    reports: str = "reports"

    def data(self, dataset: str = "{dataset}") -> str:
        """The folder of a prepared data set."""
        return f"{self.results}/data/{dataset}"

    def manifest(self, dataset: str = "{dataset}") -> str:
        """What a prepared data set was made of."""
        return f"{self.data(dataset)}/manifest.json"

    def images(self, dataset: str = "{dataset}", split: str = "{split}") -> str:
        """The images of a split, uint8 [N, H, W, C]."""
        return f"{self.data(dataset)}/{split}/images.npy"

    def labels(self, dataset: str = "{dataset}", split: str = "{split}") -> str:
        """The labels of a split, int64 [N]."""
        return f"{self.data(dataset)}/{split}/labels.npy"

    def model(self, run: str = "{run}", progress: int | str = "{progress}") -> str:
        """The model of a run at a percentage of its training."""
        return f"{self.results}/models/{run}/{progress}.safetensors"

    def seconds(self, run: str = "{run}") -> str:
        """How long the training of a run took, over all its starts."""
        return f"{self.results}/models/{run}/seconds.json"

    def state(self, run: str = "{run}") -> str:
        """The last state of a training that is not complete."""
        return f"{self.results}/models/{run}/partial/state.safetensors"

    def jobs(self, run: str = "{run}") -> str:
        """The folder of the jobs of a training, until its models have been collected."""
        return f"{self.results}/jobs/{run}"

    def weights(self, name: str = "{name}") -> str:
        """Pretrained weights, as this suite reads them."""
        return f"{self.results}/weights/{name}.safetensors"

    def samples(
        self, run: str = "{run}", progress: int | str = "{progress}", sampler: str = "{sampler}", suffix: str = ".npy"
    ) -> str:
        """The samples of a model through a sampler, uint8 [N, H, W, C]; how they were made has the suffix .json."""
        return f"{self.results}/samples/{run}/{progress}/{sampler}{suffix}"

    def preview(
        self, run: str = "{run}", progress: int | str = "{progress}", sampler: str = "{sampler}", suffix: str = ".npy"
    ) -> str:
        """The first samples, which are kept; as a picture with the suffix .png."""
        return f"{self.results}/previews/{run}/{progress}/{sampler}{suffix}"

    def features(self, dataset: str = "{dataset}", protocol: str = "{protocol}") -> str:
        """What a protocol needs of the features of a data set's reference images."""
        return f"{self.results}/features/{dataset}/{protocol}.npz"

    def score(
        self,
        run: str = "{run}",
        progress: int | str = "{progress}",
        sampler: str = "{sampler}",
        protocol: str = "{protocol}",
    ) -> str:
        """The score of a model through a sampler by a protocol."""
        return f"{self.results}/scores/{run}/{progress}/{sampler}/{protocol}.json"

    def baseline(self, dataset: str = "{dataset}", split: str = "{split}", protocol: str = "{protocol}") -> str:
        """The score of the real images of a split by a protocol."""
        return f"{self.results}/scores/{dataset}/real/{split}/{protocol}.json"

    @property
    def logs(self) -> str:
        """The folder of the logs of jobs."""
        return f"{self.results}/logs"

    def log(self, *parts: str) -> str:
        """The log of a job."""
        return f"{self.logs}/{'/'.join(parts)}.log"

    def table(self, name: str = "{name}", suffix: str = ".csv") -> str:
        """A table."""
        return f"{self.reports}/tables/{name}{suffix}"

    def figure(self, name: str = "{name}", suffix: str = ".svg") -> str:
        """A figure."""
        return f"{self.reports}/figures/{name}{suffix}"

    def parse(self, path: str) -> dict[str, str]:
        """The run and, where the path has them, progress, sampler and protocol; nothing for another kind of path."""
        patterns = (self.score(), self.samples(suffix="{suffix}"), self.preview(suffix="{suffix}"), self.model())
        for pattern in patterns:
            match = re.fullmatch(_regular_expression(pattern), path)
            if match:
                return match.groupdict()
        return {}


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
