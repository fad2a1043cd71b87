"""Many requests, one network: pictures are decoded in threads and answered in batches.

A network answers 32 pictures in much less than 32 times the time of one, so pictures of different requests share a
forward pass. Who waits for whom decides both throughput and latency, and the rule is: nobody waits for what is not
coming. As soon as the network is free, it takes all that is decoded; only while further pictures are being decoded
and the batch is not full does it wait for them, at most `max_wait`. A lone client never waits, and under load
batches grow by themselves, because pictures gather while the network is busy with the batch before.

The number of pictures inside is bounded. A request that does not fit is refused at once, whole, so that it can be
sent again, and what was accepted is always answered.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from finetune.data.load import MOST_WORKERS
from finetune.deliver.predict import Prediction
from finetune.deliver.predictor import Predictor
from finetune.device import cores
from finetune.errors import BadImage


class QueueFull(Exception):
    """There is no room for so many pictures now."""


@dataclass
class _Job:
    """A picture on its way: bytes until it is decoded, then pixels, uint8 [H, W, C]."""

    data: bytes
    pixels: np.ndarray | None = None
    answer: Future[Prediction] = field(default_factory=Future)


class Batcher:
    """Answers to pictures of many callers, by one predictor.

    Args:
        predictor: answers batches.
        max_batch: pictures in a forward pass, at most.
        max_wait: seconds that decoded pictures wait for those being decoded, at most.
        room: pictures that may be inside.
        workers: decoding threads; None for one a core, at most 16.
        batched: told the size of each batch.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        max_batch: int = 32,
        max_wait: float = 0.005,
        room: int = 256,
        workers: int | None = None,
        batched: Callable[[int], None] = lambda size: None,
    ) -> None:
        self.predictor, self.max_batch, self.max_wait, self.room = predictor, max_batch, max_wait, room
        self._batched = batched
        self._changed = threading.Condition()
        self._ready: deque[_Job] = deque()
        self._inside = self._decoding = 0
        self._closed = False
        workers = min(cores(), MOST_WORKERS) if workers is None else workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
        self._thread.start()

    @property
    def inside(self) -> int:
        """How many pictures are being decoded, waiting or being answered."""
        return self._inside

    def submit(self, pictures: Sequence[bytes]) -> list[Future[Prediction]]:
        """The answers to come, one a picture; one that cannot be read has its error in its answer.

        Args:
            pictures: the bytes of image files.

        Raises:
            QueueFull: there is no room for all of them; none was taken.
        """
        jobs = [_Job(data) for data in pictures]
        with self._changed:
            if self._closed or self._inside + len(jobs) > self.room:
                raise QueueFull
            self._inside += len(jobs)
            self._decoding += len(jobs)
        for job in jobs:
            self._pool.submit(self._decode, job)
        return [job.answer for job in jobs]

    def close(self) -> None:
        """Answer what is inside, then end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._pool.shutdown()

    def _decode(self, job: _Job) -> None:
        answer: Prediction | BaseException | None = None
        try:
            prepared = self.predictor.prepare(job.data)
            if isinstance(prepared, BadImage):
                answer = self.predictor.answers([""], [prepared])[0]
            else:
                job.pixels = prepared
        except BaseException as error:  # of no memory, say: whoever asked is told
            answer = error
        job.data = b""  # the pixels are smaller than many a photograph's bytes, and a queue may hold hundreds
        with self._changed:
            self._decoding -= 1
            if answer is None:
                self._ready.append(job)
            self._changed.notify_all()
        if answer is not None:
            self._finish([job], [answer])

    def _run(self) -> None:
        while batch := self._next_batch():
            self._batched(len(batch))
            answers: Sequence[Prediction | BaseException]
            try:
                pixels = [job.pixels for job in batch if job.pixels is not None]
                answers = self.predictor.answers([""] * len(batch), pixels)
            except BaseException as error:  # the thread must live on; whoever asked is told
                answers = [error] * len(batch)
            self._finish(batch, answers)

    def _finish(self, jobs: Sequence[_Job], answers: Sequence[Prediction | BaseException]) -> None:
        """Make room first: whoever has an answer may ask again at once."""
        with self._changed:
            self._inside -= len(jobs)
            self._changed.notify_all()
        for job, answer in zip(jobs, answers, strict=True):
            if isinstance(answer, BaseException):
                job.answer.set_exception(answer)
            else:
                job.answer.set_result(answer)

    def _next_batch(self) -> list[_Job]:
        """The next batch for the network; empty when all is done and no more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or (self._closed and not self._inside))
            until = time.monotonic() + self.max_wait
            while len(self._ready) < self.max_batch and self._decoding and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            # nobody waits for what is not coming: with nothing being decoded, a single picture is answered at once
            return [self._ready.popleft() for _ in range(min(len(self._ready), self.max_batch))]
