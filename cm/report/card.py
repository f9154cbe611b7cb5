"""Model cards: what a model file is, in Markdown with the metadata that model hubs read.

The metadata has the form of `huggingface_hub.ModelCardData`; `model-index` holds the scores, of which `config` is the
protocol. Everything is taken from the description of the model, from its score files, and, where they are at hand, from
the experiment files, which alone know the name of a teacher.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cm import __version__
from cm.config.licences import Licence, find_licence, find_licence_of_url
from cm.config.runs import RunName
from cm.config.sections import Weights
from cm.errors import UserError
from cm.report import headings, result_files
from cm.report.recipes import flatten_settings
from cm.report.writing import format_setting

if TYPE_CHECKING:
    from cm.config import Experiments, Run

SECTIONS = ("objective", "training", "network", "noise")
TASK = "unconditional-image-generation"
PAPER = "2303.01469"  # arXiv
CITATION = """```bibtex
@inproceedings{song2023consistency,
  title     = {Consistency Models},
  author    = {Song, Yang and Dhariwal, Prafulla and Chen, Mark and Sutskever, Ilya},
  booktitle = {Proceedings of the 40th International Conference on Machine Learning},
  year      = {2023}
}
```"""
NATIVE = """```python
import cm

model = cm.load("{file}")
images = model.sample("{sampler}", count=64, seed=0)  # uint8 [64, H, W, C]
```

    cm sample --model {file} --sampler "{sampler}" --count 64 --out samples.npy"""
DIFFUSERS = """```python
from diffusers import ConsistencyModelPipeline

pipeline = ConsistencyModelPipeline.from_pretrained("{file}")
images = pipeline(num_inference_steps=1, batch_size=16).images
```"""
LOADING = {"cm": NATIVE, "diffusers": DIFFUSERS}  # by the library that loads the model


@dataclasses.dataclass(frozen=True)
class Origins:
    """What a model was made from: the registered data set, and other models by their role, as far as it is known."""

    dataset: str
    inputs: Mapping[str, Run | Weights]
    sampler: str | None = None


def find_origins(run: str, experiments: Experiments) -> Origins:
    """What a run was made from by experiment files; without any for it, the data set is taken by its name alone."""
    from cm.config import sampler_name

    name = RunName.parse(run)
    try:
        known = experiments.run(run)
        sampler = sampler_name(known, known.links.sampler) if known.links.sampler else None
        return Origins(experiments.data(name.dataset).name, experiments.inputs(known), sampler)
    except UserError:
        return Origins(name.dataset, {})


def write_card(
    description: Mapping[str, Any],
    origins: Origins,
    scores: Sequence[result_files.Row] = (),
    *,
    file: str,
    library: str = "cm",
    url: str | None = None,
) -> str:
    """The model card of a model as text.

    `description`: that of the model file. `scores`: rows of `cm.report.results`. `file`: the name by which the card
    refers to the model. `library`: which loads it, `cm` or `diffusers`. `url`: where the scores are published. Raises
    UserError for a model that makes no images.
    """
    if description["preconditioning"] is None:
        raise UserError(f"{file} holds {description['run']}, which makes no images and has no card")
    sampler = next((row["sampler"] for row in scores if row.get("sampler")), None) or origins.sampler or "onestep"
    licences = list(_find_licences(description, origins))
    parts = [
        f"---\n{_write_metadata(description, origins, scores, library, url)}---",
        f"# {description['run']}",
        _introduce(description, origins),
        "## How to load it",
        LOADING[library].format(file=file, sampler=sampler),
        "## Scores",
        _write_scores(scores),
        "## Licences",
        "What the model was made from has these licences; whether they go on to the model is not decided here.",
        _write_list(f"{role}: {title}, {words}" for role, title, words in licences),
        "## Recipe",
        _write_recipe(description),
        "## Citation",
        CITATION,
    ]
    return "\n\n".join(parts) + "\n"


# ---- metadata -------------------------------------------------------------------------------------------------------


def _write_metadata(
    description: Mapping[str, Any],
    origins: Origins,
    scores: Sequence[result_files.Row],
    library: str,
    url: str | None,
) -> str:
    import yaml

    own = _licence_of_checkpoint(description)
    metadata: dict[str, Any] = {
        "license": own.hub if own else "unknown",
        "library_name": {"cm": "consistency-models-suite"}.get(library, library),
        "pipeline_tag": TASK,
        "tags": ["consistency-models", RunName.parse(description["run"]).method, f"arxiv:{PAPER}"],
        "datasets": [origins.dataset],
    }
    results = [_result(row, origins.dataset, url) for row in scores]
    if results:
        metadata["model-index"] = [{"name": description["run"], "results": results}]
    text: str = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    return text


def _result(row: result_files.Row, dataset: str, url: str | None) -> dict[str, Any]:
    """An entry of `model-index`: one score, with its metrics, and with the protocol as `config` and source."""
    ends = result_files.split_metrics(row)[1]
    names = ("sampler", "nfe", "samples", "extractor", "resizer", "quantization", "commit", "protocol_digest")
    how = {name: row[name] for name in names if row.get(name) not in (None, "")}
    found: dict[str, Any] = {
        "task": {"type": TASK},
        "dataset": {"type": dataset, "name": _title_data(dataset), "split": row["reference"]},
        "metrics": [
            {
                "type": metric,
                "name": f"{headings.metric_title(metric, row['extractor'])}, {row['sampler']}",
                "value": row[metric],
                "config": row["protocol"],
                "args": {**how, **ends.get(metric, {})},
            }
            for metric in _stated_metrics(row)
        ],
    }
    return found | ({"source": {"name": f"protocol {row['protocol']}", "url": url}} if url else {})


# ---- text -----------------------------------------------------------------------------------------------------------


def _introduce(description: Mapping[str, Any], origins: Origins) -> str:
    name, made = RunName.parse(description["run"]), _made_from(description)
    data = _title_data(origins.dataset)
    resolution, channels = description["network"]["resolution"], description["network"]["image_channels"]
    size = f"{resolution}x{resolution} pixels with {channels} channel{'s' if channels > 1 else ''}"
    sentences = [
        f"A model of the method {name.method.upper()} for {data}, images of {size}, "
        f"at {description['progress']} % of the run `{description['run']}`.",
        f"It was converted from {made['url']}." if "url" in made else "It was trained by this suite.",
        f"Version {description.get('version', 'not stated')}, commit {description['commit']}.",
        f"This card was written by `cm card` {__version__} from the description in the model file and its score files.",
    ]
    digests = [f"{role} `{digest}`" for role, digest in made.items() if role not in ("url", "licence", "checkpoint")]
    return " ".join(sentences) + (f"\n\nSHA-256 of what it was made from: {', '.join(digests)}." if digests else "")


def _write_scores(scores: Sequence[result_files.Row]) -> str:
    from tabulate import tabulate

    if not scores:
        return "No scores of this model file were at hand."
    rows = itertools.chain.from_iterable(map(_score_lines, scores))
    heads = ("sampler", "NFE", "metric", "value", "low", "high", "samples", "protocol", "commit")
    table = tabulate(rows, headers=heads, tablefmt="pipe", floatfmt=".4g", disable_numparse=[0, 2, 7, 8])
    return f"{table}\n\nLow and high are the ends of a 95 % bootstrap interval over the samples."


def _stated_metrics(row: result_files.Row) -> list[str]:
    return [metric for metric, value in result_files.split_metrics(row)[0].items() if value is not None]


def _score_lines(row: result_files.Row) -> Iterator[tuple[Any, ...]]:
    """A line of the table of scores for each metric that a score states."""
    how = row["samples"], row["protocol"], row["commit"]
    for metric in _stated_metrics(row):
        ends = result_files.split_metrics(row)[1].get(metric, {})
        title = headings.metric_title(metric, row["extractor"])
        yield row["sampler"], row["nfe"], title, row[metric], ends.get("low"), ends.get("high"), *how


def _write_recipe(description: Mapping[str, Any]) -> str:
    from tabulate import tabulate

    settings: dict[str, Any] = {}
    for section in SECTIONS:
        settings |= flatten_settings(_section(description, section), section)
    rows = [(key, format_setting(value)) for key, value in settings.items()]
    return tabulate(rows, headers=("setting", "value"), tablefmt="pipe", disable_numparse=True)


def _section(description: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of a description, empty for one that is none: the file may be of others."""
    section = description.get(name)
    return section if isinstance(section, Mapping) else {}


def _made_from(description: Mapping[str, Any]) -> dict[str, str]:
    """What a model file says that its model was made from, by role."""
    return {role: str(value) for role, value in _section(description, "made_from").items()}


def _title_data(dataset: str) -> str:
    licence = find_licence("data", dataset)
    return licence.title if licence else dataset


def _write_list(lines: Iterator[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


# ---- licences -------------------------------------------------------------------------------------------------------


def _find_licences(description: Mapping[str, Any], origins: Origins) -> Iterator[tuple[str, str, str]]:
    """Role, title and licence of all that a model was made from."""
    yield "data", _title_data(origins.dataset), _describe(find_licence("data", origins.dataset))
    made = _made_from(description)
    if "checkpoint" in made:
        stated = f"{made['licence']}, as the experiment file states" if made.get("licence") else "not known"
        yield "checkpoint", made.get("url", made["checkpoint"]), _describe(_licence_of_checkpoint(description), stated)
    for role, other in origins.inputs.items():
        if isinstance(other, Weights):
            yield role, other.name, _describe(find_licence("weights", other.name))
        elif other.released:
            yield role, other.name, _describe(find_licence_of_url(other.released.url), other.released.licence)
        else:
            yield role, other.name, "trained by this suite, on the same data"
    for role in set(made) & {"teacher", "perceptual"} - set(origins.inputs):
        yield role, f"a model of SHA-256 {made[role]}", "not known"


def _describe(licence: Licence | None, otherwise: str = "not known") -> str:
    return licence.describe() if licence else otherwise


def _licence_of_checkpoint(description: Mapping[str, Any]) -> Licence | None:
    """The licence of the checkpoint that a model was converted from, None for a trained model."""
    return find_licence_of_url(_made_from(description).get("url", ""))
