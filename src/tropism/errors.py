"""The errors that a person can mend, alone, so that nothing imports types for them."""

__all__ = ["TropismError", "Waiting"]


class TropismError(Exception):
    """A mistake a person can mend. The message is one sentence: what is wrong, where, and what to do."""


class Waiting(TropismError):
    """Nothing is wrong: people have still to say something. The message is one sentence: what, and where they say it."""
