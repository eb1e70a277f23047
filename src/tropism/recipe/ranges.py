"""The range of a number in a recipe. It is written in the type of the field: `clip: Annotated[float, Gt(0)] = 0.2`.

The bounds are those of the library annotated-types: Ge, Gt, Le, Lt, or several as an Interval. `Interval()` allows any
number. NaN and infinity are never allowed. `recipe/build.py` checks ranges, `tropism list` shows them. Left out: bounds
for strings and lengths.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt

Bound = Ge | Gt | Le | Lt


def bounds(metadata: Sequence[Any]) -> list[Bound]:
    """The bounds in the metadata of an Annotated type."""
    flat = [one for item in metadata for one in (item if isinstance(item, GroupedMetadata) else (item,))]
    return [one for one in flat if isinstance(one, Bound)]


def inside(value: float, limits: Sequence[Bound]) -> bool:
    """Whether a number is finite and within all bounds."""
    keeps = {
        Ge: lambda bound: value >= bound.ge,
        Gt: lambda bound: value > bound.gt,
        Le: lambda bound: value <= bound.le,
        Lt: lambda bound: value < bound.lt,
    }
    return math.isfinite(value) and all(keeps[type(bound)](bound) for bound in limits)


def said(limits: Sequence[Bound]) -> str:
    """The words that follow "a number": " of 1 or more", " above 0", " from 0 to below 1", "" without a bound."""
    low = next((one for one in limits if isinstance(one, (Ge, Gt))), None)
    high = next((one for one in limits if isinstance(one, (Le, Lt))), None)
    top = f"{'' if isinstance(high, Le) else 'below '}{_text(high)}" if high else ""
    if low is None:
        return f" of {top} or less" if isinstance(high, Le) else f" {top}" if high else ""
    bottom = f"{'' if isinstance(low, Ge) else 'above '}{_text(low)}"
    if high:
        return f" {'from ' if isinstance(low, Ge) else ''}{bottom} to {top}"
    return f" of {bottom} or more" if isinstance(low, Ge) else f" {bottom}"


def ranges(hint: Any) -> Iterator[str]:
    """The range of each number in a field's type, in the words of `said`; "" if any number is allowed."""
    if typing.get_origin(hint) is typing.Annotated and typing.get_args(hint)[0] in (int, float):
        yield said(bounds(hint.__metadata__)).removeprefix(" of").strip()
    else:
        for inner in typing.get_args(hint):
            yield from ranges(inner)


def _text(bound: Bound) -> str:
    (value,) = (getattr(bound, name) for name in ("ge", "gt", "le", "lt") if hasattr(bound, name))
    return f"{value:,}"
