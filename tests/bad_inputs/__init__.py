"""Tables of what is refused: each entry has a name, the input, and what the one sentence has to say."""
