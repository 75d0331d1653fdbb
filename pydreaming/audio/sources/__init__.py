"""Where audio comes from: one module per data set layout, and the catalogue of what they hold.

A layout is a module with `matches(path)`, which tells from the files whether `path` has it, and `items(config, root, columns)`, which
streams its recordings.
"""

from pydreaming.audio.sources.catalogue import Catalogue, CatalogueInfo, Leases
from pydreaming.audio.sources.item import AudioItem
from pydreaming.audio.sources.layouts import LAYOUTS, Layout, iter_source, layout_of, misfit, source_root

__all__ = ["LAYOUTS", "AudioItem", "Catalogue", "CatalogueInfo", "Layout", "Leases", "iter_source", "layout_of", "misfit", "source_root"]
