"""CURVE keys on disk: who may speak with the coordinator from beyond this host. Files only; the sockets are the workers' room.

    FOLDER/server.key_secret              secret, never leaves this host
    FOLDER/server.key                     public
    FOLDER/peers/NAME/client.key_secret   secret, for the host NAME; with client.key and a copy of server.key
    FOLDER/authorized/NAME.key            public keys that are let in: a running coordinator looks at this folder all the time
    FOLDER/revoked/NAME~TIME.key          public keys that were shut out, kept so that the coordinator can say whose they are

Folders have mode 0700, files 0600; `pydreaming keys` makes and changes them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import zmq.auth

from pydreaming.errors import TransportError, UsageError

LOCAL_PEER = "local"  # the peers on the coordinator's own host; the only ones of which one may be the learner
_NAME = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_REVOKED_AT = "%Y%m%dT%H%M%S"
_TIME_MARK = "~"  # stands in no name


@dataclass(frozen=True)
class ServerKeys:
    """The coordinator's pair (Z85 text) and the folder that says whom it lets in."""

    public: bytes
    secret: bytes
    folder: Path


@dataclass(frozen=True)
class ClientKeys:
    """A peer's pair and the coordinator's public key (Z85 text)."""

    public: bytes
    secret: bytes
    server: bytes


@dataclass(frozen=True)
class Peer:
    """A public key with a name. `since`: seconds since 1970 when it was let in or shut out."""

    name: str
    key: str
    state: Literal["authorized", "revoked"]
    since: float

    @property
    def fingerprint(self) -> str:
        """Beginning of the key's SHA-256, to compare keys by."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:16]


def init_keys(folder: Path) -> None:
    """Make the coordinator's keys and those of the peers on its host. Raises UsageError: there are keys already, or no place for them."""
    if (folder / "server.key_secret").exists():
        raise UsageError(f"{folder} already holds keys; add peers with: pydreaming keys add {folder} NAME")
    try:
        for private in (folder, folder / "authorized", folder / "revoked", folder / "peers"):
            _private_folder(private)
        _make_pair(folder, "server")
    except OSError as e:
        raise _cannot_write(folder, e) from e
    add_peer(folder, LOCAL_PEER)


def add_peer(folder: Path, name: str) -> Path:
    """Make a key pair for one more peer and let it in.

    Returns: the folder to copy to the peer's host.
    Raises UsageError: a bad or taken name, or a folder that `init_keys` has not made or that cannot be written.
    """
    _require(folder, name)
    peer, authorized = folder / "peers" / name, folder / "authorized" / f"{name}.key"
    if peer.exists() or authorized.exists():
        raise UsageError(f"there is a peer '{name}' already; take its key back with: pydreaming keys revoke {folder} {name}")
    made = folder / "peers" / f".{name}.tmp-{os.getpid()}"
    try:
        for private in (folder / "peers", folder / "authorized", made):
            _private_folder(private)
        _make_pair(made, "client")
        _copy(folder / "server.key", made / "server.key")
        made.rename(peer)
        _copy(peer / "client.key", authorized)  # last, so that no key is let in that nobody has
    except OSError as e:
        raise _cannot_write(folder, e) from e
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return peer


def revoke_peer(folder: Path, name: str) -> None:
    """Shut a peer out: its key is let in no more, and its secret is removed from this host.

    A coordinator that runs refuses the peer's very next message, and gives the peer's leases to others.
    Raises UsageError: no such peer, or a folder that `init_keys` has not made or that cannot be written.
    """
    _require(folder, name)
    peer, authorized = folder / "peers" / name, folder / "authorized" / f"{name}.key"
    if not (authorized.exists() or peer.exists()):
        names = ", ".join(sorted(p.name for p in list_peers(folder) if p.state == "authorized")) or "none"
        raise UsageError(f"{folder} lets in no peer '{name}'; there are: {names}")
    try:
        _private_folder(folder / "revoked")
        if authorized.exists():
            revoked = folder / "revoked" / f"{name}{_TIME_MARK}{time.strftime(_REVOKED_AT, time.gmtime())}.key"
            os.utime(authorized)  # `since`
            authorized.rename(revoked)
        if peer.exists():
            shutil.rmtree(peer)
    except OSError as e:
        raise _cannot_write(folder, e) from e


def list_peers(folder: Path) -> list[Peer]:
    """The peers that are let in, by name, and then those that were shut out. Raises UsageError: `init_keys` has not made the folder."""
    _require(folder)
    ring = KeyRing(folder)
    ring.refresh()
    return ring.peers()


class KeyRing:
    """The public keys of a folder in memory; `refresh` looks at the folder again. May be used from several threads.

    In doubt nobody is let in: not by a missing folder, nor by a damaged file.

    Attributes:
      damaged: names of key files that hold no key.
      version: counts the refreshes that changed something.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: object = None
        self._peers: dict[str, Peer] = {}  # by key; replaced whole, never changed
        self._lock = threading.Lock()
        self.damaged: list[str] = []
        self.version = 0

    def refresh(self) -> bool:
        """Take over what has changed on disk; whether anything has. Costs a `stat` for each key."""
        with self._lock:
            return self._refresh()

    def lets_in(self, key: str) -> bool:
        """Whether the owner of this public key (Z85 text) may speak."""
        peer = self._peers.get(key)
        return peer is not None and peer.state == "authorized"

    def find(self, key: str) -> Peer | None:
        """Whose key it is or was; None for a stranger's."""
        return self._peers.get(key)

    def peers(self) -> list[Peer]:
        """All of them: those that are let in by name, then those that were shut out."""
        return sorted(self._peers.values(), key=lambda peer: (peer.state, peer.name, peer.since))

    def _refresh(self) -> bool:
        files = [*self._files("revoked"), *self._files("authorized")]  # a key that is in both is let in
        seen = [(path, changed) for path, _, changed in files]
        if seen == self._seen:
            return False
        peers, damaged = {}, []
        for path, state, changed in files:
            try:
                key = zmq.auth.load_certificate(path)[0].decode("ascii")
            except (OSError, ValueError):  # UnicodeDecodeError is a ValueError; a file may also have gone this moment
                damaged.append(path.name)
                continue
            peers[key] = Peer(path.stem.partition(_TIME_MARK)[0], key, state, changed)
        self._seen, self._peers, self.damaged = seen, peers, damaged
        self.version += 1
        return True

    def _files(self, state: Literal["authorized", "revoked"]) -> Iterator[tuple[Path, Literal["authorized", "revoked"], float]]:
        for path in sorted((self._folder / state).glob("*.key")):
            try:
                yield path, state, path.stat().st_mtime
            except OSError:  # removed at this moment, or a link to nowhere: no key
                continue


def load_server_keys(folder: Path) -> ServerKeys:
    """Raises TransportError when the folder has none, or others may read the secret."""
    public, secret = _load(folder / "server.key_secret")
    return ServerKeys(public, secret, folder)


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
        raise TransportError(f"no key in {path} ({e}); make keys with: pydreaming keys init FOLDER") from e


def _require(folder: Path, name: str = "x") -> None:
    if not _NAME.match(name):
        raise UsageError(f"'{name}' is no name of a peer: letters, digits, '.', '_' and '-', at most 64")
    if not (folder / "server.key_secret").is_file():
        raise UsageError(f"{folder} holds no coordinator's keys; make them with: pydreaming keys init {folder}")


def _cannot_write(folder: Path, error: OSError) -> UsageError:
    return UsageError(f"cannot write keys to {folder}: {error.strerror or error}")


def _private_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def _copy(source: Path, target: Path) -> None:
    """The file appears whole: a coordinator may be looking."""
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    shutil.copyfile(source, temporary)
    temporary.chmod(0o600)
    temporary.rename(target)


def _make_pair(folder: Path, name: str) -> None:
    zmq.auth.create_certificates(folder, name)
    for ending in ("key", "key_secret"):  # pyzmq leaves modes to the umask; nobody else can have opened the files, for the folder is 0700
        (folder / f"{name}.{ending}").chmod(0o600)
