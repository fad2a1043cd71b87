"""What a process finds around it: shared memory, descriptors, pipes, encodings, a home, threads: E01 to E07."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.survive import tools
from tests.survive.tools import CHECKPOINT, RUN, Job, script_in_namespace


def e01_tiny_shared_memory(folder: Path) -> str:
    job = Job.make(folder)
    script = f"mount -t tmpfs -o size=1m none /dev/shm || exit 77; {tools.FINETUNE} run job.yaml --out o"
    done = script_in_namespace(job, script)
    if done.rc == 77:
        return "not run: no tmpfs may be mounted here"
    assert done.rc == 0, (done.rc, done.said)
    return "0: shared memory is not used, workers are threads"


def e02_few_descriptors(folder: Path) -> str:
    job = Job.make(folder)
    codes = []
    for limit in (64, 24, 12):
        job.fresh()
        done = job.do(*RUN, before=["prlimit", f"--nofile={limit}", "--"])
        assert done.rc in (0, 6), (limit, done.rc, done.said)
        assert done.rc == 0 or "EMFILE" in done.said or "descriptors" in done.said, done.said
        codes.append(f"{limit}: {done.rc}")
    return "exit codes by limit: " + ", ".join(codes)


def e04_closed_pipe(folder: Path) -> str:
    job = Job.make(folder, images=40, epochs=4)
    for command in ("check job.yaml", "models", "run job.yaml --out o 2>&1"):
        script = f"{tools.FINETUNE} {command} | head -1; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=job.environment(), capture_output=True, timeout=300
        )
        said = (done.stdout + done.stderr).decode()
        assert "Traceback" not in said, said
        assert "Exception ignored" not in said, said
        assert done.returncode == 0, (command, done.returncode, said)
    assert job.sha256(), "the run has not gone on"
    process = job.start(*RUN[:-1], "p", before=["bash", "-c", 'exec "$@" > >(true) 2>&1', "-"])
    assert job.wait_for(CHECKPOINT.replace("o/", "p/", 1), process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert json.loads((folder / "p" / "run.json").read_text())["status"] == "stopped"
    return "check and models end with 0; run goes on to its end, and saves at SIGINT"


def e05_ascii_terminal(folder: Path) -> str:
    job = Job.make(folder)
    (folder / "images" / "ant").rename(folder / "images" / "café")
    job.env = {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii"}
    rest = (("predict", "o", "images", "--csv"), ("evaluate", "o"), ("verify", "o"))
    for command in (("check", "job.yaml"), RUN, *rest):
        done = job.do(*command)
        assert done.rc == 0, (command, done.said)
    assert "café" in json.loads((folder / "o" / "run.json").read_text("utf-8"))["classes"]
    job.env |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # now Python takes the names of files for ASCII, too
    for command in (("run", "job.yaml", "--out", "p"), ("predict", "p", "images", "--csv")):
        done = job.do(*command)
        assert done.rc == 0, (command, done.said)
        assert done.said.isascii(), done.said
    return "check, run, predict, evaluate, verify; run and predict without Python's UTF-8 mode"


def e06_home(folder: Path) -> str:
    job = Job.make(folder, cache="{views: 3}")
    job.env = {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": ""}
    assert job.do(*RUN).rc == 0, job.said()
    env = {name: value for name, value in job.environment().items() if name != "HOME" and not name.startswith("XDG")}
    bare = subprocess.run([tools.FINETUNE, "run", "job.yaml", "--out", "p"], cwd=folder, env=env, capture_output=True)
    assert bare.returncode == 0, bare.stderr
    assert job.sha256("p") == job.sha256()
    for cache in ("", "/proc/nowhere/cache"):
        job.env["FINETUNE_CACHE"] = cache
        done = job.do("run", "job.yaml", "--out", "q")
        assert done.rc == 6, (done.rc, done.said)
        assert "FINETUNE_CACHE=FOLDER" in done.said, done.said
    return "a HOME that cannot be written and none at all: 0; nor the cache: 6 with what to set"


def e07_import_api(folder: Path) -> str:
    job = Job.make(folder)
    script = Path(__file__).with_name("from_a_thread.py")
    done = subprocess.run([sys.executable, script], cwd=folder, env=job.environment(), capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()
