"""Messages between the coordinator and its peers, and their encoding.

A message is one ZeroMQ frame: the four bytes `pyd` + protocol version, then JSON. JSON, because it has no length headers that
could lie and no non-finite numbers; audio and weights never travel here (workers write them to the replay folder). Nothing in a
message is executed, and whatever does not decode into one of the structs below is refused with a `ProtocolError`.

    worker                     coordinator                     learner
      | Hello  ------------------> |                              |
      | <----------------- Welcome |                              |
      | Pull   ------------------> |                              |
      | <------ Lease | Wait | Stop|                              |
      | Beat   ------------------> | <------------------ Progress |
      | Done   ------------------> | Status --------------------> |
      | Bye    ------------------> |                              |

The coordinator may also send Rehello (it does not know the sender: it was restarted), Revoked (the lease was given to another worker),
Refused (the peer must end) and Stop, at any time.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, TypeVar

import msgspec

from pydreaming.audio.sources.item import AudioItem
from pydreaming.audio.stats import FeatureStats, StatsSums
from pydreaming.errors import TransportError

PROTOCOL_VERSION = 2
MAX_MESSAGE_BYTES = 16 * 2**20  # from the coordinator
MAX_PEER_BYTES = 4 * 2**20  # from a peer: strangers' memory is the coordinator's. Room for 500 recordings with the longest paths and causes
_MAGIC = b"pyd"
_HEADER = _MAGIC + bytes([PROTOCOL_VERSION])

MAX_COUNT = 2**53  # beyond it floats, in which rates and ratios are taken, are not exact; JSON has numbers of any length
Natural = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
MAX_SECONDS = 1e12
Seconds = Annotated[float, msgspec.Meta(ge=0, le=MAX_SECONDS)]
Text = Annotated[str, msgspec.Meta(max_length=4096)]
# \Z, not $: the latter also matches before a final newline. The names become parts of log lines, file names and metric names.
PeerName = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")]
ShardName = Annotated[str, msgspec.Meta(pattern=r"\Ae[0-9]{5,9}-[0-9]{6,12}-[0-9]{3,6}\.parquet\Z")]


class ProtocolError(TransportError):
    """A frame that is no message of this protocol. `kind` says how: see `decode`."""

    def __init__(self, kind: Literal["oversized", "foreign", "version", "malformed", "invalid"], detail: str) -> None:
        super().__init__(f"{kind} message: {one_line(detail)}")
        self.kind = kind


def one_line(text: str) -> str:
    """Another process's text as it may stand in a log: one line, short, without control characters."""
    return "".join(ch if ch.isprintable() else " " for ch in text[:300])


class _Message(msgspec.Struct, forbid_unknown_fields=True, tag=True):
    """Base of all messages: tagged with the class name, strict about fields."""


class _Part(msgspec.Struct, forbid_unknown_fields=True):
    """Base of what messages contain."""


class Totals(_Part):
    """What a worker process has done since it began (not since its last beat, so that a lost beat loses nothing)."""

    audio_s: Seconds = 0.0
    cpu_s: Seconds = 0.0
    clips: Natural = 0
    tokens: Natural = 0


class StoredFile(_Part):
    """One file that a worker has written into the replay folder."""

    name: ShardName
    episodes: Natural
    tokens: Natural
    bytes: Natural


class Unreadable(_Part):
    """One recording that could not be read. `item` is its row in the catalogue."""

    path: Text
    item: Natural
    cause: Text


class Crew(_Part):
    """All workers together (one by one they stand in the status file). Rates are over the last half minute.

    `silent_s` is the time since the last message of the one that has been silent longest.
    """

    count: Natural = 0
    clips_per_s: Seconds = 0.0
    audio_per_s: Seconds = 0.0
    silent_s: Seconds = 0.0


# -- from a peer ------------------------------------------------------------------------------------------------------------------------


class Hello(_Message):
    """Introduces a peer; answered by Welcome or Refused.

    `session` is a random number of the process: a container that is started again has the name, host and pid of the one that died.
    """

    role: Literal["worker", "learner"]
    name: PeerName
    host: Text
    pid: Natural
    session: Natural = 0


class Pull(_Message):
    """Asks for work; answered by Lease, Wait or Stop."""


class Beat(_Message):
    """Sign of life from the work loop. `lease` is the grant being worked on, -1 for none."""

    lease: Annotated[int, msgspec.Meta(ge=-1, le=MAX_COUNT)]
    totals: Totals


class Done(_Message):
    """The lease is finished and its files have their final names."""

    lease: Natural
    files: Annotated[list[StoredFile], msgspec.Meta(max_length=10_000)]
    unreadable: Annotated[list[Unreadable], msgspec.Meta(max_length=100_000)]
    sums: StatsSums | None
    totals: Totals


class Progress(_Message):
    """From the learner: tokens trained on and steps so far (resumed ones included), and the newest checkpoint's folder ('' for none)."""

    trained_tokens: Natural
    step: Natural
    checkpoint: Text = ""


class Bye(_Message):
    """The peer ends. A lease it holds is given to another worker at once."""

    reason: Text = ""


# -- from the coordinator ---------------------------------------------------------------------------------------------------------------


class Welcome(_Message):
    """What a peer needs to work: the run's configuration (JSON) and folders as they are called on the coordinator's host.

    `control_mean` and `control_std` normalise the items' control columns (empty unless action.kind is controls). `run` is its name, for
    logs.
    """

    config: str
    root: Text
    replay: Text
    recordings: Natural
    control_mean: list[float]
    control_std: list[float]
    run: Text = ""


class Lease(_Message):
    """Work for `ttl_s` seconds from each beat. `id` is this grant; `number` names the work within the epoch (and so its files)."""

    id: Natural
    kind: Literal["measure", "episodes"]
    epoch: Natural
    number: Natural
    items: list[AudioItem]
    stats: FeatureStats | None
    ttl_s: Seconds


class Wait(_Message):
    """Nothing to do now; pull again after `seconds`."""

    seconds: Seconds
    reason: Text


class Stop(_Message):
    """There is no more work; end with success."""

    reason: Text


class Refused(_Message):
    """The peer cannot take part; end with this error."""

    reason: Text


class Revoked(_Message):
    """The lease with this id belongs to another worker now; drop it and pull again."""

    lease: Natural


class Rehello(_Message):
    """The coordinator does not know the sender (it was restarted): say Hello again."""


class Status(_Message):
    """The state of data collection, answered to Progress.

    `written_tokens` counts everything ever collected in this run, `stored_tokens` what the folder holds after eviction.
    `exhausted`: all passes are done and nothing more will come. `all_failed`: a whole pass gave not one token.
    """

    phase: Literal["measure", "episodes"]
    written_tokens: Natural
    stored_tokens: Natural
    files: Natural
    unreadable: Natural
    passes_done: Natural
    pass_share: float
    exhausted: bool
    all_failed: bool
    dropped_messages: Natural
    leases: Natural
    crew: Crew


FromPeer: TypeAlias = Hello | Pull | Beat | Done | Progress | Bye
FromCoordinator: TypeAlias = Welcome | Lease | Wait | Stop | Refused | Revoked | Rehello | Status
Message: TypeAlias = FromPeer | FromCoordinator
M = TypeVar("M", FromPeer, FromCoordinator)

_encoder = msgspec.json.Encoder()
_from_peer: msgspec.json.Decoder[FromPeer] = msgspec.json.Decoder(FromPeer)
_from_coordinator: msgspec.json.Decoder[FromCoordinator] = msgspec.json.Decoder(FromCoordinator)


def encode(message: Message) -> bytes:
    """The frame of a message. Raises ProtocolError (`oversized`) beyond what the other side takes."""
    frame = _HEADER + _encoder.encode(message)
    if len(frame) > (MAX_PEER_BYTES if isinstance(message, FromPeer) else MAX_MESSAGE_BYTES):
        raise ProtocolError("oversized", f"{type(message).__name__} of {len(frame)} bytes; lower workers.lease_items")
    return frame


def decode_from_peer(frame: bytes) -> FromPeer:
    """A worker's or learner's message. Raises ProtocolError as `decode_from_coordinator` does."""
    return _decode(frame, _from_peer, MAX_PEER_BYTES)


def decode_from_coordinator(frame: bytes) -> FromCoordinator:
    """The coordinator's message.

    Raises:
      ProtocolError: `oversized`; `foreign` (not this program's frame); `version` (another protocol version); `malformed` (no JSON);
        `invalid` (JSON, but an unknown type, an unknown, missing or mistyped field, or a value out of its range).
    """
    return _decode(frame, _from_coordinator, MAX_MESSAGE_BYTES)


def _decode(frame: bytes, decoder: msgspec.json.Decoder[M], limit: int) -> M:
    if len(frame) > limit:
        raise ProtocolError("oversized", f"{len(frame)} bytes")
    if frame[: len(_MAGIC)] != _MAGIC or len(frame) <= len(_MAGIC):
        raise ProtocolError("foreign", f"{len(frame)} bytes that do not begin as a pydreaming message")
    if frame[len(_MAGIC)] != PROTOCOL_VERSION:
        raise ProtocolError(
            "version", f"the other side speaks protocol {frame[len(_MAGIC)]}, not {PROTOCOL_VERSION}: install the same pydreaming"
        )
    try:
        return decoder.decode(frame[len(_HEADER) :])
    except msgspec.ValidationError as e:
        raise ProtocolError("invalid", str(e)) from e
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise ProtocolError("malformed", str(e)) from e
