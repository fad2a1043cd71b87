"""Every command stands in a file of its own name, and every file that holds a command is in the help."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import click
import pytest

import finetune
from finetune.cli.main import SUMMARIES

FOLDER = Path(finetune.__file__).parent / "cli"


@pytest.mark.parametrize("name", SUMMARIES)
def test_a_command_is_the_function_of_its_name_in_the_file_of_its_name(name: str) -> None:
    command = getattr(import_module(f"finetune.cli.{name}"), name)
    assert isinstance(command, click.Command)
    assert command.name == name


def test_no_file_hides_a_command_that_the_help_does_not_list() -> None:
    files = [path.stem for path in FOLDER.glob("*.py") if "@click.command" in path.read_text("utf-8")]
    assert len(files) > 10
    assert set(files) - {"main"} <= set(SUMMARIES)


def test_the_help_lists_the_commands_in_order(cli) -> None:
    text = cli("--help").out
    places = [text.index(f"\n  {name} ") for name in SUMMARIES]
    assert places == sorted(places)
