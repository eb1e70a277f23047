"""One file = one way to judge: a person, a reward model, a verifier and an LLM judge are the same thing."""
