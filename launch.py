"""Start pydreaming on this host: everything, the learner's side, or workers for a learner elsewhere."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pydreaming.config import CONFIG_DIR, Config, field_types, load_config, section_types
from pydreaming.config_changes import first_change
from pydreaming.config_hints import nearest_option, quote
from pydreaming.errors import ConfigError, PydreamingError, UsageError
from pydreaming.replay.address import is_distant, parse_address

log = logging.getLogger("supervisor")

OPTIONS = ("configs", "role", "resume", "help")
DESCRIPTION = """\
Learn a world model of sound from a folder of recordings.

  python launch.py --configs defaults fsdd   (after make demo has downloaded it)
  python launch.py --configs defaults folder --source.path ~/recordings --training.seconds 3600
  python launch.py --resume runs/fsdd-20261123-120000
  python launch.py --role learner --configs defaults folder --coordinator.address tcp://0.0.0.0:5555 --coordinator.keys keys ...
  python launch.py --role worker --configs defaults --coordinator.address tcp://learner-host:5555 --coordinator.keys keys/peers/host-b ...

Settings are named presets merged in order (files in configs/, or paths of your own), then any number of --section.key value.
Every key, with its unit, is documented in configs/defaults.yaml."""


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options of this script, and the overrides left for the configuration."""
    presets = ", ".join(sorted(p.stem for p in CONFIG_DIR.glob("*.yaml")))
    parser = argparse.ArgumentParser(
        prog="launch.py", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--configs", nargs="+", metavar="NAME", help=f"presets, in order; first normally defaults. There are: {presets}")
    parser.add_argument(
        "--role",
        choices=("all", "learner", "worker"),
        default="all",
        help="all (default): coordinator, workers, learner and tracker on this host; learner: the same without workers; "
        "worker: workers.count workers for the coordinator at coordinator.address",
    )
    parser.add_argument("--resume", type=Path, metavar="RUN", help="folder of a run to go on with; its own settings apply, then overrides")
    parser.epilog = "Exit codes: 0 done or stopped by a signal, 1 the run failed, 2 wrong usage."
    return parser.parse_known_args(arguments)


def refuse_misspelt(words: Sequence[str]) -> None:
    """Raises UsageError: among the words left for the configuration is an option that is neither this script's nor a `--section.key`."""
    rest = iter(words)
    for word in rest:
        name, equals, _ = word.partition("=")
        if name.startswith("-") and "." not in name and name[2:] not in section_types():
            keys = {section: list(field_types(section)) for section in section_types()}
            raise UsageError(f"unknown option {quote(name)[1:-1]}{nearest_option(name.lstrip('-'), OPTIONS, keys)}")
        if not equals:
            next(rest, None)  # its value, which may begin with dashes


def resolve(options: argparse.Namespace, overrides: list[str]) -> tuple[Config, Path]:
    """The configuration, and the folder of the run. Raises UsageError and ConfigError."""
    refuse_misspelt(overrides)
    if options.resume is not None:
        if options.configs:
            raise UsageError("--resume takes the run's own settings: leave --configs out (single keys may be overridden)")
        if not (options.resume / "config.yaml").is_file():
            raise UsageError(f"{options.resume} holds no run (no config.yaml); --resume takes the folder of a run")
        return resumed(options.resume, overrides), options.resume
    if not options.configs:
        raise UsageError("name the presets, for example: python launch.py --configs defaults fsdd  (see --help)")
    config = load_config(options.configs, overrides)
    if options.role != "worker" and not config.source.path and config.workers.count > 0:
        raise UsageError("source.path is not set; add --source.path FOLDER")
    if options.role == "worker" and config.coordinator.address.endswith(":0"):
        raise UsageError("a worker needs the learner's address and port; add --coordinator.address tcp://HOST:PORT")
    if is_distant(config.replay.dir):
        parse_address(config.replay.dir)  # before it is written anywhere: it may hold what should be kept secret
    name = config.run.name or f"{config.source.kind}-{time.strftime('%Y%m%d-%H%M%S')}"
    return config, Path(config.run.dir).expanduser() / name


def resumed(run_dir: Path, overrides: list[str]) -> Config:
    """The run's own settings with the overrides. Raises UsageError: they do not fit this version, or what the run was begun with."""
    file = run_dir / "config.yaml"
    try:
        begun = load_config([str(file)])
    except ConfigError as e:
        raise UsageError(f"{file}: {e} (written by another version? go on with that one, or start a new run)") from e
    config = load_config([str(file)], overrides)
    change = first_change(begun, config)
    if change is not None and (run_dir / "catalogue").exists():
        raise UsageError(
            f"{run_dir} was begun with {change.key}={change.before} and cannot go on with {change.now}: "
            f"leave --{change.key} out, or start a new run"
        )
    return config


def prepare(run_dir: Path, config: Config, resume: bool) -> None:
    """Make the run's folder and keep the resolved configuration in it. Raises UsageError where a run is there already."""
    if not resume and (run_dir / "config.yaml").exists():
        raise UsageError(f"{run_dir} holds a run already; go on with --resume {shlex.quote(str(run_dir))}, or choose another --run.name")
    try:
        temporary = run_dir / "config.yaml.tmp"
        temporary.write_text(config.to_yaml(), encoding="utf-8")
        temporary.replace(run_dir / "config.yaml")
    except OSError as e:
        raise UsageError(f"cannot write to {run_dir}: {e.strerror}; choose another --run.dir") from e


def forget(run_dir: Path) -> None:
    """Let the name of a run that never began (its recordings were not found, say) be used again."""
    if not any((run_dir / begun).exists() for begun in ("catalogue", "tracking")):
        (run_dir / "config.yaml").unlink(missing_ok=True)


def run(run_dir: Path, config: Config, role: str, resume: bool) -> int:
    """Run a role of a run to its end; the exit code. Raises PydreamingError."""
    from pydreaming.audio.sources import misfit  # these after validation, so that a mistyped key is answered at once
    from workers import layout, logs, supervisor

    if role == "worker":
        logs.begin("supervisor", layout.RunDir(run_dir), style=config.tracking.logs, console=sys.stderr)
        log.info("%d workers for %s; their logs are in %s/logs", config.workers.count, config.coordinator.address, run_dir)
        return supervisor.Supervisor(run_dir, config, supervisor.WORKER_HOST).run()
    with layout.hold(run_dir):
        prepare(run_dir, config, resume)
        logs.begin("supervisor", layout.RunDir(run_dir), style=config.tracking.logs, console=sys.stderr)
        try:
            if not resume and config.workers.count + (role == "learner") and (warning := misfit(config.source)):
                log.warning("%s", warning)
            code = supervisor.Supervisor(run_dir, config, supervisor.ALL if role == "all" else supervisor.LEARNER_HOST, resume).run()
        except PydreamingError:
            if not resume:
                forget(run_dir)
            raise
        if code == 0 and config.tracking.logs == "text":
            from workers import closing  # loads torch, which would delay the start by a second

            print("\n".join(closing.lines(run_dir, config)))
        return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, validate, hand over to the supervisor; the exit code."""
    options, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        config, run_dir = resolve(options, overrides)
        return run(run_dir, config, options.role, options.resume is not None)
    except PydreamingError as e:
        if logging.root.handlers:  # the run has begun: it is an event of its log
            log.error("error: %s", e)
        else:
            print(f"error: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:  # before the supervisor listens to signals, or after it has ended everything
        return 0


if __name__ == "__main__":
    sys.exit(main())
