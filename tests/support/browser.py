"""Pages opened in headless Chromium: what they show, what they complain of, what they fetch."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest

VOID = {"meta", "link", "img", "br", "hr", "input"}
BROWSERS_OWN = ("google.com", "googleapis.com", "gvt1.com")
"""Hosts that Chromium itself asks for updates and accounts."""


class Page(HTMLParser):
    """A page's tags, words and tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)
        if self.open[-1:] in (["td"], ["th"]):
            self.tables[-1][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def open_page(tmp_path: Path, page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run headless Chromium on a page; the test is skipped where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((path for name in names if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"NO BROWSER: the page was not opened in one; install one of {names}")
    return subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr", "--v=0",
            f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={net_log(tmp_path)}",
            *options, page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip


def complaints(log: str) -> list[str]:
    return [line for line in log.splitlines() if "Uncaught" in line or "CONSOLE" in line]


def net_log(tmp_path: Path) -> Path:
    return tmp_path / "net.json"


def fetched(tmp_path: Path) -> set[str]:
    """Addresses that the page opened last asked the network for."""
    urls = set(re.findall(r'"url":"(\w+://[^"]+)"', net_log(tmp_path).read_text(errors="replace")))
    hosts = {url: urlsplit(url).hostname or "" for url in urls}
    return {url for url, host in hosts.items() if host and not host.endswith(BROWSERS_OWN)}
