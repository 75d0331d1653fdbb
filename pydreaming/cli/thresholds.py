"""The arguments that say what an event is, of the commands that find some."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pydreaming.analysis.names import CURVES
from pydreaming.cli.command import say

if TYPE_CHECKING:
    from pydreaming.analysis.surprise.calibration import Calibration
    from pydreaming.analysis.surprise.events import Hysteresis
    from pydreaming.analysis.world_model import WorldModel


def add_calibration(parser: argparse._ActionsContainer, adds: str) -> None:
    """--calibration, for `read_calibration`."""
    parser.add_argument("--calibration", metavar="FILE", help=f"what pydreaming calibrate has written for this model; {adds}")


def add_thresholds(parser: argparse.ArgumentParser, relative: bool) -> None:
    """--by, --onset, --offset, --minimum and --gap, for `rule_of`."""
    onset, offset = (", without calibration .01", ", without calibration .1") if relative else ("", "")
    parser.add_argument("--by", choices=tuple(CURVES), default="kl", help="curve that events are found in (default: kl)")
    parser.add_argument("--onset", type=float, metavar="P", help=f"an event has a window with p below this (default: .001{onset})")
    parser.add_argument("--offset", type=float, metavar="P", help=f"and takes in its neighbours below this (default: .05{offset})")
    parser.add_argument("--minimum", type=float, default=0.0, metavar="S", help="s; shorter events are dropped (default: 0)")
    parser.add_argument("--gap", type=float, default=0.1, metavar="S", help="s above the offset that an event goes on over (default: .1)")


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
    rule = Hysteresis(onset, offset, options.minimum, options.gap)
    if calibration is not None and rule.onset <= (least := calibration.least_p(options.by)):
        say(f"{options.calibration} has too few windows to find events: no p is below {least:.2g}. Calibrate on more, or raise --onset")
    return rule
