"""`import tropism as t`: every public name is there, quickly, and editors and type checkers know it."""

from __future__ import annotations

import ast
import importlib
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tropism
from tropism.recipe.kinds import FOLDERS, names, resolve

PACKAGE = Path(tropism.__file__).parent
ROOT = PACKAGE.parents[1]
LISTED = {  # by another reader than the package's own: (module, name) of every `__all__`
    (".".join(("tropism", *file.relative_to(PACKAGE).with_suffix("").parts)), name.value)
    for file in PACKAGE.rglob("*.py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    for name in node.value.elts  # type: ignore[attr-defined]
}


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_every_name_is_that_of_its_file():
    assert len(LISTED) > 45
    for module, name in LISTED:
        assert getattr(tropism, name) is getattr(importlib.import_module(module), name)
        assert name in dir(tropism)


def test_no_two_files_offer_the_same_name():
    assert len({name for _, name in LISTED}) == len(LISTED)


@pytest.mark.parametrize(("folder", "kind"), [(f, k) for f in FOLDERS.values() for k in names(f)])
def test_every_kind_has_its_name(folder: str, kind: str):
    thing = resolve(folder, kind)
    assert getattr(tropism, thing.__name__) is thing


def test_a_new_file_needs_no_other_edit(tmp_path: Path):
    shutil.copytree(PACKAGE, tmp_path / "tropism", ignore=shutil.ignore_patterns("__pycache__", "*.pyi"))
    (tmp_path / "tropism" / "judges" / "coin.py").write_text(
        '__all__ = ["Coin"]\n\n\nclass Coin:\n    side = "heads"\n'
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import tropism as t; print(t.Coin().side, t.__file__)"
    assert python(code).split() == ["heads", str(tmp_path / "tropism" / "__init__.py")]


def test_what_is_not_there_is_said():
    with pytest.raises(AttributeError, match="no attribute 'PP0'"):
        tropism.PP0  # noqa: B018
    assert not hasattr(tropism, "_private")


@pytest.mark.parametrize("code", ["import tropism", "import tropism as t; t.Group; t.Run; t.load; t.TropismError"])
def test_no_torch_where_it_is_not_asked_for(code: str):
    assert python(f"{code}\nimport sys; print('torch' in sys.modules)") == "False\n"


def test_the_first_import_loads_next_to_nothing():
    """No clock, which a busy machine would slow: bench/start.py has that."""
    code = "import sys; before = set(sys.modules); import tropism; print(sorted(sys.modules.keys() - before))"
    assert python(code) == "['tropism']\n"


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nsys.argv = ['tropism', '--help']\nfrom tropism.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'transformers', 'rich', 'json', 'sysconfig'}\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & heavy))"
    )
    assert python(code).splitlines()[-1] == "[]"


def test_rl_loads_no_library_that_a_round_does_not_use():
    """They would be in memory in every run. Adapters need peft, groups of other stages pyarrow."""
    code = (
        "import sys, tropism.stages.rl; print(sorted({'peft', 'pyarrow', 'datasets', 'sqlalchemy'} & set(sys.modules)))"
    )
    assert python(code) == "[]\n"


@pytest.fixture(scope="module")
def stub() -> str:
    return runpy.run_path(str(ROOT / "setup.py"))["stub"]()


def test_the_stub_has_every_name(stub: str):
    imports = [node for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom)]
    assert {(node.module, alias.name) for node in imports for alias in node.names} == LISTED
    assert all(alias.name == alias.asname for node in imports for alias in node.names)  # public in a stub


def test_the_type_checker_knows_every_name(stub: str, tmp_path: Path):
    """pyright, on a copy of the package with its stub; without torch, which would cost it ten seconds more."""
    shutil.copytree(PACKAGE, tmp_path / "src" / "tropism", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "src" / "tropism" / "__init__.pyi").write_text(stub, encoding="utf-8")
    lines = [f"reveal_type(t.{name})" for _, name in sorted(LISTED)]
    wrong = ["t.PP0", "t.PPO(klip=0.2)", "t.Message(role='nobody', content='')"]
    (tmp_path / "use.py").write_text("\n".join(["import tropism as t", *lines, *wrong, ""]), encoding="utf-8")
    config = {"include": ["use.py"], "extraPaths": ["src"], "venvPath": str(tmp_path), "venv": "none"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config), encoding="utf-8")
    checker = Path(sys.executable).with_name("pyright")
    found = subprocess.run([checker, "--outputjson", "-p", tmp_path], capture_output=True, text=True, check=False)
    said = json.loads(found.stdout)["generalDiagnostics"]
    revealed = {d["range"]["start"]["line"]: d["message"] for d in said if d["severity"] == "information"}
    assert len(revealed) == len(lines)
    assert not [message for message in revealed.values() if "Unknown" in message]
    errors = {d["range"]["start"]["line"] for d in said if d["severity"] == "error"}
    assert errors == {len(lines) + n for n in (1, 2, 3)}
