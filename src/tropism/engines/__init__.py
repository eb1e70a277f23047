"""One file = one way to get completions."""
