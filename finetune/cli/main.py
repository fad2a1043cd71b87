"""The entry point: the list of commands, and how each error ends the process."""

from __future__ import annotations

import io
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

import click

import finetune
from finetune.cli.failure import show_error, show_usage, wants_json
from finetune.cli.process import collect_no_more, collect_rarely, keep_large_buffers, wait_briefly
from finetune.cli.suggest import command_hint, option_hint
from finetune.distributed.launch import final_code, leave_error
from finetune.errors import FinetuneError, ResourceError, from_os_error, out_of_memory, spoken
from finetune.files import cache_folder, visible

SUMMARIES = {
    "run": "Do the whole job that a recipe describes.",
    "resume": "Continue a run where it stopped, to the same bits.",
    "plan": "Show which layers learn from which epoch, and at what rate.",
    "check": "Audit a recipe and its images; train nothing.",
    "init": "Write a commented recipe for a folder of images.",
    "layers": "List the layer groups of a backbone.",
    "models": "List the backbones that a recipe can name.",
    "recipes": "List the recipes that come with this tool.",
    "sample": "Write built-in sample images as a folder.",
    "evaluate": "Evaluate a run's network on images.",
    "runs": "List runs with their results.",
    "compare": "Test whether one run is better than another.",
    "predict": "Label images.",
    "export": "Export a run's network (ONNX, torch, timm), checked against predict.",
    "push": "Put a run's model on the Hugging Face hub.",
    "features": "Draw the output of each layer for an image.",
    "serve": "Serve predictions over HTTP, with a web page.",
    "explain": "Draw which parts of an image speak for a class (Grad-CAM).",
    "embed": "Store feature vectors of images in a database.",
    "search": "Find the most similar images in a store of vectors.",
    "verify": "Check that a run's files are complete and undamaged.",
    "cache": "Show or clear the cached features of frozen layers.",
    "doctor": "Check this machine: packages, devices, disk, speed.",
}
"""Command → its line in the help, in that order. Command NAME is the function NAME in finetune/cli/NAME.py."""


class Commands(click.Group):
    """Commands by name, each loaded when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the help."""
        return list(SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, from its module."""
        if cmd_name not in SUMMARIES:
            return None
        command: click.Command = getattr(import_module(f"finetune.cli.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is named, or the error with the nearest one."""
        name = args[0]
        if name not in SUMMARIES and not name.startswith("-"):
            ctx.fail(f"No such command '{visible(name)}'{command_hint(name, SUMMARIES)}.")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list for `--help`, without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(finetune.__version__, prog_name="finetune")
def cli() -> None:
    """Fine-tune image classifiers.

    Freeze what should stay, train the rest, survive whatever happens, and say class by class how good the result is.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the code of what happened."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.closed:
            stream.reconfigure(errors="backslashreplace")  # an ASCII terminal is no error
    keep_large_buffers()
    wait_briefly()
    collect_rarely()
    for name, folder in (("MPLCONFIGDIR", "matplotlib"), ("TORCHINDUCTOR_CACHE_DIR", "inductor")):
        os.environ.setdefault(name, str(cache_folder() / folder))  # else they write into the home folder and /tmp
    code = _exit_code(arguments)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # closed by who started us
                stream.flush()
        except OSError:  # what nobody can read is dropped, else Python ends with 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    collect_no_more()
    sys.exit(code)


def at_home(argument: str) -> str:
    """An argument in which a leading ~ is the home folder, also where a quote or an = kept the shell from seeing it."""
    option, equals, value = argument.partition("=")
    if equals and option.startswith("--") and value.startswith("~"):
        return f"{option}={os.path.expanduser(value)}"
    return os.path.expanduser(argument) if argument == "~" or argument.startswith("~/") else argument


def _exit_code(arguments: list[str] | None) -> int:
    if (code := final_code()) is not None:
        return code
    arguments = [at_home(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    as_json = wants_json(arguments)
    try:
        with spoken("command"):
            result: Any = cli.main(args=arguments, prog_name="finetune", standalone_mode=False, obj=list(arguments))
        if sys.stdout is not None:
            sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.NoSuchOption as error:
        hint = option_hint(error.option_name)  # is surer than what click finds by letters: --help for --lr
        show_usage(click.NoSuchOption(error.option_name, ctx=error.ctx) if hint else error, hint, as_json)
        return 2
    except click.ClickException as error:
        show_usage(error, "", as_json)
        return 2
    except FinetuneError as error:
        if not leave_error(error):
            show_error(error, as_json)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        return 130
    except (BrokenPipeError, SystemExit):  # the reader has gone; click itself exits then
        return 0
    except Exception as error:  # the last resort: whatever is left is shown, and its exit code told
        if out_of_memory(error):
            remedy = "use a smaller train.batch_size or image size, or raise the limit (ulimit -v)"
            show_error(ResourceError("memory: there is not enough of it", remedy), as_json)
            return ResourceError.exit_code
        if isinstance(error, OSError):
            problem = from_os_error(error, error.filename or "the system")
            cache, named = cache_folder(), Path(error.filename if isinstance(error.filename, str) else "-")
            if cache.is_relative_to(named) or named.is_relative_to(cache):
                problem.remedy = "name another cache folder, one that can be made: FINETUNE_CACHE=FOLDER"
            show_error(problem, as_json)
            return ResourceError.exit_code
        traceback.print_exc()
        leave_error(FinetuneError(f"{type(error).__name__}: {error}"))
        click.echo("this is a bug in finetune: please report it with the lines above", err=True)
        return 1
