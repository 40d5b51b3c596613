"""Bytes of anybody's against what reads them: the reply parser and the codecs."""
