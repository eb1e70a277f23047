"""What is served as a file: the libraries of others unchanged and with their licences, nothing from elsewhere."""

from __future__ import annotations

import hashlib

from tropism.web.texts import WEB

VENDOR = WEB / "static" / "vendor"


def test_vendored_files_have_their_checksums_and_licences():
    lines = [line.split() for line in (VENDOR / "CHECKSUMS").read_text(encoding="utf-8").splitlines()]
    sums = {name: digest for digest, name in lines}
    assert sums.keys() == {file.name for file in VENDOR.iterdir()} - {"CHECKSUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name
    for script in (name for name in sums if name.endswith(".js")):
        licence = (VENDOR / f"{script.split('.')[0]}.LICENSE").read_text(encoding="utf-8")
        assert "Permission" in licence


def test_nothing_is_loaded_from_elsewhere():
    ours = [file for file in (WEB / "static").iterdir() if file.suffix in (".js", ".css", ".svg")]
    assert len(ours) >= 5
    for file in ours:
        text = file.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert "http://" not in text and "https://" not in text and "@import" not in text, file.name
        assert "eval(" not in text and "document.write" not in text, file.name


def test_files_and_nothing_else_are_served(world):
    assert world.client.get("/static/app.css").headers["content-type"].startswith("text/css")
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/", "/static/..%2f..%2fcli.py"):
        assert world.client.get(path).status_code in (404, 405), path
