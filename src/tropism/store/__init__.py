"""Run folders: fingerprints, markers, checkpoints, metrics; groups as Parquet."""
