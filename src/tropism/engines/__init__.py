"""One file = one way to get completions."""

MEMORY = "4GiB"  # for keys and values, if nobody says how much
