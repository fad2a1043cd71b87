"""Prints an error: one line a problem and the remedy on stderr, and with --json one object on stdout."""

from __future__ import annotations

import contextlib
import sys

import click

from finetune.errors import FinetuneError, Stopped, UsageError
from finetune.files import to_json, visible


def show_error(error: FinetuneError, as_json: bool) -> None:
    """Tell a user what went wrong, and then what to do."""
    if isinstance(error, Stopped):
        lines = [visible(line[:1].upper() + line[1:]) for line in (*error.problems, *error.remedy.splitlines())]
    else:
        lines = [f"error: {visible(problem)}" for problem in error.problems]
        lines += [f"remedy: {visible(line)}" for line in error.remedy.splitlines()]
    if as_json and not error.told:
        show_json(as_object(error))
    with contextlib.suppress(BrokenPipeError):  # nobody reads it, the exit code tells
        click.echo("\n".join(lines), err=True)


def as_object(error: FinetuneError) -> dict[str, object]:
    """An error for a program."""
    return {"error": {"problems": error.problems, "remedy": error.remedy, "exit_code": error.exit_code}}


def show_json(what: dict[str, object]) -> None:
    """The one JSON object of a command that failed."""
    with contextlib.suppress(BrokenPipeError):
        click.echo(to_json(what, indent=2))


def wants_json(arguments: list[str] | None) -> bool:
    """Whether the command line asks for JSON; after `--` all are names."""
    given = sys.argv[1:] if arguments is None else arguments
    return "--json" in (given[: given.index("--")] if "--" in given else given)


def show_usage(error: click.ClickException, hint: str, as_json: bool) -> None:
    """Tell what is wrong with the command line, with the nearest thing there is."""
    if as_json:
        show_json(as_object(UsageError(error.format_message(), hint)))
    with contextlib.suppress(BrokenPipeError):
        error.show()
        if hint:
            click.echo(f"remedy: {hint}", err=True)
