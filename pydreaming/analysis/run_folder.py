"""What a run has left in its folder. (Light to import: the run's own processes begin with it.)"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import msgspec
import yaml

from pydreaming.audio.decode import resolve_inside
from pydreaming.audio.sources import Catalogue, source_root
from pydreaming.config import Config, config_from_dict
from pydreaming.errors import ConfigError, PydreamingError, SourceError
from pydreaming.replay.address import Location, is_distant

QUARANTINE = (
    "quarantine.jsonl"  # of workers in the run's folder, of the evaluation in eval_set; held-out recordings stand only in the latter
)


class _Unreadable(msgspec.Struct):
    """A line of a quarantine list."""

    path: str
    cause: str


class RunFolder:
    """Paths in a run's folder, and what lies there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.catalogue = path / "catalogue"
        self.stats = path / "stats.json"
        self.quarantine = path / QUARANTINE
        self.quarantine_of_evaluation = path / "eval_set" / QUARANTINE
        self.logs = path / "logs"
        self.checkpoints = path / "checkpoints"

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> RunFolder | None:
        """The run whose folder a checkpoint lies in; None for one that lies elsewhere."""
        run = cls(checkpoint.resolve().parent.parent)
        return run if checkpoint.resolve().parent.name == "checkpoints" and run.config.is_file() else None

    def replay(self, config: Config) -> Location:
        """The replay store: `replay.dir`, or the run's own."""
        if is_distant(config.replay.dir):
            return config.replay.dir
        return Path(config.replay.dir).expanduser().absolute() if config.replay.dir else self.path.absolute() / "replay"

    def read_config(self) -> Config:
        """The run's resolved configuration. Raises ConfigError."""
        try:
            values = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
            raise ConfigError(f"no run in {self.path}: {self.config.name} cannot be read ({' '.join(str(e).split())})") from e
        if not isinstance(values, dict):
            raise ConfigError(f"{self.config} must hold sections of keys")
        return config_from_dict(values)

    def trained_on(self, config: Config) -> dict[str, float | int | str | None]:
        """Facts about its recordings, by name."""
        facts: dict[str, float | int | str | None] = {"source": Path(config.source.path).name, "kind": config.source.kind}
        try:
            info = Catalogue.open(self.catalogue).info
        except SourceError:
            return facts | {"replay store": config.replay.dir.partition("?")[0]}
        facts |= {"recordings": info.items, "held out": info.held_out, "split by": info.split, "speakers": info.speakers}
        return facts | {"unreadable files": len(self.unreadable())}

    def unreadable(self) -> list[tuple[str, str]]:
        """Path and cause of each recording that workers or the evaluation could not read."""
        found: dict[str, str] = {}
        for path in (self.quarantine, self.quarantine_of_evaluation):
            for line in path.read_bytes().splitlines() if path.is_file() else ():
                try:
                    entry = msgspec.json.decode(line, type=_Unreadable)
                except msgspec.MsgspecError:  # the coordinator is writing it, or was killed while it did; the recording is reported again
                    continue
                found.setdefault(entry.path, entry.cause)
        return list(found.items())

    def next_commands(self, config: Config) -> list[tuple[str, str]]:
        """What to try with the trained run: (what it does, the command)."""
        shown, audio = shlex.quote(short(self.path)), shlex.quote(config.source.path or "RECORDINGS")
        recording, command = self._a_recording(config), program("pydreaming")
        return [
            ("Features of every recording, one row each", f"{command} embed {shown} {audio} --out embeddings.parquet"),
            (
                "How surprising a recording is, moment by moment",
                f"{command} surprise {shown} {recording} --out surprise.csv --picture surprise.png",
            ),
            ("Let it dream a recording on", f"{command} dream {shown} {recording} --seconds 2 --out dream.wav"),
            ("All of it about one recording, on a page", f"{command} report {shown} {recording} --out recording.html"),
        ]

    def _a_recording(self, config: Config) -> str:
        """A recording of the run that a command can be tried on."""
        try:
            item = Catalogue.open(self.catalogue)[0]
            return shlex.quote(short(resolve_inside(source_root(config.source), item.path)))
        except PydreamingError:
            return "RECORDING"


def program(name: str) -> str:
    """How a program of this environment is called from the working folder: by its name where the shell finds it."""
    here = Path(sys.executable).parent / name
    return name if shutil.which(name) == str(here) else shlex.quote(short(here))


def make_ui(runs: Path) -> str:
    """The command that opens MLflow on a folder of runs."""
    return "make ui" if short(runs) == "runs" else f"make ui RUNS={shlex.quote(short(runs))}"


def short(path: Path) -> str:
    """Relative to the working folder where that is shorter."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
