"""`tropism feedback …`: a feedback store from the command line. As in `cli.py`, the slow imports are inside the commands.

A STORE is a file, an SQLAlchemy URL, or a run folder, which means the store in it (`feedback/place.py`).
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tropism.cli_options import JsonOpt, pretty
from tropism.errors import TropismError

feedback = typer.Typer(
    name="feedback",
    help="People's judgments: add groups to a store, manage people, see the progress, export.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

StoreArg = Annotated[str, typer.Argument(help="A file, a database URL, or a run folder.")]
FileArg = Annotated[
    Path, typer.Argument(help="Groups (.parquet, .jsonl, a stage's folder), or any data with --format.")
]
ProjectOpt = Annotated[str, typer.Option(help="The project in the store.")]
FormatOpt = Annotated[
    str | None, typer.Option("--format", help="The data format of the file, such as ranked: `tropism list formats`.")
]
Question = Literal["rank", "rate", "pair", "thumb", "edit"]
Role = Literal["admin", "annotator", "viewer"]
Action = Literal["add", "key", "password", "list", "remove", "export", "erase"]


@feedback.command()
def add(
    store: StoreArg,
    file: FileArg,
    project: ProjectOpt,
    question: Annotated[Question, typer.Option(help="What is asked of each group.")] = "rank",
    per_group: Annotated[int, typer.Option(min=1, help="How many people judge each group, and never more.")] = 1,
    format_: FormatOpt = None,
    guidelines: Annotated[Path | None, typer.Option(help="A Markdown file that is shown next to the question.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="A label that people may add to an answer; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed of the random orders on screen.")] = 0,
) -> None:
    """Make a project, if there is none, and add groups to it. After an interruption the same command continues."""
    from tropism.feedback.answers import Ask, made
    from tropism.feedback.importing import add_groups

    text = guidelines.read_text(encoding="utf-8") if guidelines else ""
    ask = Ask(project, question, per_group, {"labels": label} if label else {}, text, seed)
    groups = _groups(file, format_)
    with _opened(store, create=True) as opened:
        with opened.writing() as session:
            made(session, ask, opened.now(session))
        counts = add_groups(opened, project, groups)
    print(f"{counts.added} groups added to the project {project}, {counts.known} were there already")
    print(f"label them with: tropism web {store}")


@feedback.command("import")
def import_(
    store: StoreArg,
    file: FileArg,
    project: ProjectOpt,
    format_: FormatOpt = None,
    gold: Annotated[
        bool, typer.Option("--gold", help="The judgments in the file are known answers, to check people's judgments.")
    ] = False,
) -> None:
    """Add more groups to a project, or a judge's judgments of its groups."""
    from tropism.feedback.importing import add_groups

    groups = _groups(file, format_)
    with _opened(store) as opened:
        counts = add_groups(opened, project, groups, gold=gold)
    print(f"{counts.added} groups added to the project {project}, {counts.known} were there already")


@feedback.command()
def export(
    store: StoreArg,
    project: ProjectOpt,
    out: Annotated[Path, typer.Option(help="Where to write: .jsonl or .parquet groups.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file --out if it exists.")] = False,
) -> None:
    """Write the groups of a project, with one judgment per person and judge."""
    from tropism.feedback import exporting
    from tropism.store.groups import refuse_out, save_groups

    refuse_out(out, force)
    with _opened(store) as opened:
        count = save_groups(exporting.groups(opened, project), out)
    print(f"{count} groups written to {out}")


@feedback.command()
def status(store: StoreArg, project: ProjectOpt, as_json: JsonOpt = False) -> None:
    """Show the progress of a project, the agreement of people, and figures for each person."""
    from tropism.feedback import project as projects

    with _opened(store) as opened, opened.reading() as session:
        said = projects.status(session, projects.find(session, project), opened.now(session))
    print(pretty(said) if as_json else _table(project, said))


@feedback.command()
def people(
    store: StoreArg,
    action: Annotated[Action, typer.Argument(help="What to do.")] = "list",
    name: Annotated[str, typer.Argument(help="The person's name.")] = "",
    role: Annotated[Role | None, typer.Option(help="With `add`: the person's role.")] = None,
    project: Annotated[str | None, typer.Option(help="One project; by default all projects of the store.")] = None,
) -> None:
    """Manage people. `add` gives a person a role and prints an API key; `key` prints a new key; `password` sets a password
    for the login; `remove` ends the person's access; `export` prints all data about the person as JSON; `erase` also
    removes the name, and keeps the judgments."""
    from tropism.feedback import audit, erasing
    from tropism.feedback import people as persons

    if (action == "list") == bool(name):
        raise TropismError("`list` takes no name: leave it out" if name else f"`{action}` needs a name: add it")
    with _opened(store, create=action == "add" and role == "admin" and project is None) as opened:
        if action == "list":
            with opened.reading() as session:
                print("\n".join(_people(session)) or "nobody yet")
            return
        secret = _password() if action == "password" else ""
        with opened.writing() as session:
            now = opened.now(session)
            if action == "add":
                said = _add(session, name, role or "annotator", project, now)
            elif action == "key":
                said = persons.new_key(session, persons.find(session, name), now)
            elif action == "password":
                said = (
                    persons.set_password(session, persons.find(session, name), secret)
                    or f"the password of {name} is set"
                )
            elif action == "export":
                said = pretty(erasing.export_person(session, persons.find(session, name, also_removed=True)))
                audit.note(session, None, "exported a person's data", {"person": name}, now)
            elif action == "erase":
                erasing.erase(session, persons.find(session, name, also_removed=True), now)
                said = f"{name} is erased; their judgments stay, without the name"
            else:
                said = persons.remove(session, persons.find(session, name), now) or f"{name} is removed"
    print(said)


@contextlib.contextmanager
def _opened(where: str, create: bool = False) -> Iterator[Any]:
    from tropism.feedback.place import place
    from tropism.feedback.store import open_store

    store = open_store(place(where), create)
    try:
        yield store
    finally:
        store.close()


def _groups(file: Path, kind: str | None) -> Iterator[Any]:
    """The groups of a file, one by one. Errors for an empty or wrong file come before a store is made."""
    import itertools

    from tropism.protocols import Format
    from tropism.recipe.build import build
    from tropism.store.groups import load_groups

    if kind:
        found = iter(build(Format, {"kind": kind, "path": str(file)}, "--format").groups())
    elif file.suffix in (".jsonl", ".parquet") or file.is_dir():
        found = load_groups(file)
    else:
        raise TropismError(f"{file} is neither .parquet nor .jsonl: say with --format which data format it is")
    first = next(found, None)
    if first is None:
        raise TropismError(f"{file} has no groups: name a file with at least one")
    return itertools.chain([first], found)


def _add(session: Any, name: str, role: Role, project: str | None, now: float) -> str:
    """Adds or finds the person, gives them the role, and returns a new key. Without a project an admin is admin of the
    whole store."""
    from sqlalchemy import select

    from tropism.feedback import people as persons
    from tropism.feedback import project as projects
    from tropism.feedback.schema import Person, Project

    everywhere = role == "admin" and project is None
    places = [projects.find(session, project)] if project else list(session.scalars(select(Project)))
    if not places and not everywhere:
        raise TropismError("the store has no project yet: make one with `tropism feedback add` first")
    known = session.scalar(select(Person.id).where(Person.name == name, Person.removed_at.is_(None))) is not None
    person = persons.find(session, name) if known else persons.add(session, name, now)
    person.admin = person.admin or everywhere
    for place in [] if everywhere else places:
        persons.grant(session, place, person, role)
    where = "the store" if everywhere else ", ".join(p.name for p in places)
    return f"{name} is {role} of {where}; their key, which is shown only now:\n{persons.new_key(session, person, now)}"


def _people(session: Any) -> Iterator[str]:
    """A line per person: the name and the roles."""
    from sqlalchemy import select

    from tropism.feedback.schema import Member, Person, Project

    roles = select(Member.person_id, Member.role, Project.name).join(Project, Project.id == Member.project_id)
    of: dict[int, list[str]] = {}
    for person, role, project in session.execute(roles.order_by(Project.id)):
        of.setdefault(person, []).append(f"{role} of {project}")
    here = select(Person).where(Person.kind == "person", Person.removed_at.is_(None)).order_by(Person.name)
    for person in session.scalars(here):
        yield f"{person.name}: {', '.join(['admin of the store'] if person.admin else of.get(person.id, ['no role']))}"


def _password() -> str:
    import sys

    return typer.prompt("password", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")


def _table(project: str, said: Any) -> str:
    """The output of `status` as text."""
    agreement = said["agreement"]
    alpha = (agreement or {}).get("alpha") or {}
    lines = [
        f"{project}: {said['done']} of {said['groups']} groups are done, {said['leased']} are being judged now",
        f"{said['judgments']} judgments, {said['per_group']} wanted of each group",
    ]
    if alpha.get("value") is not None:
        inside = f"[{alpha['low']:.3g}, {alpha['high']:.3g}]" if alpha.get("low") is not None else ""
        lines.append(f"agreement (Krippendorff's alpha, {agreement['metric']}): {alpha['value']:.3g} {inside}".rstrip())
    for row in said["people"]:
        pace = f", {row['median_seconds']:.0f} s each" if row.get("median_seconds") is not None else ""
        lines.append(f"  {row['name']}: {row['judgments']} judgments{pace}")
    return "\n".join(lines)
