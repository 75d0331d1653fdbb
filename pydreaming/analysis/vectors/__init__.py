"""Recordings as vectors: embedding, searching, comparing."""
