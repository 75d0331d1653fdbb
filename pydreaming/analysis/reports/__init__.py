"""Pages and pictures on a run, a model or a recording."""
