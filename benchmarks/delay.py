"""A proxy on loopback that adds a fixed time to each request, as a distant server would.

It knows of HTTP only that a client is silent while it waits for its answer: bytes of a client after
those of the server, or on a new connection, begin a request and are held back once. Bodies pass as
they come. A process of its own, so that it takes nothing from the one that is measured:
``python -m benchmarks.delay HOST PORT SECONDS`` prints its address and ends with its standard
input.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

CHUNK = 1 << 18


async def serve(host: str, port: int, seconds: float) -> None:
    """Forward connections until standard input ends."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, away = await asyncio.open_connection(host, port, limit=CHUNK)
        waiting = True

        async def requests() -> None:
            nonlocal waiting
            while data := await reader.read(CHUNK):
                if waiting and seconds:
                    await asyncio.sleep(seconds)
                waiting = False
                away.write(data)
                await away.drain()

        async def answers() -> None:
            nonlocal waiting
            while data := await there.read(CHUNK):
                waiting = True
                writer.write(data)
                await writer.drain()

        both = [asyncio.ensure_future(requests()), asyncio.ensure_future(answers())]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        writer.close()
        away.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=CHUNK)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@contextmanager
def delayed(server: str, seconds: float) -> Iterator[str]:
    """Run the proxy in front of a server; gives its address."""
    place = urlsplit(server)
    words = [sys.executable, "-m", "benchmarks.delay", str(place.hostname), str(place.port)]
    with subprocess.Popen(
        [*words, str(seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
