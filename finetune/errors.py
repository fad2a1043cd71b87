"""The errors a user may see, each with its exit code.

FinetuneError        1   a bug of ours, if nothing more precise fits
├── UsageError       2   the command line or the recipe
├── DataError        3   the images
│   └── BadImage     3   one image that cannot be read
├── ArtefactError    4   weights, checkpoint or bundle: broken, unsafe or incompatible
├── DivergedError    5   numbers that are no longer finite
├── ResourceError    6   disk, memory, device, port, network, permission
│   └── LostRank     6   another process of the run
└── Stopped    130/143   SIGINT or SIGTERM, after saving
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import shlex
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal


class FinetuneError(Exception):
    """One or more problems and what to do about them.

    Args:
        problems: one line each; every line names the path or the key that is the culprit.
        remedy: what the user can do, one line or several.
    """

    exit_code = 1
    told = False
    """Whether a program that reads JSON has got it already, together with what there was besides."""

    def __init__(self, problems: str | Sequence[str], remedy: str = "") -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        self.remedy = remedy
        super().__init__("\n".join([*self.problems, *([remedy] if remedy else [])]))


class UsageError(FinetuneError):
    """The command line or the recipe asks for something that cannot be done."""

    exit_code = 2


class DataError(FinetuneError):
    """The images, their folders or their classes are not usable as they are."""

    exit_code = 3


class BadImage(DataError):
    """One file that is no readable image; the problem says why, without the path."""


class ArtefactError(FinetuneError):
    """A weights file, checkpoint or bundle that is broken, unsafe or does not fit."""

    exit_code = 4


class DivergedError(FinetuneError):
    """A loss or gradient that is not finite."""

    exit_code = 5


class ResourceError(FinetuneError):
    """The machine lacks something: disk, memory, a device, a port, the network, a permission."""

    exit_code = 6


class LostRank(ResourceError):
    """Another process of the run has ended or does not answer; what was saved before is whole."""


class Stopped(FinetuneError):
    """The run was asked to stop by a signal and has saved what there was to save."""

    def __init__(self, signum: int, problems: str | Sequence[str], remedy: str = "") -> None:
        self.signum = signum
        self.exit_code = 128 + signum
        super().__init__(problems, remedy)

    @property
    def signal_name(self) -> str:
        """SIGINT or SIGTERM."""
        return signal.Signals(self.signum).name


# --- what a remedy tells to write -------------------------------------------------------------------------------------

Speech = Literal["command", "recipe", "arguments"]
_speech: Speech = "arguments"


@contextlib.contextmanager
def spoken(to: Speech) -> Iterator[None]:
    """Remedies inside name what their reader can write: an option, a key among `overrides`, or an argument.

    The outermost counts, so that what the command line calls speaks of options. It is one for all threads, as it
    decides on wording alone.

    Args:
        to: command for who types commands; recipe for a script that calls `run`, `fit` or `resume`; arguments for one
            that calls anything else.
    """
    global _speech
    before = _speech
    _speech = to if before == "arguments" else before
    try:
        yield
    finally:
        _speech = before


def option(name: str, value: str = "") -> str:
    """An option of a command, ``--out DIR``; in a script the argument, ``out=DIR``."""
    if _speech == "command":
        return f"--{name} {value}".strip()
    return f"{name.replace('-', '_')}={value or True}"


FROM_SCRATCH: Mapping[str, object] = {"model.weights": "none", "model.unfreeze": {"all": 0}}


def setting(key: str, value: object) -> str:
    """A key of the recipe set to a value: ``-o 'model.unfreeze={all: 0}'``, or as a script writes it.

    ``overrides=['model.unfreeze={all: 0}']`` where a recipe is run, and ``unfreeze={'all': 0}`` elsewhere.
    """
    return settings({key: value})


def settings(values: Mapping[str, object]) -> str:
    """Several keys at once, as `setting`."""
    lines = [f"{key}={_flow(value)}" for key, value in values.items()]
    if _speech == "command":
        return " ".join(f"-o {shlex.quote(line)}" for line in lines)
    if _speech == "recipe":
        return f"overrides={lines}"
    return ", ".join(_argument(key, value) for key, value in values.items())


def _argument(key: str, value: object) -> str:
    """A key of the recipe as an argument; one below a key that is a mapping goes into that."""
    _, _, name = key.rpartition(".") if key.count(".") < 2 else key.partition(".")
    name, _, inner = name.partition(".")
    return f"{name}={ {inner: value} if inner else value!r}"


def called(line: str, call: str) -> str:
    """A command line, or the call in a script that does the same."""
    return line if _speech == "command" else call


def resuming(run: object = None) -> str:
    """How to go on with a run."""
    if run is None:
        return called("`finetune resume`", "`ft.resume(run)`")
    return called(f"finetune resume {run}", f"ft.resume({str(run)!r})")


def _flow(value: object) -> str:
    """A value as YAML on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_flow(item)}" for name, item in value.items()) + "}"
    return f"[{', '.join(map(_flow, value))}]" if isinstance(value, list) else str(value)


# --- errors of others -------------------------------------------------------------------------------------------------


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x' or 'y'?)`` for the known names nearest to `name`, or nothing."""
    options = list(known)
    near = difflib.get_close_matches(name, options, n=3, cutoff=0.6)
    near = near or difflib.get_close_matches(name.lower(), options, n=3, cutoff=0.6)
    near = near or [option for option in options if sorted(option) == sorted(name.lower())][:3]  # letters swapped
    return f" (did you mean {' or '.join(repr(n) for n in near)}?)" if near else ""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says, in the words of Python, torch or the loader of libraries, that memory has run out."""
    if isinstance(error, MemoryError):
        return True
    signs = ("allocate memory", "not enough memory", "out of memory", "failed to map segment", "can't start new thread")
    return isinstance(error, RuntimeError | ImportError | OSError) and any(sign in str(error) for sign in signs)


def from_os_error(error: OSError, path: object, doing: str = "use") -> ResourceError:
    """An operating system's refusal as a ResourceError that names the path and the remedy."""
    other = option("out", "DIR")
    remedies = {
        errno.ENOSPC: f"free some space, or give another folder with {other}, then go on with {resuming()}",
        errno.EDQUOT: f"the disk quota is used up: free some space, then go on with {resuming()}",
        errno.EFBIG: f"the file size limit is too low: raise it (ulimit -f), then go on with {resuming()}",
        errno.EMFILE: "too few file descriptors: raise the limit (ulimit -n 1024)",
        errno.EACCES: "change the permissions, or choose another folder",
        errno.EPERM: "change the permissions, or choose another folder",
        errno.EROFS: "the file system is read-only: choose another folder",
        errno.EXDEV: "the folder spans two file systems: choose one that lies on a single one",
        errno.EIO: f"the disk reports an error: check it, then go on with {resuming()}",
    }
    name = errno.errorcode.get(error.errno or 0, "OSError")
    remedy = remedies.get(error.errno or 0, "fix that and try again")
    return ResourceError(f"{path}: cannot {doing}: {error.strerror or error} [{name}]", remedy)
