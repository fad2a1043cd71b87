"""Starts several processes with PyTorch's elastic launcher, and passes their errors to the one that started them.

The launcher is that of `torchrun`: it gives every process its rank, ends all when one dies, and starts all again, up to
three times; they go on from the last checkpoint. An error that would only come again (a wrong recipe, a signal that
asked to stop) is left in a folder of the launcher's: started again, a process that finds it there ends at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from finetune.errors import FinetuneError, LostRank, ResourceError, UsageError
from finetune.files import write_atomic

LAUNCH_FOLDER = "FINETUNE_LAUNCH"
"""Names the folder of the launcher, for the processes that it has started."""

RESTARTS = 3
"""How often all processes are started again after one has died."""


# --- in the process that starts the others ---------------------------------------------------------------------------


def launch(processes: int, arguments: Sequence[str], cores: int) -> int:
    """Run `finetune ARGUMENTS` in so many processes of this machine; returns the exit code.

    Args:
        processes: ranks.
        arguments: of the command line, without `--nproc`.
        cores: of the machine; shared among the processes, unless OMP_NUM_THREADS says otherwise.

    Raises:
        FinetuneError: what ended the run, as the process that met it said it.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else it warns of what costs next to nothing
    with tempfile.TemporaryDirectory(prefix="finetune-launch-", ignore_cleanup_errors=True) as folder:
        os.environ[LAUNCH_FOLDER] = folder
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=RESTARTS,
            monitor_interval=0.2,
            logs_specs=DefaultLogsSpecs(log_dir=str(Path(folder) / "logs")),
        )
        problem: FinetuneError | None = None
        try:
            elastic_launch(config, sys.executable)("-m", "finetune", *arguments)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            problem = ResourceError(
                f"rank {rank}: {_how(failure.exitcode)}; {RESTARTS} restarts did not help",
                "see what it said before; go on from the last checkpoint with `finetune resume`",
            )
        except SignalException as error:
            problem = FinetuneError(f"stopped by {signal.Signals(error.sigval).name}")
            problem.exit_code = 128 + int(error.sigval)
        finally:
            os.environ.pop(LAUNCH_FOLDER, None)
        if (left_error := _left_error(Path(folder))) is not None:
            raise left_error
        if problem is not None:
            raise problem
    return 0


def _how(exit_code: int) -> str:
    return f"ended by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with exit code {exit_code}"


def _left_error(folder: Path) -> FinetuneError | None:
    """The error left by the lowest rank, with the lines of other ranks that differ; None if no rank left one."""
    errors = {}
    for path in sorted(folder.glob("rank-*.json")):
        with contextlib.suppress(OSError, ValueError):
            errors[int(path.stem.removeprefix("rank-"))] = json.loads(path.read_text("utf-8"))
    if not errors:
        return None
    first = errors[min(errors)]
    problems = list(first["problems"])
    for rank, other in errors.items():
        if other["code"] == first["code"]:
            problems += [f"rank {rank}: {line}" for line in other["problems"] if line not in problems]
    error = FinetuneError(problems, first["remedy"])
    error.exit_code = first["code"]
    return error


# --- in the processes that were started ------------------------------------------------------------------------------


def leave_error(error: FinetuneError) -> bool:
    """Leave an error for the launcher, which says it; false where this process must.

    Where another process has ended, starting again may help, and there is nothing to say if that one has said why.
    """
    folder = os.environ.get(LAUNCH_FOLDER)
    if folder is None:
        return False
    if isinstance(error, LostRank):
        return _left_error(Path(folder)) is not None
    content = {"code": error.exit_code, "problems": error.problems, "remedy": error.remedy}
    with contextlib.suppress(FinetuneError):
        write_atomic(Path(folder) / f"rank-{os.environ.get('RANK', '0')}.json", json.dumps(content).encode())
    return True


def final_code() -> int | None:
    """The exit code with which a process of this run has ended for good, where this one was started again after it."""
    folder = os.environ.get(LAUNCH_FOLDER)
    left_error = None if folder is None or not _restarts() else _left_error(Path(folder))
    return None if left_error is None else left_error.exit_code


def speaks() -> bool:
    """Whether this process prints results: a single one, or rank 0."""
    return os.environ.get("RANK", "0") == "0"


def leave_folder(folder: Path) -> None:
    """Note the run folder for processes that are started again."""
    if (place := os.environ.get(LAUNCH_FOLDER)) is not None:
        write_atomic(Path(place) / "folder", str(folder).encode())


def folder_to_resume(out: Path | None) -> Path | None:
    """The run folder to resume after a restart; None at the first start.

    Args:
        out: the run folder that the command line names.
    """
    if not _restarts():
        return None
    noted = Path(os.environ.get(LAUNCH_FOLDER, "-")) / "folder"
    if out is None and noted.is_file():
        out = Path(noted.read_text("utf-8"))
    if out is None:
        raise UsageError("--out: a run that is to be started again needs a folder of its own", "give it one with --out")
    return out


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0)
