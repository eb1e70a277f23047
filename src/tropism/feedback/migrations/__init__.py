"""The steps from one schema to the next, in order: `store.py` runs those that a store has not had yet.

A file is `000N_what.py` with `revision`, `down_revision` and `upgrade()`. It never changes once it has been released, and
imports nothing of `schema.py`, which goes on changing: an old step makes what it has always made. There is no way back.
"""
