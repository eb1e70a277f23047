"""The one error that a person can mend, alone, so that nothing imports types for it."""

__all__ = ["TropismError"]


class TropismError(Exception):
    """A mistake a person can mend. The message is one sentence: what is wrong, where, and what to do."""
