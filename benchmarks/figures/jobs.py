"""What is measured: corpora, rows beside each other, and one job for each training with its seed and what is left out of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydreaming.audio.sources import iter_source, source_root
from pydreaming.config import Config, load_config
from pydreaming.errors import SourceError

VERSION = 1  # of what a job does; another one makes every job anew
TRAINED = {"world_model": "", "cpc": "cpc", "dreamer_v2": "dreamer_v2"}  # row -> its objective.name; empty: the preset's
NETWORKS = (*TRAINED, "untrained")  # rows with a world model's networks
CEILING = "supervised"
WITHOUT_SEEDS = ("log-mel", "mfcc")  # nothing in these rows is drawn at random
ROWS = (*NETWORKS, CEILING, *WITHOUT_SEEDS)


@dataclass(frozen=True)
class Corpus:
    """A folder of recordings and how it is used.

    Attributes:
      path: below the folder of all data. presets: as launch.py takes them. settings: `section.key=value` on top of them.
      rows: what is compared. left_out: from the recordings to what each training leaves out in turn; ("",) for one training on all.
      title: for the tables, with what the models have heard.
    """

    path: str
    presets: tuple[str, ...]
    rows: tuple[str, ...]
    title: str
    settings: tuple[str, ...] = ()
    left_out: Callable[[Config], Sequence[str]] = lambda config: ("",)


@dataclass(frozen=True)
class Job:
    """One training, where its row trains, and the evaluation of what came of it."""

    corpus: str
    row: str
    seed: int
    left_out: str = ""

    @property
    def name(self) -> str:
        """Name of its folder."""
        return "-".join(filter(None, (self.corpus, self.row, str(self.seed), self.left_out)))


@dataclass(frozen=True)
class Plan:
    """All jobs of a call, and what they have in common.

    Attributes:
      data: folder of all corpora. out: folder of the results. seconds: of training, in CPU time. settings: `section.key=value` for all.
      pace: steps a second by row, where training ends after so many steps as `seconds` of a quiet core give, however busy this one is.
    """

    data: Path
    out: Path
    seconds: float
    settings: tuple[str, ...]
    jobs: tuple[Job, ...]
    pace: Mapping[str, float] = field(default_factory=dict)

    def config(self, job: Job) -> Config:
        """The resolved configuration of a job: one thread of a CPU, so that its time means the same on every host. Raises ConfigError."""
        return job_config(self.data, job, self.seconds, self.settings, self.pace.get(job.row, 0.0))

    def folder(self, job: Job) -> Path:
        """Where a job leaves its checkpoint, its log and figures.json."""
        return self.out / job.name

    def digest(self, job: Job) -> str:
        """Of everything that the figures of a job depend on but the code."""
        content = [VERSION, dataclasses.asdict(job), self.config(job).to_dict()]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def make_plan(
    data: Path,
    out: Path,
    seconds: float,
    settings: Sequence[str],
    only: Sequence[str],
    rows: Sequence[str],
    seeds: Sequence[int],
    pace: Mapping[str, float],
) -> Plan:
    """The jobs of the corpora and rows asked for, seed after seed, so that a first table comes early.

    Raises:
      SourceError: the data of a corpus is missing. ConfigError: a setting is wrong.
    """
    jobs = []
    for name in only:
        corpus = CORPORA[name]
        for row in (row for row in corpus.rows if row in rows):
            config = job_config(data, Job(name, row, seeds[0]), seconds, settings, pace.get(row, 0.0))
            source_root(config.source)  # missing data is told now, not hours later
            parts = corpus.left_out(config)
            jobs += [Job(name, row, seed, part) for seed in (seeds[:1] if row in WITHOUT_SEEDS else seeds) for part in parts]
    return Plan(data, out, seconds, tuple(settings), tuple(sorted(jobs, key=lambda job: job.seed)), pace)


def job_config(data: Path, job: Job, seconds: float, settings: Sequence[str], pace: float) -> Config:
    """See `Plan.config`."""
    corpus = CORPORA[job.corpus]
    objective = TRAINED.get(job.row)
    values = [
        f"source.path={data / corpus.path}",
        f"run.seed={job.seed}",
        "training.device=cpu",
        "training.threads=1",
        *corpus.settings,
        *settings,
        f"training.seconds={seconds:g}",
        f"training.steps={round(pace * seconds)}",
        *([f"objective.name={objective}"] if objective else []),
    ]
    config = load_config(corpus.presets, [f"--{value}" for value in values])
    if job.corpus == "strict" and job.left_out:
        return dataclasses.replace(config, source=dataclasses.replace(config.source, held_out_speakers=[job.left_out]))
    return config


def speakers(config: Config) -> list[str]:
    """The speakers of a source, by name. Raises SourceError: fewer than two are known."""
    found = sorted({item.speaker for item in iter_source(config.source) if item.speaker is not None})
    if len(found) < 2:
        raise SourceError(f"{config.source.path}: leaving a speaker out needs recordings of two known speakers or more")
    return found


CORPORA = {
    "fsdd": Corpus("fsdd", ("defaults", "fsdd"), ROWS, "FSDD, official split; all six speakers heard, unlabelled"),
    "strict": Corpus(
        "fsdd",
        ("defaults", "fsdd"),
        ROWS,
        "FSDD, a speaker never heard: six trainings and statistics, each without one speaker; mean of the six",
        left_out=speakers,
    ),
    "esc10": Corpus(
        "esc10",
        ("defaults", "esc10"),
        ROWS,
        "ESC-10, five folds of the probe; the clips of folds 1 to 4 were heard, unlabelled, fold 5 never",
    ),
    "long": Corpus(
        "long/librivox_readers.flac",
        ("defaults", "folder"),
        NETWORKS,
        "A long recording, heard in training: changes of the reader",
    ),
    "machines": Corpus(
        "machines",
        ("defaults", "folder"),
        ("world_model", "dreamer_v2", "untrained"),
        "Machines, 93 clips: a smoke test. Three trainings of a third of the seconds each, without a third of the normal clips in turn",
    ),
}
