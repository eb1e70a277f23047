"""The embedded default data set: phrases in four languages, simulated demonstrators, true quality.

The phrases are those of the Unicode CLDR (Unicode-3.0 licence), which the library Babel carries; nothing is
downloaded. `phrases` says one thing in each language, `translations` asks for one language from another,
`documents` writes the raw text, `demonstrations` answers as simulated people do, `quality` says how good an
answer truly is.
"""
