"""Types of the options that name files: what a command reads, and what it writes.

A command of the class `Command` checks what it is to write while it parses its arguments, before any work: that it can
be written, and that no input would be overwritten.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from cm.errors import UserError
from cm.utils import outputs
from cm.utils.outputs import Input


class InputPath(click.Path):
    """A file or folder that a command reads.

    `reads`: whether a file of such a folder, relative to it, is read. `beside`: from the suffix of a file to that of
    another one beside it, which is read too if it is there.
    """

    def __init__(
        self,
        *,
        reads: Callable[[Path], bool] = lambda path: True,
        beside: Mapping[str, str] = MappingProxyType({}),
        **options: bool,
    ) -> None:
        super().__init__(path_type=Path, **options)
        self._reads, self._beside = reads, beside

    def inputs(self, path: Path) -> Iterator[Input]:
        """What is read if this path is given."""
        yield Input(path, self._reads)
        if path.suffix in self._beside:
            yield Input(path.with_suffix(self._beside[path.suffix]))


class InputText(click.types.StringParamType):
    """A text that may be the path of a file that a command reads. `is_path`: whether it is one."""

    def __init__(self, is_path: Callable[[str], bool]) -> None:
        self._is_path = is_path

    def inputs(self, text: str) -> Iterator[Input]:
        """What is read if this text is given."""
        if self._is_path(text):
            yield Input(Path(text))


class OutputPath(click.Path):
    """A file, or a folder, that a command writes; UserError if it cannot be written, or has another suffix.

    `suffix`: the one that the file must have. `beside`: that of a file that is written beside it.
    """

    def __init__(self, *, suffix: str | None = None, beside: str | None = None, **options: bool) -> None:
        super().__init__(path_type=Path, **options)
        self._suffix, self._beside = suffix, beside

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path that the text of an option stands for."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if self._suffix is not None and path.suffix != self._suffix:
            raise UserError(f"{path} must end in {self._suffix}: other files are written beside it")
        for output in self.outputs(path):
            is_file = not self.dir_okay or (self.file_okay and output.exists() and not output.is_dir())
            (outputs.check_file if is_file else outputs.check_folder)(output)
        return path

    def outputs(self, path: Path) -> Iterator[Path]:
        """What is written if this path is given."""
        yield path
        if self._beside:
            yield path.with_suffix(self._beside)


IN_FILE = InputPath(dir_okay=False)
IN_FOLDER = InputPath(file_okay=False)
IN_FILE_OR_FOLDER = InputPath()
IN_SCORES = InputPath(reads=lambda path: path.suffix == ".json")
OUT_FILE = OutputPath(dir_okay=False)
OUT_FOLDER = OutputPath(file_okay=False)
OUT_FILE_OR_FOLDER = OutputPath()


class Command(click.Command):
    """A command that overwrites none of its inputs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; UserError if a file to write is an input, or is written twice."""
        rest = super().parse_args(ctx, args)
        read: list[Input] = []
        written: list[Path] = []
        for param in self.get_params(ctx):
            for value in _values(ctx.params.get(param.name or "")):
                if isinstance(param.type, InputPath | InputText):
                    read += param.type.inputs(value)
                elif isinstance(param.type, OutputPath):
                    written += param.type.outputs(value)
        outputs.check_distinct(written, read)
        return rest


def _values(value: Any) -> Sequence[Any]:
    """The values of an option, which may be given several times, or not at all."""
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)
