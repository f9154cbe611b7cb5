"""`cm prepare`. The settings of every registered data set are options of it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import click

from cm import registry
from cm.cli.options import THREADS, Number
from cm.cli.paths import OUT_FOLDER, Command, InputText
from cm.config.checking import WORDS, hints_of, parse_list
from cm.config.yaml_reader import parse_yaml
from cm.errors import UserError


class PrepareCommand(Command):
    """A command that has the settings of all data sets as options, besides its own."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        *own, help_option = super().get_params(ctx)
        return [*own, *_dataset_options(tuple(registry.components("dataset").items())), help_option]


@functools.cache
def _dataset_options(datasets: tuple[tuple[str, type], ...]) -> list[click.Option]:
    """An option for each setting of the data sets; its value stays text until the data set is known."""
    owners: dict[str, dict[str, type]] = {}
    for name, dataset in sorted(datasets):
        for setting in hints_of(dataset):
            owners.setdefault(setting, {})[name] = dataset
    return [_make_option(setting, owners[setting]) for setting in sorted(owners)]


def _make_option(setting: str, datasets: Mapping[str, type]) -> click.Option:
    """The option of a setting that these data sets have; what it means is taken from the first of them."""
    from cm.config.schema import describe_settings

    dataset = next(iter(datasets.values()))
    meaning = describe_settings(dataset).get(setting, "").partition(": ")[2].rstrip(".")
    value = _name_values(hints_of(dataset)[setting])
    words = ", ".join(filter(None, [meaning, value]))
    spellings = dict.fromkeys([f"--{setting.replace('_', '-')}", f"--{setting}"])
    return click.Option([*spellings, setting], help=f"{words}; of {', '.join(datasets)}", metavar="VALUE")


def _name_values(hint: Any) -> str:
    """The values that a type hint admits, in words."""
    plain = _without_marks(hint)
    if get_origin(plain) is Literal:
        return " or ".join(map(str, get_args(plain)))
    return "values joined by +" if get_origin(plain) is tuple else WORDS.get(plain, "")


def _without_marks(hint: Any) -> Any:
    """A type hint without `Annotated` and without `None`."""
    while get_origin(hint) is Annotated or type(None) in get_args(hint):
        hint = next(argument for argument in get_args(hint) if argument is not type(None))
    return hint


def parse_setting(hint: Any, text: str) -> Any:
    """The value that the text of an option means for a setting of that type hint.

    Text that does not fit the hint is returned as YAML reads it; `cm.config.check` then refuses it.
    """
    plain = _without_marks(hint)
    if get_origin(plain) is Literal:
        return next((word for word in get_args(plain) if str(word) == text), text)
    if plain is str:
        return text
    if plain is float and _is_number(text):
        return float(text)
    try:
        return parse_list(plain, parse_yaml(text, text), text)
    except UserError:
        return text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii()


@click.command(cls=PrepareCommand)
@click.option("--dataset", required=True, help="cifar10, imagenet64, lsun_bedroom, folder, ...")
@click.option(
    "--source",
    type=InputText(lambda text: "://" not in text),
    help="archive or folder, or its URL; by default it is looked for in $CM_CACHE, or fetched",
)
@click.option("--out", type=OUT_FOLDER, required=True, help="folder to write")
@click.option("--workers", type=THREADS, help="processes; by default one for each core")
@click.option(
    "--allow-undecodable",
    type=Number(0, 1, max_open=True),
    default=0.0,
    metavar="SHARE",
    help="leave out images that cannot be decoded, up to this share of all; by default stop at the first",
)
def prepare(
    dataset: str, source: str | None, out: Path, workers: int | None, allow_undecodable: float, **settings: str | None
) -> None:
    """Prepare a data set for training and scoring.

    Writes OUT/<split>/images.npy, labels.npy and OUT/manifest.json. An interrupted preparation is continued.
    """
    from cm import data

    hints = hints_of(registry.get("dataset", dataset))
    values = {name: parse_setting(hints.get(name, str), text) for name, text in settings.items() if text is not None}
    data.prepare(dataset, out, source=source, workers=workers, allow_undecodable=allow_undecodable, settings=values)
