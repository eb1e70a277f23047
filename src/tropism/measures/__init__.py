"""One file, one figure of an evaluation: what it is called, which way is better, and how it is computed."""
