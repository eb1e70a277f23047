"""One file = one figure of an evaluation: its name, which direction is better, and how it is computed."""
