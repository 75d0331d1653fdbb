"""Unusual sounds: detectors fitted on normal recordings."""
