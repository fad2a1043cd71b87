"""Published weights: the caches of the machine, the download, and every way it can fail."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from finetune.errors import ArtefactError, ResourceError
from finetune.files import cache_folder
from finetune.model import published
from finetune.model.published import hub_weights, url_weights

CONTENT = bytes(range(256)) * 8192  # two blocks
DIGEST = hashlib.sha256(CONTENT).hexdigest()
Serve = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Serve], str]]:
    """`server(answer)` gives the address of a server on this machine that answers so; empty caches, and online."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("no_proxy", "*")
    running: list[ThreadingHTTPServer] = []

    def start(answer: Serve) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self)

            def log_message(self, *_: object) -> None: ...

        httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        httpd.daemon_threads = False  # so that closing waits for them
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        running.append(httpd)
        return f"http://127.0.0.1:{httpd.server_address[1]}"

    yield start
    for httpd in running:
        httpd.shutdown()
        httpd.server_close()


def whole(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(CONTENT)))
    handler.end_headers()
    handler.wfile.write(CONTENT)


def cut(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(CONTENT)))
    handler.end_headers()
    handler.wfile.write(CONTENT[:1000])


def absent(handler: BaseHTTPRequestHandler) -> None:
    handler.send_error(404)


def silent(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(2)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_file_is_fetched_once_into_our_own_cache(
    server: Callable[[Serve], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server(whole)
    first = url_weights(f"{url}/net-{DIGEST[:8]}.pth")
    assert first == cache_folder() / "weights" / f"net-{DIGEST[:8]}.pth"
    assert first.read_bytes() == CONTENT
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert url_weights(f"{url}/net-{DIGEST[:8]}.pth") == first
    assert all(name.startswith("own/weights/") for name in files(tmp_path))


def test_the_hub_is_asked_for_the_safetensors_of_the_repository(
    server: Callable[[Serve], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        whole(handler)

    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", server(answer) + "/{repo_id}/{filename}"
    )
    paths = [hub_weights("timm/net.tag") for _ in range(2)]
    assert paths[0] == paths[1] == cache_folder() / "weights" / "timm--net.tag" / "model.safetensors"
    assert asked == ["/timm/net.tag/model.safetensors"]
    paths[0].write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(ArtefactError, match="damaged"):
        hub_weights("timm/net.tag")


@pytest.mark.parametrize(
    ("answer", "name", "words"),
    [
        (cut, "net.pth", "ended after 1,000 of"),
        (absent, "net.pth", "Not Found"),
        (whole, "net-00000000.pth", "another sha256"),
        (silent, "net.pth", "no answer in 1 s"),
    ],
)
def test_a_download_that_fails_leaves_nothing_and_says_what_to_do(
    server: Callable[[Serve], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: Serve,
    name: str,
    words: str,
) -> None:
    monkeypatch.setattr(published, "OPEN_SECONDS", 1)
    with pytest.raises(ResourceError, match=words) as caught:
        url_weights(f"{server(answer)}/{name}")
    assert "weights='none', unfreeze={'all': 0}" in caught.value.remedy
    assert files(tmp_path) == []


def drips(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(CONTENT)))
    handler.end_headers()
    for place in range(40):
        handler.wfile.write(CONTENT[place : place + 1])
        time.sleep(0.1)


def test_a_download_that_only_drips_is_given_up_in_time(
    server: Callable[[Serve], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = server(drips) + "/{repo_id}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    start = time.perf_counter()
    with pytest.raises(ResourceError, match=r"not whole after 0\.5 s"):
        hub_weights("timm/net.tag", seconds=0.5)
    assert time.perf_counter() - start < 3
    assert files(tmp_path) == []


def test_nobody_there_is_told_at_once(server: Callable[[Serve], str]) -> None:
    start = time.perf_counter()
    with pytest.raises(ResourceError, match="refused"):
        url_weights("http://127.0.0.1:9/net.pth")
    assert time.perf_counter() - start < 5


def test_the_shared_caches_come_first_and_are_verified(server: Callable[[Serve], str], tmp_path: Path) -> None:
    hub = tmp_path / "hub" / "models--timm--net.tag"
    blob = hub / "blobs" / DIGEST
    snapshot = hub / "snapshots" / "c0ffee" / "model.safetensors"
    for folder in (blob.parent, snapshot.parent, hub / "refs"):
        folder.mkdir(parents=True)
    (hub / "refs" / "main").write_text("c0ffee")
    blob.write_bytes(CONTENT)
    snapshot.symlink_to(Path("../../blobs") / DIGEST)
    torch_file = tmp_path / "torch" / "hub" / "checkpoints" / f"net-{DIGEST[:8]}.pth"
    torch_file.parent.mkdir(parents=True)
    torch_file.write_bytes(CONTENT)
    url = f"http://nowhere.invalid/net-{DIGEST[:8]}.pth"
    assert hub_weights("timm/net.tag") == snapshot
    assert url_weights(url) == torch_file
    for path in (blob, torch_file):
        path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(ArtefactError, match="damaged"):
        hub_weights("timm/net.tag")
    with pytest.raises(ArtefactError, match="damaged"):
        url_weights(url)
