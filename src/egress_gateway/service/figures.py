"""Figures that are read at the moment somebody asks for them.

A component names its figures once, with help, labels and kind; a scrape reads them from what the
component knows at that moment. So there is nothing to clear and nothing left over: a series is
there as long as what it tells of, and two scrapes never see half of a change. What only happens (an
attempt, its duration) is counted where it happens, by prometheus_client's own instruments.

Names follow https://prometheus.io/docs/practices/naming/: one prefix, base units, counters end with
``_total``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

import egress_gateway

CONFIGURATION: Final = ("namespace", "configuration")
"""Labels of what is told of each configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """``help`` says meaning and unit; the name of a counter ends with ``_total``."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    kind: Literal["gauge", "counter"] = "gauge"

    def __call__(self, value: float, *labels: str) -> Sample:
        """One value of it. ``labels`` are in the figure's order."""
        return Sample(self, value, labels)


class Sample(NamedTuple):
    """A figure's value with its labels, in the figure's order."""

    figure: Figure
    value: float
    labels: tuple[str, ...] = ()


class Snapshot(Collector):
    """``read`` answers what there is now; it must not block. The same labels twice are added up."""

    def __init__(self, figures: Sequence[Figure], read: Callable[[], Iterable[Sample]]) -> None:
        self._figures = figures
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """For prometheus_client. Values with equal labels are added up."""
        found: dict[Figure, dict[tuple[str, ...], float]] = {f: {} for f in self._figures}
        for figure, value, labels in self._read():
            series = found[figure]
            series[labels] = series.get(labels, 0.0) + value
        for figure, series in found.items():
            counts = figure.kind == "counter"
            family = (CounterMetricFamily if counts else GaugeMetricFamily)(
                figure.name, figure.help, labels=figure.labels
            )
            for labels, value in sorted(series.items()):
                family.add_metric(labels, value)
            yield family


class Fact(Snapshot):
    """What is so: 1, with labels that say it. Nothing until somebody has told it."""

    def __init__(self, figure: Figure) -> None:
        self._figure = figure
        self._labels: tuple[str, ...] | None = None
        super().__init__([figure], self._samples)

    def tell(self, *labels: str) -> None:
        """In the order of the figure's labels. The last call counts."""
        self._labels = labels

    def _samples(self) -> Iterator[Sample]:
        if self._labels is not None:
            yield self._figure(1, *self._labels)


class Tally:
    """Counts by labels that outlive what was counted, for a ``Figure`` of kind counter."""

    def __init__(self, figure: Figure) -> None:
        self._figure = figure
        self._counts: dict[tuple[str, ...], float] = {}

    def add(self, value: float, *labels: str) -> None:
        """Adds ``value`` to the series of these labels."""
        self._counts[labels] = self._counts.get(labels, 0.0) + value

    def keep(self, wanted: Callable[[tuple[str, ...]], bool]) -> None:
        """Forgets the others: what they told of is gone."""
        self._counts = {labels: n for labels, n in self._counts.items() if wanted(labels)}

    def samples(self) -> Iterator[Sample]:
        """For a ``Snapshot``, in the order in which they were first counted."""
        for labels, count in self._counts.items():
            yield Sample(self._figure, count, labels)


BUILD: Final = Figure(
    name="egress_gateway_build_info",
    help="1; the labels say which component this is, and of which version.",
    labels=("component", "version"),
)


def build(component: str) -> Snapshot:
    """Which program this is."""
    return Snapshot([BUILD], lambda: [BUILD(1, component, egress_gateway.__version__)])
