"""A small network behind a real server: on a port of its own in this process, or as the command runs it."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("fastapi")

from finetune import Classifier, load
from finetune.deliver.predictor import Predictor
from finetune.serve.about import about
from finetune.serve.app import Served
from finetune.serve.batching import Batcher
from finetune.serve.gate import State
from finetune.serve.intake import Limits
from finetune.serve.metrics import ServerMetrics
from finetune.serve.ports import listen
from finetune.serve.server import serve
from finetune.serve.thumbnails import Thumbnails

CLASSES = ["ant", "bee", "<b>cat</b>", "dog"]


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Asks one server."""

    port: int
    served: Served
    threads: list[threading.Thread] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __call__(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 30
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def send(self, *files: tuple[str, bytes], path: str = "/predict", **options: Any) -> Reply:
        """A form with these files."""
        body, kind = form(*files)
        return self("POST", path, body, {"content-type": kind, **options.pop("headers", {})}, **options)


def form(*files: tuple[str, bytes], name: str = "files") -> tuple[bytes, str]:
    """A multipart body and its content type."""
    parts = [
        f'--limit\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n\r\n'.encode(
            "utf-8", "replace"
        )
        + content
        + b"\r\n"
        for file, content in files
    ]
    return b"".join(parts) + b"--limit--\r\n", "multipart/form-data; boundary=limit"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that is sure of what it says, saved."""
    torch.manual_seed(0)
    options = {"preprocess": {"size": 32, "mean": [0.5] * 3, "std": [0.2] * 3}, "device": "cpu"}
    found = Classifier("timm/test_resnet", CLASSES, weights="none", **options)
    for name, parameter in found.network.module.named_parameters():
        if found.network.head in name:
            torch.nn.init.normal_(parameter, std=2.0)
    return found.save(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def predictor(bundle: Path) -> Predictor:
    from finetune import load

    return load(bundle).predictor()


@pytest.fixture(scope="session")
def start(bundle: Path) -> Callable[..., Any]:
    """`with start(...) as client`: a server of its own in a thread, ended and drained at the end."""

    @contextmanager
    def starting(
        predictor: Predictor,
        *,
        token: str | None = None,
        limits: Limits | None = None,
        thumbnails: Thumbnails | None = None,
        **batching: Any,
    ) -> Iterator[Client]:
        metrics = ServerMetrics()
        batcher = Batcher(predictor, batched=metrics.batches.observe, **batching)
        told = about(bundle, load(bundle).network, threshold=predictor.threshold)
        served = Served(batcher, told, metrics, State(), limits or Limits(), thumbnails)
        listening = listen("127.0.0.1", 0)
        client = Client(listening.getsockname()[1], served)
        thread = threading.Thread(target=serve, args=(served, listening), kwargs={"token": token})
        thread.start()
        try:
            yield client
        finally:
            served.state.draining = True
            thread.join(30)
            assert not thread.is_alive()

    return starting


@pytest.fixture(scope="module")
def client(start: Callable[..., Any], predictor: Predictor) -> Iterator[Client]:
    with start(predictor) as found:
        yield found
