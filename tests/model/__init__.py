"""A model of the cache protocol, and a checker that walks all its interleavings.

Read in this order: ``rules`` (what may be switched off), ``state`` (what there is),
``reading``, ``writing``, ``applying`` and ``faults`` (who does what to it, one atomic
step at a time, named as in the code), ``promises`` (what must hold), ``explore`` (the
walk), ``in_flight`` (messages that arrive late, for any number of readers),
``replicas`` (readers of servers that are behind), ``older_ways`` (protocols without
tokens), ``scenarios`` (what is walked and what must come of it).
``python -m tests.model`` walks them all.
"""
