"""`finetune serve` as a user starts and ends it: the port, the warning, signals, and what is missing."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import makers

COMMAND = Path(sys.executable).with_name("finetune")


@contextmanager
def serving(bundle: Path, *options: str, **env: str) -> Iterator[tuple[subprocess.Popen[bytes], int, list[str]]]:
    """The process, its port, and the lines it has said on stderr."""
    process = subprocess.Popen(
        [COMMAND, "serve", bundle, "--port", "0", *options], stderr=subprocess.PIPE, env={**os.environ, **env}
    )
    lines: list[str] = []
    try:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line.decode())
            if found := re.search(rb"at http://\S+:(\d+)", line):
                break
        assert found, lines
        yield process, int(found[1]), lines
    finally:
        process.kill()
        process.communicate(timeout=30)


def ask(connection: http.client.HTTPConnection, data: bytes) -> dict:
    connection.request("POST", "/predict", data, {"content-type": "image/jpeg"})
    response = connection.getresponse()
    assert response.status == 200
    return json.loads(response.read())["predictions"][0]


def listening_at(port: int) -> set[str]:
    """Addresses, as /proc/net/tcp writes them, at which somebody listens on this port."""
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()]
    return {row[1].split(":")[0] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"}


def test_sigterm_drains_and_no_request_is_lost(bundle: Path) -> None:
    """Clients that keep their connections ask on and on; each answer comes, until one says that it is the last."""
    lost: list[Exception] = []
    answered = [0] * 8
    stopped = threading.Event()

    def client(number: int, port: int) -> None:
        while not stopped.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            try:
                connection.connect()
            except OSError:  # nobody listens any more
                return
            try:
                while not stopped.is_set():
                    connection.request("POST", "/predict", makers.jpeg(number), {"content-type": "image/jpeg"})
                    response = connection.getresponse()
                    assert json.loads(response.read())["predictions"][0]["label"]
                    answered[number] += 1
                    if response.getheader("connection") == "close":
                        return
            except Exception as error:  # any failure of a client is one answer lost, and is told below
                lost.append(error)
                return
            finally:
                connection.close()

    with serving(bundle) as (process, port, _):
        assert listening_at(port) == {"0100007F"}, "127.0.0.1 and nothing else"
        threads = [threading.Thread(target=client, args=(number, port)) for number in range(8)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 60
        while min(answered) < 3 and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(30)
        stopped.set()
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert lost == []
    assert min(answered) >= 3


def test_ctrl_c_ends_it_and_a_token_comes_from_the_environment(bundle: Path) -> None:
    with serving(bundle, "--host", "0.0.0.0", FINETUNE_TOKEN="s3cret") as (process, port, lines):
        assert not any("warning" in line for line in lines)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("POST", "/predict", b"x", {"content-type": "image/jpeg"})
        assert connection.getresponse().status == 401
        connection.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_another_host_without_a_token_is_warned_of(bundle: Path) -> None:
    command = [COMMAND, "serve", bundle, "--port", "0", "--host", "0.0.0.0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        process.kill()
    assert line.startswith("warning: anybody who reaches 0.0.0.0 can use this server")
    assert "--token" in line


def test_a_taken_port_is_said_with_its_holder(cli, bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cli("serve", bundle, "--port", str(port))
    assert done.rc == 6
    assert f"port {port} is taken by " in done.err
    assert f"(process {os.getpid()})" in done.err
    assert "--port" in done.err.splitlines()[1]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--host", "no.such.host.invalid"], 2, "no such host"),
        (["--host", "192.0.2.1"], 2, "no address of this machine"),
        (["--token", ""], 2, "--token"),
        (["--token", "two words\n"], 2, "--token"),
        (["--port", "70000"], 2, "--port"),
        (["--max-batch", "0"], 2, "--max-batch"),
    ],
)
def test_what_cannot_be_is_said(cli, bundle: Path, options: list[str], code: int, said: str) -> None:
    done = cli("serve", bundle, "--port", "0", *options)
    assert (done.rc, said in done.err) == (code, True), done.err


def test_no_such_run_and_no_extra(cli, bundle: Path, tmp_path: Path) -> None:
    assert cli("serve", tmp_path / "absent", "--port", "0").rc == 2
    (tmp_path / "fastapi.py").write_text("raise ImportError('No module named fastapi', name='fastapi')")
    done = cli("serve", bundle, "--port", "0", env={"PYTHONPATH": str(tmp_path)})
    assert done.rc == 6
    assert "pip install 'finetune-toolkit[serve]'" in done.err
