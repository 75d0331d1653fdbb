"""Episodes of tokens as plain Parquet files: schema, writer, index, sampler. The only room that knows Parquet."""
