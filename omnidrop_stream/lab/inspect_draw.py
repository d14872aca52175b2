"""An inspection as one picture. matplotlib is an extra of its own, and drawn with directly: no
global figure, no window.
"""

from __future__ import annotations

import importlib.util
import io
import math
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from omnidrop_stream.errors import MissingDependency
from omnidrop_stream.lab.inspect_types import AttentionMap, Cosines, Inspection, Retention

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

MOST_MAPS = 6
COLUMNS = 3
COLOURS = {"video": "#0072B2", "audio": "#D55E00", "audio-video": "#009E73"}
"""Told apart by colour-blind eyes (Okabe and Ito)."""
STYLES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)))
_WIDTH_IN, _ROW_IN, _DPI = 13.0, 3.5, 90


def need_matplotlib() -> None:
    """Raise MissingDependency where it is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependency(
            "a picture needs matplotlib, which is not installed: pip install "
            "'omnidrop-stream[inspect]', or leave --png out (--json works without it)"
        )


def draw(found: Inspection, path: Path) -> None:
    """Write ``found`` to ``path`` as a PNG. Raises MissingDependency."""
    need_matplotlib()
    from matplotlib.figure import Figure

    maps = found.maps[:MOST_MAPS]
    map_rows = math.ceil(len(maps) / COLUMNS)
    spectra = found.projection is not None or found.cosines is not None
    rows = map_rows + 1 + spectra
    figure = Figure(figsize=(_WIDTH_IN, _ROW_IN * rows + 0.6), dpi=_DPI, layout="constrained")
    figure.suptitle(_title(found), fontsize=12)
    bands = iter(figure.subfigures(rows, 1, squeeze=False)[:, 0])
    for first in range(0, len(maps), COLUMNS):
        _maps(next(bands), maps[first : first + COLUMNS], first)
    _curves(next(bands), found)
    if spectra:
        _embeddings(next(bands), found)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """With a palette, which takes a third of the bytes; Pillow comes with matplotlib."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    picture = Image.open(drawn).convert("RGB")
    palette = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette.save(path, format="png", optimize=True)


def _title(found: Inspection) -> str:
    model, pruning = found.settings["model"], found.settings["pruning"]
    kept = pruning["retention"]
    share = "given schedule" if kept is None else f"{100 * kept:g} %"
    lines = [
        f"{Path(model['name']).name}: {model['layers']} layers, width {model['width']}; "
        f"{found.clips} clip{'s' * (found.clips != 1)}, {found.chunks} chunks of 2 s, "
        f"{found.recall.questions} question{'s' * (found.recall.questions != 1)}; "
        f"answers with {pruning['policy']}, {share}"
    ]
    if len(found.maps) == 1:
        lines.append(_quoted(found.maps[0].question, 110))
    return "\n".join(lines)


def _quoted(text: str, width: int) -> str:
    short = " ".join(text.split())
    short = short if len(short) <= 2 * width else short[: 2 * width - 1] + "…"
    return "\n".join(textwrap.wrap(f"“{short}”", width)) or "“”"


def _maps(band: SubFigure, maps: Sequence[AttentionMap], first: int) -> None:
    """Fig. 2a for up to three questions."""
    axes = band.subplots(1, COLUMNS, squeeze=False)[0]
    if not first:
        band.suptitle(
            "Attention of the question to each chunk (Eq. 5, nothing dropped)", fontsize=11
        )
    for ax, one in zip(axes, maps, strict=False):
        strongest = [max(layer) or 1.0 for layer in one.mean]
        shown = [[x / top for x in layer] for layer, top in zip(one.mean, strongest, strict=True)]
        start, stop = one.starts_s[0], one.starts_s[-1] + 2.0
        image = ax.imshow(
            shown,
            aspect="auto",
            origin="lower",
            cmap="magma",
            vmin=0.0,
            vmax=1.0,
            interpolation="nearest",
            extent=(start, stop, -0.5, len(shown) - 0.5),
        )
        kind = f"[{one.kind}] " if one.kind else ""
        answer = _quoted(one.answer or "nothing", 40)
        ax.set_title(f"{kind}{_quoted(one.question, 46)}\nanswered {answer}", fontsize=9)
        ax.set_xlabel("stream time (s)")
        ax.set_ylabel("decoder layer")
        _whole_layers(ax, len(shown), vertical=True)
    label = "share of the layer's strongest chunk"
    band.colorbar(image, ax=list(axes[: len(maps)]), label=label, pad=0.01, aspect=30)
    for ax in axes[len(maps) :]:
        ax.set_axis_off()


def _curves(band: SubFigure, found: Inspection) -> None:
    """Fig. 2b and Fig. 4."""
    recall, sound, pictures = band.subplots(1, COLUMNS)
    for medium, values in (("video", found.recall.video), ("audio", found.recall.audio)):
        if values:
            recall.plot(range(len(values)), values, color=COLOURS[medium], label=medium, marker=".")
    recall.axhline(0.2, color="0.6", linewidth=1, linestyle=":", label="spread evenly")
    recall.set_title("Attention held by the strongest 20 % of tokens", fontsize=10)
    recall.set_ylabel("share of the medium's attention")
    for ax, medium in ((sound, "audio"), (pictures, "video")):
        for number, one in enumerate(_most_asked(found.retention)):
            values = one.audio if medium == "audio" else one.video
            name = f"{one.kind} ({one.questions})"
            style = STYLES[number % len(STYLES)]
            shade = COLOURS[medium] if len(found.retention) == 1 else f"C{number}"
            percent = [100 * x for x in values]
            ax.plot(range(len(values)), percent, linestyle=style, color=shade, label=name)
        ax.set_title(f"{medium.capitalize()} tokens that enter each layer", fontsize=10)
        ax.set_ylabel("% of those that the towers make")
    for ax in (recall, sound, pictures):
        ax.set_ylim(bottom=0.0)
        ax.set_xlabel("decoder layer")
        ax.grid(alpha=0.25)
        _whole_layers(ax, found.settings["model"]["layers"], vertical=False)
        if ax.lines:
            title = None if ax is recall else "kind (questions)"
            ax.legend(fontsize=8, title=title, title_fontsize=8)
    recall.set_ylim(0.0, 1.0)


def _most_asked(kinds: Sequence[Retention]) -> list[Retention]:
    """As many as can be told apart; the JSON has all."""
    return sorted(kinds, key=lambda one: -one.questions)[: len(STYLES)]


def _embeddings(band: SubFigure, found: Inspection) -> None:
    """Fig. 1."""
    scatter, density, none = band.subplots(1, COLUMNS, width_ratios=(1, 1.3, 0.01))
    none.set_axis_off()
    if found.projection is None:
        scatter.set_axis_off()
    else:
        shown = found.projection
        for name, points in (("video", shown.video), ("audio", shown.audio)):
            x, y = zip(*points, strict=True)
            label = f"{name} ({len(points)} tokens)"
            scatter.scatter(x, y, s=5, alpha=0.5, linewidths=0, color=COLOURS[name], label=label)
        one, two = (100 * share for share in shown.explained)
        scatter.set_xlabel(f"first component ({one:.0f} % of the variance)")
        scatter.set_ylabel(f"second component ({two:.0f} %)")
        scatter.set_title("Input embeddings, principal components", fontsize=10)
        scatter.legend(fontsize=8, markerscale=3)
    if found.cosines is None:
        density.set_axis_off()
        return
    edges = found.cosines.edges
    centres = [(a + b) / 2 for a, b in pairwise(edges)]
    for name, values in found.cosines.density.items():
        shade = COLOURS.get(name, COLOURS[name.split("-")[0]])
        label = f"{name}, mean {found.cosines.mean[name]:.2f}"
        density.plot(centres, values, color=shade, label=label)
        density.fill_between(centres, values, color=shade, alpha=0.15)
    density.set_title("Cosine of two input embeddings of one clip", fontsize=10)
    density.set_xlabel("cosine")
    density.set_ylabel("density")
    density.grid(alpha=0.25)
    density.set_ylim(bottom=0.0)
    density.set_xlim(_least(found.cosines), 1.0)
    density.legend(fontsize=8)


def _least(found: Cosines) -> float:
    """Below it nothing is worth showing."""
    seen = [n for values in found.density.values() for n, x in enumerate(values) if x > 0.0]
    return max(-1.0, found.edges[min(seen)] - 0.1)


def _whole_layers(ax: Axes, layers: int, vertical: bool) -> None:
    """Ticks at whole layers, the last among them."""
    step = max(1, layers // 7)
    ticks = [*range(0, layers - step // 2 - 1, step), layers - 1]
    (ax.set_yticks if vertical else ax.set_xticks)(sorted(set(ticks)))
