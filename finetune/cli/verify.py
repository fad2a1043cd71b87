"""`finetune verify`: checks that a run's files are complete and undamaged."""

from __future__ import annotations

from pathlib import Path

import click

from finetune.cli.options import json_flag, print_json, run_argument
from finetune.errors import ArtefactError
from finetune.files import visible
from finetune.model.hub import shown


@click.command()
@run_argument
@json_flag
def verify(run: Path, as_json: bool) -> None:
    """Check that every checkpoint, bundle and table of RUN is complete and undamaged."""
    from finetune.deliver.verify import verify as do

    findings = do(run)
    broken = [(path, reason) for path, reason in findings if reason is not None]
    problem = None
    if broken:
        remedy = "what is whole can still be used: `finetune resume` goes on from the newest whole checkpoint"
        problem = ArtefactError([f"{path}: {reason}" for path, reason in broken], remedy)
    if as_json:
        listed = [{"path": str(path), "problem": reason} for path, reason in findings]
        print_json({"run": shown(run), "whole": not broken, "artefacts": listed}, problem)
    else:
        for path, reason in findings:
            click.echo(f"{'ok    ' if reason is None else 'BROKEN'}  {visible(str(path))}")
    if problem is not None:
        raise problem
    if not as_json and not findings:
        click.echo("nothing published yet, so nothing is broken")
