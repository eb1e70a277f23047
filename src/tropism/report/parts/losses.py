"""The loss of each stage by step, and the loss on held-out data."""

from __future__ import annotations

from tropism.report.axes import Axis
from tropism.report.elements import figure
from tropism.report.plots import Series, lines
from tropism.report.read import Findings, Finished
from tropism.report.words import plain, title

ORDER = 60
HEADING = "Learning curves"


def html(findings: Findings) -> str:
    found = "".join(_loss(stage) for stage in findings.stages)
    return f'<div class="plots">{found}</div>' if found else ""


def _loss(stage: Finished) -> str:
    if not stage.metrics or not {"step", "loss"} <= stage.metrics[0].keys():
        return ""
    points = [(float(m["step"]), float(m["loss"])) for m in stage.metrics]
    unit = "nats per prompt" if stage.kind == "reward" else "nats per token"
    marks = {"held out": stage.facts["held_out_loss"]} if "held_out_loss" in stage.facts else {}
    tail = [loss for _, loss in points[len(points) // 20 :]]  # the first fall would hide the rest
    svg = lines(
        f"Loss of {title(stage.id)} by step",
        [Series("loss", points, 0, max(len(points) // 15, 1))],
        Axis("step", whole=True),
        Axis(unit, high=max([*tail, *marks.values()])),
        marks,
    )
    before = stage.facts.get("held_out_loss_before")
    caption = f"Held out: {plain(before)} before, {plain(stage.facts['held_out_loss'])} after." if before else ""
    if "bits_per_byte" in stage.facts:
        mine, gzip = stage.facts["bits_per_byte"], stage.facts["gzip_bits_per_byte"]
        caption = f"Held out: {plain(mine)} bits per byte; gzip needs {plain(gzip)}."
    return figure(title(stage.id), svg, (), caption)
