"""What happens to what a request collected and did not write itself.

First it is offered the app's own transaction, where that is still open; afterwards the
safety net has the rest. Neither raises: a teardown must not.
"""

from __future__ import annotations

import os
import threading
import weakref
from functools import partial
from typing import Any, Callable, Sequence

from hydracache_sync.app.request_state import EnqueuedBatch, RequestState
from hydracache_sync.app.request_writes import outbox_connection
from hydracache_sync.app.runtime import Runtime
from hydracache_sync.drivers import driver_of
from hydracache_sync.drivers.wrappers import own_connection
from hydracache_sync.errors import QuarantineError
from hydracache_sync.pool.process_exit import at_exit, finished
from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

#: Why something is left where there is no other reason.
NOT_CALLED = "write() was not called before the commit"

#: Why something is left of what was let go of before it was ended.
NEVER_ENDED = (
    "its response was never closed, its block never left, or a thread of the app has"
    " outlived it"
)

#: Gives the connection of the request, None if it has not opened one; or a list of all
#: that it may write through, the first of which is that of the outbox's database.
ConnectionOf = Callable[[], Any]


def new_collector(runtime: Runtime, where: str) -> RequestState:
    """Make the collector of what is served in this thread.

    One that has not ended at the exit of the process is written then.
    """
    collected = RequestState(where, runtime.abandoned)
    runtime.collectors.add(weakref.ref(collected, runtime.forget_collector))
    if collected.pid not in runtime.ends_collectors_in:
        runtime.ends_collectors_in.add(collected.pid)
        at_exit(partial(_end_at_exit, weakref.ref(runtime)))
    return collected


def write_into_open_transaction(
    runtime: Runtime,
    collected: RequestState,
    connection_of: ConnectionOf,
    *,
    ran_before: Sequence[str] = (),
) -> str:
    """Write what was collected into the app's transaction, if one is still open.

    Where that is not committed the safety net writes it again: too much is safe.

    :param ran_before: functions of the app that have run already and may have ended
        the transaction; named in the complaint.
    :return: why it is left to the safety net; empty if it is written.
    """
    try:
        connection = outbox_connection(connection_of())
        if connection is None:
            return "the request has no connection open" + _suspects(ran_before)
        driver = driver_of(own_connection(connection))
        open_now = driver.has_begun()
        if open_now is False:
            return "its transaction is not open any more" + _suspects(ran_before)
        if collected:
            # In a transaction that nobody commits it would be lost: then it is written
            # twice, and the promised position is the net's.
            position = collected.promised if open_now else None
            receipt = runtime.write(connection, collected.batch(), position)
    except Exception as exc:
        # The net takes it. Closed connections end here, too.
        logger.debug("teardown could not use the app's connection", exc_info=True)
        return (
            "its connection could not take it,"
            f" {type(exc).__name__}: {exc}" + _suspects(ran_before)
        )
    if collected and open_now:
        # That it is the transaction of the data no driver can tell: those may be
        # committed, and this one an audit's that is rolled back. The end looks.
        collected.written.append(
            EnqueuedBatch(
                receipt, again=False, joined=None, offered_to=driver.has_begun
            )
        )
        collected.clear()
        collected.promised = None
    elif collected:
        collected.written.append(EnqueuedBatch(receipt, again=False))
    _hold_off_until_end(runtime, collected)
    return "" if open_now else "its driver cannot tell whether a transaction is open"


def _hold_off_until_end(runtime: Runtime, collected: RequestState) -> None:
    """In mode strict, the app is about to commit: nothing may stop it any more."""
    try:
        collected.holding.enter_context(
            runtime.quarantine(collected.written, degrade=True)
        )
    except QuarantineError as exc:
        logger.error("%s commits without its quarantine: %s", collected.where, exc)


def end_request(runtime: Runtime, collected: RequestState | None) -> None:
    """Write the rest on an own connection; the request's own are closed by now.

    Never raises: that would make an error of a page that is done.
    """
    try:
        try:
            runtime.fallback.save_kept()
            _end_abandoned(runtime)
        finally:
            if collected is not None:
                _save_what_is_left(runtime, collected)
    except Exception:
        # Not even if the reason is a defect of ours. Each step was taken all the same,
        # and what the one that failed was to write is in no transaction.
        logger.exception("the end of a request: invalidations may be lost with it")


def _end_abandoned(runtime: Runtime) -> None:
    while runtime.abandoned:
        try:
            collected = runtime.abandoned.popleft()
        except IndexError:
            return  # another thread was faster
        if collected.pid != os.getpid():
            continue  # the process that this one was forked from has it, too
        collected.why = collected.why or NEVER_ENDED
        _save_what_is_left(runtime, collected)


def _end_at_exit(found: weakref.ref[Runtime]) -> None:
    runtime = found()
    if runtime is not None:
        finished(partial(_end_collectors, runtime))
        runtime.fallback.save_at_exit()


def _end_collectors(runtime: Runtime) -> None:
    """Write what is left of all that this process has collected, at its exit."""
    for reference in list(runtime.collectors):
        collected = reference()
        if collected is None or collected.pid != os.getpid():
            continue  # of the process that this one was forked from
        if collected.ended or not collected.unwritten:
            continue
        if collected.thread == threading.get_ident():
            collected.why = collected.why or NEVER_ENDED
            _save_what_is_left(runtime, collected)
        else:
            # Left to it as well: its thread may go on, and write it with its data.
            runtime.fallback.save(collected.batch(), collected.where, NEVER_ENDED)
    _end_abandoned(runtime)


def _save_what_is_left(runtime: Runtime, collected: RequestState) -> None:
    collected.ended = True
    # Each step is taken whatever becomes of those before it: this is the last that
    # knows of what was collected.
    try:
        collected.end_holding()
    finally:
        try:
            _save_unwritten(runtime, collected)
        finally:
            if collected.written:
                _end_written(runtime, collected)


def _end_written(runtime: Runtime, collected: RequestState) -> None:
    try:
        runtime.fallback.save_missing(collected.written, collected.where)
    finally:
        try:
            runtime.settle(collected.written)
        finally:
            if runtime.strict:
                runtime.hold_off_late(collected.written, collected.where)


def _save_unwritten(runtime: Runtime, collected: RequestState) -> None:
    batch = collected.pop_unwritten()
    if batch is not None:
        why = collected.why or collected.doubt or NOT_CALLED
        runtime.fallback.save(batch, collected.where, why, collected.promised)


def _suspects(ran_before: Sequence[str]) -> str:
    if not ran_before:
        return ""
    return (
        f"; {', '.join(ran_before)} ran before it: register teardown functions that"
        " commit or close before init_app(), functions registered first run last"
    )
