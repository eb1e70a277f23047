"""The front page (projects open to the visitor), the link with a token, log-in and log-out."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import func, select

from tropism.errors import TropismError
from tropism.feedback import audit, people
from tropism.feedback import project as projects
from tropism.feedback.schema import Person, Project, StoredGroup, StoredJudgment
from tropism.web.access import Refused, StoreDep, VisitorDep, found, me, role
from tropism.web.render import page, say
from tropism.web.texts import N_

router = APIRouter()
WRONG = N_("This name and password do not belong together.")


@router.get("/")
def home(request: Request, store: StoreDep, token: str = "") -> Response:
    if token:
        return _enter(request, store, token)
    who = found(request)
    if who is None:
        return RedirectResponse("/login", 303)
    with store.reading() as session:
        open_ = [p for p in session.scalars(select(Project).order_by(Project.name)) if role(session, who, p)]
        shown = [
            {
                "name": p.name,
                "question": projects.question(session, p).kind,
                "per_group": p.per_group,
                "groups": session.scalar(select(func.count()).where(StoredGroup.project_id == p.id)) or 0,
                "done": _done(session, p),
            }
            for p in open_
        ]
    if len(shown) == 1 and request.app.state.config.home == shown[0]["name"]:
        return RedirectResponse(f"/projects/{shown[0]['name']}/label", 303)
    return page(request, "home.html", who, projects=shown)


def _done(session, project: Project) -> int:
    """Groups that have all the judgments wanted of them."""
    said = (
        select(StoredJudgment.group_id)
        .join(Person, Person.id == StoredJudgment.person_id)
        .where(StoredJudgment.project_id == project.id, StoredJudgment.holds, StoredJudgment.scores.is_not(None))
        .where(Person.kind == "person")
        .group_by(StoredJudgment.group_id)
        .having(func.count() >= project.per_group)
    )
    return session.scalar(select(func.count()).select_from(said.subquery())) or 0


def _enter(request: Request, store: StoreDep, token: str) -> Response:
    """The link of a server on a loopback address: a session for this machine's user, and an address without the token."""
    config = request.app.state.config
    if not config.token or not hmac.compare_digest(token.encode(), config.token.encode()):
        raise Refused(403, "wrong_token", "this link is of another server, or of this one before it was started again")
    home = f"/projects/{config.home}/label" if config.home else "/"
    response = RedirectResponse(home, 303)
    with store.writing() as session:
        person = session.scalar(select(Person).where(Person.name == config.local))
        if person is None:
            person = people.add(session, config.local, store.now(session), admin=True)
        request.app.state.sessions.begin(request, response, person)
    return response


@router.get("/login")
def login(request: Request, next: str = "/") -> Response:
    return page(request, "login.html", failed="", next=next, name="")


@router.post("/login")
def log_in(
    request: Request,
    store: StoreDep,
    name: Annotated[str, Form()],
    password: Annotated[str, Form()],
    next: Annotated[str, Form()] = "/",
) -> Response:
    """By password, or by a key in its place: whoever was added by `tropism feedback people` has a key first."""
    if not request.app.state.accounts:
        raise Refused(403, "no_accounts", "this server knows the link that it printed, and no passwords")
    failed, person = "", None
    with store.writing() as session:
        try:
            person = people.check_password(session, name, password)
            if person is None and (keyed := people.by_key(session, password)) and keyed.name == name:
                person = keyed
        except TropismError as error:  # too many attempts
            failed = str(error)
        audit.note(
            session,
            person and person.id,
            "log in" if person else "log in refused",
            {"name": name[:200]},
            store.now(session),
        )
        if person is not None:
            response = RedirectResponse(
                next if next.startswith("/") and not next.startswith(("//", "/\\")) else "/", 303
            )
            request.app.state.sessions.begin(request, response, person)
            return response
    return page(request, "login.html", status=403, failed=failed or say(request, WRONG), next=next, name=name)


@router.post("/logout")
def log_out(request: Request, store: StoreDep, who: VisitorDep) -> Response:
    response = RedirectResponse("/login", 303)
    request.app.state.sessions.end(response)
    with store.writing() as session:
        audit.note(session, me(session, who).id, "log out", {}, store.now(session))
    return response
