"""The parts of the page: one file, one part, found by the file system.

A file has `HEADING`, `ORDER` (its place on the page, the smallest first) and `html(findings)`: HTML, or "" if the run has
nothing to say there. All text goes through `escape`: answers are whatever a model wrote.
"""
