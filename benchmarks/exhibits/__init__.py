"""What the gallery shows: its recordings, its scenes, and how pages and tables become pictures and Markdown."""
