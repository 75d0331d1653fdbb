"""CURVE keys: who may speak with the coordinator from beyond this host.

    python -m workers.keys init FOLDER        the coordinator's key pair, and one for the peers on its own host
    python -m workers.keys add FOLDER NAME    one more peer: copy FOLDER/peers/NAME to that host and give it as --keys

    FOLDER/server.key_secret    secret, never leaves this host     FOLDER/authorized/NAME.key           public keys that are let in
    FOLDER/server.key           public                             FOLDER/peers/NAME/client.key_secret  secret, for that host
                                                                   FOLDER/peers/NAME/server.key         copy of the public key
To shut a peer out again, delete FOLDER/authorized/NAME.key and end its workers: a running coordinator notices within seconds, but keys
are looked at when a connection is made. Secrets have mode 0600.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import zmq.auth

from pydreaming.errors import PydreamingError, TransportError, UsageError

LOCAL_PEER = "local"
_NAME = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


@dataclass(frozen=True)
class ServerKeys:
    """The coordinator's pair (Z85 text) and the folder of public keys it lets in."""

    public: bytes
    secret: bytes
    authorized: Path


@dataclass(frozen=True)
class ClientKeys:
    """A peer's pair and the coordinator's public key (Z85 text)."""

    public: bytes
    secret: bytes
    server: bytes


def init_keys(folder: Path) -> None:
    """Make the coordinator's keys and those of the peers on its host. Raises UsageError when there are keys already."""
    if (folder / "server.key_secret").exists():
        raise UsageError(f"{folder} already holds keys; add peers with: python -m workers.keys add {folder} NAME")
    _private_folder(folder)
    _private_folder(folder / "authorized")
    _make_pair(folder, "server")
    add_peer(folder, LOCAL_PEER)


def add_peer(folder: Path, name: str) -> Path:
    """Make a key pair for one more peer and let it in.

    Returns: the folder to copy to the peer's host.
    Raises UsageError: a bad or taken name, or a folder that `init_keys` has not made.
    """
    if not _NAME.match(name):
        raise UsageError(f"'{name}' is no name of a peer: letters, digits, '.', '_' and '-', at most 64")
    if not (folder / "server.key_secret").is_file():
        raise UsageError(f"{folder} holds no coordinator's keys; make them with: python -m workers.keys init {folder}")
    peer = folder / "peers" / name
    if peer.exists():
        raise UsageError(f"there is a peer '{name}' already: {peer}")
    _private_folder(folder / "peers")
    _private_folder(peer)
    _make_pair(peer, "client")
    shutil.copyfile(folder / "server.key", peer / "server.key")
    shutil.copyfile(peer / "client.key", folder / "authorized" / f"{name}.key")
    return peer


def load_server_keys(folder: Path) -> ServerKeys:
    """Raises TransportError when the folder has none, or others may read the secret."""
    public, secret = _load(folder / "server.key_secret")
    return ServerKeys(public, secret, folder / "authorized")


def load_client_keys(folder: Path) -> ClientKeys:
    """Keys of a peer: a folder from `add_peer`, or the coordinator's own folder for a peer on its host. Raises TransportError."""
    try:
        own = folder if (folder / "client.key_secret").exists() else folder / "peers" / LOCAL_PEER
    except OSError as e:  # a folder of another user, such as a mount into a container
        raise TransportError(f"the keys in {folder} cannot be read by this user: {e.strerror}") from e
    public, secret = _load(own / "client.key_secret")
    server, _ = _certificate(own / "server.key")
    return ClientKeys(public, secret, server)


def _load(path: Path) -> tuple[bytes, bytes]:
    public, secret = _certificate(path)
    if secret is None:
        raise TransportError(f"{path} holds no secret key")
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise TransportError(f"{path} can be read by others; do: chmod 600 {path}")
    return public, secret


def _certificate(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError) as e:
        raise TransportError(f"no key in {path} ({e}); make keys with: python -m workers.keys init FOLDER") from e


def _private_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def _make_pair(folder: Path, name: str) -> None:
    zmq.auth.create_certificates(folder, name)
    # pyzmq writes the secret with the process's umask; nobody else can have opened it, for the folder is 0700.
    (folder / f"{name}.key_secret").chmod(0o600)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `python -m workers.keys`."""
    parser = argparse.ArgumentParser(prog="python -m workers.keys", description="CURVE keys for workers on other hosts")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, text in (("init", "make the coordinator's keys"), ("add", "make keys for a further host")):
        sub = commands.add_parser(command, help=text)
        sub.add_argument("folder", type=Path)
        if command == "add":
            sub.add_argument("name")
    options = parser.parse_args(arguments)
    try:
        if options.command == "init":
            init_keys(options.folder)
            sys.stdout.write(f"keys made; set --coordinator.keys {options.folder}\n")
        else:
            peer = add_peer(options.folder, options.name)
            sys.stdout.write(f"copy {peer} to that host and start its workers with --keys\n")
    except PydreamingError as e:
        sys.stderr.write(f"error: {e}\n")
        return e.exit_code
    except OSError as e:
        sys.stderr.write(f"error: cannot write keys to {options.folder}: {e.strerror}\n")
        return UsageError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
