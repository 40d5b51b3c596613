"""The spans that a test's code has made, by the real SDK."""

from __future__ import annotations

from typing import Any, Sequence

from opentelemetry.sdk.trace import (
    ReadableSpan,
    SpanLimits,
    SpanProcessor,
    TracerProvider,
)
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode


class Spans:
    """A provider of a test's own, and what it has exported.

    :param most_links: links of a span that it keeps; by default as many as the SDK.
    """

    def __init__(self, most_links: int | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(
            shutdown_on_exit=False, span_limits=SpanLimits(max_links=most_links)
        )
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        #: For what a test traces itself: the request of an app.
        self.tracer = self.provider.get_tracer("test")

    def all(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    def names(self) -> list[str]:
        return [span.name for span in self.all()]

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        [span] = self.named(name)
        return span


class Broken(SpanProcessor):
    """Raises at each of the moments that it is told to."""

    def __init__(self, *moments: str) -> None:
        self.moments = moments
        self.raised = 0

    def _maybe(self, moment: str) -> None:
        if moment in self.moments:
            self.raised += 1
            raise RuntimeError(f"broken at {moment}")

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self._maybe("start")

    def on_end(self, span: ReadableSpan) -> None:
        self._maybe("end")


def linked(span: ReadableSpan) -> list[int]:
    """Ids of the spans that it links to."""
    return [link.context.span_id for link in span.links]


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def trace_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.trace_id


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def is_error(span: ReadableSpan) -> bool:
    return span.status.status_code is StatusCode.ERROR
