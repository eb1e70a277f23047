"""Other people's text as HTML: what it keeps, what it never lets through, and what time it takes."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tropism.web.render import LONG, TAGS, markdown, plain

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "![x](https://evil.example/pixel.png)",
    "<svg/onload=alert(1)>",
    '<a href="x" style="position:fixed">',
    "<!--<script>-->",
    "```html\n<script>alert(1)</script>\n```",
    '[x](https://a.example/"onmouseover="alert(1))',
    "<iframe src=//evil.example>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "</p></div></body><style>*{display:none}</style>",
    '{{ request }} {% include "base.html" %}',
]


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.said = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.said += data


def safe(html: str) -> None:
    for tag, attributes in Tags(html).seen:
        assert tag in TAGS, tag
        assert attributes.keys() <= {"href", "title", "rel", "dir", "start", "tabindex", "class"}, attributes
        assert re.match(r"https?:|mailto:|#|/|\.|\w*$", attributes.get("href") or "", re.IGNORECASE), attributes
        assert "javascript:" not in (attributes.get("href") or "").lower()


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text(text: str):
    safe(markdown(text))
    safe(plain(text))
    assert Tags(plain(text)).said == text


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*HOSTILE, *"\n *`|[](<>#&éא"]), max_size=12))
def test_no_mixture_of_them_gets_through(pieces: list[str]):
    safe(markdown("".join(pieces)))


def test_markdown_is_shown():
    html = markdown("# A\n\n**b** `c` [d](https://e.example)\nnew line\n\n| f |\n|---|\n| g |\n\n3. h")
    tags = [tag for tag, _ in Tags(html).seen]
    assert {"h3", "strong", "code", "a", "br", "table", "ol"} <= set(tags) and "h1" not in tags
    link = dict(Tags(html).seen)["a"]
    assert link["href"] == "https://e.example" and "noopener" in (link["rel"] or "")


def test_each_paragraph_has_its_own_direction():
    assert re.findall(r'<p dir="(\w+)">', markdown("hello\n\nשלום")) == ["auto", "auto"]


DEEP = ["x" * 100_000, "[" * 19_999, "*a " * 6_600, ">" * 19_000, "| a " * 4_900 + "\n|-", "- " * 9_000]


@pytest.mark.parametrize("text", DEEP, ids=lambda text: text[:3])
def test_long_and_deep_text_takes_no_time(text: str):
    began = time.process_time()
    html = markdown(text)
    assert time.process_time() - began < 2
    if len(text) > LONG:
        assert Tags(html).said == text
