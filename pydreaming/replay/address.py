"""How a replay store is named: a folder, or `s3://bucket/prefix?endpoint_override=HOST:PORT&scheme=http&region=...`. Light to import.

Credentials come from where AWS's own tools take them (AWS_ACCESS_KEY_ID and so on, ~/.aws, the machine's role), and so does the
endpoint where the address names none (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL). They never appear in an address, a message or a log.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from pydreaming.errors import UsageError

_OPTIONS = {"endpoint_override", "scheme", "region"}

Location: TypeAlias = Path | str  # of a store: a folder, or an address


def is_distant(where: Location) -> bool:
    """Whether a location is an address, and not a folder of this host."""
    return isinstance(where, str) and where.startswith("s3://")


class Address(NamedTuple):
    """Where a store is: `base` is bucket/prefix; `endpoint` HOST:PORT, and `region`, are empty for AWS's own."""

    base: str
    endpoint: str
    scheme: str
    region: str


def parse_address(text: str) -> Address:
    """The parts of an s3:// address. Raises UsageError, without repeating what may be a secret."""
    parts = urlsplit(text)
    if "@" in parts.netloc or ":" in parts.netloc:
        raise UsageError("an s3:// address names a bucket, without keys: put those into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(options.keys() - _OPTIONS):
        raise UsageError(f"an s3:// address has no option '{unknown[0]}'; it may have {', '.join(sorted(_OPTIONS))}")
    prefix = unquote(parts.path).strip("/").split("/")
    # The SDK would resolve dots, and so leave the bucket.
    if not parts.netloc or prefix == [""] or {"", ".", ".."} & {*prefix} or parts.fragment:
        raise UsageError("a store's address is s3://BUCKET/PREFIX")
    environment = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    scheme, _, host = environment.rpartition("://")
    endpoint = options.get("endpoint_override", "") or host.rstrip("/")
    scheme = options.get("scheme", "") or (scheme if endpoint == host.rstrip("/") else "") or "https"
    if scheme not in ("http", "https"):
        raise UsageError(f"the scheme of an s3:// address is http or https, not '{scheme}'")
    return Address("/".join([parts.netloc, *prefix]), endpoint, scheme, options.get("region", ""))
