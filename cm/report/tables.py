"""Tables: a row of numbers per thing compared, full precision in CSV, rounded in Markdown and LaTeX.

A column `X, std` belongs to the column `X`, and is printed behind its value there: `2.93 ± 0.10`.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm import report
from cm.errors import UserError, unknown
from cm.report import figures, scores
from cm.report.scores import Score

if TYPE_CHECKING:
    from pandas import DataFrame

    from cm.config import Artefact, Cell, Run, Suite

STD = ", std"
DASH = "\u2013"
DATASETS = {
    "cifar10": "CIFAR-10",
    "imagenet64": "ImageNet 64",
    "lsun_bedroom": "LSUN Bedroom 256",
    "lsun_cat": "LSUN Cat 256",
}
RECIPE = {
    "objective.name": "method",
    "run.variant": "variant",
    "inputs.teacher": "teacher",
    "training.lr": "learning rate",
    "training.batch": "batch size",
    "objective.target_mu": "mu",
    "objective.mu0": "mu0",
    "objective.s0": "s0",
    "objective.s1": "s1",
    "objective.steps": "N",
    "objective.solver": "ODE solver",
    "objective.distance": "distance d",
    "inputs.perceptual": "network of the distance",
    "training.ema": "EMA decay rate",
    "training.iterations": "training iterations",
    "training.precision": "precision",
    "network.dropout": "dropout probability",
    "training.optimiser": "optimiser",
    "training.lr_decay": "learning rate decay",
    "training.warmup": "warm-up iterations",
    "training.clip": "gradient clipping",
    "training.flip": "horizontal flips",
}


@report.kind("comparison", form="table", needs="scores", floor=True)
def comparison(suite: Suite, artefact: Artefact, root: Path) -> DataFrame:
    """Tables 1 and 2 of the paper: a row per label and NFE, measured beside published; then the paper's other rows."""
    found = scores.load(suite, artefact, root)
    real = scores.floor(suite, found, root)
    paper = published(artefact)
    rows = [{"Method": real.label, "NFE": None, **_measured([real]), "seeds": None}]
    for (label, nfe), group in scores.groups(found, lambda score: (score.label, score.nfe)).items():
        rows.append({"Method": label, "NFE": nfe, **_measured(group), **paper.pop((label, nfe), {})})
    best = _best(rows, found[0].heading("fid"), start=1)
    rows += [{"Method": method, "NFE": nfe, **row} for (method, nfe), row in paper.items()]
    return _table(rows, [*_notes([*found, real]), *_paper_notes(artefact)], best)


@report.kind("recipes", form="table", needs="nothing")
def recipes(suite: Suite, artefact: Artefact, root: Path) -> DataFrame:
    """Table 3 of the paper: a row per setting that any run has, a column per run of the first seed."""
    runs = _named_runs(suite, artefact)
    recipes = {name: _recipe(run, suite.experiments) for name, run in runs.items()}
    keys = list(dict.fromkeys(key for recipe in recipes.values() for key in recipe))
    keys.sort(key=_rank)
    rows = [{"setting": _setting(key), "key": key, **{run: recipes[run].get(key) for run in recipes}} for key in keys]
    return _table(rows, [])


@report.kind("ablation", form="both", needs="scores")
def ablation(suite: Suite, artefact: Artefact, root: Path) -> tuple[DataFrame, Any]:
    """A row per combination of the varied settings; and FID over the last of them, a line per value of the others."""
    found = scores.load(suite, artefact, root)
    if not any(score.varied for score in found):
        raise UserError(f"artefact {artefact.name}: an ablation needs 'vary:' or 'variants:' in its entries")
    rows = []
    for group in scores.groups(found, figures.place).values():
        first = group[0]
        rows.append({**_texts(first.varied), "variant": first.variant, "NFE": first.nfe, **_measured(group)})
    return _table(rows, _notes(found), _best(rows, found[0].heading("fid"))), figures.ablation(found)


@report.kind("timings", form="table", needs="benchmarks")
def timings(suite: Suite, artefact: Artefact, root: Path) -> DataFrame:
    """Seconds of training, from Snakemake's benchmarks, and of sampling, from the scores that are there."""
    groups: dict[tuple, list[Cell]] = {}
    for cell in suite.cells(artefact):
        groups.setdefault((cell.label, cell.run.variant, cell.sampler, cell.progress), []).append(cell)
    notes = ["Training is the wall-clock time of its job, with start and kept models; of a resumed one, the last part."]
    notes += [_SPREAD] if len(artefact.seeds) > 1 else []
    return _table([_timing(cells, root) for cells in groups.values()], notes)


def published(artefact: Artefact) -> dict[tuple[str, int], dict[str, str]]:
    """Rows of the paper's table that the artefact names, (method, NFE) to heading to number as printed; or nothing."""
    wanted = artefact.published
    if not wanted:
        return {}
    with open(Path(__file__).with_name("published.csv"), newline="") as file:
        every = list(csv.DictReader(file))
    for key in ("table", "dataset"):
        if wanted.get(key) not in {row[key] for row in every}:
            raise unknown(key, wanted.get(key), {row[key] for row in every}, f"artefact {artefact.name}, published")
    rows = [row for row in every if all(row[key] == wanted[key] for key in ("table", "dataset"))]
    if not rows:
        raise UserError(f"artefact {artefact.name}: the paper's {wanted['table']} has no {wanted['dataset']}")
    titles = _paper_titles(wanted["dataset"])
    used = [key for key in titles if any(row[key] for row in rows)]
    return {(row["method"], int(row["nfe"])): {titles[key]: row[key] or None for key in used} for row in rows}


def save(table: DataFrame, stem: Path, caption: str) -> None:
    """Write `<stem>.csv`, `.md` and `.tex`."""
    from cm.files import replacing

    cells = _printed(table)
    texts = {
        "csv": table.to_csv(index=False),
        "md": _markdown(cells, caption, table.attrs["notes"]),
        "tex": _latex(cells, caption, table.attrs["notes"], stem.name),
    }
    for suffix, text in texts.items():
        with replacing(stem.parent / f"{stem.name}.{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")


# ---- rows ---------------------------------------------------------------------------------------------------------

_SPREAD = "± is the standard deviation over seeds (n - 1)."


def _table(rows: Sequence[Mapping[str, Any]], notes: list[str], best: tuple[int, str] | None = None) -> DataFrame:
    """The rows as a table of Python objects; `attrs`: its `notes`, and the row and column of its `best` value."""
    import pandas

    names = dict.fromkeys(name for row in rows for name in row)
    table = pandas.DataFrame([[row.get(name) for name in names] for row in rows], columns=list(names), dtype=object)
    table.attrs = {"notes": notes, "best": best}
    return table


def _measured(group: Sequence[Score]) -> dict[str, Any]:
    """Mean and deviation of each metric of the scores of one model over seeds."""
    row: dict[str, Any] = {}
    for metric in group[0].metrics:
        heading = group[0].heading(metric)
        row[heading], row[heading + STD] = scores.spread([score[metric] for score in group])
    return {**row, "seeds": len(group), "images": group[0].images}


def _best(rows: Sequence[Mapping[str, Any]], heading: str, start: int = 0) -> tuple[int, str] | None:
    """Row and column of the lowest value from row `start` on, if there is anything to compare."""
    if len(rows) - start < 2 or any(heading not in row for row in rows[start:]):
        return None
    return min(range(start, len(rows)), key=lambda index: rows[index][heading]), heading


def _notes(found: Sequence[Score]) -> list[str]:
    several = len({score.seed for score in found if score.seed is not None}) > 1
    return [*([_SPREAD] if several else []), *scores.notes(scores.columns(found))]


def _paper_titles(dataset: str) -> dict[str, str]:
    """Column of published.csv to heading."""
    where = f"{DATASETS.get(dataset, dataset)}, Inception"
    measures = {key: f"published {title}, {where}" for key, title in scores.TITLES.items()}
    return {**measures, "group": "group in the paper", "note": "note in the paper"}


def _paper_notes(artefact: Artefact) -> list[str]:
    if not artefact.published:
        return []
    return ["Published numbers are the paper's (Song et al. 2023), of other data and another extractor."]


def _named_runs(suite: Suite, artefact: Artefact) -> dict[str, Run]:
    """Each run of the first seed once, by its label; with the variant where a label has more than one."""
    cells = {cell.run.name: cell for cell in reversed(suite.cells(artefact)) if cell.run.seed == artefact.seeds[0]}
    cells = dict(reversed(cells.items()))
    labels = [cell.label for cell in cells.values()]
    return {
        cell.label if labels.count(cell.label) == 1 else f"{cell.label} ({cell.run.variant})": cell.run
        for cell in cells.values()
    }


def _recipe(run: Run, experiments: Path) -> dict[str, str]:
    """`section.setting` to value, of every setting; and the runs it starts from."""
    from cm.config import inputs

    flat = {f"{name}.{key}": value for name, section in run.describe().items() for key, value in section.items()}
    others = {f"inputs.{role}": _without_seed(other, run) for role, other in inputs(run, experiments).items()}
    return {key: _text(value) for key, value in {**flat, "run.variant": run.variant, **others}.items()}


def _without_seed(other: Run, run: Run) -> str:
    return other.name.removesuffix(f"/seed{run.seed}")


def _rank(key: str) -> tuple[int, int]:
    """The paper's settings first, as in its Table 3; then section by section."""
    order, sections = list(RECIPE), ["objective", "training", "network", "noise", "evaluation"]
    section = key.partition(".")[0]
    return (
        order.index(key) if key in order else len(order),
        sections.index(section) if section in sections else len(sections),
    )


def _setting(key: str) -> str:
    section, _, name = key.partition(".")
    return RECIPE.get(key, section if name == "name" else f"{section} {name}".replace("_", " "))


def _texts(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value if figures.is_number(value) else _text(value) for key, value in values.items()}


def _text(value: Any) -> str:
    """A setting as the YAML has it."""
    return {"None": "none", "True": "yes", "False": "no"}.get(str(value), str(value))


def _timing(cells: Sequence[Cell], root: Path) -> dict[str, Any]:
    run = cells[0].run
    mean, std = scores.spread([_benchmark(cell, root) for cell in cells])
    seen = run.settings["iterations"] * run.settings["batch"]
    sampled = [scores.read(cell, root) for cell in cells if scores.score_path(cell, root).exists()]
    seconds = [score.seconds["sampling"] for score in sampled if "sampling" in score.seconds]
    sampling = scores.spread(seconds) if seconds else (None, None)
    return {
        "Method": cells[0].label,
        "variant": run.variant,
        **{"training seconds": mean, f"training seconds{STD}": std},
        "seeds": len(cells),
        "training images per second": seen / mean,
        "sampler": cells[0].sampler,
        **{"sampling seconds": sampling[0], f"sampling seconds{STD}": sampling[1]},
        "sampled images": sampled[0].images if seconds else None,
    }


def _benchmark(cell: Cell, root: Path) -> float:
    """Mean seconds of the training in Snakemake's benchmark file."""
    path = Path(root) / "benchmarks" / "train" / f"{cell.run.name}.tsv"
    if not path.exists():
        raise UserError(f"no benchmark {path}: snakemake writes it when it trains {cell.run.name}")
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    try:
        return scores.spread([float(row["s"]) for row in rows])[0]
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is not a benchmark: expected seconds in a column 's'") from None


# ---- print --------------------------------------------------------------------------------------------------------


def _printed(table: DataFrame) -> dict[str, list[str]]:
    """Heading to cells as text, deviations behind their means, the best value in asterisks."""
    columns = {name: table[name].tolist() for name in table if not name.endswith(STD)}
    stds = {name: table.get(name + STD, [None] * len(table)) for name in columns}
    cells = {name: [_number(*pair) for pair in zip(columns[name], stds[name], strict=True)] for name in columns}
    if table.attrs["best"]:
        row, name = table.attrs["best"]
        cells[name][row] = f"**{cells[name][row]}**"
    return cells


def _number(value: Any, std: float | None = None) -> str:
    """Three significant digits, as the paper prints, and the deviation to the same decimal."""
    if value is None:
        return DASH
    if not isinstance(value, float):
        return str(value)
    decimals = min(max(2 - math.floor(math.log10(abs(value))), 0), 4) if value else 2
    return f"{value:.{decimals}f}" + (f" ± {std:.{decimals}f}" if std is not None else "")


def _markdown(cells: Mapping[str, list[str]], caption: str, notes: Sequence[str]) -> str:
    from tabulate import tabulate

    safe = {_plain(name): [_plain(cell) for cell in column] for name, column in cells.items()}
    text = tabulate(safe, headers="keys", tablefmt="pipe", disable_numparse=True, colalign=_alignment(cells))
    return "\n\n".join([caption, text, *notes]) + "\n"


def _plain(text: str) -> str:
    """Text in which Markdown sees no column and nothing struck out."""
    return re.sub(r"([|~])", r"\\\1", text)


def _latex(cells: Mapping[str, list[str]], caption: str, notes: Sequence[str], name: str) -> str:
    """A floating table no wider than the text."""
    from tabulate import tabulate

    body = tabulate(cells, headers="keys", tablefmt="latex_booktabs", disable_numparse=True, colalign=_alignment(cells))
    return "\n".join(
        [
            "% \\usepackage{booktabs, adjustbox}",
            "\\begin{table}",
            f"\\caption{{{_escaped(' '.join([caption, *notes]))}}}",
            f"\\label{{tab:{name}}}",
            "\\begin{adjustbox}{max width=\\textwidth, max totalheight=0.85\\textheight, center}",
            _tex_signs(re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", body)),
            "\\end{adjustbox}",
            "\\end{table}",
            "",
        ]
    )


def _escaped(text: str) -> str:
    signs = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    return _tex_signs("".join(signs.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text))


def _tex_signs(text: str) -> str:
    return text.replace("±", "$\\pm$").replace(DASH, "--")


def _alignment(cells: Mapping[str, list[str]]) -> list[str]:
    numeric = re.compile(rf"{DASH}|[*-]*\d.*")
    return ["right" if all(numeric.fullmatch(cell) for cell in column) else "left" for column in cells.values()]
