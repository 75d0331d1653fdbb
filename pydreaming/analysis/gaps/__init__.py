"""Gaps that a model fills."""
