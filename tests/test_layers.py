"""Imports go downwards only. The table is design; the walk sees function-local and TYPE_CHECKING imports too."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import tropism

ROOT = Path(tropism.__file__).parent
LAYERS = (
    ("errors",),
    ("outside",),
    ("types", "statistics"),
    ("protocols",),
    ("recipe",),
    ("asking",),
    ("text", "store"),
    ("search", "feedback"),
    ("formats", "phrasebook", "tensors"),
    ("models", "algorithms"),
    ("engines", "measures"),
    ("judges",),
    ("train", "needs"),
    ("stages", "report", "evals"),
    ("plan", "catalogue", "promote", "talk", "ending", "convert"),
    ("web",),
    ("cli_options",),
    ("cli_feedback", "cli_web", "cli_convert", "cli_eval", "cli_talk"),
    ("cli",),
)
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
SIDEWAYS = {("formats", "phrasebook")}  # who may import a part of its own layer
TORCHLESS = [part for layer in LAYERS[: LAYERS.index(("search", "feedback")) + 1] for part in layer]
FILES = [pytest.param(file, id=str(file.relative_to(ROOT))) for file in sorted(ROOT.rglob("*.py"))]


def part_of(file: Path) -> str:
    """The part of the package a file belongs to: its top folder, or its name at the top."""
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imported(file: Path) -> set[str]:
    """Every module that a file imports, wherever in it; in protocols.py not what only the type checker reads."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    hidden: set[ast.AST] = set()
    if file == ROOT / "protocols.py":
        hidden = {inner for node in ast.walk(tree) if is_type_checking(node) for inner in ast.walk(node)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno} of {file.name} is a relative import: write the whole name"
            assert node.module
            # `from tropism import x` names the part x, but for the version
            inner = node.module == "tropism"
            found |= {f"tropism.{a.name}" for a in node.names if a.name != "__version__"} if inner else {node.module}
    return found


@pytest.mark.parametrize("file", FILES)
def test_imports_go_downwards(file: Path):
    part = part_of(file)
    if part == "__init__":
        assert not {module for module in imported(file) if module.partition(".")[0] == "tropism"}
        return
    assert part in RANK, f"{part} is in no layer: add it to LAYERS in {Path(__file__).name}"
    for module in imported(file):
        root, _, rest = module.partition(".")
        if root != "tropism" or not rest:
            continue
        target = rest.split(".")[0]
        allowed = target == part or RANK[target] < RANK[part] or (part, target) in SIDEWAYS
        assert allowed, f"{part} (layer {RANK[part]}) imports {target} (layer {RANK[target]})"


@pytest.mark.parametrize("file", [param for param in FILES if part_of(param.values[0]) in TORCHLESS])
def test_the_lower_layers_name_no_torch(file: Path):
    assert not {module for module in imported(file) if module.split(".")[0] == "torch"}


def test_the_lower_layers_load_without_torch():
    modules = [module_of(param.values[0]) for param in FILES if part_of(param.values[0]) in TORCHLESS]
    code = f"import sys, importlib; [importlib.import_module(m) for m in {modules}]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_file_of_another_folder_is_private_to_it():
    """A file that begins with `_` is imported by its own folder alone."""
    found = []
    for param in FILES:
        for module in imported(param.values[0]):
            *folder, name = module.split(".")
            inside = ".".join(("tropism", *param.values[0].relative_to(ROOT).parts[:-1])) == ".".join(folder)
            if folder[:1] == ["tropism"] and name.startswith("_") and not name.startswith("__") and not inside:
                found.append(f"{param.id} imports {module}")
    assert not found


def test_no_circles():
    """Not even of imports that only the type checker reads."""
    files = {module_of(param.values[0]): param.values[0] for param in FILES}
    graph = {module: every_import(file) & files.keys() for module, file in files.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def module_of(file: Path) -> str:
    return ".".join(("tropism", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def every_import(file: Path) -> set[str]:
    """The modules of `from a import b`, where b may be a module itself, and of `import a`, wherever in a file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} if node.module != "tropism" else set()
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_the_walk_sees_every_import(tmp_path: Path):
    file = tmp_path / "some.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from tropism.cli import main\n"
        "def f():\n    import tropism.stages.rl\n    from tropism import __version__, judges\n"
    )
    assert imported(file) == {"typing", "tropism.cli", "tropism.stages.rl", "tropism.judges"}


def test_files_and_functions_are_short():
    long = []
    for param in FILES:
        text = param.values[0].read_text(encoding="utf-8")
        if len(text.splitlines()) > 300:
            long.append(f"{param.id} has {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno and node.end_lineno - node.lineno + 1 > 60:
                long.append(f"{param.id}: {node.name} has {node.end_lineno - node.lineno + 1} lines")
    assert not long
