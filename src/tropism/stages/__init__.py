"""One file = one kind of stage: a frozen dataclass whose fields are the keys of its recipe entry."""
