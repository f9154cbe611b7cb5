"""What MkDocs adds to the pages: the help of the commands, the tables of settings, and links out of this folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from mkdocs.exceptions import PluginError
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

from cm.cli import cli
from cm.config.schema import SCHEMAS

ROOT = Path(__file__).parents[1]
LINK_OUT = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+[^)#]+)(?:#[^)]*)?\)")
REMOTE_WORKER = "https://unpkg.com/iframe-worker/shim"  # with which the theme's search would work from a file
WIDTH = 100  # characters of a line of help


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """The Markdown of a page, with what is generated for it at its end."""
    generate = GENERATED.get(page.file.src_uri)
    text = "\n\n".join([markdown, *(generate() if generate else ())])
    return LINK_OUT.sub(lambda match: name_file(*match.groups(), page=page.file.src_uri), text)


def on_post_page(output: str, *, page: Page, **_: Any) -> str:
    """The HTML of a page, with a script of ours in place of the one that the theme loads from another host."""
    return output.replace(REMOTE_WORKER, get_relative_url("javascripts/worker.js", page.url))


def on_post_template(output_content: str, *, template_name: str, **_: Any) -> str:
    """The HTML of a page that has no Markdown, such as 404.html, as in `on_post_page`."""
    return output_content.replace(REMOTE_WORKER, "javascripts/worker.js")


def name_file(text: str, target: str, *, page: str) -> str:
    """A link to a file of the repository that is not in the documentation: its text and its path.

    Raises PluginError if there is no such file, which stops the build.
    """
    path = (ROOT / "docs" / page).parent.joinpath(target).resolve()
    if not path.exists() or not path.is_relative_to(ROOT):
        raise PluginError(f"{page}: no file {target}")
    relative = path.relative_to(ROOT)
    return f"`{relative}`" if text.strip("`") in (str(relative), path.name) else f"{text} (`{relative}`)"


def render_commands() -> Iterator[str]:
    """The help of every command."""
    for name, command in cli.commands.items():
        context = click.Context(command, info_name=f"cm {name}", terminal_width=WIDTH, max_content_width=WIDTH)
        yield f"## {name}\n\n```text\n{command.get_help(context)}\n```"


def render_settings() -> Iterator[str]:
    """A table of the settings of every kind of configuration file."""
    for kind in ("workflow", "suite", "protocol", "experiment"):
        schema = SCHEMAS[kind]()
        yield f"## {schema['title']}\n\n{schema['description']}"
        yield from render_table(schema, "###")


def render_table(schema: dict[str, Any], heading: str) -> Iterator[str]:
    """The table of the settings of a schema, and below it those of the settings that have settings themselves."""
    properties = {name: part for name, part in schema["properties"].items() if "const" not in part}
    rows = [describe_row(name, part) for name, part in properties.items() if not find_objects(part)]
    if rows:
        yield "\n".join(["| setting | default | values | meaning |", "|---|---|---|---|", *rows])
    for name, part in properties.items():
        objects = find_objects(part)
        if objects:
            yield f"{heading} {name}\n\n{part.get('description', '')}"
        for found in objects:
            yield f"**{found['title']}:** {found['description']}" if "title" in found else found["description"]
            yield from render_table(found, heading + "#")


def find_objects(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The schemas of the objects with settings that a value may be, or may be a list or a mapping of."""
    if schema.get("properties") and schema.get("description"):
        return [schema]
    inner = [schema.get("items"), schema.get("additionalProperties"), *schema.get("anyOf", [])]
    found = [one for part in inner if isinstance(part, dict) for one in find_objects(part)]
    return [one for position, one in enumerate(found) if one not in found[:position]]


def describe_row(name: str, schema: dict[str, Any]) -> str:
    """A row of a table: name, default, values and meaning of a setting."""
    default = f"`{schema['default']}`" if "default" in schema else ""
    cells = [f"`{name}`", default, describe_values(schema), schema.get("description", "")]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def describe_values(schema: dict[str, Any]) -> str:
    """The values that a schema admits, in words."""
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(filter(None, map(describe_values, schema["anyOf"]))))
    bounds = {"minimum": "at least {}", "maximum": "at most {}", "exclusiveMaximum": "below {}"}
    limits = [text.format(schema[key]) for key, text in bounds.items() if key in schema]
    return " ".join([schema.get("type", "any"), *limits])


GENERATED: dict[str, Callable[[], Iterator[str]]] = {"commands.md": render_commands, "settings.md": render_settings}
