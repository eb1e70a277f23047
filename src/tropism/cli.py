"""The command line: parse, call one function. Slow imports are inside the commands, so `--help` is quick.

No `from __future__ import annotations` here: typer would compile each annotation again, every time.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tropism import __version__
from tropism.cli_convert import convert
from tropism.cli_eval import evaluations
from tropism.cli_feedback import feedback
from tropism.cli_options import JsonOpt, QuietOpt, begin, pretty
from tropism.cli_talk import chat, generate
from tropism.cli_web import web
from tropism.ending import Commands
from tropism.errors import TropismError

app = typer.Typer(
    cls=Commands,
    help="Grows a language model toward what people prefer: raw text to an aligned, evaluated assistant.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(feedback)
app.add_typer(evaluations)

RecipeArg = Annotated[str, typer.Argument(help="A recipe file (.toml), or the name of one that ships in the package.")]
SetOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="STAGE.KEY=VALUE",
        help="Change one value of the recipe; repeatable. Also seed=…, defaults.KIND.KEY=…, rounds.count=…",
    ),
]
OutOpt = Annotated[Path | None, typer.Option("--out", help="The run folder; runs/<recipe> by default.")]
ReuseOpt = Annotated[Path | None, typer.Option("--reuse", metavar="RUN", help="Take equal stages over from this run.")]
EveryOpt = Annotated[float, typer.Option(help="Seconds between checkpoints.", min=0.0)]


@app.command()
def run(
    recipe: RecipeArg,
    set_: SetOpt = None,
    out: OutOpt = None,
    checkpoint_s: EveryOpt = 15.0,
    reuse: ReuseOpt = None,
    quiet: QuietOpt = False,
) -> None:
    """Run a recipe. The same command again skips finished stages and continues an interrupted one."""
    _run(recipe, set_ or [], out, checkpoint_s, reuse, quiet)


@app.command()
def demo(out: OutOpt = None, set_: SetOpt = None, checkpoint_s: EveryOpt = 15.0, quiet: QuietOpt = False) -> None:
    """Grow an assistant from raw text in minutes: the recipe `quickstart`, without any download."""
    folder = _run("quickstart", set_ or [], out, checkpoint_s, None, quiet)
    if not quiet:
        print(f"chat with it:    tropism chat --forget {folder}")
    if sys.stdin.isatty() and sys.stdout.isatty() and not quiet:
        from tropism import talk
        from tropism.store.folder import policy_in

        print('ask it to "Translate into French: 26 days ago"; an empty line ends the chat')
        talk.chat(policy_in(str(folder)), "", 0.0, 0, 64, forget=True)


@app.command()
def plan(
    recipe: RecipeArg,
    set_: SetOpt = None,
    out: OutOpt = None,
    reuse: ReuseOpt = None,
    no_code: Annotated[
        bool, typer.Option("--no-code", help="Import no code from outside the package; what it needs is not known.")
    ] = False,
    as_json: JsonOpt = False,
) -> None:
    """Show, before anything runs: stages, parameters, tokens, updates, memory, time, and what is already done.

    Reading a recipe imports the modules that it names as "module:name", which runs them.
    """
    begin(f"reading {recipe}")
    from tropism import plan as planning

    loaded, folder = _load(recipe, set_ or [], out, code=not no_code)
    made = planning.plan(loaded, folder, reuse)
    print(pretty(made) if as_json else planning.table(made))
    planning.refuse(made)


@app.command()
def show(run: Annotated[Path, typer.Argument(help="A run folder.")], as_json: JsonOpt = False) -> None:
    """Show what a run has measured so far."""
    from tropism.report import build
    from tropism.report.read import read
    from tropism.report.summary import summary

    print(pretty(build.build(run)) if as_json else summary(read(run)))


app.command()(chat)
app.command()(generate)


@app.command()
def compare(
    what: Annotated[str, typer.Argument(help="A recipe file, a name that ships in the package, or a run folder.")],
    set_: SetOpt = None,
    out: OutOpt = None,
    checkpoint_s: EveryOpt = 15.0,
    reuse: ReuseOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Compare the methods of a recipe at equal KL and equal compute. A recipe is run first, or continued."""
    begin(f"reading {what}", quiet or as_json)
    from tropism.report import build
    from tropism.report.summary import compared

    folder, remedy = Path(what), "give two stages the same start and `probe`, with a `truth`"
    if not (folder / "recipe.json").exists():
        stages = _load(what, set_ or [], out)[0].stages.values()  # one has a probe, or is a look itself
        if sum(getattr(getattr(stage, "probe", stage), "truth", None) is not None for stage in stages) < 2:
            raise TropismError(f"{what} has no two methods to compare: {remedy}")
        folder = _run(what, set_ or [], out, checkpoint_s, reuse, quiet or as_json)
    elif set_ or out or reuse:
        raise TropismError(f"{what} is a run folder, which --set, --out and --reuse do not change: give its recipe")
    report = build.write(folder)
    if "comparison" not in report:
        raise TropismError(f"{folder} has no two methods to compare: {remedy}")
    print(pretty(report["comparison"]) if as_json else compared(report["comparison"]))
    if not quiet and not as_json:
        print(f"the report:      {folder / 'report.html'}")


@app.command()
def promote(
    run: Annotated[Path, typer.Argument(help="A run folder with an evaluation.")],
    model: Annotated[str, typer.Argument(help="The name of an evaluated model.")],
    out: Annotated[Path, typer.Option(help="Where to copy it.")],
    over: Annotated[str, typer.Option(help="The model it must be better than.")] = "sft",
    metric: Annotated[str, typer.Option(help="The figure that decides.")] = "quality",
) -> None:
    """Copy a model out of a run, but only if it was measured to be better than another, with separate intervals."""
    from tropism import promote as gate

    said = gate.promote(run, model, out, over, metric)
    print(f"{said}\nthe model:       {out}")


@app.command()
def merge(
    adapter: Annotated[Path, typer.Argument(help="The folder of an adapter, as a stage with `adapter` makes it.")],
    out: Annotated[Path, typer.Option(help="Where to write the plain model.")],
) -> None:
    """Merge an adapter into its base and write the plain model."""
    begin(f"loading {adapter}")
    from tropism.models.folder import merge as merged

    merged(adapter, out)
    print(f"the model:       {out}")


@app.command("list")
def list_(
    folder: Annotated[
        str, typer.Argument(help="algorithms, engines, formats, judges, measures, search, stages or recipes.")
    ],
) -> None:
    """List the kinds in a folder of the package, with their keys."""
    begin(f"reading {folder}")
    from tropism.catalogue import catalogue

    print(catalogue(folder))


app.command()(convert)
app.command()(web)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """The entry point."""
    if "OMP_WAIT_POLICY" not in os.environ:  # read when torch is loaded; why: train/threads.py
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    app()


def _load(recipe: str, overrides: list[str], out: Path | None, code: bool = True) -> tuple[Any, Path]:
    from tropism.recipe.read import load

    loaded = load(recipe, overrides, code)
    return loaded, out or Path("runs") / loaded.name


def _run(recipe: str, overrides: list[str], out: Path | None, every: float, reuse: Path | None, quiet: bool) -> Path:
    begin(f"reading {recipe}", quiet, log=True)
    from tropism import plan as planning
    from tropism.report import build
    from tropism.report.read import read
    from tropism.report.summary import summary
    from tropism.store.progress import Reporter
    from tropism.store.run import run_recipe
    from tropism.train import parallel, threads, waiting

    loaded, folder = _load(recipe, overrides, out)
    planned = planning.plan(loaded, folder, reuse)
    planning.refuse(planned)
    expected = {row["id"]: row.get("seconds", 1.0) for row in planned["stages"] if row["state"] not in planning.READY}
    with parallel.joined() as peers:
        reporter = Reporter(quiet or not peers.leads)
        count = threads.settle(folder, reporter, parallel.size())
        with waiting.watched():
            run_recipe(loaded, folder, every, reporter, peers, expected, reuse, count)
    if not peers.leads:
        raise typer.Exit
    build.write(folder)
    if not quiet:
        print(f"{summary(read(folder))}\nthe report:      {folder / 'report.html'}")
    return folder


if __name__ == "__main__":
    main()
