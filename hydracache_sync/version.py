"""The version of this library, which processes say of themselves."""

__version__ = "0.1.0"
