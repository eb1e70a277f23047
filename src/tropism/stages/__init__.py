"""One file = one stage of a recipe: a frozen dataclass whose fields are its recipe entry."""
