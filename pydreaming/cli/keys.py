"""`pydreaming keys`: the CURVE keys by which workers on other hosts are let in."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from pydreaming.cli.command import Command, say, show

DETAILS = """\
  pydreaming keys init FOLDER           the coordinator's key pair, and one for the peers on its own host; set --coordinator.keys FOLDER
  pydreaming keys add FOLDER NAME       one more peer: copy FOLDER/peers/NAME to that host and give the copy to its workers:
                                        launch.py --role worker --coordinator.keys COPY, workers.audio_worker --keys COPY
  pydreaming keys revoke FOLDER NAME    shut a peer out, also one that is connected
  pydreaming keys list FOLDER           who is let in, and who was shut out

A coordinator that runs takes changes over within a second. FOLDER holds secrets: it stays on the coordinator's host.

example: pydreaming keys init keys && pydreaming keys add keys host-b"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    for name, summary in (
        ("init", "make the coordinator's keys"),
        ("add", "make keys for a further host"),
        ("revoke", "shut a host out"),
        ("list", "show whose keys are let in"),
    ):
        action = actions.add_parser(name, help=summary, description=summary)
        action.add_argument("folder", metavar="FOLDER", type=Path, help="the coordinator's folder of keys")
        if name in ("add", "revoke"):
            action.add_argument("name", metavar="NAME", help="of the peer: letters, digits, '.', '_' and '-'")


def _run(options: argparse.Namespace) -> int:
    from pydreaming import keys  # loads ZeroMQ

    folder: Path = options.folder
    if options.action == "init":
        keys.init_keys(folder)
        say(f"keys made; set --coordinator.keys {folder}")
    elif options.action == "add":
        made = keys.add_peer(folder, options.name)
        say(f"copy {made} to that host and give the copy to its workers: --coordinator.keys of launch.py, --keys of workers.audio_worker")
    elif options.action == "revoke":
        keys.revoke_peer(folder, options.name)
        say(f"{options.name} is shut out")
    else:
        for peer in keys.list_peers(folder):
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(peer.since))
            show(f"{peer.name:<24}{peer.state:<12}{since}  {peer.fingerprint}")
    return 0


COMMAND = Command("keys", "make, revoke and list the keys of workers on other hosts", DETAILS, _arguments, _run)
