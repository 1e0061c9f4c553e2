"""Files in folders, on web servers and in object stores, all through fsspec.

fsspec (https://filesystem-spec.readthedocs.io) chooses the package that knows an address: `s3://`
needs s3fs, `gs://` needs gcsfs. Credentials and endpoints are found as these packages find them.
"""

from __future__ import annotations

import sys
from typing import Any

import fsspec

from vitrellis.errors import UsageError, VitrellisError

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""The extra of this package for each kind of address that needs one."""

# errors of the packages behind fsspec that are no OSErrors
_THEIRS = {
    "aiohttp": ("ClientError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "google.auth.exceptions": ("GoogleAuthError",),
    "gcsfs.retry": ("HttpError",),
}


def filesystem_of(address: str) -> tuple[Any, str]:
    """The file system of fsspec for an address, and the path in it.

    Raises:
        UsageError: If no file system knows such addresses, or it names others in turn.
        VitrellisError: If its package is not installed, naming the extra that brings it.
    """
    kind = address.partition("://")[0]
    if "::" in address or kind == "reference":  # which may hold templates, and other addresses
        raise UsageError(
            f"{address}: chains and references of fsspec are not read; give the address of the "
            "files themselves"
        )
    try:
        filesystem, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        extra = _EXTRAS.get(kind)
        remedy = f"pip install 'vitrellis[{extra}]'" if extra else str(error)
        raise VitrellisError(f"{address}: {kind}:// needs one more package: {remedy}") from None
    except ValueError as error:
        raise UsageError(f"{address}: is no address that can be read ({error})") from None
    except storage_errors() as error:
        raise VitrellisError(f"{address}: cannot be reached ({error})") from None
    return filesystem, path


def storage_errors() -> tuple[type[Exception], ...]:
    """The errors that reading behind an address may raise: OSErrors, and those of the packages."""
    found: list[type[Exception]] = [OSError, TimeoutError]
    for module, names in _THEIRS.items():
        if module in sys.modules:
            found += [getattr(sys.modules[module], name) for name in names]
    return tuple(found)
