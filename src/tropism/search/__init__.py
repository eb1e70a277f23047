"""One file = one way to search for a better completion at inference time, as a generator that yields requests."""
