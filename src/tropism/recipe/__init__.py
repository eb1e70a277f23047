"""A recipe: TOML read into frozen dataclasses, its kinds, its references to earlier stages."""
