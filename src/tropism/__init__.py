"""tropism grows a language model toward what people prefer.

    import tropism as t
    t.PPO(kl=0.05)

`t.NAME` is a name in the `__all__` of one file of the package. That file is imported when the name is first used
(PEP 562), so `import tropism` is quick and loads no torch. There is no table: a new file is found by its `__all__`. Editors
read `__init__.pyi`, which setup.py writes from the same names. The reasons are in docs/decisions/0030-front-door.md.
"""

__version__ = "0.1.0"

_modules: dict[str, str] = {}  # filled by the first use of a name


def names() -> dict[str, str]:
    """Every such name and the module that defines it, in the order of the files."""
    if not _modules:
        import re
        from pathlib import Path

        root = Path(__file__).parent
        for file in sorted(root.rglob("*.py")):
            for listed in re.findall(r"^__all__ = \[([^]]*)]", file.read_text(encoding="utf-8"), re.MULTILINE):
                module = ".".join((__name__, *file.relative_to(root).with_suffix("").parts))
                _modules.update(dict.fromkeys(re.findall(r'"(\w+)"', listed), module))
    return _modules


def __getattr__(name: str):
    module = None if name.startswith("_") else names().get(name)
    if module is None:
        import sys

        raise AttributeError(f"module 'tropism' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    import importlib

    found = globals()[name] = getattr(importlib.import_module(module), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *names()})
