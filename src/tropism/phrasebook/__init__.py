"""The data set inside the package: phrases in four languages, simulated demonstrators, true quality.

The phrases come from the Unicode CLDR (Unicode-3.0 licence), which is part of the library Babel; nothing is
downloaded. `phrases` makes a phrase in each language, `translations` makes requests for a translation,
`documents` writes raw text, `demonstrations` simulates people's answers, `quality` computes the true quality of
an answer.
"""
