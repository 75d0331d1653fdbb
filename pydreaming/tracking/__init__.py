"""Tracking: a spool that training appends to, and the writer that carries it to MLflow.

Importing this package does not import MLflow; only `store` (used by `writer`) does, in the tracker process.
"""

from pydreaming.tracking.names import SECTIONS, display_name
from pydreaming.tracking.spool import Spool
from pydreaming.tracking.views import run_link, runs_link

__all__ = ["SECTIONS", "Spool", "display_name", "run_link", "runs_link"]
