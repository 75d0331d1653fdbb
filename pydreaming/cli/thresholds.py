"""The arguments that say what an event is, of the commands that find some."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pydreaming.analysis.names import CURVES
from pydreaming.cli.command import first_given, given, say
from pydreaming.errors import UsageError

if TYPE_CHECKING:
    from pydreaming.analysis.surprise.calibration import Calibration
    from pydreaming.analysis.surprise.events import Hysteresis
    from pydreaming.analysis.world_model import WorldModel


def add_calibration(parser: argparse._ActionsContainer, adds: str) -> None:
    """--calibration, for `read_calibration`."""
    parser.add_argument("--calibration", metavar="FILE", help=f"what pydreaming calibrate has written for this model; {adds}")


def add_thresholds(parser: argparse.ArgumentParser, needed: str, relative: bool) -> None:
    """--by, --onset, --offset, --minimum and --gap, for `check_thresholds`, `curve_of` and `rule_of`; events are found with `needed`."""
    events = parser.add_argument_group(f"what an event is (with {needed})")
    onset, offset = (", without calibration .01", ", without calibration .1") if relative else ("", "")
    events.add_argument("--by", choices=tuple(CURVES), help="curve that events are found in (default: kl)")
    events.add_argument("--onset", type=float, metavar="P", help=f"an event has a window with p below this (default: .001{onset})")
    events.add_argument("--offset", type=float, metavar="P", help=f"and takes in its neighbours below this (default: .05{offset})")
    events.add_argument("--minimum", type=float, metavar="S", help="s; shorter events are dropped (default: 0)")
    events.add_argument("--gap", type=float, metavar="S", help="s above the offset that an event goes on over (default: .1)")


def check_thresholds(options: argparse.Namespace, needed: str) -> None:
    """Where no events are looked for, refuse what says which. Raises UsageError, with what is `needed`."""
    if option := first_given(options, "by", "onset", "offset", "minimum", "gap"):
        raise UsageError(f"{option} is about events, which need {needed}")


def curve_of(options: argparse.Namespace) -> str:
    """The curve that events are found in."""
    asked: str | None = options.by
    return given(asked, "kl")


def read_calibration(options: argparse.Namespace, model: WorldModel, seed: int | None) -> Calibration | None:
    """The calibration that was asked for. Raises PydreamingError: unreadable; UsageError: of another model or seed."""
    from pydreaming.analysis.surprise.calibration import Calibration
    from pydreaming.analysis.surprise.curves import check_calibration

    found = None if options.calibration is None else Calibration.read(Path(options.calibration))
    check_calibration(model, found, seed, options.calibration or "")
    return found


def rule_of(options: argparse.Namespace, calibration: Calibration | None) -> Hysteresis:
    """The thresholds that were asked for; says so when no window can ever be below the onset. Raises UsageError."""
    from pydreaming.analysis.surprise.events import RELATIVE, Hysteresis

    default = RELATIVE if calibration is None else Hysteresis()
    onset = default.onset if options.onset is None else options.onset
    offset = max(onset, default.offset) if options.offset is None else options.offset
    rule = Hysteresis(onset, offset, given(options.minimum, 0.0), given(options.gap, 0.1))
    if calibration is not None and rule.onset <= (least := calibration.least_p(curve_of(options))):
        say(f"{options.calibration} has too few windows to find events: no p is below {least:.2g}. Calibrate on more, or raise --onset")
    return rule
