"""Spans by OpenTelemetry, in the words of its semantic conventions.

An outbox is a messaging system there, whose destinations are namespaces; a cache is a
database. No key, tag or id is in a span's name; a key is an attribute where asked for.
Knows the API alone: which spans are kept, and where they go, is set up in the app.
Needs the extra ``otel``.
"""

from __future__ import annotations

import contextlib
import time
from types import TracebackType
from typing import Any, Callable, Iterator, Mapping, Sequence

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from hydracache_sync.fork import ProcessLocal
from hydracache_sync.outbox.row import MAX_TRACEPARENT, OutboxRow
from hydracache_sync.printable import printable_logger
from hydracache_sync.receipts import InvalidationReceipt
from hydracache_sync.tracing.caches import GET
from hydracache_sync.tracing.guard import Guard, host_and_port
from hydracache_sync.version import __version__
from hydracache_sync.worker.reports import PublishReport
from hydracache_sync.worker.tracer import WorkerTracer

logger = printable_logger(__name__)

#: Links of a span: requests that a batch has rows of. The SDK keeps as many by default;
#: rows of others have none.
MAX_LINKS = 128

#: What the outbox is called among messaging systems.
SYSTEM = "hydracache"

#: Under which a context says that nothing in it is to be traced: the API's own key, by
#: which exporters keep their calls out, and that of OpenTelemetry's instrumentations.
_SUPPRESSING = (
    getattr(context_api, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation"),
    "suppress_instrumentation",
)

_PROPAGATOR = TraceContextTextMapPropagator()
_HEADER = "traceparent"

Attributes = Mapping[str, Any]


class OpenTelemetryTracer(WorkerTracer):
    """Traces outboxes, workers and caches. Thread-safe.

    :param provider: of the spans; None for the global one.
    :param keys: give each span of a cache its keys.
    """

    def __init__(self, provider: TracerProvider | None, *, keys: bool) -> None:
        self._tracer = trace.get_tracer(
            "hydracache_sync", __version__, tracer_provider=provider
        )
        self._keys = keys
        self._guard = Guard()
        #: Of each thread, its last claim: the context of its span, its rows and links.
        self._claimed = ProcessLocal()
        self._has_told_of_malformed = False

    # Outboxes

    @contextlib.contextmanager
    def enqueue(self, namespace: str) -> Iterator[_EnqueueSpan]:
        attributes = _messaging(namespace, "enqueue", "send")
        with self._span(f"enqueue {namespace}", SpanKind.PRODUCER, attributes) as span:
            yield _EnqueueSpan(span, self._guard)

    # Workers

    @contextlib.contextmanager
    def claim(self, namespace: str) -> Iterator[Callable[[Sequence[OutboxRow]], None]]:
        """Make the span at the end, and none where no row was due."""
        started = time.time_ns()
        claimed = self._claimed.mine()
        claimed.context = None
        claimed.rows = claimed.links = ()

        def make(rows: Sequence[OutboxRow], error: BaseException | None = None) -> None:
            links, malformed = self._links(rows)
            attributes = {
                **_messaging(namespace, "claim", "receive", len(rows)),
                **malformed,
            }
            span = self._span(
                f"claim {namespace}", SpanKind.CLIENT, attributes, links, start=started
            )
            with span:
                if error is not None:
                    span.fail(error)
            claimed.context = span.context
            claimed.rows, claimed.links = rows, (links, malformed)

        try:
            yield lambda rows: make(rows) if rows else None
        except BaseException as exc:
            make((), exc)
            raise

    @contextlib.contextmanager
    def apply(
        self, namespace: str, rows: Sequence[OutboxRow]
    ) -> Iterator[Callable[[PublishReport, Sequence[Exception | None]], None]]:
        if not rows:
            yield lambda *_: None
            return
        claimed = self._claimed.mine()
        if getattr(claimed, "rows", None) is rows:
            links, malformed = claimed.links
        else:
            links, malformed = self._links(rows)
        attributes = {
            **_messaging(namespace, "apply", "process", len(rows)),
            **malformed,
        }
        with self._span(
            f"apply {namespace}",
            SpanKind.CONSUMER,
            attributes,
            links,
            context=getattr(claimed, "context", None),
        ) as span:

            def note(
                report: PublishReport, failures: Sequence[Exception | None]
            ) -> None:
                span.set(_counts(report))
                # One of each class: a node that is away fails every row alike.
                for failure in {type(each): each for each in failures if each}.values():
                    span.fail(failure)

            yield note

    @contextlib.contextmanager
    def settle(self, namespace: str, rows: int) -> Iterator[None]:
        if not rows:
            yield
            return
        attributes = _messaging(namespace, "publish", "settle", rows)
        with self._span(f"publish {namespace}", SpanKind.CLIENT, attributes):
            yield

    @contextlib.contextmanager
    def publish(
        self, receipt: InvalidationReceipt
    ) -> Iterator[Callable[[PublishReport], None]]:
        namespace = receipt.namespace
        attributes = _messaging(namespace, "apply", "process", receipt.targets)
        with self._span(f"apply {namespace}", SpanKind.CONSUMER, attributes) as span:
            yield lambda report: span.set(_counts(report))

    def _links(self, rows: Sequence[OutboxRow]) -> tuple[list[Link], Attributes]:
        """The links to the requests that rows are of, and what is said of the rest."""
        found = self._guard.run(lambda: _contexts_of(rows))
        links, malformed = ([], 0) if found is None else found
        if malformed and not self._has_told_of_malformed:
            self._has_told_of_malformed = True
            logger.warning(
                "rows have a traceparent that is none: their spans have no links to"
                " the requests that enqueued them. Said once in this process"
            )
        return links, (
            {"hydracache.malformed_traceparents": malformed} if malformed else {}
        )

    # Caches

    def cache(self, operation: str, namespace: str, keys: Sequence[str]) -> _CacheSpan:
        attributes: dict[str, Any] = {
            "db.operation.name": operation,
            "db.namespace": namespace,
        }
        if len(keys) > 1:
            attributes["db.operation.batch.size"] = len(keys)
        if self._keys:
            attributes["cache.key"] = list(keys)
        return _CacheSpan(
            self._span(f"{operation} {namespace}", SpanKind.CLIENT, attributes),
            len(keys),
            "unavailable" if operation == GET else "not_acknowledged",
        )

    def load(self, namespace: str, key: str) -> _Span:
        attributes: dict[str, Any] = {"db.namespace": namespace}
        if self._keys:
            attributes["cache.key"] = [key]
        return self._span(f"load {namespace}", SpanKind.INTERNAL, attributes)

    def _span(
        self,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        links: Sequence[Link] = (),
        *,
        context: Context | None = None,
        start: int | None = None,
    ) -> _Span:
        def begin() -> trace.Span | None:
            if _is_suppressed():
                return None
            return self._tracer.start_span(
                name,
                context,
                kind,
                attributes,
                links,
                start,
                record_exception=False,
                set_status_on_exception=False,
            )

        return _Span(begin, self._guard)


class _Span:
    """One span, which is the current one of its block. What fails in it is logged."""

    def __init__(self, begin: Callable[[], trace.Span | None], guard: Guard) -> None:
        self._begin = begin
        self._guard = guard
        self._span: trace.Span | None = None
        self._token: Any = None

    @property
    def context(self) -> Context | None:
        """What has this span as the current one; None if there is none."""
        if self._span is None:
            return None
        # An empty one: what else is current belongs to a thread, not to the batch.
        return trace.set_span_in_context(self._span, Context())

    def __enter__(self) -> _Span:
        span = self._span = self._guard.run(self._begin)
        if span is not None:
            self._token = attach(trace.set_span_in_context(span))
        return self

    def set(self, attributes: Attributes) -> None:
        span = self._span
        if span is not None:
            self._guard.run(lambda: span.set_attributes(attributes))

    def fail(self, error: BaseException) -> None:
        span = self._span
        if span is None:
            return

        def note() -> None:
            name = type(error).__qualname__
            span.record_exception(error)
            span.set_attribute("error.type", name)
            span.set_status(Status(StatusCode.ERROR, name))

        self._guard.run(note)

    def fail_as(self, name: str) -> None:
        """Note a failure that was not raised."""
        span = self._span
        if span is not None:
            self.set({"error.type": name})
            self._guard.run(lambda: span.set_status(Status(StatusCode.ERROR, name)))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._span is None:
            return
        detach(self._token)
        if exc is not None:
            self.fail(exc)
        self._guard.run(self._span.end)


class _EnqueueSpan:
    """As an outbox asks for it."""

    def __init__(self, span: _Span, guard: Guard) -> None:
        self._span = span
        self._guard = guard

    @property
    def traceparent(self) -> str | None:
        if _is_suppressed():
            return None  # the span that is current is of what asked for none
        carrier: dict[str, str] = {}
        self._guard.run(lambda: _PROPAGATOR.inject(carrier))
        found = carrier.get(_HEADER)
        # One of a later version may be longer; a database that is not strict cuts it.
        return None if found is None or len(found) > MAX_TRACEPARENT else found

    def note(self, receipt: InvalidationReceipt) -> None:
        self._span.set({"messaging.batch.message_count": receipt.targets})


class _CacheSpan:
    """The span of an operation on so many ``keys``.

    :param failure: what it is called if a node failed it.
    """

    def __init__(self, span: _Span, keys: int, failure: str) -> None:
        self._span = span
        self._of = keys
        self._failure = failure

    def __enter__(self) -> _CacheSpan:
        self._span.__enter__()
        return self

    def note(
        self,
        *,
        failed: bool,
        nodes: Sequence[str],
        hits: int | None = None,
        size: int | None = None,
    ) -> None:
        found: dict[str, Any] = {"db.system.name": "memcached" if nodes else "memory"}
        if hits is not None:
            found["cache.hit"] = hits == self._of
            if self._of > 1:
                found["hydracache.hits"] = hits
        if size is not None:
            found["cache.item_size"] = size
        if len(nodes) == 1:
            found["server.address"], port = host_and_port(nodes[0])
            if port is not None:
                found["server.port"] = port
        self._span.set(found)
        if failed:
            self._span.fail_as(self._failure)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._span.__exit__(kind, exc, traceback)


def _is_suppressed() -> bool:
    """Whether the app asks for no spans here, by ``suppress_instrumentation()``."""
    return any(context_api.get_value(key) for key in _SUPPRESSING)


def _messaging(
    namespace: str, operation: str, kind: str, rows: int | None = None
) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "messaging.system": SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": namespace,
    }
    if rows is not None:
        attributes["messaging.batch.message_count"] = rows
    return attributes


def _counts(report: PublishReport) -> Attributes:
    """What came of rows, without what came of none."""
    outcomes = "published retried dead_lettered released lost unseen".split()
    counts = {name: getattr(report, name) for name in outcomes}
    return {f"hydracache.rows.{name}": n for name, n in counts.items() if n}


def _contexts_of(rows: Sequence[OutboxRow]) -> tuple[list[Link], int]:
    """Links to the contexts of rows, each once, and how many contexts are none."""
    links: list[Link] = []
    malformed = 0
    for text in dict.fromkeys(row.traceparent for row in rows):
        if text is None:
            continue
        if len(links) == MAX_LINKS:
            break
        context = _PROPAGATOR.extract({_HEADER: text}, Context())
        found = trace.get_current_span(context).get_span_context()
        if found.is_valid:
            links.append(Link(found))
        else:
            malformed += 1
    return links, malformed
