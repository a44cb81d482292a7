"""Labels beside the points of a panel, none on another and none on a point."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation

DISTANCES = (5, 11, 18, 26, 36, 48)  # points from a word to its point


def label(axes: Axes, words: Iterable[object], x: Iterable[float], y: Iterable[float], **style: Any) -> None:
    """A word at each point, to be placed by `place_labels`."""
    for word, point in zip(words, zip(x, y)):
        axes.annotate(str(word), point, (0, 0), textcoords="offset points", parse_math=False, **style)


def place_labels(figure: Figure) -> None:
    """Those of all panels, once everything else is drawn: the layout is settled first."""
    FigureCanvasAgg(figure)  # their size takes a renderer
    figure.draw_without_rendering()
    for axes in figure.axes:
        place_panel_labels(axes)


def place_panel_labels(axes: Axes) -> None:
    """Move each word to the first free place around its point: inside the panel, on no word and no point."""
    labels = [text for text in axes.texts if isinstance(text, Annotation)]
    if not labels:
        return
    canvas: Any = axes.figure.canvas
    renderer, scale = canvas.get_renderer(), axes.figure.dpi / 72
    points = axes.transData.transform([text.xy for text in labels])
    inside = axes.get_window_extent(renderer).extents
    taken = np.hstack([points - 3 * scale, points + 3 * scale])  # left, low, right, high
    for text, point in zip(labels, points):
        extent = text.get_window_extent(renderer)
        distances, boxes = boxes_around(point, np.array([extent.width, extent.height]), scale)
        outside = (boxes[:, :2] < inside[:2]).any(1) | (boxes[:, 2:] > inside[2:]).any(1)
        covered = (boxes[:, None, :2] < taken[:, 2:]) & (taken[:, :2] < boxes[:, None, 2:])
        best = np.lexsort((covered.all(2).sum(1), outside))[0]  # the nearest of the best
        box = boxes[best]
        taken = np.vstack([taken, box])
        text.set_position(tuple((box[:2] - point) / scale))
        if distances[best] > DISTANCES[0]:  # a thin line shows whose it is
            ends = axes.transData.inverted().transform([point, np.clip(point, box[:2], box[2:])])
            axes.plot(*ends.T, color="0.6", linewidth=0.4, linestyle="-", zorder=0.5)


def boxes_around(point: np.ndarray, size: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Distances (n,) and boxes (n, 4) of a word of that size in all directions from its point, near ones first."""
    around = np.arange(0, 2 * np.pi, np.pi / 8)
    distances, angles = np.repeat(DISTANCES, len(around)), np.tile(around, len(DISTANCES))
    ways = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    corners = point + distances[:, None] * scale * ways - size * (1 - ways) / 2
    return distances, np.hstack([corners, corners + size])
