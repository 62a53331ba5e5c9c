"""A web server on loopback, whose folders differ in what they can do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


@dataclass
class Site:
    """What it has, and what it was asked for."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    """Content by name; the same in every folder."""
    seen: list[str] = field(default_factory=list)
    cuts: int = 0
    """Answers that end in the middle."""
    gate: threading.Event | None = None
    """Holds up every answer until it is set."""


@contextmanager
def web_server() -> Iterator[Site]:
    """Serve ``/FOLDER/NAME``.

    The folders: plain; moved (redirects to plain), private (403), noranges (as plain, but without
    ranges), nolength (in chunks, without ranges and lengths), unknown (without chunks either).
    """
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            site.seen.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
            if site.gate is not None:
                site.gate.wait(20)
            _, folder, name = unquote(self.path).split("/", 2)
            if folder == "moved":
                self.head(
                    302, {"Location": self.path.replace("moved", "plain"), "Content-Length": "0"}
                )
            elif folder == "private" or name not in site.files:
                self.head(403 if folder == "private" else 404, {"Content-Length": "0"})
            else:
                self.give(folder, site.files[name])

        def head(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for header, value in headers.items():
                self.send_header(header, value)
            self.end_headers()

        def give(self, folder: str, data: bytes) -> None:
            headers, status = {"ETag": f'"{md5(data).hexdigest()}"'}, 200
            wanted = self.headers.get("Range")
            if wanted and folder == "plain":
                first, end = (int(x) for x in wanted.removeprefix("bytes=").split("-"))
                headers["Content-Range"] = f"bytes {first}-{min(end, len(data) - 1)}/{len(data)}"
                data, status = data[first : end + 1], 206
            if folder == "nolength":
                headers["Transfer-Encoding"] = "chunked"
            elif folder != "unknown":
                headers["Content-Length"] = str(len(data))
            self.close_connection = folder == "unknown"
            self.head(status, headers)
            if self.command == "HEAD":
                return
            if site.cuts and (status == 206 or not wanted):
                site.cuts -= 1
                data, self.close_connection = data[: len(data) // 2], True
            if folder == "nolength":
                self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
                if not self.close_connection:
                    self.wfile.write(b"0\r\n\r\n")
            else:
                self.wfile.write(data)

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
