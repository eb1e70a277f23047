"""`tropism eval NAME …`: one evaluation is one file of `evals/`, imported when it is asked for.

The function of the file says which arguments and options there are; `--json` and `--out` are added here.
"""

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tropism.cli_options import pretty

JsonOpt = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
FolderOpt = Annotated[
    Path | None,
    typer.Option("--out", help="A folder that gets NAME.json, and eval.html, which compares all models in it."),
]


class Evaluations(TyperGroup):
    """The files of `evals/` as commands."""

    def list_commands(self, ctx: Any) -> list[str]:
        from tropism.recipe.kinds import names

        return names("evals")

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return command(cmd_name) if cmd_name in self.list_commands(ctx) else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The first line of each file, which needs no import."""
        import ast

        from tropism.recipe.kinds import PACKAGE

        def about(name: str) -> str:
            text = (PACKAGE / "evals" / f"{name}.py").read_text(encoding="utf-8")
            return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]

        with formatter.section("Evaluations"):
            formatter.write_dl([(name, about(name)) for name in self.list_commands(ctx)])


evaluations = typer.Typer(
    cls=Evaluations,
    name="eval",
    help="Evaluations that give the published numbers, from local files.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@evaluations.callback()
def _group() -> None:
    pass


def command(name: str) -> Any:
    """The evaluation as a command, with `--json` and `--out`."""
    from tropism.recipe.kinds import resolve

    function = resolve("evals", name)

    def run(as_json: bool, folder: Path | None, **values: Any) -> None:
        from tropism.report import evaluations as results

        result = function(**values)
        if folder is not None:
            results.write(folder, name, result)
        print(pretty(result) if as_json else results.table(result))
        if folder is not None and not as_json:
            print(f"compared in:     {folder / 'eval.html'}")

    taken = inspect.signature(function, eval_str=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    more = [
        inspect.Parameter("as_json", kind, default=False, annotation=JsonOpt),
        inspect.Parameter("folder", kind, default=None, annotation=FolderOpt),
    ]
    run.__signature__ = taken.replace(  # type: ignore[attr-defined]
        parameters=[p.replace(kind=kind) for p in taken.parameters.values()] + more, return_annotation=None
    )
    run.__doc__ = (function.__doc__ or "").partition("\n\n")[0]
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name)(run)
    return typer.main.get_command(app)
