"""`finetune doctor`: checks whether this machine is ready to train."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from finetune.cli.options import json_flag, print_json
from finetune.errors import ResourceError


@click.command()
@json_flag
def doctor(as_json: bool) -> None:
    """Check this machine: versions, processor, GPU, disk space, the gain of our speed-ups, and a toy run that is
    stopped and resumed.
    """
    from finetune.deliver.doctor import Finding, examine, finding
    from finetune.deliver.speed_check import compare_speed
    from finetune.deliver.toy import Toy

    findings: list[Finding] = []

    def tell(item: Finding) -> None:
        findings.append(item)
        if not as_json:
            click.echo(f"{'pass' if item.fit else 'FAIL'}  {item.name}: {item.told}")

    for item in examine():
        tell(item)
    tell(finding("speed", compare_speed))
    with tempfile.TemporaryDirectory(prefix="finetune-doctor-", ignore_cleanup_errors=True) as folder:
        toy = Toy(Path(folder))
        tell(finding("freeze proof", toy.freeze_proof))
        tell(finding("stop and resume", toy.stop_and_resume))
    failed = [item for item in findings if not item.fit]
    problem = None
    if failed:
        problem = ResourceError([f"{item.name}: {item.told}" for item in failed], "fix that, then run it again")
    if as_json:
        print_json({"fit": not failed, "findings": [vars(item) for item in findings]}, problem)
    if problem is not None:
        raise problem
