"""`finetune push`: a run's model on the hub."""

from __future__ import annotations

from pathlib import Path

import click

from finetune.cli.options import command_name, json_flag, print_json, run_argument, say_first
from finetune.files import visible
from finetune.model.hub import Repository, shown


@click.command()
@run_argument
@click.argument("repo", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@json_flag
def push(run: Path, repo: str, private: bool, as_json: bool) -> None:
    """Put the model of RUN on the Hugging Face hub, with its card and its exports, in one commit.

    The repository is made if it does not exist. Others can then use it as hf://OWNER/NAME wherever they would name a
    run or a backbone. It needs a token that may write: `hf auth login`, or HF_TOKEN.
    """
    say_first(f"pushing {visible(shown(run))} to {Repository.of(repo)}")
    from finetune.deliver.hub import push as do

    done = do(run, repo, private=private)
    sizes = {name: path.stat().st_size for name, path in done.files.items()}
    if as_json:
        where = {"run": shown(run), "repository": str(done.repository), "url": done.url, "commit": done.commit}
        print_json({**where, "files": sizes, "removed": done.removed})
        return
    for name, size in sizes.items():
        click.echo(f"{visible(name)}  {size / 1e6:.2f} MB")
    for name in done.removed:
        click.echo(f"{visible(name)}  removed: of another network")
    click.echo(done.url)
    click.echo(f"next:\n  {command_name()} predict {done.repository} IMAGE...", err=True)
