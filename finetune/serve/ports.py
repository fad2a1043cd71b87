"""The address to listen on; a port that is taken is reported before anything is loaded."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from pathlib import Path

from finetune.errors import ResourceError, UsageError

WAITING = 1024
"""Connections that may wait to be accepted."""

LISTENS = "0A"
"""The state of a listening socket in /proc/net/tcp."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens already; who connects now waits until somebody accepts.

    Args:
        host: a name or an address, of IPv4 or IPv6.
        port: 0 for any that is free.

    Raises:
        UsageError: no such host. ResourceError: the port is taken (by whom, if that can be seen) or not allowed.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"--host {host}: no such host", "give a name or an address of this machine") from error
    found = socket.socket(family, kind)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a restart has to wait a minute
        found.bind(address)
        found.listen(WAITING)
    except OSError as error:
        found.close()
        raise _refused(error, host, port) from error
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens at `host`."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def url_of(listening: socket.socket) -> str:
    """The address for a browser."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _refused(error: OSError, host: str, port: int) -> ResourceError | UsageError:
    if error.errno == errno.EADDRINUSE:
        who = holder(port)
        return ResourceError(
            f"port {port} is taken{f' by {who}' if who else ''}", "choose another with --port, or end it"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return UsageError(
            f"--host {host}: no address of this machine", "use 127.0.0.1, or 0.0.0.0 for every one it has"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return ResourceError(f"port {port}: not allowed", "choose one from 1024 with --port")
    return ResourceError(f"port {port}: {error.strerror or error}", "choose another with --port")


def holder(port: int) -> str:
    """Who listens at a port, as ``NAME (process N)``; nothing where that cannot be seen (another's, or no Linux)."""
    sockets = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _inodes(Path("/proc/net") / table, port)}
    for process in Path("/proc").glob("[0-9]*") if sockets else ():
        with contextlib.suppress(OSError):
            if any(os.readlink(link) in sockets for link in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text('utf-8', 'replace').strip()} (process {process.name})"
    return ""


def _inodes(table: Path, port: int) -> list[str]:
    """Of the sockets that listen at a port."""
    with contextlib.suppress(OSError):
        rows = [line.split() for line in table.read_text("ascii").splitlines()[1:]]
        return [row[9] for row in rows if row[3] == LISTENS and int(row[1].rsplit(":", 1)[1], 16) == port]
    return []
