"""The entries of the gallery, in the order in which someone with a folder of recordings would try them."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq

from benchmarks.exhibits.recordings import NAME, Recordings
from benchmarks.exhibits.scene import Excerpt, Scene, read_rows

MODEL = "runs/my-run"
WINDOW_S = 0.062  # length of a window of the published model: a boundary is at the start of the window that a sound begins in


def scenes(recordings: Recordings) -> list[Scene]:
    """All entries but that of `status`, which needs a run at work."""

    def clip(digit: int, speaker: int, index: int) -> str:
        return recordings.clip(digit, recordings.speaker(speaker), index)

    return [
        Scene(
            "inspect",
            "What is in a folder, before training on it?",
            ("pydreaming inspect digits --picture inspect.png",),
            "Ten recordings drawn at random, as the model hears them. The warning is right: these are the held-out clips only.",
            "inspect.png",
        ),
        Scene(
            "surprise",
            "When does something unexpected happen?",
            (
                f"pydreaming calibrate {MODEL} sessions --out normal.json",
                f"pydreaming surprise {MODEL} garden.wav --calibration normal.json --out garden.csv --events none.csv",
                f"pydreaming surprise {MODEL} garden.wav --calibration normal.json --by prior_entropy --out garden.csv --events events.csv"
                " --labels garden.txt --picture surprise.png",
            ),
            "Someone says ten digits, and a chainsaw starts in the middle. `sessions` tell how much surprise is normal. Surprise itself"
            " (the first curve, second command) also peaks where each digit begins; how uncertain the model stays (the second curve,"
            " third command) tells the saw from the digits. A bark, a cry, a sneeze, a rooster and a clock in its place, tried with an"
            " earlier model, were not found this way.",
            "surprise.png",
            excerpts=(Excerpt("events.csv", ("source", "start_s", "end_s", "peak_s", "peak_bits", "min_p")),),
            found=_saw,
        ),
        Scene(
            "segment",
            "Where does one sound end and the next begin?",
            (f"pydreaming segment {MODEL} row.wav --out segments.csv --labels segments.txt",),
            "Ten digits of one speaker, one straight after another, without a pause. `segments.txt` opens in Audacity.",
            excerpts=(Excerpt("segments.csv", ("segment", "start_s", "end_s", "strength_bits"), 12),),
            found=_boundaries,
        ),
        Scene(
            "anomaly",
            "Which recordings are not as usual, and when?",
            (
                f"pydreaming anomaly fit {MODEL} sessions --clip 1 --out detector.safetensors",
                f"pydreaming anomaly score {MODEL} detector.safetensors garden.wav --out scores.csv --times times.csv --picture"
                " anomaly.png",
            ),
            "The detector has heard only digits. It judges clips of a second, as it was fitted on, and pieces of about a second, half of"
            " one apart. Below are the pieces that are alarms.",
            "anomaly.png",
            excerpts=(Excerpt("times.csv", ("start_s", "end_s", "score", "p_value", "alarm"), where=lambda row: row["alarm"] == "True"),),
            found=lambda recordings: f"The saw is at {_span(recordings.saw_s)}.",
        ),
        Scene(
            "horizon",
            "How far ahead does it foresee?",
            (f"pydreaming horizon {MODEL} digits pumps --by corpus --steps 1 2 4 8 --out horizon.csv --picture horizon.png",),
            "Digits of the kind it was trained on, and pumps, of which it has heard none: a model says something about what it"
            " was trained on, and little about anything else. Dotted: the last window taken for the one to come.",
            "horizon.png",
            excerpts=(
                Excerpt(
                    "horizon.csv",
                    ("group", "k", "ahead_s", "retrieval", "retrieval_copy", "chance", "gain_bits", "better", "predictions"),
                    8,
                    lambda row: row["group"] != "all",
                ),
            ),
        ),
        Scene(
            "units",
            "What repeats?",
            (f"pydreaming units {MODEL} digits --units 50 --out units.csv --text units.txt --book units.html",),
            "Recordings written down in fifty sounds that were found without labels. The page has real windows of each to hear.",
            "units.html",
            height=1000,
            printed=44,
        ),
        Scene(
            "dream",
            "How could it go on?",
            (
                f"pydreaming bank {MODEL} voices --out voices.safetensors",
                f"pydreaming dream {MODEL} {clip(4, 1, 0)} --at 0.16 --seconds 0.4 --samples 8 --out dream.wav --picture dream.png"
                " --render both --bank voices.safetensors --provenance dream.csv",
            ),
            "What was really said; one imagined continuation; the mean of eight; and how much the eight disagree. Each continuation is"
            " written twice: rendered from the imagined spectrogram, and put together from real windows of `voices`, whose origin the"
            " table tells.",
            "dream.png",
            printed=5,
            excerpts=(Excerpt("dream.csv", ("sample", "time_s", "source", "source_start_s", "distance"), 8),),
        ),
        Scene(
            "inpaint",
            "What could have been in a gap?",
            (f"pydreaming inpaint {MODEL} {clip(7, 3, 1)} --gap 0.2:0.32 --out filled.wav --picture inpaint.png",),
            "The gap is filled with what fits both what came before and what follows. The lines mark the windows that the gap"
            " touches. Outside the gap itself, and 10 ms on either side, the sound stays as recorded.",
            "inpaint.png",
        ),
        Scene(
            "gaps",
            "How good are such fills?",
            (f"pydreaming inpaint {MODEL} digits --evaluate 60 --gap-s 0.12 --out gaps.csv",),
            "Gaps made on purpose, filled in seven ways and compared with what was there: particles that know what follows,"
            " rollouts that do not (`prior`), a straight line through the log-mel, and the last window again and again.",
        ),
        Scene(
            "embed",
            "What is said, whoever says it?",
            (
                f"pydreaming embed {MODEL} digits --pooling evaluation --out as_it_is.parquet",
                f"pydreaming embed {MODEL} digits --pooling evaluation --without-scene --out without_scene.parquet",
            ),
            "Vectors of clips to build on. The second table is without what clips of a like voice and microphone have in common, which is"
            " found without labels.",
            found=lambda recordings: f"{_neighbours('as_it_is.parquet')} {_neighbours('without_scene.parquet')}",
        ),
        Scene(
            "search",
            "What else sounds like this?",
            (f"pydreaming search {MODEL} {clip(3, 4, 2)} digits --top 10 --out hits.csv --page hits.html",),
            "The nearest clips, with a player for each, on a page that works offline.",
            "hits.html",
            excerpts=(Excerpt("hits.csv", ("rank", "score", "source", "label", "speaker")),),
        ),
        Scene(
            "report",
            "Everything about one recording, on a page",
            (f"pydreaming report {MODEL} {clip(3, 4, 2)} --normal digits --out clip.html",),
            "The top of the page: whether the recording is like those of training, and how surprising it is among normal ones.",
            "clip.html",
            height=1300,
        ),
    ]


def _saw(recordings: Recordings) -> str:
    begin, end = recordings.saw_s
    events = read_rows("events.csv")
    inside = sum(float(row["start_s"]) < end and float(row["end_s"]) > begin for row in events)
    do = "overlaps" if inside == 1 else "overlap"
    return f"The saw is at {_span(recordings.saw_s)}; of {_count(len(events), 'event')} found, {inside} {do} it."


def _boundaries(recordings: Recordings) -> str:
    found = [float(row["start_s"]) for row in read_rows("segments.csv")[1:]]
    hits = sum(any(abs(start - boundary) <= WINDOW_S for boundary in found) for start in recordings.starts_s)
    stray = sum(all(abs(start - boundary) > WINDOW_S for start in recordings.starts_s) for boundary in found)
    return (
        f"Of the {len(recordings.starts_s)} places where a digit follows another, {hits} have a boundary within a window's length"
        f" ({1000 * WINDOW_S:.0f} ms); boundaries elsewhere: {stray}."
    )


def _neighbours(table: str) -> str:
    """Of clips named by digit and speaker: what the nearest clip of each by another speaker says."""
    columns = pq.read_table(table).to_pydict()
    names = [match.groups() for source in columns["source"] if (match := NAME.search(source))]
    digit, speaker = np.array([name[0] for name in names]), np.array([name[1] for name in names])
    x = np.array(columns["embedding"], np.float64)
    x -= x.mean(0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    nearest = np.where(speaker[:, None] == speaker, -np.inf, x @ x.T).argmax(1)
    share = float((digit[nearest] == digit).mean())
    return f"`{table}`: of {share:.0%} of the clips, the nearest by another speaker says the same digit."


def _span(seconds: tuple[float, float]) -> str:
    return f"{seconds[0]:.2f} to {seconds[1]:.2f} s"


def _count(number: int, one: str) -> str:
    return f"{number} {one}" + ("" if number == 1 else "s")
