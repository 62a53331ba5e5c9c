"""What servers refuse, in one line without the texts and addresses that may hold keys."""

from __future__ import annotations

import os
import re
from typing import Any

from cellscribe.buckets.credentials import no_credentials
from cellscribe.errors import InputError

UNSUPPORTED = r"NotImplemented|status code: 501|Content-Length Header missing"
"""How servers say that they cannot do what was asked."""
DENIED = r"status code: 40[13]"
ASKED_FOR_CREDENTIALS = r"/latest/(api/token|meta-data)|metadata/identity|computeMetadata"
"""Addresses at which a machine of a provider asks for credentials."""


class UnsupportedError(Exception):
    """A server cannot do what was asked of it: ranges, lengths, conditional puts."""


class Said:
    """Turn what a bucket refuses into one line; a key that is or is not there passes through.

    Parameters
    ----------
    what
        The object, for messages.
    bucket
        What it lies in.
    """

    def __init__(self, what: str, bucket: str) -> None:
        self.what, self.bucket = what, bucket

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        from obstore import exceptions as known

        if isinstance(error, InputError) or not isinstance(
            error, known.BaseError | FileNotFoundError | ValueError
        ):
            return
        text = str(error)
        if "NoSuchBucket" in text:
            raise InputError(f"{self.bucket}: no such bucket; check the name") from None
        if isinstance(error, known.AlreadyExistsError | FileNotFoundError):
            return
        if isinstance(error, known.NotSupportedError) or re.search(UNSUPPORTED, text):
            raise UnsupportedError(self.what) from None
        if isinstance(error, ValueError):  # an empty part, or one of dots
            raise InputError(f"{self.what}: no key that can be read; rename the object") from None
        if re.search(ASKED_FOR_CREDENTIALS, text):
            raise no_credentials(self.bucket.partition("://")[0], self.bucket) from None
        advice = "run again when the server answers"
        if re.search(DENIED, text):
            advice = "check the credentials in the environment, and what they allow"
        raise InputError(f"{self.what}: {reason(error)}; {advice}") from None


def reason(error: BaseException) -> str:
    """Say why a request failed, without the addresses and texts of a server that may hold keys."""
    text = str(error)
    code = re.search(r"<Code>(\w+)</Code>", text)
    status = re.search(r"status code: (\d{3}[ \w]*)", text)
    if code or status:
        parts = [found[1].strip() for found in (status, code) if found]
        return ", ".join(parts)
    line = re.sub(r"\w+://\S+", "...", text.strip().partition("\n")[0])
    for name, value in os.environ.items():
        if len(value) > 5 and re.search("KEY|SECRET|TOKEN|PASSWORD", name.upper()):
            line = line.replace(value, "...")
    return line[:300]
