"""The page's figures: plain numbers in, an SVG as data URI out.

Draws on canvases of its own, without pyplot's global state, with fixed metadata and ids, so that
equal numbers give equal bytes. Knows neither files nor documents.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

# The palette of Okabe and Ito: told apart by colour-blind readers and in grey print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
REAL, INK, GRID = "#555555", "#333333", "#e4e4e4"
# Any: matplotlib types the names of its parameters as a closed list of literals.
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "promptehr",
    "font.size": 9.0,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
PAGE_WIDTH, PANEL_WIDTH, PANEL_HEIGHT, PER_ROW = 11.2, 3.7, 2.75, 4
MANY_POINTS = 400

Point = tuple[float, float]


@dataclass(frozen=True)
class Lines:
    """One panel of curves.

    Attributes:
        title: Above the panel.
        lines: Name to its (x, y) points.
        marked: (x, y) of a point to ring, None for none.
    """

    title: str
    lines: Mapping[str, Sequence[Point]]
    marked: Point | None = None


@dataclass(frozen=True)
class Cloud:
    """One panel of a scatter plot: (real, synthetic) shares, both above 0 where drawn."""

    title: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Shares:
    """One panel of a histogram: value to share for real patients and each experiment.

    Attributes:
        title: Above the panel.
        label: Below the panel.
        last: Value that stands for itself and all above it.
        real: Shares of the real patients, drawn as bars.
        synthetic: Name to shares, drawn as lines.
    """

    title: str
    label: str
    last: int
    real: Mapping[int, float]
    synthetic: Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Ranges:
    """One group of a dot plot: (value, low, high) by series.

    Attributes:
        title: Beside the group.
        marks: Series to its value and 95 % interval.
    """

    title: str
    marks: Mapping[str, tuple[float, float, float]]


def curves(panels: Sequence[Lines], *, y: str) -> str:
    """Curves over epochs on a logarithmic scale, one panel per entry."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _grid(len(panels), height=PANEL_HEIGHT)
        names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
        for place, panel in zip(axes, panels, strict=True):
            _draw_curves(place, panel, names)
        for place in axes[::PER_ROW]:
            place.set_ylabel(y)
        _legend(figure, axes)
        return _data_uri(figure)


def scatter(panels: Sequence[Cloud]) -> str:
    """Real against synthetic prevalence of each code, logarithmic, with the line of equality."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _grid(len(panels), height=min(PANEL_WIDTH, PAGE_WIDTH / min(len(panels), PER_ROW)))
        drawn = [value for panel in panels for point in panel.points for value in point if value > 0]
        low, high = min(drawn, default=1e-3), max(drawn, default=1.0)
        for place, panel in zip(axes, panels, strict=True):
            _draw_cloud(place, panel, low / 1.5, min(high * 1.5, 1.0))
        for place in axes[::PER_ROW]:
            place.set_ylabel("synthetic patients with the code")
        return _data_uri(figure)


def histograms(panels: Sequence[Shares]) -> str:
    """Shares of real patients as bars and of synthetic ones as lines, one panel per entry."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _grid(len(panels), height=PANEL_HEIGHT, width=PAGE_WIDTH / 2)
        for place, panel in zip(axes, panels, strict=True):
            _draw_shares(place, panel)
        axes[0].set_ylabel("share")
        _legend(figure, axes)
        return _data_uri(figure)


def ranges(groups: Sequence[Ranges], *, x: str, chance: float, plain: Sequence[str]) -> str:
    """Values with their intervals, a group per line and a series per colour.

    Args:
        groups: From top to bottom.
        x: Label of the axis.
        chance: Where a dashed line stands for chance.
        plain: Series that are yardsticks, drawn in grey.
    """
    with matplotlib.rc_context(STYLE):
        series = list(dict.fromkeys(name for group in groups for name in group.marks))
        colours = dict(zip([name for name in series if name not in plain], COLOURS * 9, strict=False))
        height = 0.1 * len(groups) * (len(series) + 1) + 0.9
        figure, (place,) = _grid(1, height=height, width=0.85 * PAGE_WIDTH)
        place.axvline(chance, color="#999999", linewidth=0.8, linestyle="--")
        for nth, name in enumerate(series):
            _draw_ranges(place, groups, name, nth / (len(series) + 1), colours.get(name))
        middle = (len(series) - 1) / (len(series) + 1) / 2
        place.set_yticks([line + middle for line in range(len(groups))], [group.title for group in groups])
        place.invert_yaxis()
        place.tick_params(axis="y", length=0)
        place.set_xlabel(x)
        place.grid(axis="x", color=GRID, linewidth=0.6)
        _legend(figure, [place])
        return _data_uri(figure)


# --- panels ------------------------------------------------------------------------------------


def _draw_curves(place: Axes, panel: Lines, names: Sequence[str]) -> None:
    place.set_yscale("log")
    for name, points in panel.lines.items():
        colour = COLOURS[names.index(name) % len(COLOURS)]
        place.plot(
            *zip(*points, strict=True), color=colour, label=name, linewidth=1.4, marker=".", markersize=4
        )
    if panel.marked:
        place.plot(
            *panel.marked, marker="o", markersize=8, markerfacecolor="none", color=INK, linestyle="none"
        )
    place.set_title(panel.title, loc="left")
    place.set_xlabel("epoch")
    place.xaxis.set_major_locator(MaxNLocator(integer=True))
    place.grid(color=GRID, linewidth=0.6)
    plain = FuncFormatter(_plain_tick)
    place.yaxis.set_major_formatter(plain)
    place.yaxis.set_minor_formatter(plain)
    place.tick_params(axis="y", which="minor", labelsize=7)


def _draw_cloud(place: Axes, panel: Cloud, low: float, high: float) -> None:
    above = [(x, y) for x, y in panel.points if x > 0 and y > 0]
    place.set_xscale("log")
    place.set_yscale("log")
    place.set_xlim(low, high)
    place.set_ylim(low, high)
    place.set_aspect("equal")
    place.plot([low, high], [low, high], color="#999999", linewidth=0.8)
    if above:
        x, y = zip(*above, strict=True)
        dots = place.scatter(x, y, s=9, color=COLOURS[0], alpha=0.5, linewidths=0)
        # Thousands of circles are smaller and faster as pixels.
        dots.set_rasterized(len(above) > MANY_POINTS)
    place.set_title(panel.title, loc="left")
    place.set_xlabel("real test patients with the code")
    place.grid(color=GRID, linewidth=0.6)
    percent = FuncFormatter(lambda value, _: f"{100 * value:g} %")
    place.xaxis.set_major_formatter(percent)
    place.yaxis.set_major_formatter(percent)


def _draw_shares(place: Axes, panel: Shares) -> None:
    place.bar(list(panel.real), list(panel.real.values()), color="#cccccc", width=0.85, label="real test")
    for number, (name, shares) in enumerate(panel.synthetic.items()):
        colour = COLOURS[number % len(COLOURS)]
        place.plot(
            list(shares),
            list(shares.values()),
            color=colour,
            linewidth=1.3,
            zorder=20 - number,
            marker=".",
            markersize=4,
            label=name,
        )
    place.set_title(panel.title, loc="left")
    place.set_xlabel(panel.label)
    place.xaxis.set_major_locator(MaxNLocator(integer=True))
    place.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}{'+' if value == panel.last else ''}")
    )
    place.grid(axis="y", color=GRID, linewidth=0.6)
    place.set_axisbelow(True)


def _draw_ranges(place: Axes, groups: Sequence[Ranges], name: str, offset: float, colour: str | None) -> None:
    found = [(line + offset, *group.marks[name]) for line, group in enumerate(groups) if name in group.marks]
    heights, values, lows, highs = (list(column) for column in zip(*found, strict=True))
    style = {"real": "s"}.get(name, "o") if colour is None else "o"
    place.hlines(heights, lows, highs, color=colour or REAL, linewidth=1.1, alpha=0.75)
    filled = colour or (REAL if style == "s" else "white")
    place.plot(
        values, heights, style, color=colour or REAL, markerfacecolor=filled, markersize=4.5, label=name
    )


# --- canvas ------------------------------------------------------------------------------------


def _grid(panels: int, *, height: float, width: float = PANEL_WIDTH) -> tuple[Figure, list[Axes]]:
    """Panels in rows, none wider than `width` inches, and no row wider than the page."""
    columns = min(panels, PER_ROW)
    width = min(width, PAGE_WIDTH / columns)
    rows = -(-panels // PER_ROW)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, place + 1) for place in range(panels)]
    return figure, axes


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend under all panels: a name has one colour in all of them."""
    found: dict[str, Artist] = {}
    for place in axes:
        handles, names = place.get_legend_handles_labels()
        found.update({str(name): handle for name, handle in zip(names, handles, strict=True)})
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=min(len(found), 6))


def _plain_tick(value: float, _: int | None) -> str:
    """Some marks of each decade as plain numbers; the others stay bare."""
    return f"{value:g}" if f"{value:e}"[0] in "123457" else ""


def _data_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    FigureCanvasSVG(figure)
    figure.savefig(buffer, format="svg", dpi=200, metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
