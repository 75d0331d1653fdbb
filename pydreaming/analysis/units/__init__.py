"""A small inventory of sounds, and recordings written in it."""
