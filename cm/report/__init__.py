"""Tables and figures from score files. A kind of artefact is one function, in any module of this package:

    @report.kind("curves", form="figure", needs="scores")
    def curves(suite: Suite, artefact: Artefact, root: Path) -> Figure: ...

It reads files below `root` (the `results` folder) and returns a `pandas.DataFrame`, a `matplotlib.figure.Figure`, or
both, which `draw` writes. Every start of the workflow imports these modules, so pandas, matplotlib and numpy are
imported only when a function needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

from cm import registry
from cm.errors import unknown

if TYPE_CHECKING:
    from cm.config import Artefact, Experiments, Run, Suite
    from cm.config.layout import Layout

Check = Callable[["Artefact"], object]


class FlopCounter(Protocol):
    """Counts the FLOPs of networks, which only torch can do; a multiply-add counts as two."""

    def of_evaluation(self, run: Run, /) -> int:
        """The FLOPs of one evaluation of the network of a run, for one image."""
        ...

    def of_training(self, run: Run, experiments: Experiments, /) -> int:
        """The FLOPs of one image of the training of a run, of all networks that it evaluates."""
        ...


class Kind(Protocol):
    """A drawing function with the attributes that the workflow reads.

    `form`: what it returns, `table`, `figure` or `both` (a table and a figure). `needs`: the files that it reads for
    each cell, `scores`, `previews`, `nearest` (scores, previews and real images), `searches`, `seconds`, `models` (of
    trained runs, beside which their measurements are), `edit scores`, `edit previews`, `claims` (scores) or `nothing`;
    or `trainings`, the seconds of every training of the suite. `baseline`: whether it also reads the score of real test
    images. `flops`: whether it also takes `counter`, which counts FLOPs. `check`: refuses an artefact that it could not
    draw, when the suite is read.
    """

    form: str
    needs: str
    baseline: bool
    flops: bool
    check: Check

    def __call__(self, suite: Suite, artefact: Artefact, root: Path, /, **more: Any) -> Any:
        """The table, the figure, or both, of an artefact from the results below `root`."""
        ...


def kind(
    name: str,
    *,
    form: str,
    needs: str,
    baseline: bool = False,
    flops: bool = False,
    options: Mapping[str, Any] = MappingProxyType({}),
    check: Check = lambda artefact: None,
) -> Callable[[Callable[..., Any]], Kind]:
    """A decorator that registers a drawing function as the artefact kind `name`, with the attributes of `Kind`.

    `options`: from each option that an artefact of this kind may have to the type hint of its value. `check`: a further
    check of each artefact.
    """

    def check_artefact(artefact: Artefact) -> None:
        from cm.config.checking import convert

        for option, value in artefact.options.items():
            if option not in options:
                raise unknown("option", option, options, f"artefact {artefact.name}")
            convert(options[option], value, option, f"artefact {artefact.name}, options")
        check(artefact)

    def decorate(function: Callable[..., Any]) -> Kind:
        drawing = cast(Kind, function)
        drawing.form, drawing.needs, drawing.check = form, needs, check_artefact
        drawing.baseline, drawing.flops = baseline, flops
        registry.register("artefact", name)(drawing)
        return drawing

    return decorate


def draw(suite: Suite, name: str, root: Path, out: Path, counter: FlopCounter | None = None) -> None:
    """Draw an artefact of a suite from the results below `root`.

    Writes `<out>/tables/<name>.{csv,md,tex}`, `<out>/figures/<name>.{svg,png}`, or both. `counter`: without it, figures
    have no axis of FLOPs, and tables no column. Raises UserError for a name that the suite does not have, and for files
    that are missing or do not belong together.
    """
    from cm.config.layout import Layout

    artefact = suite.find(name)
    drawing: Kind = registry.get("artefact", artefact.kind)
    more = {"counter": counter} if drawing.flops else {}
    result = drawing(suite, artefact, Path(root), **more)
    for part in result if isinstance(result, tuple) else (result,):
        _save(part, name, caption(artefact), Layout(reports=str(out)))


def caption(artefact: Artefact) -> str:
    """The caption of an artefact, which says so if the artefact is not one of the paper."""
    from cm.report import footnotes

    return " ".join([artefact.caption, *footnotes.of_origin(artefact)])


def _save(part: Any, name: str, words: str, layout: Layout) -> None:
    from cm.report import plots, writing

    if hasattr(part, "savefig"):
        plots.save(part, Path(layout.figure(name, suffix="")), words)
    else:
        writing.save(part, Path(layout.table(name, suffix="")), words)
