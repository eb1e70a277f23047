"""One file a page. `app.py` includes the `router` of each, and puts its `NAV` into the menu; nothing else to register.

    router = APIRouter()
    NAV = Nav(N_("Explore"), "explore", 20)                 # /projects/<project>/explore, in the menu of a project

    @router.get("/projects/{name}/explore")
    def explore(request: Request, name: str, store: StoreDep, who: VisitorDep) -> HTMLResponse:
        with store.reading() as session:
            project = opened(session, who, name)            # 404 and 403 are raised there
            return page(request, "explore.html", who, project=name, role=role(session, who, project), found=…)

A path under /api answers in JSON and is for keys too: errors become {"error": {"code", "message"}} by themselves. Raise
`Refused` for an error of one's own. A `<form method="post">` has `<input type="hidden" name="csrf" value="{{ csrf }}">`;
htmx sends the token in a header by itself. Functions are `def`, not `async def`, so that SQL does not stop others.

Texts: `_("of %(all)d groups", all=n)` and `ngettext("%(num)d group", "%(num)d groups", n)` in templates, `N_("…")` and
`say(request, "…", name=…)` in Python (a percent sign is %%); then `python bench/languages.py` and fill in what it lists.
"""
