"""The loop: micro-batches in, one update out."""
