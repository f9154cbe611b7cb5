"""Tables and figures from score files. A kind of artefact is one function, in any module here:

    @report.kind("curves", form="figure", needs="scores")
    def curves(suite: Suite, artefact: Artefact, root: Path) -> Figure: ...

It reads files below `root` (the `results` folder) and gives a `pandas.DataFrame`, a `matplotlib.figure.Figure`, or
both, which `draw` writes. Every start of the workflow imports these modules: pandas, matplotlib and numpy wait for
a call.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm import registry
from cm.errors import unknown

if TYPE_CHECKING:
    from cm.config import Artefact, Suite


def kind(
    name: str,
    *,
    form: str,
    needs: str,
    baseline: bool = False,
    options: tuple[str, ...] = (),
    check: Callable[[Artefact], Any] = lambda artefact: None,
) -> Callable[[Callable], Callable]:
    """A decorator that registers a drawing function as the artefact kind `name` and tells the workflow, as attributes:

    `form`: what it gives, `table`, `figure` or `both` (the pair of them); `needs`: the files it reads of each cell,
    `scores`, `previews`, `benchmarks` or `nothing`; `baseline`: whether it also reads the score of real test images;
    `check`: called with each artefact of the kind when a suite is read, to refuse what could not be drawn, such as
    `options` that it does not know.
    """

    def checked(artefact: Artefact) -> None:
        for option in artefact.options:
            if option not in options:
                raise unknown("option", option, options, f"artefact {artefact.name}")
        check(artefact)

    def decorate(function: Callable) -> Callable:
        function.form, function.needs, function.baseline, function.check = form, needs, baseline, checked
        return registry.register("artefact", name)(function)

    return decorate


def draw(suite: Suite, name: str, root: Path, out: Path) -> None:
    """Draw an artefact of a suite from the results below `root`: `<out>/tables/<name>.{csv,md,tex}` and, or,
    `<out>/figures/<name>.{svg,png}`. UserError for a name that the suite has not, or files that do not do.
    """
    artefact = suite.find(name)
    drawn = registry.get("artefact", artefact.kind)(suite, artefact, Path(root))
    for piece in drawn if isinstance(drawn, tuple) else (drawn,):
        _save(piece, name, artefact.caption, Path(out))


def _save(piece: Any, name: str, caption: str, out: Path) -> None:
    from cm.report import figures, writing

    if hasattr(piece, "savefig"):
        figures.save(piece, out / "figures" / name, caption)
    else:
        writing.save(piece, out / "tables" / name, caption)
