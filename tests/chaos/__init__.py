"""Reads under chaos: processes that write, carry and read, and a judge of their logs.

``consistency`` is the program, ``supervisor`` starts and harms, ``roles`` are the
processes, ``app`` is what they do it to, ``records`` what they write down, ``judge``
who reads that afterwards.
"""
