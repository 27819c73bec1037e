"""Record -> files for other tools: Chrome trace, Kineto traces, Parquet."""
