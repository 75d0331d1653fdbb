"""The replay store: episodes of tokens in plain Parquet files.

names (file names) · schema (what a file holds) · builder (clips to episodes) · writer (transactions) · shard (one mapped file) ·
index (all files) · sampler (batches) · evict (capacity) · tables (result tables). Import from the modules: `names` and `evict` do
not load the audio packages.
"""
