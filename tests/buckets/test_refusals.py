"""What a bucket refuses is one line, and no line holds a key."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping

import pytest
from support.s3 import Faults

from cellscribe.buckets import bucket as bucket_module
from cellscribe.buckets.bucket import Bucket
from cellscribe.buckets.credentials import NAMED, OTHERS
from cellscribe.errors import InputError

DENIED = (
    b"<?xml version='1.0'?><Error><Code>SignatureDoesNotMatch</Code><Message>no</Message>"
    b"<AWSAccessKeyId>AKIASECRETID</AWSAccessKeyId><StringToSign>TOPSECRET</StringToSign></Error>"
)


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme, names in NAMED.items():
        for name in (*names, *OTHERS[scheme].split()):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/nowhere")


@pytest.fixture
def silent() -> Iterator[str]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("scheme", NAMED)
def test_without_credentials_the_variables_are_named(
    nothing_set: None, scheme: str, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for endpoint in ("http://127.0.0.1:1", silent):
        for name in ("AWS_METADATA_ENDPOINT", "GCE_METADATA_IP", "AZURE_MSI_ENDPOINT"):
            monkeypatch.setenv(name, endpoint)
        with pytest.raises(InputError, match=f"set {NAMED[scheme][0]}.*true for a public bucket"):
            Bucket(f"{scheme}://bucket")


def test_each_scheme_has_its_store(nothing_set: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    for names in NAMED.values():
        monkeypatch.setenv(names[-1], "true")
    kinds = {scheme: type(Bucket(f"{scheme}://bucket/x").store).__name__ for scheme in NAMED}
    assert kinds == {"s3": "S3Store", "gs": "GCSStore", "az": "AzureStore"}
    assert type(Bucket("https://example.org/x").store).__name__ == "HTTPStore"
    with pytest.raises(InputError, match="ftp://host cannot be opened"):
        Bucket("ftp://host/x")


@pytest.mark.parametrize("verb", ["read", "write", "create", "keys", "level", "head"])
def test_wrong_credentials(faults: Faults, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "TOPSECRET")
    store = Bucket("s3://bucket/denied")
    faults.refuse = lambda method, path, headers: (403, b"" if method == "HEAD" else DENIED)
    calls = {
        "read": lambda: store.read("x"),
        "write": lambda: store.write("x", b""),
        "create": lambda: store.create("x", b""),
        "keys": lambda: list(store.keys("x")),
        "level": lambda: store.level("x"),
        "head": lambda: store.head("x"),
    }
    with pytest.raises(InputError, match=r"bucket/denied/x: 403 .*check the credentials") as no:
        calls[verb]()
    assert no.value.__cause__ is None
    assert not any(key in str(no.value) for key in ("AKIA", "TOPSECRET", "\n", "http:"))


def test_a_server_without_conditional_puts_is_refused(
    faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_module, "RETRIES", 1)
    store = Bucket("s3://bucket/unshared")

    def refuse(method: str, path: str, headers: Mapping[str, str]) -> tuple[int, bytes] | None:
        conditional = any(name.lower() == "if-none-match" for name in headers)
        return (501, b"<Error><Code>NotImplemented</Code></Error>") if conditional else None

    faults.refuse = refuse
    with pytest.raises(InputError, match="s3://bucket does not keep a key from being written"):
        store.create("x", b"1")
    assert store.read("x") is None
    faults.refuse, faults.dropped = None, "if-none-match"
    assert store.create("x", b"1")
    with pytest.raises(InputError, match=r"conditional put.*workers cannot share it"):
        store.check_shared("x", b"1")
    faults.dropped = ""
    store.check_shared("x", b"1")
    assert store.read("x") == b"1"


def test_a_server_that_only_fails_ends_in_one_line(
    faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_module, "RETRIES", 2)
    store = Bucket("s3://bucket/failing")
    faults.failures, faults.status = 100, 503
    with pytest.raises(InputError, match="failing/x: 503 Service Unavailable; run again when"):
        store.read("x")


def test_keys_that_no_store_takes_are_refused(faults: Faults) -> None:
    with pytest.raises(InputError, match=r"a//b: no key that can be read"):
        Bucket("s3://bucket").read("a//b")
