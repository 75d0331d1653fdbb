"""Damaged files of every kind that is read, into the code that reads them, in a confined process.

A file is read, or refused with an error of this project in one line. Whatever else comes out, a file opened beside its root, memory
beyond the limit or a crash of a library ends the process, and the file stays in the folder.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from benchmarks.hostile.confine import Confinement, FellError, limit_memory, peak_rss
from benchmarks.hostile.mutate import damage
from pydreaming.errors import PydreamingError

MEMORY = 1 << 30  # bytes that a reader may map beyond what its libraries take
SLOW_S = 60.0  # s in which one file is read or refused
SAMPLE_RATE = 8000  # Hz


@dataclass(frozen=True)
class Outcome:
    """What became of the files of one kind; memory in bytes, times in s."""

    kind: str
    files: int
    refused: int
    seconds: float
    slowest_s: float
    begin_rss: int
    peak_rss: int


@dataclass(frozen=True)
class Kind:
    """Sound files to damage, by name, and what reads one of them in a folder."""

    samples: dict[str, bytes]
    read: Callable[[Path], None]


def bombard(kinds: Sequence[str], files: int, seed: int, folder: Path) -> list[Outcome]:
    """Read so many damaged files of each kind in one process. Raises FellError with what it could not take."""
    command = [sys.executable, "-m", "benchmarks.hostile.inputs", str(files), str(seed), str(folder), *kinds]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    if done.returncode:
        raise FellError(f"code {done.returncode}; the file lies in {folder}\n{done.stderr[-3000:]}")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]  # libsndfile writes there, too
    return [Outcome(**json.loads(line)) for line in lines]


# -- what is read -----------------------------------------------------------------------------------------------------------------------


def audio() -> Kind:
    """Every container that libsndfile writes and that the catalogue lists."""
    import numpy as np
    import soundfile

    from pydreaming.audio.decode import open_audio
    from pydreaming.audio.features import FrontEnd
    from pydreaming.audio.sources import AudioItem
    from pydreaming.config import load_config

    front = FrontEnd(load_config(["defaults"], ["--features.sample_rate", "8000", "--features.n_fft", "512"]).features)
    sound = 0.3 * np.random.default_rng(0).standard_normal((SAMPLE_RATE // 2, 2))
    words = (
        "wav WAV PCM_16, wav WAV FLOAT, wav WAV MS_ADPCM, wav WAVEX PCM_24, flac FLAC PCM_16, ogg OGG VORBIS, opus OGG OPUS, "
        "mp3 MP3 MPEG_LAYER_III, aiff AIFF PCM_16, au AU ULAW, caf CAF PCM_16, w64 W64 PCM_16, rf64 RF64 PCM_16, sph NIST PCM_16, "
        "voc VOC PCM_16, avr AVR PCM_16, paf PAF PCM_16, pvf PVF PCM_16, sds SDS PCM_16, ircam IRCAM PCM_16"
    )
    samples = {}
    for number, word in enumerate(words.split(", ")):
        ending, container, subtype = word.split()
        out = io.BytesIO()
        channels = 1 if container in ("SDS",) else 2
        soundfile.write(out, sound[:, :channels], SAMPLE_RATE, format=container, subtype=subtype)
        samples[f"{number}.{ending}"] = out.getvalue()

    def read(path: Path) -> None:
        with open_audio(path, AudioItem(index=0, path=path.name, group=""), "mix") as stream:
            for _ in front.tokens(stream.blocks(), stream.sample_rate):
                pass

    return Kind(samples, read)


def parquet() -> Kind:
    """A file of the replay store, read by index, sampler and census."""
    import tempfile

    import numpy as np
    import pyarrow.parquet as pq

    from pydreaming.audio.stats import FeatureStats
    from pydreaming.config import load_config
    from pydreaming.replay.builder import ClipInfo, EpisodeBuilder
    from pydreaming.replay.evict import oldest_files
    from pydreaming.replay.index import ReplayIndex
    from pydreaming.replay.names import shard_name, shard_prefix
    from pydreaming.replay.sampler import ReplaySampler
    from pydreaming.replay.schema import StoreMeta
    from pydreaming.replay.store import LocalStore
    from pydreaming.replay.writer import ShardWriter

    config = load_config(["defaults"], ["--features.n_mels", "4", "--features.token_frames", "2"])
    meta = StoreMeta.of(config.features, FeatureStats([0.0] * 4, [1.0] * 4, 1), config.action)
    with tempfile.TemporaryDirectory() as scratch:
        with ShardWriter(Path(scratch), "e00000-000000", meta, 32) as writer:
            for group in range(4):
                builder = EpisodeBuilder(f"g{group}", 8)
                for clip in range(5):
                    info = ClipInfo(item=5 * group + clip, path=f"{clip}.wav", label="a")
                    tokens = np.random.default_rng(clip).standard_normal((6, 8))
                    for episode in builder.add_tokens(tokens, np.zeros((6, 1)), np.arange(6) * 320, True, info):
                        writer.add(episode)
                for episode in builder.finish():
                    writer.add(episode)
            (report,) = writer.commit()
        samples = {report.name: (Path(scratch) / report.name).read_bytes()}
        # As another program might write it, so that it has to be decoded.
        file = pq.ParquetFile(Path(scratch) / report.name)
        with pq.ParquetWriter(Path(scratch) / "foreign", file.schema_arrow, compression="zstd") as other:
            for group in range(file.num_row_groups):
                other.write_table(file.read_row_group(group))
        samples[shard_name(shard_prefix(0, 1), 0)] = (Path(scratch) / "foreign").read_bytes()

    def read(path: Path) -> None:
        index = ReplayIndex(path.parent)
        index.refresh()
        for episode in range(index.episodes):
            with suppress(PydreamingError):
                index.episode(episode)
        if index.episodes:
            ReplaySampler(index, 4, 4, 0.75, 0.3, 0).sample()
        oldest_files(LocalStore(path.parent), 10)
        if index.damaged:
            raise PydreamingError(next(iter(index.damaged.values())))

    return Kind(samples, read)


def checkpoint() -> Kind:
    """The files of a model from a stranger: weights, configuration."""
    import tempfile

    import torch

    from pydreaming.audio.features import FeatureStats
    from pydreaming.config import load_config
    from pydreaming.models.world_model import WorldModelNet
    from pydreaming.objectives import make_objective
    from pydreaming.training.checkpoint import CheckpointState, export_networks, load_networks

    torch.set_num_threads(1)
    config = load_config(["defaults", "debug"], ["--features.n_mels", "4"])
    bands = config.features.n_mels
    model = WorldModelNet(config.model, config.features.token_dim, 1, bands)
    objective = make_objective(config.objective, model)
    counters: dict[str, float] = {"step": 1, "trained_tokens": 1, "non_finite_steps": 0, "seconds": 1.0}
    state = CheckpointState(config, FeatureStats([0.0] * bands, [1.0] * bands, 1), config.features.token_dim, 1, counters, {})
    with tempfile.TemporaryDirectory() as scratch:
        export_networks(Path(scratch), model, objective, state, "")
        whole = {name: (Path(scratch) / name).read_bytes() for name in ("model.safetensors", "config.json")}

    def read(path: Path) -> None:
        for name, content in whole.items():
            if name != path.name:
                (path.parent / name).write_bytes(content)
        load_networks(path.parent, torch.device("cpu"))

    return Kind(whole, read)


def manifest() -> Kind:
    """Lists of recordings in every layout; each names a file outside of the source's root, too."""
    from pydreaming.audio.decode import resolve_inside
    from pydreaming.audio.sources import iter_source
    from pydreaming.config import load_config

    outside, defaults = "../canary", load_config(["defaults"]).source
    samples = {
        "audiofolder/metadata.csv": f"file_name,label,rpm\na.wav,x,1.5\n{outside},y,2\n",
        "common_voice/train.tsv": f"client_id\tpath\tsentence\n1\tx.mp3\thello\n2\t{outside}\tb\n",
        "esc50/meta/esc50.csv": f"filename,fold,target,category,esc10,src_file,take\nx.wav,1,0,dog,True,1,A\n{outside},1,0,dog,True,1,A\n",
        "fairseq/train.tsv": f".\nx.wav\t1600\n{outside}\t3\n",
        "kaldi/wav.scp": f"u1 x.wav\nu3 {outside}\n",
        "kaldi/segments": "s1 u1 0.0 1.5\ns2 u3 0 1\n",
        "kaldi/utt2spk": "u1 anna\ns1 anna\n",
        "librispeech/train-a/1/2/1-2.trans.txt": "1-2-0 HELLO\n1-2-1 WORLD\n",
        "ljspeech/metadata.csv": f"x|Hello|hello\n{outside}|b|c\n",
        "nemo/manifest.json": '{"audio_filepath": "x.wav", "duration": 1.0, "text": "a"}\n{"audio_filepath": "../canary", "offset": 1e9}\n',
        "speech_commands/testing_list.txt": f"yes/a_nohash_0.wav\n{outside}\n",
    }

    def read(path: Path) -> None:
        kind = next(name.split("/")[0] for name in samples if path.as_posix().endswith(f"/{name}"))
        root = next(parent for parent in path.parents if parent.name == kind)
        for name in ("clips/x.mp3", "wavs/x.wav", "yes/a_nohash_0.wav", "train-a/1/2/1-2-0.flac", "x.wav"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        for name, text in samples.items():  # a layout may have several lists; the others are whole
            if name.startswith(f"{kind}/") and root.parent / name != path:
                (root.parent / name).write_text(text)
        source = replace(defaults, path=str(root), kind=cast(Any, kind))
        for item in iter_source(source):
            with suppress(PydreamingError):
                file = resolve_inside(root, item.path)
                if file.is_file():
                    file.read_bytes()

    return Kind({name: text.encode() for name, text in samples.items()}, read)


def settings() -> Kind:
    """Presets and the settings of a run."""
    from pydreaming.config import CONFIG_DIR, load_config

    samples = {path.name: path.read_bytes() for path in CONFIG_DIR.glob("*.yaml") if path.stem != "defaults"}
    samples["small.yaml"] = b"run: {name: x, seed: 1}\nmodel: &a\n  deter: 64\n  encoder_layers: [64, 64]\nworkers:\n  count: 1\n"

    def read(path: Path) -> None:
        load_config(["defaults", str(path)])

    return Kind(samples, read)


KINDS: dict[str, Callable[[], Kind]] = {make.__name__: make for make in (audio, parquet, checkpoint, manifest, settings)}


# -- the confined process ---------------------------------------------------------------------------------------------------------------


def _files(kind: Kind, count: int, seed: int, folder: Path) -> Iterator[Path]:
    """Damaged files, one after the other, each alone in its folder; the first ones are whole."""
    rng = random.Random(seed)  # noqa: S311 (no secret)
    names = list(kind.samples)
    for number in range(count):
        name = names[number % len(names)]
        content = kind.samples[name] if number < len(names) else damage(rng, kind.samples[name])
        path = folder / "in" / name
        shutil.rmtree(folder / "in", ignore_errors=True)
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        yield path


def _bombard(name: str, kind: Kind, count: int, seed: int, folder: Path, confinement: Confinement) -> Outcome:
    begin_rss, begin, slowest, refused = peak_rss(), time.monotonic(), 0.0, 0
    for path in _files(kind, count, seed, folder):
        at = time.monotonic()
        try:
            kind.read(path)
        except PydreamingError as e:
            refused += 1
            if not str(e).isprintable():
                raise AssertionError(f"no line: {str(e)!r}") from e
        slowest = max(slowest, time.monotonic() - at)
        if slowest > SLOW_S or confinement.tried:
            raise AssertionError(f"{path} took {slowest:.0f} s, tried {confinement.tried}")
    return Outcome(name, count, refused, time.monotonic() - begin, slowest, begin_rss, peak_rss())


def main(arguments: list[str]) -> int:
    """COUNT SEED FOLDER KIND ...: a line of JSON for each kind; exits with 1 and a trace where a file is neither read nor refused."""
    count, seed, folder = int(arguments[0]), int(arguments[1]), Path(arguments[2])
    kinds = {name: KINDS[name]() for name in arguments[3:]}
    for kind in kinds.values():
        for path in _files(kind, len(kind.samples), seed, folder):  # libraries load what they need; and whole files must be read
            kind.read(path)
    confinement = Confinement([folder], folder / "in" / "canary")
    confinement.begin()
    limit_memory(MEMORY)
    for name, kind in kinds.items():
        sys.stdout.write(f"{json.dumps(asdict(_bombard(name, kind, count, seed, folder, confinement)))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
