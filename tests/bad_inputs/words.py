"""Command lines that are refused: (name, words, what is said). `{r}` is a good recipe, `{here}` the folder of the case.

What the command line's own reader refuses (an option it does not know) is said in its own way: the usage, then a line.
"""

from __future__ import annotations

Case = tuple[str, list[str], str]


def change(*texts: str) -> list[str]:
    return ["plan", "{r}", *(word for text in texts for word in ("--set", text))]


SETS: list[Case] = [
    ("set nothing", change(""), "is not stage.key=value"),
    ("set a word", change("steps"), "is not stage.key=value"),
    ("set =", change("="), "is not stage.key=value"),
    ("set =3", change("=3"), "is not stage.key=value"),
    ("set .=3", change(".=3"), "is not stage.key=value"),
    ("set stage.=3", change("base.=3"), "is not stage.key=value"),
    ("set .key=3", change(".steps=3"), "is not stage.key=value"),
    ("set a..b=3", change("base..steps=3"), "is not stage.key=value"),
    ("set no such stage", change("bass.steps=3"), "did you mean 'base'"),
    ("set no such key", change("base.stpes=3"), "did you mean 'steps'"),
    ("set no such top key", change("sede=3"), "did you mean 'seed'"),
    ("set a stage", change("base=3"), "has no key 'base'"),
    ("set an id", change("base.id=x"), "change its id in the recipe"),
    ("set a climbing id", change("base.id=../../x"), "change its id in the recipe"),
    ("set inside a word", change("base.tokenizer.x=3"), "'tokenizer' is not a table"),
    ("set a word for a number", change("base.steps=many"), "base.steps = 'many'"),
    ("set empty", change("base.steps="), "base.steps = ''"),
    ("set a fraction", change("base.steps=1.5"), "base.steps = 1.5"),
    ("set a list", change("base.steps=[1]"), "base.steps = [1]"),
    ("set half a list", change("base.steps=[1"), "base.steps = '[1'"),
    ("set a date", change("base.steps=1979-05-27"), "base.steps = datetime"),
    ("set a negative number", change("base.steps=-1"), "base.steps = -1"),
    ("set nan", change("base.optim.lr=nan"), "base.optim.lr = nan"),
    ("set 10^400", change("base.steps=1" + "0" * 400), "more than 64 bits"),
    ("set 10^5000", change("base.steps=1" + "0" * 5000), "base.steps = '1000"),
    ("set 16^5000", change("base.steps=0x1" + "0" * 5000), "more than 64 bits"),
    ("set a line more", change("base.steps=3\nseed = 7"), "has a line break in it"),
    ("set a table more", change("base.steps=3\n[x]\ny = 1"), "has a line break in it"),
    ("set a carriage return", change("base.steps=3\r"), "has a line break in it"),
    ("set a line break in the key", change("base.\nsteps=3"), "has a line break in it"),
    ("set deep", change("base.steps=" + "[" * 5000), "tables and lists inside each other"),
    ("set a deep key", change("base." + ".".join("a" * 5000) + "=1"), "tables and lists inside each other"),
    ("set forty deep", change("base.steps=" + "[" * 40 + "]" * 40), "tables and lists inside each other"),
    ("set a stage's kind", change("base.kind=nosuch"), "there is no kind 'nosuch'"),
    ("set a reference", change("base.tokenizer=later"), "names 'later'"),
    ("set a climbing name", change("name=../../x"), "cannot name a folder in runs"),
    ("set no name", change('name=""'), "cannot name a folder in runs"),
    ("set the seed to a word", change("seed=x"), "seed = 'x'"),
    ("set defaults of nothing", change("defaults.rl.rounds=3"), "there is no stage 'defaults'"),
    ("set rounds of nothing", change("rounds.count=3"), "there is no stage 'rounds'"),
    ("set, the second wrong", change("base.steps=3", "base.heads=3"), "base has no key 'heads'"),
    ("set a zero", change('base.tokenizer="a\\u0000"'), "contains a zero character"),
]

USAGE: list[Case] = [
    ("no such command", ["fly"], "No such command"),
    ("run nothing", ["run"], "Missing argument"),
    ("run two", ["run", "{r}", "{r}"], "unexpected extra argument"),
    ("run fast", ["run", "{r}", "--fast"], "No such option"),
    ("checkpoints in the past", ["run", "{r}", "--checkpoint-s", "-1"], "--checkpoint-s"),
    ("checkpoints in words", ["run", "{r}", "--checkpoint-s", "often"], "--checkpoint-s"),
    ("set without a value", ["plan", "{r}", "--set"], "--set"),
    ("list nothing", ["list"], "Missing argument"),
    ("chat, colder than cold", ["chat", "x", "--temperature", "-1"], "--temperature"),
    ("chat, no tokens", ["chat", "x", "--max-tokens", "0"], "--max-tokens"),
    ("generate without prompts", ["generate", "x", "--out", "o.jsonl"], "Missing option"),
    ("generate nowhere", ["generate", "x", "--prompts", "p.txt"], "Missing option"),
    ("generate none", ["generate", "x", "--prompts", "p.txt", "--out", "o.jsonl", "-n", "0"], "-n"),
    ("promote to nowhere", ["promote", "x", "sft"], "Missing option"),
    ("merge nothing", ["merge"], "Missing argument"),
    ("compare nothing", ["compare"], "Missing argument"),
]

TO = ["--prompts", "{here}/p.txt", "--out", "{here}/o.jsonl"]
COMMANDS: list[Case] = [
    ("plan no file", ["plan", "{here}/none.toml"], "there is no recipe"),
    ("plan a folder", ["plan", "{here}"], "is not a valid TOML file"),
    ("plan a name of 300", ["plan", "a" * 300], ""),
    ("plan another recipe of the package", ["plan", "quickstrat"], "there is no recipe quickstrat"),
    ("plan a binary file", ["plan", "{here}/binary.toml"], "is not a valid TOML file"),
    ("run no file", ["run", "{here}/none.toml", "--quiet"], "there is no recipe"),
    ("list no folder", ["list", "x"], "there is no folder 'x'"),
    ("list a private folder", ["list", "store"], "there is no folder 'store'"),
    ("list a path", ["list", "../algorithms"], "there is no folder"),
    ("show no run", ["show", "{here}/none"], "is not a run folder"),
    ("show a file", ["show", "{here}/p.txt"], "is not a run folder"),
    ("show an empty folder", ["show", "{here}"], "is not a run folder"),
    ("compare no run", ["compare", "{here}/none"], "there is no recipe"),
    ("compare without methods", ["compare", "{r}"], "no two methods to compare"),
    ("promote from no run", ["promote", "{here}/none", "sft", "--out", "{here}/m"], "is not a run folder"),
    ("merge no adapter", ["merge", "{here}", "--out", "{here}/m"], "is not an adapter"),
    ("merge a file", ["merge", "{here}/p.txt", "--out", "{here}/m"], "is not an adapter"),
    ("chat with nobody", ["chat", "{here}/none"], "{here}/none"),
    ("chat with a file", ["chat", "{here}/p.txt"], "{here}/p.txt"),
    ("generate from nobody", ["generate", "{here}/none", *TO], "{here}/none"),
    ("generate top_p of 5", ["generate", "x", *TO, "--top-p", "5"], "generate.top_p = 5.0"),
    ("generate top_p of nan", ["generate", "x", *TO, "--top-p", "nan"], "generate.top_p = nan"),
    ("generate top_k below 0", ["generate", "x", *TO, "--top-k", "-1"], "generate.top_k = -1"),
    ("generate at infinity", ["generate", "x", *TO, "--temperature", "inf"], "generate.temperature = inf"),
    ("best of without a judge", ["generate", "x", *TO, "--best-of", "3"], "--best-of and --judge go together"),
    ("judge without best of", ["generate", "x", *TO, "--judge", "x"], "--best-of and --judge go together"),
    ("best of and n", ["generate", "x", *TO, "--best-of", "3", "--judge", "x", "-n", "2"], "leave one of them out"),
    ("out a folder", ["generate", "x", "--prompts", "{here}/p.txt", "--out", "{here}"], "is a folder"),
    ("out a text", ["generate", "x", "--prompts", "{here}/p.txt", "--out", "{here}/o.txt"], "ends in neither"),
    (
        "out the prompts",
        ["generate", "x", "--prompts", "{here}/p.jsonl", "--out", "{here}/p.jsonl"],
        "exists: name another file",
    ),
    ("out below a file", ["generate", "x", "--prompts", "{here}/p.txt", "--out", "{here}/p.txt/o.jsonl"], ""),
    ("no prompts", ["generate", "x", "--prompts", "{here}/none.txt", "--out", "{here}/o.jsonl"], "there is no file"),
    ("prompts a folder", ["generate", "x", "--prompts", "{here}", "--out", "{here}/o.jsonl"], "is a folder"),
    ("prompts a picture", ["generate", "x", "--prompts", "{here}/p.png", "--out", "{here}/o.jsonl"], "p.png is not a"),
]
