"""Counters that go on from what a file of Prometheus's text format has.

A process that cron starts lives for a second: its counters alone would begin at 0 each
time, and Prometheus would take most of what they count for nothing new.
"""

from __future__ import annotations

from typing import Dict, FrozenSet, Iterator, Tuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from hydracache_sync.printable import printable_logger

logger = printable_logger(__name__)

#: Samples by their names and labels.
_Samples = Dict[Tuple[str, FrozenSet[Tuple[str, str]]], Sample]

#: How the names of samples end that grow: of counters and histograms.
_ENDS = ("_total", "_bucket", "_count", "_sum")


class Continued:
    """What a registry collects, added to what is in the file at ``path``."""

    def __init__(self, path: str, registry: CollectorRegistry) -> None:
        self._path = path
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        earlier = self._earlier()
        for family in self._registry.collect():
            if family.type in ("counter", "histogram"):
                samples = _by_labels(family)
                names = [f"{family.name}{end}" for end in _ENDS]
                for key, sample in earlier.items():
                    if sample.name in names:
                        more = samples[key].value if key in samples else 0
                        samples[key] = sample._replace(value=sample.value + more)
                family.samples = list(samples.values())
            yield family

    def _earlier(self) -> _Samples:
        found: _Samples = {}
        try:
            with open(self._path, encoding="utf-8") as file:
                for family in text_string_to_metric_families(file.read()):
                    found.update(_by_labels(family))
        except FileNotFoundError:
            pass
        except ValueError as exc:
            logger.warning("%s is no metrics file, counters begin: %s", self._path, exc)
        return found


def _by_labels(family: Metric) -> _Samples:
    """The samples that grow, of those of ``family``."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample
        for sample in family.samples
        if sample.name.endswith(_ENDS)
    }
