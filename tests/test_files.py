"""The atomic writer where it goes past the system's memory."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from finetune.append import is_abandoned
from finetune.errors import ResourceError
from finetune.files import CHUNK, write_text, written


def content(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def lying_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("size", [0, 5, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 4097])
@pytest.mark.parametrize("place", ["disk", "memory"])
def test_every_byte_arrives(tmp_path: Path, size: int, place: str) -> None:
    folder = tmp_path if place == "disk" else Path("/dev/shm") / tmp_path.name  # memory knows no way past itself
    path = folder / "file"
    try:
        with written(path, memoryview(content(size)), forget=True):
            (temporary,) = folder.glob(".file.*.tmp")
            assert temporary.stat().st_size == size
        assert path.read_bytes() == content(size)
        assert lying_in(folder) == ["file"]
    finally:
        path.unlink()
        if place == "memory":
            folder.rmdir()


@pytest.mark.parametrize("answer", [errno.EINVAL, errno.EIO, 4096, 0])
def test_what_the_short_way_does_not_take_goes_the_long_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    write, calls = os.write, 0

    def seldom(descriptor: int, part: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            return write(descriptor, part)
        if answer in (errno.EINVAL, errno.EIO):
            raise OSError(answer, "no")
        return write(descriptor, bytes(part)[:answer]) if answer == 4096 else 0

    monkeypatch.setattr(os, "write", seldom)
    with written(tmp_path / "file", content(3 * CHUNK + 7), forget=True):
        pass
    assert calls == 2
    assert (tmp_path / "file").read_bytes() == content(3 * CHUNK + 7)


def test_no_room_is_said_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    held: list[bool] = []

    def fill(file: object) -> None:
        (temporary,) = tmp_path.glob(".file.*.tmp")
        held.append(is_abandoned(temporary, 0))
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ResourceError, match="ENOSPC"), written(path, fill, forget=True):
        pass
    assert held == [False]
    assert path.read_bytes() == b"old"
    assert lying_in(tmp_path) == ["file"]


def test_what_nobody_holds_is_abandoned(tmp_path: Path) -> None:
    left = tmp_path / ".file.1.aa.tmp"
    left.write_bytes(b"x")
    assert is_abandoned(left, 0)
    assert not is_abandoned(left, 60)
    assert not is_abandoned(tmp_path / "gone", 0)


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for content in (b"whole", lambda file: file.write(b"whole")):
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        with written(pipe, content):
            pass
        assert os.read(reader, 100) == b"whole"
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device, and rename over one")
def test_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    null, link = tmp_path / "null", tmp_path / "link"
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    link.symlink_to(null)
    for name in (null, link):
        write_text(name, "gone")
    assert stat.S_ISCHR(null.stat().st_mode)
    assert link.is_symlink()
