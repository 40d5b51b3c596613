"""The promises of every outbox, each checked once, against whichever adapter it is.

An adapter's test file subclasses :class:`OutboxContract`, or
:class:`SharedOutboxContract` where other objects and other processes see the same rows.
It names the subclass ``Test...``, supplies what :class:`OutboxHooks` asks for, and adds
only what is the adapter's own.
"""
