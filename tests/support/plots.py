"""Draws the plots of pages from the result files of benchmarks, as SVG beside them.

    PYTHONPATH=tests python -m support.plots    needs matplotlib

A plot has panels, one above the other, which have lines. It is readable on light and on
dark: its background is transparent, and its colours differ from both.
"""

from __future__ import annotations

import json
import re
from hashlib import sha256
from typing import Any, Callable, Dict, List, Tuple

from support.generated import FIGURES, result

#: Of a line.
Points = List[Tuple[float, float]]

#: By the title of the panel, and by the name of the line.
Panels = Dict[str, Dict[str, Points]]

#: As far from white as from a dark page.
NEUTRAL = "#777777"
COLOURS = ["#2f86d6", "#d9731a", "#2b9a66", "#b45fc9", "#c2533f", "#8a8420"]
MARKERS = ["o", "s", "^", "D", "v", "P"]

STYLE = {
    "svg.fonttype": "none",
    # The same bytes for the same figures.
    "svg.hashsalt": "hydracache",
    "font.family": "sans-serif",
    "savefig.transparent": True,
    "text.color": NEUTRAL,
    "axes.labelcolor": NEUTRAL,
    "axes.edgecolor": NEUTRAL,
    "axes.titlecolor": NEUTRAL,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": NEUTRAL,
    "grid.alpha": 0.25,
    "xtick.color": NEUTRAL,
    "ytick.color": NEUTRAL,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 5,
}

DATABASES = {"sqlite": "SQLite", "mariadb": "MariaDB"}


def hit_rate() -> Panels:
    lines: dict[str, Points] = {}
    for name, what in (("hit_rate", "tags"), ("hit_rate_login", "tags, user read")):
        for app, rate, _, hits, plain, *_ in result(name)["tables"][0]["rows"]:
            if app == "Flask-SQLAlchemy":
                point = float(rate), _number(hits)
                lines.setdefault(what, []).append(point)
                if name == "hit_rate":
                    point = float(rate), _number(plain)
                    lines.setdefault("a plain key", []).append(point)
    return {"": lines}


def growth() -> Panels:
    panels: Panels = {}
    for name, title in DATABASES.items():
        [table] = result(f"growth_{name}")["tables"]
        counts = [_number(column) for column in table["columns"][1:]]
        panels[title] = {
            call: [*zip(counts, map(_number, cells))] for call, *cells in table["rows"]
        }
    return panels


def latency() -> Panels:
    """Each way is a line from its 10th to its 99th percentile, with its median."""
    panels: Panels = {}
    for table in result("latency")["tables"][: len(DATABASES)]:
        lines = panels[DATABASES[table["title"].partition(",")[0]]] = {}
        for at, (way, *figures) in enumerate(reversed(table["rows"])):
            p10, median, _, p99 = map(float, figures[:4])
            lines[way] = [(p10, at), (median, at), (p99, at)]
    return panels


def drain() -> Panels:
    panels: Panels = {}
    for name, title in (
        ("mysql_outbox", "MariaDB"),
        ("sqlite_outbox_memory", "SQLite"),
    ):
        table = result(name)["tables"][-1]
        panels[title] = {
            column: [(float(row[0]), _number(row[at])) for row in table["rows"]]
            for at, column in enumerate(table["columns"])
            if at
        }
    return panels


def _number(cell: str) -> float:
    """The one that a cell begins with: 1,000 of "1,000 rows/s, 0.93"."""
    found = re.match(r"[\d,]*\d(\.\d+)?", cell)
    assert found, cell
    return float(found[0].replace(",", ""))


def _log_x(axes: Any, lines: dict[str, Points]) -> None:
    from matplotlib.ticker import EngFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_xticks([x for x, _ in [*lines.values()][0]])
    axes.get_xaxis().set_minor_locator(NullLocator())
    axes.get_xaxis().set_major_formatter(EngFormatter(sep=" "))


def _hit_rate_axes(axes: Any, lines: dict[str, Points]) -> None:
    _log_x(axes, lines)
    axes.get_xaxis().set_major_formatter("{x:g}")
    axes.set(ylim=(0, 101), xlabel="writes a second", ylabel="hits, % of reads")


def _growth_axes(axes: Any, lines: dict[str, Points]) -> None:
    _log_x(axes, lines)
    axes.set(yscale="log", xlabel="finished rows in the table", ylabel="milliseconds")
    axes.get_yaxis().set_major_formatter("{x:g}")


def _latency_axes(axes: Any, lines: dict[str, Points]) -> None:
    axes.set(xscale="log", xlabel="milliseconds after COMMIT: p10 to p99, and median")
    axes.set_yticks(range(len(lines)), lines)
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.get_xaxis().set_major_formatter("{x:g}")


def _drain_axes(axes: Any, lines: dict[str, Points]) -> None:
    from matplotlib.ticker import EngFormatter

    axes.set(xlabel="processes", ylabel="rows a second, of all", ylim=(0, None))
    axes.set_xticks([x for x, _ in [*lines.values()][0]])
    axes.get_yaxis().set_major_formatter(EngFormatter(sep=" "))


#: By the name of the file, what makes the panels, and what sets their axes.
PLOTS: dict[str, tuple[Callable[[], Panels], Callable[[Any, dict[str, Points]], None]]]
PLOTS = {
    "hit_rate": (hit_rate, _hit_rate_axes),
    "growth": (growth, _growth_axes),
    "latency": (latency, _latency_axes),
    "drain": (drain, _drain_axes),
}


def source_of(name: str) -> str:
    """What a plot says of its figures, by which a test knows that it is of these."""
    lines = json.dumps(PLOTS[name][0]())
    return f"figures sha256:{sha256(lines.encode()).hexdigest()}"


def draw(name: str) -> None:
    from matplotlib import pyplot

    make, set_axes = PLOTS[name]
    panels = make()
    figure, found = pyplot.subplots(
        len(panels),
        figsize=(5.6, 0.6 + 2.4 * len(panels)),
        layout="constrained",
        squeeze=False,
    )
    labels = [*dict.fromkeys(label for lines in panels.values() for label in lines)]
    looks = {
        label: {"color": color, "marker": marker}
        for label, color, marker in zip(labels, COLOURS, MARKERS)
    }
    # The latency's names are at its lines, which have one mark, the median.
    ranges = name == "latency"
    keys: dict[str, Any] = {}
    for axes, (title, lines) in zip(found[:, 0], panels.items()):
        for label, points in lines.items():
            [keys[label]] = axes.plot(
                *zip(*points), **looks[label], markevery=[1] if ranges else None
            )
        axes.set_title(title)
        set_axes(axes, lines)
    if not ranges:
        figure.legend(keys.values(), keys, loc="outside upper center", ncols=4)
    metadata = {"Date": None, "Description": source_of(name)}
    figure.savefig(FIGURES / f"{name}.svg", metadata=metadata)
    pyplot.close(figure)


def main() -> None:
    # Here and not above: the suite has no matplotlib.
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(STYLE)
    for name in PLOTS:
        draw(name)


if __name__ == "__main__":
    main()
