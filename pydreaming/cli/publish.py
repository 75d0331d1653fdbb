"""`pydreaming publish`."""

from __future__ import annotations

import argparse

from pydreaming.analysis.names import OUTPUTS
from pydreaming.cli import command
from pydreaming.cli.command import Command


def _arguments(parser: argparse.ArgumentParser) -> None:
    command.add_model(parser)
    parser.add_argument("--name", required=True, help="name in the registry; where it is there, a new version is added")
    parser.add_argument("--alias", default="", help="alias that shall point to this version, such as champion (default: none)")
    command.add_running(parser)


def _run(options: argparse.Namespace) -> int:
    from pydreaming.tracking.registry import check_names

    check_names(options.name, options.alias)
    model = command.load(options)
    from pydreaming.analysis.sharing.publish import publish

    published = publish(model, options.name, options.alias, options.tracking)
    of_run = f", of run {published.run_id}" if published.run_id else ""
    command.say(f"registered version {published.version} of {published.name}{of_run}; load it as {published.uri}")
    return 0


COMMAND = Command(
    "publish",
    "register a model in MLflow, to be loaded by name and served over HTTP",
    "Log the model in MLflow and register it as a new version of NAME, with its model card as description. Every command then takes\n"
    "models:/NAME/VERSION or models:/NAME@ALIAS as MODEL. What is logged holds sources and safetensors, no pickle.\n"
    "The store is --tracking, else MLFLOW_TRACKING_URI, else the one that the run was tracked in.\n\n"
    "mlflow.pyfunc.load_model and `mlflow models serve` answer requests of one recording a row, given as one of\n"
    "  audio                 bytes of an audio file (in JSON: base64)\n"
    "  samples, sample_rate  floats in [-1, 1] and their rate in Hz\n"
    "  path                  a file under audio_root; no path is opened unless model_config={'audio_root': FOLDER} names that folder\n"
    '                        (for a server: SERVING_MODEL_CONFIG=\'{"audio_root": "FOLDER"}\' in its environment)\n'
    "with params output, part and pooling (see pydreaming embed --help for the latter two). Columns of the answer, by output:\n"
    f"{command.choices(OUTPUTS)}\n"
    "A server asks nobody for a password: keep it on 127.0.0.1, or behind something that does.\n\n"
    "example:\n"
    "  pydreaming publish runs/my-run --name birds --alias champion\n"
    "  MLFLOW_TRACKING_URI=sqlite:///runs/mlflow.db mlflow models serve -m models:/birds@champion --env-manager local --port 5001\n"
    "  curl 127.0.0.1:5001/invocations -H 'Content-Type: application/json' \\\n"
    '    -d "{\\"dataframe_records\\": [{\\"audio\\": \\"$(base64 -w0 bird.wav)\\"}], \\"params\\": {\\"output\\": \\"embed\\"}}"',
    _arguments,
    _run,
)
