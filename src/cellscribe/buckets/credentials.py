"""Credentials of buckets: in the environment, and never in an address."""

from __future__ import annotations

import http.client
import os
from pathlib import Path
from urllib.parse import urlsplit

from cellscribe.errors import InputError

WEB = ("http", "https")
NAMED = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SKIP_SIGNATURE"),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SKIP_SIGNATURE"),
    "az": ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_SKIP_SIGNATURE"),
}
"""The variables that a message names; the last is for public buckets."""
OTHERS = {
    "s3": "AWS_WEB_IDENTITY_TOKEN_FILE AWS_CONTAINER_CREDENTIALS_RELATIVE_URI "
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "gs": "GOOGLE_SERVICE_ACCOUNT GOOGLE_SERVICE_ACCOUNT_PATH GOOGLE_SERVICE_ACCOUNT_KEY",
    "az": "AZURE_STORAGE_SAS_TOKEN AZURE_STORAGE_SAS_KEY AZURE_STORAGE_TOKEN AZURE_USE_AZURE_CLI "
    "AZURE_FEDERATED_TOKEN_FILE AZURE_STORAGE_CLIENT_SECRET AZURE_CLIENT_SECRET "
    "AZURE_STORAGE_USE_EMULATOR",
}
"""Variables of which one is enough as well."""
METADATA = {
    "s3": ("AWS_METADATA_ENDPOINT", "http://169.254.169.254"),
    "gs": ("GCE_METADATA_IP", "metadata.google.internal"),
    "az": ("AZURE_MSI_ENDPOINT", "http://169.254.169.254"),
}
"""The servers that have credentials for machines of a provider, and the variables that name
others."""
METADATA_SECONDS = 1.0
GCLOUD, AWS = "~/.config/gcloud/application_default_credentials.json", "~/.aws/credentials"
"""Where the tools of providers leave them; obstore reads the first and not the second."""


def refuse_secrets(url: str) -> None:
    """Refuse keys in a URL, which would end up in messages and manifests.

    Raises
    ------
    InputError
        There are some: before an ``@``, or in the query of a signed address.
    """
    scheme, _, rest = url.partition("://")
    if "@" in rest.partition("/")[0]:
        raise InputError(f"{scheme}://...: keys in a URL; put them into the environment")
    if scheme in WEB and "?" in rest:
        raise InputError(
            f"{url.partition('?')[0]}?...: a signed address; download it first, or give the bucket"
        )


def check_credentials(scheme: str, where: str) -> None:
    """Refuse to look for credentials where there are none, which would take minutes.

    Raises
    ------
    InputError
        No variable has any, and no metadata server of the provider answers.
    """
    if scheme not in NAMED:
        return
    wanted = (*NAMED[scheme], *OTHERS[scheme].split())
    if any(name in os.environ or name.lower() in os.environ for name in wanted):
        return
    if scheme == "gs" and Path(GCLOUD).expanduser().exists():
        return
    variable, known = METADATA[scheme]
    place = urlsplit(os.environ.get(variable, known).replace("http://", "//", 1), "http")
    host = place.hostname or place.path
    server = http.client.HTTPConnection(host, place.port or 80, timeout=METADATA_SECONDS)
    try:
        # whether anybody answers, whatever it is: obstore would wait for a minute
        server.request("GET", "/")
        server.getresponse()
    except (OSError, http.client.HTTPException):
        raise no_credentials(scheme, where) from None
    finally:
        server.close()


def no_credentials(scheme: str, where: str) -> InputError:
    """Say which variables to set."""
    *named, public = NAMED[scheme]
    kept = scheme == "s3" and Path(AWS).expanduser().exists()
    aws = f" ({AWS} is not read: aws configure export-credentials --format env)" if kept else ""
    return InputError(
        f"{where}: no credentials in the environment{aws}; set {' and '.join(named)}, or "
        f"{public}=true for a public bucket"
    )
