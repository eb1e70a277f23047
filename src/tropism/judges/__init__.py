"""One file = one way to judge: people, reward models, verifiers and LLM judges all have the same interface."""
