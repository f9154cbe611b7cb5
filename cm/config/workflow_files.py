"""What `config/config.yaml` and `snakemake --config` may hold."""

from __future__ import annotations

import dataclasses

from cm import __version__


@dataclasses.dataclass(frozen=True)
class WorkflowFile:
    """The configuration of the workflow: `config/config.yaml`, and `snakemake --config KEY=VALUE`.

    `suite`: the suite to make, the name of a file in config/suites or the path of a file that ends in `.yaml`.
    `container`: the image in which `--sdm apptainer` runs the jobs: an address (`docker-daemon:`, `docker://`), or the
    path of a `.sif` file.
    """

    suite: str = "demo"
    container: str = f"docker-daemon:consistency-models-suite:{__version__}"
