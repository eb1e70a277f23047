"""tropism grows a language model toward what people prefer."""

__version__ = "0.1.0"
