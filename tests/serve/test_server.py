"""The server on a real port: its answers, what it refuses, and that nothing a stranger sends brings it down."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
import time
from pathlib import Path

import pytest

from finetune.deliver.predictor import Predictor
from finetune.errors import BadImage
from finetune.serve.intake import Limits
from tests import makers
from tests.serve.conftest import CLASSES, Client, form


def expected(predictor: Predictor, data: bytes) -> dict[str, float]:
    return predictor.predict(data).probabilities


def scores(row: dict) -> dict[str, float]:
    return {one["label"]: one["confidence"] for one in row["top"]}


def still_well(client: Client) -> None:
    assert client.send(("a.jpg", makers.jpeg())).json["predictions"][0]["error"] is None


# --- answers ---------------------------------------------------------------------------------------------------------


def test_files_of_a_form_are_answered_in_order(client: Client, predictor: Predictor) -> None:
    pictures = [(f"{seed}.jpg", makers.jpeg(seed)) for seed in range(7)]
    reply = client.send(*pictures, path="/predict?topk=99")
    assert reply.status == 200
    rows = reply.json["predictions"]
    assert [row["name"] for row in rows] == [name for name, _ in pictures]
    for row, (_, data) in zip(rows, pictures, strict=True):
        assert list(row) == ["name", "label", "confidence", "top", "abstained", "error"]
        assert scores(row) == pytest.approx(expected(predictor, data), abs=1e-4)
        assert row["label"] == row["top"][0]["label"]
        assert row["confidence"] == row["top"][0]["confidence"] == max(scores(row).values())


def test_a_raw_body_is_one_picture(client: Client, predictor: Predictor) -> None:
    for kind in ("image/jpeg", "image/png", "application/octet-stream"):
        reply = client("POST", "/predict?topk=2", makers.jpeg(3), {"content-type": kind})
        assert reply.status == 200
        (row,) = reply.json["predictions"]
        assert (row["name"], len(row["top"])) == ("", 2)
        assert row["confidence"] == pytest.approx(max(expected(predictor, makers.jpeg(3)).values()), abs=1e-4)


def test_a_turned_picture_gets_the_upright_ones_answer(client: Client, predictor: Predictor) -> None:
    image = makers.photo(1, 40, 30)
    upright, turned = (client.send(("x.jpg", makers.turned_jpeg(one, image))) for one in (1, 6))
    right = expected(predictor, makers.turned_jpeg(6, image))
    assert scores(turned.json["predictions"][0]) == pytest.approx(right, abs=1e-4)
    assert right == pytest.approx(scores(upright.json["predictions"][0]), abs=0.1)  # two JPEGs, so not to the bit


def test_below_the_threshold_it_is_not_sure(bundle: Path, start) -> None:
    from finetune import load

    with start(load(bundle).predictor(threshold=1.0)) as client:
        (row,) = client.send(("a.jpg", makers.jpeg())).json["predictions"]
        assert (row["label"], row["abstained"], row["error"]) == (None, True, None)
        assert row["confidence"] > 0
        assert client("GET", "/model").json["threshold"] == 1.0


def test_what_the_model_is(client: Client, bundle: Path) -> None:
    told = client("GET", "/model").json
    assert told["classes"] == CLASSES
    assert told["preprocess"]["size"] == [32, 32]
    assert len(told["weights_sha256"]) == 64
    assert str(bundle.parent) not in json.dumps(told), "no path of this machine"


def test_health_readiness_and_counters(client: Client) -> None:
    assert client("GET", "/health").json == {"status": "ok"}
    assert client("GET", "/ready").json == {"status": "ready"}
    client.send(("a.jpg", makers.jpeg()), ("b.jpg", b"no picture"))
    text = client("GET", "/metrics").body.decode()
    for line in ('finetune_requests_total{path="/predict",status="200"}', 'finetune_images_total{result="error"}'):
        assert float(next(row.split()[-1] for row in text.splitlines() if row.startswith(line))) >= 1
    assert "finetune_request_seconds_bucket" in text
    assert "finetune_batch_images_bucket" in text
    assert "finetune_queue_images 0.0" in text
    assert "/nowhere" not in text


def test_the_interface_is_described_offline(client: Client) -> None:
    page = client("GET", "/docs")
    assert page.status == 200
    assert b"<script" not in page.body
    assert b"//cdn" not in page.body
    api = client("GET", "/openapi.json").json
    assert set(api["paths"]) == {"/predict", "/health", "/ready", "/model", "/metrics"}
    assert set(api["paths"]["/predict"]["post"]["requestBody"]["content"]) == {"multipart/form-data", "image/*"}
    for path in ("/", "/docs", "/page/app.js", "/predict"):
        headers = client("GET", path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'; ")
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


# --- what is broken, hostile or too much -----------------------------------------------------------------------------


def test_hostile_pictures_are_errors_of_their_rows(client: Client, tmp_path: Path) -> None:
    bad = makers.bad_images(tmp_path)
    assert bad
    for name in bad:
        data = (tmp_path / name).read_bytes()
        replies = [client.send((name, data), ("good.jpg", makers.jpeg()))]
        replies += [client("POST", "/predict", data, {"content-type": "image/jpeg"})]
        for reply in replies:
            assert reply.status == 200, name
            row = reply.json["predictions"][0]
            assert row["error"], name
            assert (row["label"], row["confidence"], row["top"]) == (None, None, [])
            assert not any(word in row["error"] for word in ("Traceback", "/", "<_io")), row["error"]
        assert replies[0].json["predictions"][1]["error"] is None
    still_well(client)


@pytest.mark.parametrize("name", ["../../x", "..\\x", "/etc/passwd", "n" * 2000], ids=["up", "up-dos", "root", "long"])
def test_names_out_of_their_folder_are_refused(client: Client, name: str) -> None:
    assert client.send((name, makers.jpeg())).status == 400
    still_well(client)


def test_odd_names_are_only_names(client: Client) -> None:
    for name in ("<img src=x onerror=alert(1)>.jpg", "=1+2.jpg", "café.jpg", "folder/cat.jpg", ""):
        (row,) = client.send((name, makers.jpeg())).json["predictions"]
        assert row["name"] == name
        assert row["error"] is None


def test_abused_forms_are_refused_and_nothing_is_written(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_file(*_: object, **__: object) -> None:
        raise AssertionError("a temporary file")

    monkeypatch.setattr(tempfile, "TemporaryFile", no_file)
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", no_file)
    many, kind = form(*[(f"{n}.jpg", b"x") for n in range(10_000)])
    assert client("POST", "/predict", many, {"content-type": kind}).status == 400
    large_header = b'--limit\r\nContent-Disposition: form-data; name="files"; filename="' + b"x" * 2**20
    assert client("POST", "/predict", large_header + b'"\r\n\r\n\r\n--limit--', {"content-type": kind}).status == 400
    for body in (b"", b"--limit--\r\n", b"--other\r\n", b"\0" * 100, form(("a.jpg", b"x"), name="elsewhere")[0]):
        assert client("POST", "/predict", body, {"content-type": kind}).status == 400, body
    assert client("POST", "/predict", b"x", {"content-type": "multipart/form-data"}).status == 400
    assert client("POST", "/predict", b"a=b", {"content-type": "application/x-www-form-urlencoded"}).status == 415
    large = client.send(("large.jpg", b"\xff\xd8\xff" + b"\0" * 3_000_000))  # more than the parser keeps by default
    assert large.json["predictions"][0]["error"]
    assert client("GET", "/health", headers={"x-large": "x" * 2**20}).status == 400
    still_well(client)


@pytest.mark.parametrize("query", ["topk=0", "topk=x", "topk=-1"])
def test_a_wrong_topk_is_said(client: Client, query: str) -> None:
    reply = client.send(("a.jpg", makers.jpeg()), path=f"/predict?{query}")
    assert (reply.status, "topk" in reply.json["error"]) == (400, True)


def test_nothing_is_fetched_and_nothing_else_is_there(client: Client) -> None:
    for path in (
        "/models",
        "/page/../app.py",
        "/page/index.html",
        "/?url=http://127.0.0.1:1/",
        "/predict?url=file:///etc/passwd",
    ):
        assert client("GET", path).status == 404, path
    assert client("GET", "/predict").status == 405
    assert client("OPTIONS", "/predict", headers={"origin": "http://evil.example"}).status == 405


def test_a_large_body_is_refused(start, predictor: Predictor) -> None:
    with start(predictor, limits=Limits(body=100_000)) as client:
        for body in (b"x" * 3_000_000, (b"x" * 50_000 for _ in range(60))):  # with its length, and in chunks
            assert client("POST", "/predict", body, {"content-type": "image/jpeg"}).status == 413
        still_well(client)
        assert client.served.batcher.inside == 0


def test_all_bodies_together_are_bounded(start, predictor: Predictor) -> None:
    with start(predictor, limits=Limits(bodies=100_000)) as client:
        reply = client("POST", "/predict", b"x" * 200_000, {"content-type": "image/jpeg"})
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        still_well(client)  # what was held is let go of


def test_a_slow_client_is_sent_away(start, predictor: Predictor) -> None:
    with start(predictor, limits=Limits(seconds=0.5, head_seconds=0.5)) as client:
        for head in (
            b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: 99\r\n\r\nx",
            b"GET /",
            b"",
        ):
            with socket.create_connection(("127.0.0.1", client.port), timeout=10) as slow:
                slow.sendall(head)
                began = time.monotonic()
                said = slow.recv(1000)
                assert time.monotonic() - began < 5
                assert said.startswith(b"HTTP/1.1 408 ") or (said == b"" and not head)
        still_well(client)


def test_overload_is_refused_and_what_is_accepted_is_right(start, predictor: Predictor) -> None:
    data = [makers.jpeg(seed) for seed in range(5)]
    right = [expected(predictor, one) for one in data]
    found: list[tuple[int, int, dict[str, float]]] = []

    def ask(number: int, client: Client) -> None:
        reply = client("POST", "/predict", data[number % 5], {"content-type": "image/jpeg"})
        assert reply.status == 200 or int(reply.headers["retry-after"]) >= 1
        found.append((reply.status, number % 5, scores(reply.json["predictions"][0]) if reply.status == 200 else {}))

    with start(predictor, room=8, max_batch=4) as client:
        threads = [threading.Thread(target=ask, args=(number, client)) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert client.send(*[("x.jpg", data[0])] * 9).status == 503  # more than there is room for, at any time
        still_well(client)
    assert len(found) == 200
    assert {status for status, _, _ in found} <= {200, 503}
    good = [(number, row) for status, number, row in found if status == 200]
    assert good
    assert all(row == pytest.approx(right[number], abs=1e-4) for number, row in good)


def test_requests_of_many_clients_share_forward_passes(start, predictor: Predictor) -> None:
    sizes: list[int] = []
    release = threading.Event()

    class Slow(Predictor):
        def answers(self, names, pixels):
            release.wait(20)
            sizes.append(len(names))
            return predictor.answers(names, pixels)

    slow = Slow(predictor.network, predictor.compute, images=1)
    with start(slow, max_batch=16) as client:
        threads = [threading.Thread(target=client.send, args=(("a.jpg", makers.jpeg(n)),)) for n in range(24)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 20
        while client.served.batcher.inside < 24 and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.2)  # for the last of them to be decoded
        release.set()
        for thread in threads:
            thread.join(20)
    assert sum(sizes) == 24
    assert 12 <= max(sizes) <= 16  # whatever the first batch did not take makes one more, up to the limit


def test_a_fault_of_the_network_is_told_and_survived(start, predictor: Predictor, capfd) -> None:
    class Broken(Predictor):
        def answers(self, names, pixels):
            if any(not isinstance(one, BadImage) and one.mean() > 250 for one in pixels):
                raise ValueError("secret detail")
            return predictor.answers(names, pixels)

    white = makers.encoded(makers.Image.new("RGB", (20, 20), "white"))
    with start(Broken(predictor.network, predictor.compute, images=1)) as client:
        reply = client.send(("white.jpg", white))
        assert (reply.status, reply.json) == (500, {"error": "a fault of the server"})
        still_well(client)
        assert client.served.batcher.inside == 0
    assert "secret detail" in capfd.readouterr().err


def test_a_token_is_asked_for(start, predictor: Predictor) -> None:
    with start(predictor, token="s3cret") as client:
        for headers in (
            {},
            {"authorization": "Bearer s3cre"},
            {"authorization": "s3cret"},
            {"authorization": "Bearer \xe9"},
        ):
            reply = client.send(("a.jpg", makers.jpeg()), headers=headers)
            assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
            assert client("GET", "/model", headers=headers).status == 401
            assert client("GET", "/metrics", headers=headers).status == 401
        assert client.send(("a.jpg", makers.jpeg()), headers={"authorization": "Bearer s3cret"}).status == 200
        for path in ("/", "/docs", "/health", "/ready", "/page/app.js"):
            assert client("GET", path).status == 200, path


def test_memory_and_answers_hold_under_broken_bodies(start, predictor: Predictor) -> None:
    """A few seconds of what `benchmarks/serve.py --soak` does for minutes."""
    data, broken = makers.jpeg(1, 300, 200), makers.jpeg(1, 300, 200)[:700]
    right, until = expected(predictor, data), time.monotonic() + 4
    bad: list[object] = []
    done = [0] * 16

    def ask(number: int, client: Client) -> None:
        while time.monotonic() < until:
            done[number] += 1
            hurt = done[number] % 10 == 0
            reply = client.send(("x.jpg", broken if hurt else data))
            row = reply.json["predictions"][0] if reply.status == 200 else None
            if reply.status not in (200, 503) or (row and hurt and not row["error"]):
                bad.append(reply)
            if row and not hurt and scores(row) != pytest.approx(right, abs=1e-4):
                bad.append(row)

    with start(predictor) as client:
        threads = [threading.Thread(target=ask, args=(number, client)) for number in range(16)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        early = resident()
        for thread in threads:
            thread.join(30)
        assert resident() < early * 1.1 + 20e6
    assert bad == []
    assert min(done) > 10


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- a store of vectors ----------------------------------------------------------------------------------------------


def test_the_nearest_images_of_a_store_are_told(bundle: Path, start, tmp_path: Path) -> None:
    import io

    from PIL import Image

    from finetune import load
    from finetune.deliver.embed import embed
    from finetune.deliver.vectors.knn import NeighbourVote
    from finetune.serve.thumbnails import Thumbnails

    folder = makers.class_folders(tmp_path / "images", {"ant": 3, "bee": 3})
    embed(str(bundle), folder, tmp_path / "store", database="parquet")
    classifier = load(bundle)
    near = NeighbourVote(classifier.network, tmp_path / "store", classifier.compute.in_fp32(), k=2)
    predictor = Predictor(classifier.network, classifier.compute.in_fp32(), near=near)
    with start(predictor, thumbnails=Thumbnails(near.store)) as client:
        good, broken = client.send(("a.jpg", makers.jpeg(77)), ("b.jpg", b"broken")).json["predictions"]
        assert broken["neighbours"] == []
        assert [one["label"] in ("ant", "bee") for one in good["neighbours"]] == [True, True]
        assert good["neighbours"][0]["distance"] <= good["neighbours"][1]["distance"]
        assert str(tmp_path) not in json.dumps(good)
        thumbnail = client("GET", "/" + good["neighbours"][0]["image"])
        assert thumbnail.headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(thumbnail.body)).size == (24, 16)
        assert client("GET", "/neighbours/" + "0" * 64).status == 404
        assert client("GET", "/neighbours/..%2f..%2fetc%2fpasswd").status == 404
