"""Data formats, one file each: `kind = "chat"` in a recipe is `chat.py`. Each yields Groups."""
