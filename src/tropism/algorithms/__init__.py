"""One file = one paper: `credit` says who gets how much, `loss` what is minimised; both are pure functions of a Batch."""
