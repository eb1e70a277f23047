"""One file = one paper: `credit` computes advantages, `loss` what is minimised; both are pure functions of a Batch."""
