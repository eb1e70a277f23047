"""Writes `src/tropism/__init__.pyi`, by which editors and type checkers know the names of `import tropism as t`.

Every build and install runs this file; `python setup.py` writes the stub and builds nothing.
"""

import sys
from pathlib import Path

SOURCE = Path(__file__).parent / "src"
sys.path.insert(0, str(SOURCE))

import tropism  # noqa: E402  (needs nothing but Python)


def stub() -> str:
    """One import a name, as `name as name`, by which a stub says that the name is public."""
    lines = (f"from {module} import {name} as {name}" for name, module in tropism.names().items())
    return "\n".join(
        ("# Written by setup.py.", *lines, "", "__version__: str", "def names() -> dict[str, str]: ...", "")
    )


if __name__ == "__main__":
    (SOURCE / "tropism" / "__init__.pyi").write_text(stub(), encoding="utf-8")
    if len(sys.argv) > 1:
        from setuptools import setup

        setup()
