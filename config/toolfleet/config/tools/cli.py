"""``toolfleet tools``."""

import json

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from toolfleet.config.settings import load
from toolfleet.config.tools import Arguments, catalogue


@click.command()
@click.option("--profile", "profile_name", metavar="PROFILE", help="Only what this profile allows.")
@click.option("--json", "as_json", is_flag=True, help="As a list of function tools, as OpenAI's interface takes them.")
def tools(profile_name: str | None, as_json: bool) -> None:
    """List the tools that calls may name: built in, of your own modules, and of the ToolServer, if there is one.

    \b
    Examples:
      toolfleet tools
      toolfleet tools --profile swe --json > tools.json
    """
    settings = load()
    allowed = settings.profile(profile_name).tools if profile_name is not None else None
    found = catalogue(settings)
    if as_json:
        click.echo(json.dumps(found.schemas(allowed), indent=2, ensure_ascii=False))
        return
    table = Table(title="toolfleet tools", title_justify="left")
    for column in ("tool", "where", "arguments", "what it does"):
        table.add_column(column, overflow="fold")
    for definition in found:
        if allowed is None or definition.name in allowed:
            what = definition.description.split("\n", 1)[0]
            table.add_row(definition.name, definition.where, escape(_arguments(definition.arguments)), what)
    Console().print(table)


def _arguments(model: type[Arguments]) -> str:
    """Their names; those in brackets may be left out, and any tool takes ``timeout``."""
    fields = [(name, field) for name, field in model.model_fields.items() if name != "timeout"]
    return ", ".join(name if field.is_required() else f"[{name}]" for name, field in fields)
