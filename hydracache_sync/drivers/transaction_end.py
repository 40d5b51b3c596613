"""Whether the transaction that wrote some rows has ended, as this process knows it.

A writer that applies its own rows must not do so before its commit. To see them in a
snapshot takes a query; that the transaction is over is often known without one, and
applying rows that were rolled back after all only costs a miss.
"""

from __future__ import annotations

from typing import Callable


class TransactionEnd:
    """Tells that a transaction has ended, or that nothing is known of it.

    Known only in the process of the transaction: a copy that has travelled knows
    nothing.

    :param is_over: whether it has ended; by default it has, once :meth:`note` is
        called. False may mean that nobody knows.
    """

    def __init__(self, is_over: Callable[[], bool] | None = None) -> None:
        self._is_over = is_over
        self._noted = False

    def note(self) -> None:
        """It has ended."""
        self._noted = True

    def __bool__(self) -> bool:
        return self._noted or (self._is_over is not None and self._is_over())

    def __reduce__(self) -> tuple[type[TransactionEnd], tuple[()]]:
        return TransactionEnd, ()
