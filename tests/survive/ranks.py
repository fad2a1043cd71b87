"""Several processes: R01 to R04. One is asked to stop, one is killed, two machines, a port that is taken."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.survive.tools import Done, Job, Process

RANKS = 4
ENDS = (0, RANKS - 1)
RUN = ("run", "job.yaml", "--out", "o", "--nproc", RANKS, "--device", "cpu")
HOSTS = ("finetune-a", "finetune-b")
"""Network namespaces that stand in for machines."""


def ranks_of(folder: Path | str) -> dict[int, int]:
    """Rank → process id of the processes that work on a run folder, as their command line names it."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (place / "cmdline").read_bytes().split(b"\0")
            values = dict(pair.split(b"=", 1) for pair in (place / "environ").read_bytes().split(b"\0") if b"=" in pair)
            if str(folder).encode() in words and b"RANK" in values:
                found[int(values[b"RANK"])] = int(place.name)
    return found


def r01_one_is_asked_to_stop(folder: Path) -> str:
    job, reference = _job(folder)
    for rank in ENDS:
        done = _signalled(job, rank, signal.SIGTERM)
        assert done.rc == 143, done.said
        assert done.said.count("Saved at step") == 1, done.said
        assert "Traceback" not in done.said, done.said
        assert job.do("resume", "o", "--nproc", RANKS).rc == 0
        job.require_same(reference)
    return f"the first and the last of {RANKS} ranks: 143 after one save, resumed to the reference"


def r02_one_is_killed(folder: Path) -> str:
    job, reference = _job(folder)
    for rank in ENDS:
        done = _signalled(job, rank, signal.SIGKILL)
        assert done.rc == 0, done.said
        assert "resuming at step" in done.said
        job.require_same(reference)
    return f"the first and the last of {RANKS} ranks: all started again and came to the reference"


def r03_two_machines(folder: Path) -> str:
    job = _new(folder)
    assert job.do("run", "job.yaml", "--out", "reference", "--nproc", 2, "--device", "cpu").rc == 0
    with machines() as first:
        launcher = (sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1")
        meeting = ("--master-addr", first, "--master-port", "29511")
        command = ("-m", "finetune", "run", "job.yaml", "--out", "o", "--device", "cpu")
        both = [
            subprocess.Popen(
                ["ip", "netns", "exec", host, *launcher, *meeting, "--node-rank", str(node), *command],
                cwd=job.folder,
                env={**job.environment(), "GLOO_SOCKET_IFNAME": "eth0"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for node, host in enumerate(HOSTS)
        ]
        for process in both:
            said, _ = process.communicate(timeout=300)
            assert process.returncode == 0, said
    job.require_same(job.sha256("reference"))
    return "a process in each of two network namespaces: the weights of two processes on one machine"


def r04_port_taken(folder: Path) -> str:
    job = _new(folder)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        job.env = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        done = job.do("run", "job.yaml", "--out", "o", "--device", "cpu")
    assert done.rc == 6, (done.rc, done.said)
    assert f"127.0.0.1:{port} is taken" in done.said, done.said
    assert "--master-port" in done.said
    assert not (job.folder / "o").exists()
    return "6, and the port is named"


@contextlib.contextmanager
def machines() -> Iterator[str]:
    """Two network namespaces that can reach each other; the address of the first."""
    addresses = dict(zip(HOSTS, ("10.77.0.1", "10.77.0.2"), strict=True))
    try:
        for host in HOSTS:
            _ip("netns", "add", host)
        ends = [word for host in HOSTS for word in ("name", "eth0", "netns", host)]
        _ip("link", "add", *ends[:4], "type", "veth", "peer", *ends[4:])
        for host, address in addresses.items():
            _ip("-n", host, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", host, "link", "set", device, "up")
        yield addresses[HOSTS[0]]
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "delete", host], stderr=subprocess.DEVNULL)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _new(folder: Path) -> Job:
    return Job.make(folder, images=20, epochs=4, checkpoint="{every_steps: 1}")


def _job(folder: Path) -> tuple[Job, str]:
    """A new job, and the weights of an undisturbed run of so many processes."""
    job = _new(folder)
    assert job.do("run", "job.yaml", "--out", "reference", "--nproc", RANKS, "--device", "cpu").rc == 0
    return job, job.sha256("reference")


def _signalled(job: Job, rank: int, signum: int) -> Done:
    """A new run, one of whose ranks gets a signal once some steps have been saved."""
    job.fresh()
    # a path of its own, by which its processes are found
    process = job.start(*(str(job.folder / "o") if word == "o" else word for word in RUN))
    os.kill(_at_work(job, process)[rank], signum)
    return job.end(process)


def _at_work(job: Job, process: Process) -> dict[int, int]:
    """Rank → process id, once some steps have been saved."""
    out = job.folder / "o"
    _wait(lambda: process.poll() is not None or len(list(out.glob("checkpoints/epoch-*.json"))) >= 2)
    found = ranks_of(out)
    assert sorted(found) == list(range(RANKS)), job.said()
    return found


def _wait(until: Callable[[], object], seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.02)
