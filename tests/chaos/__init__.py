"""Reads under chaos: processes that write, carry and read, and a judge of their logs.

``consistency`` is the program, ``supervisor`` starts and harms, ``roles`` are the
processes, ``weather`` is what befalls their links and ``scenes`` what is arranged for
late tokens; ``app`` is what they do it to, ``transactions`` how it is changed,
``records`` what they write down, ``judge`` who reads that afterwards.
"""
