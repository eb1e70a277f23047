"""The catalogues of the interface: writes the texts that are new into src/tropism/web/languages/<code>/<page>.po, drops
those that nobody says any more, and prints what is still missing. Ends with status 1 if something is.

    python bench/languages.py

Fill in the empty `msgstr` of your page's three files (fr, ms, ru; Russian has three plural forms) and run it again.
"""

from __future__ import annotations

import sys

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po

from tropism.web import texts


def update(language: str) -> None:
    """Brings the catalogues of a language up to date. A text of several pages stands where it stood, or with the first."""
    folder = texts.WEB / "languages" / language
    folder.mkdir(parents=True, exist_ok=True)
    known, stood, pages = Catalog(locale=language), {}, {}
    for file in sorted(folder.glob("*.po")):
        pages[file.stem] = None
        for message in read_po(file.open("rb"), locale=language):
            if message.id and message.string:
                known.add(message.id, message.string, flags=message.flags)
                stood[message.id if isinstance(message.id, str) else message.id[0]] = file.stem
    placed = set()
    for page, text in texts.strings():
        key = text if isinstance(text, str) else text[0]
        if key in placed:
            continue
        placed.add(key)
        page = stood.get(key, page)
        catalog = pages.get(page) or Catalog(locale=language)
        pages[page] = catalog
        said = known.get(text)
        catalog.add(text, said.string if said else None)
    for page, catalog in pages.items():
        file = folder / f"{page}.po"
        if catalog is None:
            file.unlink()
            continue
        with file.open("wb") as out:
            write_po(out, catalog, width=120, omit_header=True, sort_output=True, no_location=True)


if __name__ == "__main__":
    lacking = 0
    for language in texts.LANGUAGES:
        if language != "en":
            update(language)
            for text in texts.missing(language):
                print(f"{language}: {text}")
                lacking += 1
    print(f"{lacking} missing")
    sys.exit(bool(lacking))
