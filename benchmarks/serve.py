"""`finetune serve` against the handler people write: FastAPI, Pillow, torchvision's transforms, one forward a request.

    python benchmarks/serve.py --data vehicles/                        # throughput, p50 and p99 at 1, 8 and 64 clients
    python benchmarks/serve.py --data vehicles/ --soak 120             # 64 clients, a tenth of the bodies broken
    python benchmarks/serve.py --data vehicles/ --run runs/vehicles/001  # with a network of your own

Both servers have the same weights and answer the same photographs, in turns, on 127.0.0.1; the clients are one process
that keeps its connections. Without --run it is a ResNet-18 with random weights at 224 pixels: what it says is no
matter, how long it takes is that of a trained one.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import FastAPI, UploadFile

PICTURES = 200
"""Photographs that are sent in turn."""


# --- the plain handler ------------------------------------------------------------------------------------------------


def plain(run: str, port: int, blocking: bool) -> None:
    """What tutorials show."""
    import torch
    import uvicorn
    from PIL import Image
    from torchvision import transforms

    import finetune

    network = finetune.load(run).network
    model, classes, how = network.module.eval(), network.classes, network.preprocess
    prepare = transforms.Compose(
        [
            transforms.Resize(round(how.size[0] / how.crop)),
            transforms.CenterCrop(how.size),
            transforms.ToTensor(),
            transforms.Normalize(how.mean, how.std),
        ]
    )
    app = FastAPI()

    def answer(data: bytes) -> dict[str, object]:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        with torch.inference_mode():
            chances = model(prepare(image)[None]).softmax(1)[0]
        best = int(chances.argmax())
        return {"label": classes[best], "confidence": float(chances[best])}

    if blocking:

        @app.post("/predict")
        def in_thread(files: UploadFile) -> dict[str, object]:
            return answer(files.file.read())
    else:

        @app.post("/predict")
        async def in_loop(files: UploadFile) -> dict[str, object]:
            return answer(await files.read())

    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="error")


# --- servers and clients ----------------------------------------------------------------------------------------------


@contextmanager
def server(kind: str, run: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers by now, in a process of its own."""
    ours = [str(Path(sys.executable).with_name("finetune")), "serve", run, "--port", str(port)]
    process = subprocess.Popen(
        ours if kind == "finetune" else [sys.executable, __file__, "--plain", kind, run, str(port)]
    )
    try:
        asyncio.run(answering(port))
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


async def answering(port: int) -> None:
    for _ in range(600):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return
    raise SystemExit("the server did not start in a minute")


def request(data: bytes) -> bytes:
    """A form with one file, as bytes on the wire."""
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = head + data + b"\r\n--b--\r\n"
    line = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: "
    return line + str(len(body)).encode() + b"\r\n\r\n" + body


async def client(
    port: int, requests: list[bytes], number: int, until: float, seen: list[tuple[int, float, int, bytes]]
) -> None:
    """Asks again as soon as it has its answer; notes which request, how long, the status, and the body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    turn = number * 7
    while time.perf_counter() < until:
        turn += 1
        began = time.perf_counter()
        writer.write(requests[turn % len(requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        seen.append((turn % len(requests), time.perf_counter() - began, int(head[9:12]), body))
    writer.close()


async def load(port: int, requests: list[bytes], clients: int, seconds: float) -> list[tuple[int, float, int, bytes]]:
    seen: list[tuple[int, float, int, bytes]] = []
    until = time.perf_counter() + seconds
    await asyncio.gather(*(client(port, requests, number, until, seen) for number in range(clients)))
    return seen


# --- what is measured -------------------------------------------------------------------------------------------------


def compare(run: str, requests: list[bytes], kinds: list[str], clients: list[int], seconds: float, rounds: int) -> None:
    """Both servers run all the time, and only one of them has clients."""
    found: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    with_ports = [(kind, free_port()) for kind in kinds]
    managers = [server(kind, run, port) for kind, port in with_ports]
    for manager in managers:
        manager.__enter__()
    try:
        for _, port in with_ports:
            asyncio.run(load(port, requests, 8, 2))  # warm
        for _ in range(rounds):
            for count in clients:
                for kind, port in with_ports:
                    began = time.perf_counter()
                    seen = asyncio.run(load(port, requests, count, seconds))
                    wall = time.perf_counter() - began
                    times = sorted(took for _, took, status, _ in seen if status == 200)
                    p50, p99 = (1000 * times[int(share * (len(times) - 1))] for share in (0.5, 0.99))
                    found.setdefault((kind, count), []).append((len(times) / wall, p50, p99))
                    print(kind, count, *found[kind, count][-1], file=sys.stderr, flush=True)
    finally:
        for manager in managers:
            manager.__exit__(None, None, None)
    print(
        f"{'clients':>7}  {'server':<22}{'images/s':>9}{'p50 ms':>9}{'p99 ms':>9}"
        f"   median of {rounds} rounds of {seconds:g} s"
    )
    for count in clients:
        for kind in kinds:
            rate, p50, p99 = (statistics.median(values) for values in zip(*found[kind, count], strict=True))
            print(f"{count:>7}  {kind:<22}{rate:>9.1f}{p50:>9.1f}{p99:>9.1f}")


def soak(run: str, pictures: list[bytes], seconds: float, clients: int = 64) -> None:
    """A tenth of the bodies broken: every answer right, no 5xx but 503, memory flat, no request lost at the end."""
    broken = [data[: len(data) // 3] for data in pictures[: len(pictures) // 9]]
    requests = [request(data) for data in pictures + broken]
    right = {}
    import finetune

    predictor = finetune.load(run).predictor()
    for place, data in enumerate(pictures):
        right[place] = predictor.predict(data)
    statuses: Counter[int] = Counter()
    wrong = 0
    port = free_port()
    with server("finetune", run, port) as process:
        sizes: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for place, _, status, body in asyncio.run(load(port, requests, clients, 5)):
                statuses[status] += 1
                row = json.loads(body)["predictions"][0] if status == 200 else None
                if row is not None and place < len(pictures):
                    told = right[place]
                    wrong += row["error"] is not None or abs(row["confidence"] - told.confidence) > 1e-4
                elif row is not None:
                    wrong += row["error"] is None
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            sizes.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
        lost, last = asyncio.run(stopped(process, port, requests, clients))
        code = process.wait(60)
    after = sizes[min(4, len(sizes) - 1) :]
    print(
        f"{sum(statuses.values()):,} requests by {clients} clients in {seconds:g} s:"
        f" {dict(statuses)}, {wrong} wrong answers"
    )
    print(f"resident after 20 s: {after[0]:.0f} MB, then {min(after):.0f} to {max(after):.0f} MB")
    print(
        f"SIGTERM with {clients} clients at work: {last} more answers, {lost} requests without one; ended with {code}"
    )


async def stopped(process: subprocess.Popen[bytes], port: int, requests: list[bytes], clients: int) -> tuple[int, int]:
    """SIGTERM while clients ask without a pause: requests that were sent and not answered, and those answered."""
    asking = [asyncio.create_task(ask_to_the_end(port, requests, number)) for number in range(clients)]
    await asyncio.sleep(5)
    process.send_signal(signal.SIGTERM)
    ends = await asyncio.gather(*asking)
    return sum(lost for lost, _ in ends), sum(answered for _, answered in ends)


async def ask_to_the_end(port: int, requests: list[bytes], number: int) -> tuple[int, int]:
    """Asks until the server says that it closes, or is gone: 1 if a request had no answer then, and the answers."""
    answered = 0
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while True:
        try:
            writer.write(requests[(number + answered) % len(requests)])
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
        except (asyncio.IncompleteReadError, ConnectionError):
            return 1, answered
        answered += 1
        if b"connection: close" in head:
            writer.close()
            return 0, answered


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers end with this process
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with photographs (JPEG), at any depth")
    parser.add_argument("--run", help="a run folder or bundle")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=["finetune", "async handler", "threaded handler"])
    parser.add_argument("--soak", type=float, metavar="SECONDS")
    options = parser.parse_args()
    files = sorted(options.data.rglob("*.jpg"))
    pictures = [path.read_bytes() for path in files[:: max(1, len(files) // PICTURES)][:PICTURES]]
    with tempfile.TemporaryDirectory() as folder:
        run = options.run
        if run is None:
            import finetune

            classes = [f"class {number}" for number in range(7)]
            run = str(finetune.Classifier("timm/resnet18", classes, weights="none").save(Path(folder) / "bundle"))
        if options.soak:
            soak(run, pictures, options.soak)
        else:
            requests = [request(data) for data in pictures]
            compare(run, requests, options.kinds, options.clients, options.seconds, options.rounds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plain"]:
        plain(sys.argv[3], int(sys.argv[4]), blocking=sys.argv[2] == "threaded handler")
    else:
        main()
