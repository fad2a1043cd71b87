"""The quick share of what a run survives, through the command line; `make survive` has the whole."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.survive import faults, kills, tools
from tests.survive.tools import Job


def need(*names: str) -> None:
    if missing := tools.needs(*names):
        pytest.skip(missing)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a job and its finished run `o`."""
    folder = tmp_path_factory.mktemp("survive") / "job"
    job = Job.make(folder)
    assert job.do("run", "job.yaml", "--out", "o").rc == 0
    return folder


@pytest.fixture
def small(tmp_path: Path, reference: Path) -> Job:
    """The same job, not yet run."""
    return Job.make(tmp_path / "job")


def sha256(reference: Path) -> str:
    return str(json.loads((reference / "o" / "run.json").read_text())["weights_sha256"])


def test_c01_c11_c31_killed_while_paused_and_moved_it_ends_in_the_same_bits(small: Job, reference: Path) -> None:
    process = small.start(*faults.RUN)
    assert small.wait_for(faults.CHECKPOINT, process)
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    assert small.end(process).rc == 137
    (small.folder / "o").rename(small.folder / "p")
    small.resume_to(sha256(reference), "p")


@pytest.mark.parametrize("point", ["rename:1", "rename:2", "rename:7", "fsync:20"])
def test_c02_killed_at_a_system_call_what_is_there_is_whole(small: Job, reference: Path, point: str) -> None:
    need("strace")
    call, number = point.split(":")
    inject = f"inject={call}:signal=SIGKILL:when={number}"
    before = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
    assert small.do(*faults.RUN, before=before).rc == 137
    tools.require_whole(small.folder / "o")
    small.resume_to(sha256(reference))


def test_c02_nothing_is_published_without_an_fsync(small: Job) -> None:
    need("strace")
    log = small.folder / "trace"
    watched = f"trace={','.join(kills.known_calls())},{kills.WRITES}"
    assert small.do(*faults.RUN, before=["strace", "-f", "-y", "-o", log, "-e", watched]).rc == 0
    calls = tools.own(tools.read_trace(log), small.folder / "o", small.cache)
    assert sum(call.name.startswith("rename") for call in calls) > 20
    assert list(tools.order_offences(calls)) == []


def test_c02_the_order_check_sees_what_is_wrong() -> None:
    write, sync = tools.Call("write", 1, ("/o/.a.tmp",), False), tools.Call("fsync", 1, ("/o/.a.tmp",), False)
    rename, folder = tools.Call("rename", 1, ("/o/.a.tmp", "/o/a"), False), tools.Call("fsync", 2, ("/o",), False)
    assert list(tools.order_offences([write, sync, rename, folder])) == []
    assert list(tools.order_offences([write, rename, folder]))
    assert list(tools.order_offences([sync, write, rename, folder]))
    assert list(tools.order_offences([write, sync, rename]))


def test_c13_a_file_size_limit(small: Job) -> None:
    need("prlimit")
    faults.refused(small, "EFBIG", ["prlimit", "--fsize=2000000", "--"])
    assert list((small.folder / "o").iterdir())


def test_c14_an_fsync_that_fails(small: Job) -> None:
    need("strace")
    faults.refused(small, "EIO", faults.injected("fsync", "EIO", "3"))


def test_c15_a_rename_that_fails(small: Job) -> None:
    need("strace")
    faults.refused(small, "EXDEV", faults.injected("rename", "EXDEV", "1"))
    assert not (small.folder / "o").exists()


@pytest.mark.parametrize("row", [faults.c12_disk_full, faults.c17_not_writable, faults.e01_tiny_shared_memory])
def test_c12_c17_e01_full_and_read_only_file_systems(tmp_path: Path, row: Any) -> None:
    need("unshare", "mount")
    if (told := row(tmp_path / "job")).startswith("not run"):
        pytest.skip(told)


def test_c06_sigterm_saves_and_says_how_to_go_on(small: Job, reference: Path) -> None:
    faults.interrupted(small, faults.CHECKPOINT, signal.SIGTERM, 143)
    small.resume_to(sha256(reference))


def test_c07_sigterm_before_anything_is_saved(small: Job, reference: Path) -> None:
    faults.interrupted(small, "o/run.json", signal.SIGTERM, 143)
    small.resume_to(sha256(reference))


def test_c30_a_second_trainer_is_told_who_is_at_work(small: Job) -> None:
    process = small.start(*faults.RUN)
    assert small.wait_for("o/run.json", process)
    process.send_signal(signal.SIGSTOP)
    for command in (faults.RUN, ("resume", "o")):
        done = small.do(*command)
        assert done.rc == 6, done.said
        assert f"process {process.pid} is at work" in done.said
    process.kill()
    small.end(process)


def test_e02_few_descriptors(small: Job) -> None:
    need("prlimit")
    done = small.do(*faults.RUN, before=["prlimit", "--nofile=12", "--"])
    assert done.rc in (0, 6), done.said


def test_e04_a_reader_that_goes_away(tmp_path: Path) -> None:
    need("bash")
    faults.e04_closed_pipe(tmp_path / "job")


def test_e05_an_ascii_terminal(tmp_path: Path) -> None:
    job = Job.make(tmp_path / "job")
    (job.folder / "images" / "ant").rename(job.folder / "images" / "café")
    job.env = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = job.do("check", "job.yaml")
    assert done.rc == 0
    assert done.said.isascii()


def test_e07_the_import_api_in_a_thread(tmp_path: Path) -> None:
    faults.e07_import_api(tmp_path / "job")


def test_doctor_finds_this_machine_fit(tmp_path: Path, cli: Any) -> None:
    result = cli("doctor", env={"HF_HUB_OFFLINE": "1"})
    assert result.rc == 0, result.out + result.err
    lines = result.out.splitlines()
    assert [line.split(":")[0].split(maxsplit=1)[1] for line in lines[-2:]] == ["freeze proof", "stop and resume"]
    assert all(line.startswith("pass  ") for line in lines)


def test_doctor_says_what_is_not_fit(tmp_path: Path, cli: Any) -> None:
    result = cli("doctor", "--json", env={"FINETUNE_CACHE": "/proc/nowhere", "HF_HUB_OFFLINE": "1"})
    assert result.rc == 6
    findings = {item["name"]: item["fit"] for item in json.loads(result.out)["findings"]}
    assert not findings["cache folder"]
    assert findings["stop and resume"]
    assert "error: cache folder" in result.err
