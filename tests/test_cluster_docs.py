"""The job files of docs/cluster.md can be read by what they are for: bash, YAML."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

PAGE = (Path(__file__).parents[1] / "docs" / "cluster.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("script", [text for kind, text in BLOCKS if kind == "bash"])
def test_scripts_are_right_bash(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for option in re.findall(r"^#SBATCH (.*)$", script, re.MULTILINE):
        assert re.fullmatch(r"--[a-z-]+(=\S+)?", option), option
    assert re.search(r"--signal=TERM@\d+$", script, re.MULTILINE)


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "yaml"])
def test_job_files_are_right_yaml_and_their_commands_right_shell(text: str) -> None:
    job = yaml.safe_load(text)
    if job.get("kind") == "Job":
        pod = job["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        command = container["args"][0]
    else:
        command = job["run"]
    assert subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True).stderr == ""
    assert "finetune resume" in command
    assert "finetune run" in command


def test_all_three_are_there() -> None:
    assert sorted(kind for kind, _ in BLOCKS) == ["bash", "yaml", "yaml"]
