"""The one atomic writer, hashing, JSON and CSV that are safe to open, and the escaping of names for people."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import html
import io
import json
import math
import mmap
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from finetune.errors import ArtefactError, from_os_error

TEMPORARY = ".tmp"
"""Suffix of a file that is being written; no reader ever opens one."""

CHUNK = 2**23
"""Bytes that are written at once past memory."""

# --- writing ---------------------------------------------------------------------------------------------------------


def write_atomic(path: Path, content: bytes | memoryview | Callable[[BinaryIO], object]) -> None:
    """Publish a file: write beside it, fsync, rename over it, fsync the folder.

    A reader sees the old file or the new one, whole, wherever a crash falls. A failed fsync is never repeated on the
    same descriptor (the kernel may have dropped the pages) and no copy ever stands in for a rename. A device or a pipe
    has no old content to keep and must not be replaced by a file: it is written to as it is.

    Args:
        path: the name to publish; its folder is made if absent.
        content: the bytes, or a function that writes them to the open file.

    Raises:
        ResourceError: disk full, file too large, no permission, …; the temporary file is removed, the old one kept.
    """
    with written(path, content):
        pass


@contextlib.contextmanager
def written(
    path: Path, content: bytes | memoryview | Callable[[BinaryIO], object], *, forget: bool = False
) -> Iterator[None]:
    """`write_atomic` with time in between: inside, the file is on the disk; when left without error, it has its name.

    Args:
        path: as in `write_atomic`.
        content: as in `write_atomic`.
        forget: it will hardly be read soon, so memory need not keep a copy of it.

    Raises:
        ResourceError: as in `write_atomic`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY}")
    size = None if callable(content) else len(content)
    try:
        make_folder(path.parent)
        if is_stream(path):
            yield
            _pour(path, content)
            return
        with open(temporary, "wb") as file:
            _hold(file)
            if callable(content):
                content(file)
            else:
                file.write(memoryview(content)[_write_past_memory(file, content) if forget else 0 :])
            file.flush()
            os.fsync(file.fileno())
        yield
        os.replace(temporary, path)
        fsync_folder(path.parent)
    except BaseException as error:  # Ctrl-C, too, must leave no half-written file; it is raised again
        reached = 0
        with contextlib.suppress(OSError):
            reached = temporary.stat().st_size
            temporary.unlink()
        if isinstance(error, OSError):
            problem = from_os_error(error, path, "write")
            with contextlib.suppress(OSError):
                free = shutil.disk_usage(path.parent).free
                needed = f"needed: {reached:,} bytes or more" if size is None else f"needed: {size:,} bytes"
                problem.problems[0] += f" ({needed}; free: {free:,} bytes)"
            raise problem from error
        raise


def _pour(path: Path, content: bytes | memoryview | Callable[[BinaryIO], object]) -> None:
    """Write to a device or pipe, which may not be able to go back to an earlier place."""
    whole = io.BytesIO() if callable(content) else io.BytesIO(content)
    if callable(content):
        content(whole)
    with open(path, "wb") as file:
        file.write(whole.getbuffer())


def _write_past_memory(file: BinaryIO, content: bytes | memoryview) -> int:
    """Write the whole chunks of `content` straight to the disk, where that can be done; returns how many bytes it did.

    Memory for the system's own copy would be new each time; on a virtual machine, getting it from the host was seen to
    take longer than the disk. Whatever fails here is left to the usual way, which then fails for the same reason.
    """
    done, flags = 0, fcntl.fcntl(file, fcntl.F_GETFL)
    if len(content) < CHUNK or not hasattr(os, "O_DIRECT"):
        return 0
    with contextlib.suppress(OSError), mmap.mmap(-1, CHUNK) as aligned:
        try:
            fcntl.fcntl(file, fcntl.F_SETFL, flags | os.O_DIRECT)
            while len(content) - done >= CHUNK:
                aligned[:] = content[done : done + CHUNK]
                done += (count := os.write(file.fileno(), aligned))
                if count < CHUNK:
                    break
        finally:
            fcntl.fcntl(file, fcntl.F_SETFL, flags)
    return done


def _hold(file: BinaryIO) -> None:
    """Lock a file that is being written, so that nobody takes it for abandoned; not every file system can."""
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each durably: what is published in it cannot be lost with its name."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        with contextlib.suppress(PermissionError):  # one may be allowed to write into a folder and not to read it
            fsync_folder(path.parent)


def is_stream(path: Path) -> bool:
    """Whether a path is a device, a pipe, or a name of one, such as /dev/null and /dev/stdout."""
    if path.absolute().parent == Path("/dev"):
        return True
    with contextlib.suppress(OSError):
        mode = path.stat().st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return False


def can_be_made(folder: Path) -> bool:
    """Whether a folder is there and may be written to, or could be made; nothing is done."""
    place = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def fsync_folder(folder: Path) -> None:
    """Make renames and deletions in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Publish `text` as UTF-8; what UTF-8 cannot hold (bytes of a file name) is written as an escape."""
    write_atomic(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Publish `value` as JSON, indented, keys in the given order; NaN and infinities become null."""
    write_text(path, to_json(value, indent=2) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Publish a table as `csv_text` writes it."""
    write_text(path, csv_text(columns, rows))


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV; floats in full precision (`repr`), None as an empty cell, text guarded by `cell`."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([cell(value) for value in row] for row in (columns, *rows))
    return buffer.getvalue()


# --- reading and hashing ---------------------------------------------------------------------------------------------


def read_json(path: Path) -> Any:
    """The JSON in `path`.

    Raises:
        ArtefactError: it is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path}: not readable as JSON: {error}") from error


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_comment(path: Path) -> str:
    """The first line of the comment that a card or a recipe begins with, for lists of them."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.lstrip("# ") for line in lines if line.startswith("# ") and "yaml-language" not in line), "")


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON text in which NaN and infinities are null and anything unknown is its string."""
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value


# --- escaping --------------------------------------------------------------------------------------------------------


def cell(value: Any) -> Any:
    """A value as a CSV cell: text that a spreadsheet would take for a formula gets a leading quote."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, str):
        text = visible(value)
        return "'" + text if value[:1] in ("=", "+", "-", "@", "\t", "\r") else text
    return value


def visible(text: str) -> str:
    """Text for one line of a terminal, log or table: control characters and undecodable bytes as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def escape_html(text: object) -> str:
    """Text for HTML: no character of it can open or close an element or an attribute."""
    return html.escape(visible(str(text)), quote=True)


# --- places ----------------------------------------------------------------------------------------------------------


def cores() -> int:
    """Processor cores that this process may use."""
    ask = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(ask(0)) if ask is not None else os.cpu_count() or 1


def cache_folder() -> Path:
    """`$FINETUNE_CACHE`, else `$XDG_CACHE_HOME/finetune`, else `~/.cache/finetune`; not created here."""
    if explicit := os.environ.get("FINETUNE_CACHE"):
        return Path(explicit).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path(os.path.expanduser("~")) / ".cache") / "finetune"
