"""Fetch the Free Spoken Digit Dataset (CC BY-SA 4.0, about 16 MB) at a pinned revision, verified by checksum.

`python -m pydreaming.audio.sources.fsdd_download FOLDER`
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import re
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from importlib import resources
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from pydreaming.errors import PydreamingError, SourceError

REPOSITORY = "https://github.com/Jakobovski/free-spoken-digit-dataset"
REVISION = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"
# Of the lines "<sha256>  <name>\n" of recordings/*.wav in the order of their bytes, as `sha256sum *.wav` prints them.
SHA256 = "1801eae019c063377d98f831d3f93574f259475df7332bb0e3d1b080fb5e6959"

RECORDING = re.compile(r"[^/]+/recordings/(?P<name>\d_[a-z]+_\d{1,3}\.wav)")
ARCHIVE_BYTES = 256 << 20  # the most that is downloaded, and unpacked
RECORDING_BYTES = 4 << 20
BLOCK_BYTES = 1 << 16
SOURCE_NOTE = f"Free Spoken Digit Dataset, {REPOSITORY} (revision {REVISION}), CC BY-SA 4.0.\n"


def ensure_fsdd(folder: Path, archive_url: str = f"{REPOSITORY}/archive", timeout_s: float = 30.0, total_s: float = 900.0) -> Path:
    """The data set in `folder`, downloaded where it is not there yet.

    Everything happens in a temporary folder beside it; `folder/recordings` appears complete and verified, or not at all.

    Args:
      folder: holds recordings/ afterwards; what is there already is taken as it is.
      archive_url: where `<revision>.tar.gz` is found (http or https).
      timeout_s: seconds without a byte after which the download is given up.
      total_s: seconds that the whole download may take.
    Returns:
      folder.
    Raises:
      SourceError: not reachable, or not the data set that was expected; one line with address and cause.
    """
    recordings = folder / "recordings"
    if recordings.is_dir():
        return folder
    url = f"{archive_url}/{REVISION}.tar.gz"
    if not url.startswith(("http://", "https://")):
        raise SourceError(f"{url}: only http and https addresses are downloaded")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fsdd-", dir=folder.parent) as temporary:
            archive, unpacked = Path(temporary) / "archive.tar.gz", Path(temporary) / "recordings"
            with archive.open("wb") as out:
                _download(url, out, timeout_s, total_s)
            _unpack(archive, unpacked)
            found = digest(unpacked)
            if found != SHA256:
                raise SourceError(f"{url}: checksum {found[:12]}… of the recordings instead of {SHA256[:12]}…; not kept")
            folder.mkdir(exist_ok=True)
            (folder / "SOURCE.txt").write_text(SOURCE_NOTE, encoding="utf-8")
            unpacked.rename(recordings)
    except (tarfile.TarError, EOFError, zlib.error) as e:
        raise SourceError(f"{url}: not a complete archive ({e})") from e
    except (http.client.HTTPException, OSError) as e:  # OSError: also URLError, HTTPError, time-outs, a full disk
        raise SourceError(f"{url}: cannot be downloaded to {folder} ({getattr(e, 'reason', None) or e})") from e
    return folder


def digest(recordings: Path) -> str:
    """SHA-256 over the lines of `sha256sum *.wav` in byte order; see SHA256."""
    names = sorted((path.name for path in recordings.glob("*.wav")), key=str.encode)
    total = hashlib.sha256()
    for name in names:
        total.update(f"{hashlib.sha256((recordings / name).read_bytes()).hexdigest()}  {name}\n".encode())
    return total.hexdigest()


def bundled_digits() -> Path:
    """The folder of spoken digits that comes with the package: synthetic, small, and readable as kind `fsdd`."""
    return Path(str(resources.files("pydreaming") / "samples" / "digits"))


def _download(url: str, out: BinaryIO, timeout_s: float, total_s: float) -> None:
    deadline = time.monotonic() + total_s
    with urllib.request.urlopen(url, timeout=timeout_s) as response:  # noqa: S310 (checked by content)  # nosec B310
        length = response.headers.get("Content-Length", "")
        expected = int(length) if length.isdecimal() else None
        with tqdm(total=expected, unit="B", unit_scale=True, desc="Free Spoken Digit Dataset", disable=None) as bar:
            received = 0
            while block := response.read(BLOCK_BYTES):
                received += out.write(block)
                bar.update(len(block))
                if received > ARCHIVE_BYTES:
                    raise SourceError(f"{url}: longer than {ARCHIVE_BYTES >> 20} MiB; given up")
                if time.monotonic() > deadline:
                    raise SourceError(f"{url}: not complete after {total_s:.0f} s; given up")
    if expected is not None and received != expected:
        raise SourceError(f"{url}: {received} of {expected} bytes arrived")


def _unpack(archive: Path, folder: Path) -> None:
    """Write the recordings, and nothing else, from an archive that is not trusted: by name, regular files, bounded in size."""
    folder.mkdir()
    total = 0
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            total += member.size
            if total > ARCHIVE_BYTES:
                raise SourceError(f"{archive.name}: unpacks to more than {ARCHIVE_BYTES >> 20} MiB; given up")
            match = RECORDING.fullmatch(member.name)
            content = tar.extractfile(member) if match and member.isreg() else None
            if match is None or content is None:
                continue
            if member.size > RECORDING_BYTES:
                raise SourceError(f"{archive.name}: {member.name} is too large ({member.size} bytes)")
            (folder / match["name"]).write_bytes(content.read(member.size))


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pydreaming.audio.sources.fsdd_download", description="Fetch the Free Spoken Digit Dataset."
    )
    parser.add_argument("folder", type=Path, help="where recordings/ is put, such as data/fsdd")
    try:
        folder = ensure_fsdd(parser.parse_args(arguments).folder)
    except PydreamingError as e:
        sys.stderr.write(f"error: {e}\n")
        return e.exit_code
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
