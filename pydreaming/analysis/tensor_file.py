"""What a model has made and another command takes, as one file: safetensors, with what is no array as JSON in its header.

Banks, detectors and inventories of units are such files. Nothing in them is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from pydreaming.analysis.files import replacing
from pydreaming.errors import PydreamingError, UsageError

ENDING = ".safetensors"
_KEY = "pydreaming"

Tensors = dict[str, npt.NDArray[Any]]
About = TypeVar("About", bound=msgspec.Struct)
Made = TypeVar("Made")


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON in the header: what kind of file it is, in which format, and what is known of it."""

    what: str
    format: int
    about: msgspec.Raw


def write_tensors(path: Path, what: str, version: int, about: msgspec.Struct, tensors: Tensors) -> None:
    """Write a file, whole or not at all.

    Args:
      what: kind of file, such as "bank". version: of its format. about: what is no array.
    Raises:
      UsageError: another ending than .safetensors. PydreamingError: it cannot be written.
    """
    if path.suffix != ENDING:
        raise UsageError(f"{path} must end in {ENDING}, as every {what} does")
    header = msgspec.json.encode(_Header(what, version, msgspec.Raw(msgspec.json.encode(about)))).decode()
    # Not save_file, whose files only their owner may read.
    data = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, {_KEY: header})
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def read_tensors(path: str | Path, what: str, version: int, about: type[About], make: Callable[[About, Tensors], Made]) -> Made:
    """What `make` makes of a file that `write_tensors` wrote; it raises KeyError or ValueError for parts that do not fit together.

    Raises:
      PydreamingError: missing, damaged, of another kind or format.
    """
    if Path(path).is_dir():  # safetensors would say that there is no such device
        raise PydreamingError(f"cannot read the {what} {path}: it is a folder")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            head = (file.metadata() or {}).get(_KEY, "{}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
    except (OSError, ValueError, safetensors.SafetensorError) as e:
        raise PydreamingError(f"cannot read the {what} {path}: {' '.join(str(e).split())}") from e
    try:
        header = msgspec.json.decode(head, type=_Header)
        if (header.what, header.format) != (what, version):
            raise PydreamingError(f"{path} holds: {header.what}, format {header.format}; wanted is: {what}, format {version}")
        return make(msgspec.json.decode(header.about, type=about), tensors)
    except KeyError as e:
        raise PydreamingError(f"{path} is no {what}, or damaged: {e.args[0]} is missing") from e
    except (msgspec.MsgspecError, ValueError) as e:
        raise PydreamingError(f"{path} is no {what}, or damaged: {e}") from e
