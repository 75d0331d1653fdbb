"""Finding audio files below a folder, in a deterministic order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pydreaming.errors import SourceError

# What libsndfile reads, and then the common formats that it does not: those are listed too, so that they are reported as unreadable
# (quarantine) instead of passing silently.
READABLE = {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64"}
READABLE |= {".sph", ".nist", ".voc", ".ircam", ".avr", ".paf", ".pvf", ".sds"}
UNREADABLE = {".m4a", ".aac", ".wma", ".wv", ".ape", ".amr", ".mka", ".webm", ".mp4", ".ac3"}
SUFFIXES = frozenset(READABLE | UNREADABLE)


def is_audio(name: str) -> bool:
    """Whether a file of this name is taken for audio; hidden files (.x, also ._x.wav of macOS) are not."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 (a Path per file is slow)


def audio_files(root: Path, below: str = "") -> Iterator[str]:
    """POSIX paths, relative to `root`, of the audio files in `root/below` and its folders, ordered name by name.

    Symbolic links to folders are not followed, so that loops cannot occur; links to files are listed, and the decoder refuses those that
    lead out of the root. A folder that cannot be read is listed itself, and ends in the quarantine list with its cause. The names of one
    folder (and of those above it) are held at a time.
    """
    pending = [(True, below)]
    while pending:
        is_folder, path = pending.pop()
        if not is_folder:
            yield path
            continue
        try:
            pending.extend(reversed(_listing(root, path)))
        except OSError:
            yield path or "."


def _listing(root: Path, folder: str) -> list[tuple[bool, str]]:
    """(is a folder, path) of the folders and audio files in one folder, in the order of their names."""
    found = []
    with os.scandir(root / folder) as entries:
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith("."):
                    found.append((entry.name, True, path))
            elif is_audio(entry.name) and (entry.is_symlink() or entry.is_file(follow_symlinks=False)):
                found.append((entry.name, False, path))
    return [(is_folder, path) for _, is_folder, path in sorted(found)]


def prefix_of(path: Path, root: Path) -> str:
    """What turns a path relative to the folder `path` into one relative to `root`: "" or "a/b/". SourceError when outside of it."""
    try:
        below = path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError as e:
        raise SourceError(f"source.path {path} is not inside source.root {root}") from e
    return "" if below == "." else f"{below}/"


def folders(root: Path) -> list[str]:
    """Names of the visible folders directly in `root`, sorted; none when it cannot be read."""
    try:
        with os.scandir(root) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir(follow_symlinks=False))
    except OSError:  # sniffing only: what cannot be listed matches no layout
        return []


def files(root: Path) -> list[str]:
    """Names of the visible regular files directly in `root`, sorted; none when it cannot be read."""
    try:
        with os.scandir(root) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_file(follow_symlinks=False))
    except OSError:  # as in `folders`
        return []
