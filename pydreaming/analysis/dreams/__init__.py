"""What a model imagines, to look at and to hear."""
