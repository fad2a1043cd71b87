"""From a request to pictures: what may come in, how much of it, and how slowly.

Everything a stranger sends is bounded here: the size of a body, the bytes of all bodies together, the number and the
names of files, and the time a body may take. Nothing is written to disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

RAW = ("image/", "application/octet-stream")
"""Content types of a body that is one picture."""

LONGEST_NAME = 1024
"""Characters of a file name."""


class Refused(Exception):
    """A request that gets no predictions.

    Args:
        status: of the response.
        reason: for people, one line.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Limits:
    """Limits on what a request may send.

    Attributes:
        body: bytes of a request.
        bodies: bytes of all requests that are being received or answered.
        files: pictures in a request.
        seconds: a body may take, and a second more for each `pace` bytes of it.
        pace: bytes a second.
        head_seconds: the head of a request may take, and a connection may be silent.
    """

    body: int = 64 * 1024**2
    bodies: int = 256 * 1024**2
    files: int = 256
    seconds: float = 20.0
    pace: int = 16 * 1024
    head_seconds: float = 20.0


@dataclass
class Intake:
    """Takes in bodies and keeps count of their bytes."""

    limits: Limits = field(default_factory=Limits)
    held: int = 0

    async def pictures(self, request: Request, taken: list[int]) -> list[tuple[str, bytes]]:
        """The pictures of a request, each with its name and the bytes of its file.

        Args:
            request: a multipart body with files in the field `files`, or a body that is one picture.
            taken: a list with one number, raised as bytes come in; the caller subtracts it from `held` when done.

        Raises:
            Refused: too much, too slow, or not to be understood.
        """
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > self.limits.body:
            raise Refused(413, f"the body is larger than {self.limits.body:,} bytes")
        chunks = self._chunks(request, taken)
        if kind == "multipart/form-data":
            return await self._files(request, chunks)
        if not kind.startswith(RAW):
            raise Refused(415, "send multipart/form-data with the files in the field 'files', or one image/* body")
        return [("", b"".join([chunk async for chunk in chunks]))]

    async def _chunks(self, request: Request, taken: list[int]) -> AsyncGenerator[bytes, None]:
        """The body as it comes, counted and timed."""
        limits, loop = self.limits, asyncio.get_running_loop()
        stream, begin = request.stream(), loop.time()
        while True:
            try:
                # time grows with what has come: a slow but steady sender is served, one that drips bytes is not
                async with asyncio.timeout_at(begin + limits.seconds + taken[0] / limits.pace):
                    chunk = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise Refused(408, "the body came too slowly") from None
            except ClientDisconnect:
                raise Refused(400, "the client has gone") from None
            taken[0] += len(chunk)
            self.held += len(chunk)
            if taken[0] > limits.body:
                raise Refused(413, f"the body is larger than {limits.body:,} bytes")
            if self.held > limits.bodies:  # many bodies at once, each within its limit, could still fill the memory
                raise Refused(503, "too much is being received at once; try again")
            yield chunk

    async def _files(self, request: Request, chunks: AsyncGenerator[bytes, None]) -> list[tuple[str, bytes]]:
        parser = _InMemory(request.headers, chunks, max_files=self.limits.files, max_fields=100)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise Refused(400, error.message) from error
        try:
            files = [part for part in form.getlist("files") if isinstance(part, UploadFile)]
            if not files:
                raise Refused(400, "no file in the field 'files'")
            return [(_checked(part.filename or ""), await part.read()) for part in files]
        finally:
            await form.close()


class _InMemory(MultiPartParser):
    """The parser, but for files of any size that a body may have it writes nothing to disk."""

    spool_max_size = 2**62


def _checked(name: str) -> str:
    """A file's name, which is only ever shown.

    Raises:
        Refused: one that no client sends but to climb out of a folder, or an endless one.
    """
    parts = name.replace("\\", "/").split("/")
    if len(name) > LONGEST_NAME or ".." in parts or (parts[0] == "" and len(parts) > 1) or "\0" in name:
        raise Refused(400, "a file name that is a path out of its folder, or too long")
    return name
