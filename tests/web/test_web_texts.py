"""The interface in four languages, none of which lacks a text; and which one a browser gets."""

from __future__ import annotations

import re

import pytest

from tropism.web import texts

OTHERS = [code for code in texts.LANGUAGES if code != "en"]
HOLES = re.compile(r"%\(\w+\)[sd]")


@pytest.mark.parametrize("language", OTHERS)
def test_no_text_is_missing(language: str):
    assert len(list(texts.strings())) > 150
    assert texts.missing(language) == []  # python bench/languages.py lists and adds them


@pytest.mark.parametrize("language", OTHERS)
def test_a_translation_has_the_same_holes(language: str):
    said = texts.translations(language)
    for page, text in texts.strings():
        if isinstance(text, str):
            assert sorted(HOLES.findall(text)) == sorted(HOLES.findall(said.gettext(text))), (page, text)
        else:
            for number in (1, 2, 5, 21):
                form = said.ngettext(text[0], text[1], number)
                assert sorted(HOLES.findall(text[1])) == sorted(HOLES.findall(form)), (page, text)


def test_a_missing_text_is_found(tmp_path, monkeypatch):
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "new.html").write_text('{{ _("Never said") }} {{ ngettext("one x", "%(num)d x", n) }}')
    (tmp_path / "page.py").write_text('T = N_("Nor this")\n')
    monkeypatch.setattr(texts, "WEB", tmp_path)
    assert sorted(texts.missing("ru")) == ["new: Never said", "new: one x", "page: Nor this"]
    (tmp_path / "languages" / "ru").mkdir(parents=True)
    two = 'msgid "one x"\nmsgid_plural "%(num)d x"\nmsgstr[0] "икс"\nmsgstr[1] "икса"\nmsgstr[2] ""\n'
    (tmp_path / "languages" / "ru" / "new.po").write_text(f'msgid "Never said"\nmsgstr "Не сказано"\n\n{two}')
    assert sorted(texts.missing("ru")) == ["new: one x", "page: Nor this"]  # a Russian plural has three forms


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("fr-CA,fr;q=0.9,en;q=0.5", "fr"),
        ("de,ms;q=0.3,ru;q=0.8", "ru"),
        ("ms-MY", "ms"),
        ("zh-CN,ja", "en"),
        ("fr;q=x, *;q=0.1, ru", "ru"),
    ],
)
def test_the_browser_chooses(header: str, language: str):
    assert texts.chosen(header) == language


def test_pages_speak_it(world):
    said = {
        code: world.client.get("/projects/demo/label", headers={"Accept-Language": code}).text
        for code in texts.LANGUAGES
    }
    assert "Rank the answers" in said["en"] and "Classez les réponses" in said["fr"]
    assert "Susun jawapan" in said["ms"] and "Расположите ответы" in said["ru"]
    assert 'lang="ru"' in said["ru"]
