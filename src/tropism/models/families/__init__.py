"""One file = the forward pass of the models of one shape, as functions on their weights: `models/functional.py`."""
