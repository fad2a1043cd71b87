"""Options, arguments and results that several commands share."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from shlex import quote as quoted
from typing import TYPE_CHECKING, Any

import click

from finetune.cli.failure import as_object
from finetune.errors import FinetuneError, UsageError
from finetune.files import to_json, visible

if TYPE_CHECKING:
    from finetune.model.network import Network
    from finetune.recipe.schema import Recipe
    from finetune.story.result import Run

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

json_flag = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
device = click.option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.")
precision = click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="bf16 is faster where the CPU has AMX, on AMD with AVX-512, and on GPUs.",
)
processes = click.option("--nproc", type=click.IntRange(1), metavar="N", help="Train with N processes on this machine.")
run_argument = click.argument("run", metavar="RUN", type=click.Path(path_type=Path))


def recipe_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """RECIPE, or FOLDER of images, and everything that changes it."""
    options: list[Decorator] = [
        click.argument("recipe", metavar="RECIPE|FOLDER", type=click.Path(path_type=Path)),
        click.option(
            "-o",
            "overrides",
            metavar="KEY=VALUE",
            multiple=True,
            help="Set a recipe key, for example -o train.epochs=5.",
        ),
        click.option(
            "--unfreeze", metavar="PATTERN[@EPOCH]", multiple=True, help="Also train these layers (from EPOCH on)."
        ),
        click.option(
            "--tune", is_flag=True, help="Train the last layers after the solved head; keep the better of both."
        ),
        click.option(
            "--freeze",
            metavar="PATTERN",
            multiple=True,
            help="Keep these layers frozen for the whole run; overrides --unfreeze.",
        ),
        click.option("--backbone", metavar="NAME", help="Network to start from; same as -o model.backbone=NAME."),
        click.option("--epochs", type=int, metavar="N", help="Same as -o train.epochs=N."),
        click.option("--seed", type=int, metavar="N", help="Same as -o seed=N."),
        device,
    ]
    for option in reversed(options):
        function = option(function)
    return function


def read_recipe(
    recipe: Path,
    overrides: tuple[str, ...],
    unfreeze: tuple[str, ...],
    epochs: int | None,
    seed: int | None,
    device: str | None,
    backbone: str | None = None,
    tune: bool = False,
) -> Recipe:
    """The resolved recipe, or a folder's, with the flags in it; what is wrong is said before torch is imported."""
    from finetune.recipe.flags import overrides_of, with_unfreeze
    from finetune.recipe.load import load, resolve
    from finetune.runs.names import RunNames

    if RunNames(recipe).run_json.is_file():
        raise UsageError(f"{visible(str(recipe))}: is a run already", f"continue it: finetune resume {recipe}")
    if tune and unfreeze:
        raise UsageError("--tune, --unfreeze: --tune says itself what learns", "leave out one of them")
    given = overrides_of(epochs, seed, device, backbone, overrides)
    loaded = load(recipe, given)
    if tune:
        from finetune.story.tuning import tuning

        loaded = load(recipe, [*tuning(loaded), *given])
    return resolve(with_unfreeze(loaded, unfreeze), Path.cwd())


def open_run_network(run: Path) -> Network:
    """The network of RUN; what is to be known about it is said on stderr."""
    from finetune.classifier import load

    network = load(run).network
    for note in network.notes:
        click.echo(f"note: {visible(note)}", err=True)
    return network


def start_processes(number: int) -> None:
    """Run this command line again, in so many processes of this machine.

    Raises:
        FinetuneError: what ended them.
    """
    from finetune.device import cores
    from finetune.distributed.launch import launch

    if "RANK" in os.environ:
        raise UsageError("--nproc: torchrun has started this process already", "leave out --nproc, or torchrun")
    words: list[str] = list(click.get_current_context().obj)
    place = next(at for at, word in enumerate(words) if word.partition("=")[0] == "--nproc")
    del words[place : place + (1 if "=" in words[place] else 2)]
    launch(number, words, cores())


def say_first(text: str) -> None:
    """Say at once what is being done: loading PyTorch takes seconds, in which the screen would stay empty.

    Of several processes, the one that starts them says it; under torchrun, rank 0.
    """
    from finetune.distributed.launch import LAUNCH_FOLDER, speaks
    from finetune.runs.reporter import say_on_stderr

    if speaks() and LAUNCH_FOLDER not in os.environ:
        say_on_stderr(f"{text} …")


def print_json(value: dict[str, Any], error: FinetuneError | None = None) -> None:
    """The one JSON object of a command's `--json`; an error that is raised next is in it, so that it stays the one."""
    click.echo(to_json({**value, **(as_object(error) if error is not None else {})}, indent=2))
    if error is not None:
        error.told = True


def next_steps(run: Run) -> str:
    """The three commands that come next, ready to be pasted."""
    from finetune.runs.names import RunNames

    place, command = Path(os.path.relpath(run.path)), command_name()
    folder, page = quoted(str(place)), RunNames(place).report.page
    return f"""next:
  {"open" if sys.platform == "darwin" else "xdg-open"} {quoted(str(page))}
  {command} predict {folder} IMAGE...
  {command} evaluate {folder} FOLDER"""


def command_name() -> str:
    """How this command is called from here: its name if the shell finds it, else its path."""
    if shutil.which("finetune"):
        return "finetune"
    beside = Path(sys.executable).with_name("finetune")  # of an environment that is not activated
    if not beside.is_file():
        return f"{quoted(sys.executable)} -m finetune"
    near = os.path.relpath(beside)
    return quoted(str(beside) if near.startswith("..") else near)


def print_run(run: Run, as_json: bool) -> None:
    """The run folder, or all of run.json with the metrics, on stdout."""
    from finetune.distributed.launch import speaks
    from finetune.runs.names import RunNames

    if not speaks():
        return
    if not as_json:
        click.echo(run)
        click.echo(next_steps(run), err=True)
        return
    metrics = {"metrics": run.metrics} if RunNames(run.path).report.metrics_json.is_file() else {}
    print_json({"run": str(run), **run.record.as_dict(), **metrics})
