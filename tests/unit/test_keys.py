from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pydreaming import cli, keys
from pydreaming.errors import TransportError, UsageError


@pytest.fixture
def open_umask() -> Iterator[None]:
    """A shell whose files everybody may read and write."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keys.init_keys(tmp_path / "keys")
    return tmp_path / "keys"


def names(folder: Path, state: str) -> list[str]:
    return [peer.name for peer in keys.list_peers(folder) if peer.state == state]


def public(folder: Path) -> str:
    return keys.load_client_keys(folder).public.decode()


@pytest.mark.usefixtures("open_umask")
def test_folders_are_0700_and_files_0600_whatever_the_umask(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    keys.init_keys(folder)
    keys.add_peer(folder, "a")
    keys.add_peer(folder, "b")
    keys.revoke_peer(folder, "b")
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert sorted(path.name for path in modes if path.name.endswith("secret")) == ["client.key_secret"] * 2 + ["server.key_secret"]


def test_every_peer_has_a_key_of_its_own_and_nobody_else_the_servers(folder: Path) -> None:
    secrets = {keys.load_client_keys(keys.add_peer(folder, name)).secret for name in ("a", "b")}
    server = keys.load_server_keys(folder)
    assert len(secrets | {server.secret, keys.load_client_keys(folder).secret}) == 4
    for path in (folder / "peers" / "a").iterdir():
        assert server.secret not in path.read_bytes()


def test_a_secret_that_others_can_read_is_refused(folder: Path) -> None:
    for path, load in (
        (folder / "server.key_secret", keys.load_server_keys),
        (folder / "peers/local/client.key_secret", keys.load_client_keys),
    ):
        path.chmod(0o640)
        with pytest.raises(TransportError, match="can be read by others; do: chmod 600"):
            load(folder)


def test_revoked_keys_are_let_in_no_more_but_known_by_name(folder: Path) -> None:
    key = public(keys.add_peer(folder, "box"))
    ring = keys.KeyRing(folder)
    assert ring.refresh()
    assert ring.lets_in(key)
    assert not ring.refresh()
    keys.revoke_peer(folder, "box")
    assert ring.lets_in(key)  # until it looks again
    assert ring.refresh()
    assert not ring.lets_in(key)
    found = ring.find(key)
    assert found is not None
    assert (found.name, found.state) == ("box", "revoked")
    assert not (folder / "peers" / "box").exists()
    again = public(keys.add_peer(folder, "box"))
    ring.refresh()
    assert again != key
    assert ring.lets_in(again)
    assert not ring.lets_in(key)
    assert (names(folder, "authorized"), names(folder, "revoked")) == (["box", "local"], ["box"])


def test_a_ring_lets_in_nobody_by_accident(folder: Path, tmp_path: Path) -> None:
    key = public(folder)
    (folder / "authorized" / "torn.key").write_bytes(b"curve\n    public-ke")
    (folder / "authorized" / "binary.key").write_bytes(b'public-key = "\xff\xfe"')
    (folder / "authorized" / "nowhere.key").symlink_to(tmp_path / "gone")
    (folder / "authorized" / "folder.key").mkdir()
    ring = keys.KeyRing(folder)
    ring.refresh()
    assert ring.lets_in(key)
    assert sorted(ring.damaged) == ["binary.key", "folder.key", "torn.key"]
    assert not any(map(ring.lets_in, ("", "\xff\xfe", "x" * 40)))
    (folder / "authorized").rename(folder / "elsewhere")
    assert ring.refresh()
    assert not ring.lets_in(key)
    assert not keys.KeyRing(tmp_path / "none").lets_in(key)


def test_what_an_interrupted_add_leaves_can_be_tidied_up(folder: Path) -> None:
    keys.add_peer(folder, "box")
    (folder / "authorized" / "box.key").unlink()
    with pytest.raises(UsageError, match="there is a peer 'box' already"):
        keys.add_peer(folder, "box")
    keys.revoke_peer(folder, "box")
    keys.add_peer(folder, "box")
    assert names(folder, "authorized") == ["box", "local"]


def test_the_command_makes_revokes_and_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "k")
    assert cli.main(["keys", "init", folder]) == 0
    assert cli.main(["keys", "add", folder, "box"]) == 0
    assert cli.main(["keys", "add", folder, "old"]) == 0
    assert cli.main(["keys", "revoke", folder, "old"]) == 0
    assert "--coordinator.keys" in capsys.readouterr().err
    assert cli.main(["keys", "list", folder]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[:2] for line in shown.splitlines()] == [["box", "authorized"], ["local", "authorized"], ["old", "revoked"]]
    for path in Path(folder).rglob("*secret"):
        assert keys._certificate(path)[1].decode() not in shown  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["init", "made"], "already holds keys"),
        (["init", "file"], "cannot write keys to"),
        (["add", "made", "local"], "there is a peer 'local' already"),
        (["add", "made", "../x"], "is no name of a peer"),
        (["add", "made", "a/b"], "is no name of a peer"),
        (["add", "none", "box"], "holds no coordinator's keys"),
        (["revoke", "made", "box"], "lets in no peer 'box'; there are: local"),
        (["revoke", "made", "../server"], "is no name of a peer"),
        (["revoke", "none", "box"], "holds no coordinator's keys"),
        (["list", "none"], "holds no coordinator's keys"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    keys.init_keys(tmp_path / "made")
    (tmp_path / "file").write_bytes(b"")
    action, folder, *name = arguments
    assert cli.main(["keys", action, str(tmp_path / folder), *name]) == UsageError.exit_code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert (tmp_path / "made" / "server.key").exists()


def test_a_key_folder_that_cannot_be_read_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="pydreaming keys init"):
        keys.load_client_keys(tmp_path / "none")
    # A name too long is refused to every user, unlike a folder without rights, which root may read.
    with pytest.raises(TransportError, match="cannot be read by this user"):
        keys.load_client_keys(tmp_path / ("x" * 300))
