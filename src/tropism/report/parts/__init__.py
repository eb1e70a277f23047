"""The parts of the page: one file = one part; there is no registration.

A file has `HEADING`, `ORDER` (its place on the page, the smallest first) and `html(findings)`: HTML, or "" if the run
has nothing for it. All text goes through `escape`, as answers may contain anything.
"""
