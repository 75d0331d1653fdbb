"""An exported model as an MLflow model "from code": no pickle, only sources and safetensors.

What MLflow runs to load it is the text CODE, three lines that hand the package's predictor to `set_model`; a copy of the package lies
beside it. This module knows MLflow's side of the bargain (signature, records, errors), and nothing of audio.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydreaming.errors import PydreamingError
from pydreaming.tracking.fetch import MODEL_FOLDER
from pydreaming.tracking.store import prepare_environment

# What is imported to answer a request; pinned to what is installed, so that an environment can be made for it elsewhere.
REQUIREMENTS = (
    "mlflow", "torch", "torchaudio", "numpy", "soundfile", "pyarrow", "msgspec", "pyyaml", "safetensors", "scikit-learn", "threadpoolctl",
    "matplotlib", "tqdm", "psutil",
)  # fmt: skip
CODE = '''"""What MLflow runs to load this model. The package is the copy in code/, unless one was imported before."""

from pydreaming.analysis.sharing.serving import Predictor
from pydreaming.tracking.pyfunc import set_model

set_model(Predictor)
'''
_DEFAULTS = {"output": "embed", "part": "feat", "pooling": "mean"}
_SETTINGS = {"audio_root": "", "device": "auto"}

Records = Sequence[Mapping[str, Any]]
Answer = Callable[[Records, Mapping[str, Any]], Mapping[str, Sequence[Any]]]


def set_model(make: Callable[[Path, Mapping[str, Any]], Answer]) -> None:
    """Tell MLflow what to load: `make` gets the exported model's folder and the settings (`model_config`), and gives what answers.

    An answer takes records and parameters and gives columns; its PydreamingError reaches the caller as a bad request of one line.
    """
    prepare_environment()
    import pandas  # type: ignore[import-untyped]
    from mlflow.exceptions import MlflowException
    from mlflow.models import set_model as give
    from mlflow.pyfunc.model import PythonModel

    class PydreamingModel(PythonModel):
        """The world model behind MLflow's interface."""

        _skip_type_hint_validation = True  # the signature says what is taken; MLflow would warn that it is not in type hints

        def load_context(self, context: Any) -> None:
            """Load the model."""
            self._answer = make(Path(context.artifacts[MODEL_FOLDER]), context.model_config or {})

        def predict(self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None) -> pandas.DataFrame:
            """Answer one request."""
            try:
                return pandas.DataFrame(self._answer(model_input.to_dict("records"), _DEFAULTS | (params or {})))
            except PydreamingError as e:
                raise MlflowException.invalid_parameter_value(str(e)) from e

    give(PydreamingModel())


@contextmanager
def mlflow_model(folder: Path, example: bytes, about: Any) -> Iterator[Path]:
    """A folder in MLflow's format for an exported model; it is removed afterwards.

    Args:
      folder: exported model. example: a short audio file, for the input example.
      about: mlflow.models.Model with the ids that the store gave it.
    """
    import mlflow
    import pandas

    with tempfile.TemporaryDirectory(prefix="pydreaming-publish-") as scratch:
        stage = Path(scratch)
        (stage / "pydreaming_model.py").write_text(CODE, encoding="utf-8")
        shutil.copytree(folder, stage / MODEL_FOLDER)
        shutil.copytree(Path(__file__).parents[1], stage / "pydreaming", ignore=shutil.ignore_patterns("__pycache__", "samples"))
        mlflow.pyfunc.save_model(
            path=stage / "mlflow",
            python_model=str(stage / "pydreaming_model.py"),
            artifacts={MODEL_FOLDER: str(stage / MODEL_FOLDER)},
            code_paths=[str(stage / "pydreaming")],
            signature=_signature(),
            input_example=pandas.DataFrame({"audio": [example]}),
            pip_requirements=requirements(),
            model_config=_SETTINGS,
            mlflow_model=about,
        )
        for cache in (stage / "mlflow").rglob("__pycache__"):  # MLflow imports the code to look at it
            shutil.rmtree(cache)
        yield stage / "mlflow"


def requirements() -> list[str]:
    """REQUIREMENTS with the versions that are installed; a build's local mark such as +cpu is in no index."""
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in REQUIREMENTS]


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    number = DataType.double
    columns: dict[str, Any] = {"audio": DataType.binary, "path": DataType.string, "samples": Array(number), "sample_rate": number}
    inputs = Schema([ColSpec(kind, name, required=False) for name, kind in columns.items()])
    params = ParamSchema([ParamSpec(name, DataType.string, value) for name, value in _DEFAULTS.items()])
    return ModelSignature(inputs, params=params)
