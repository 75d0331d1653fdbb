"""The replay store: episodes of tokens in plain Parquet files.

address, names (of stores and files) · store (a folder), s3 (a bucket), cache, staging · schema (what a file holds) · builder (clips to
episodes) · writer (transactions) · shard (one file) · index (all files) · sampler (batches) · evict (capacity) · census · tables (result
tables). Import from the modules: `names` and `evict` do not load the audio packages.
"""
