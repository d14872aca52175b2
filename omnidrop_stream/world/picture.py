"""Drawing: textured noisy backgrounds, moving coloured shapes and digits, grey distractors.

Coordinates are in cells of a 112 x 112 picture, whatever the size it is drawn at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from omnidrop_stream.world.items import COLOUR_NAMES, COLOURS, KINDS, Split

F32 = npt.NDArray[np.float32]
BASE = 112

# Digits as strokes in a box of [-1, 1] x [-1, 1] (x right, y down).
_STROKES: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "2": (
        (-0.6, -0.7, 0.0, -1.0),
        (0.0, -1.0, 0.6, -0.6),
        (0.6, -0.6, 0.5, -0.1),
        (0.5, -0.1, -0.6, 1.0),
        (-0.6, 1.0, 0.7, 1.0),
    ),
    "3": (
        (-0.6, -1.0, 0.6, -1.0),
        (0.6, -1.0, 0.0, -0.2),
        (0.0, -0.2, 0.6, 0.3),
        (0.6, 0.3, 0.3, 0.95),
        (0.3, 0.95, -0.6, 0.9),
    ),
    "4": ((0.3, -1.0, -0.7, 0.4), (-0.7, 0.4, 0.8, 0.4), (0.3, -1.0, 0.3, 1.0)),
    "7": ((-0.7, -1.0, 0.7, -1.0), (0.7, -1.0, -0.2, 1.0)),
}


@dataclass(frozen=True, slots=True)
class Thing:
    """A moving picture: centre at `from_s`, speed per second, size, turn, exact colour."""

    colour: int
    kind: int
    from_s: float
    to_s: float
    x: float
    y: float
    vx: float
    vy: float
    radius: float
    turn: float
    rgb: tuple[float, float, float]

    def centre(self, t: float) -> tuple[float, float]:
        """Where it is at stream time t; it bounces off the border."""
        dt = t - self.from_s
        return _bounce(self.x + self.vx * dt, self.radius), _bounce(
            self.y + self.vy * dt, self.radius
        )


@dataclass(frozen=True, slots=True)
class Speck:
    """A grey distractor that is never the answer to anything."""

    x: float
    y: float
    vx: float
    vy: float
    half_w: float
    half_h: float
    grey: float


def _bounce(v: float, radius: float) -> float:
    span = BASE - 2 * radius
    v = (v - radius) % (2 * span)
    return radius + (v if v <= span else 2 * span - v)


def make_thing(rng: np.random.Generator, colour: int, kind: int, start: float) -> Thing:
    """A thing somewhere in the picture for all or part of the chunk that begins at `start`."""
    a, b = ((0.0, 2.0), (0.0, 2.0), (0.0, 1.5), (0.5, 2.0), (0.0, 1.0), (1.0, 2.0))[rng.integers(6)]
    radius = float(rng.uniform(10.5, 14.0))
    x, y = rng.uniform(radius, BASE - radius, 2)
    vx, vy = rng.uniform(-9, 9, 2)
    rgb = np.asarray(COLOURS[COLOUR_NAMES[colour]]) * rng.uniform(0.87, 1.04) + rng.uniform(
        -9, 9, 3
    )
    r, g, b_ = np.clip(rgb, 0, 255)
    return Thing(
        colour,
        kind,
        start + a,
        start + b,
        float(x),
        float(y),
        float(vx),
        float(vy),
        radius,
        float(rng.uniform(-0.3, 0.3)),
        (float(r), float(g), float(b_)),
    )


def make_speck(rng: np.random.Generator) -> Speck:
    """A small grey bar or dot, moving."""
    x, y = rng.uniform(8, BASE - 8, 2)
    vx, vy = rng.uniform(-12, 12, 2)
    w, h = rng.uniform(1.5, 5.5, 2)
    return Speck(
        float(x), float(y), float(vx), float(vy), float(w), float(h), float(rng.uniform(20, 190))
    )


def background(rng: np.random.Generator, split: Split, size: int) -> F32:
    """A coloured gradient with stripes and soft blobs -> [size, size, 3]. Stripe angles differ by
    split.
    """
    yy, xx = _grid(size)
    base, slope = rng.uniform(0, 110, 3), rng.uniform(-40, 40, (2, 3))
    field = base + slope[0] * (xx / BASE - 0.5)[..., None] + slope[1] * (yy / BASE - 0.5)[..., None]
    angle = rng.uniform(1.05, 1.65) if split == "test" else rng.uniform(1.65, 4.19)
    wave = rng.uniform(0.08, 0.5)
    phase = wave * (np.cos(angle) * xx + np.sin(angle) * yy) + rng.uniform(0, 6.28)
    field = field + rng.uniform(0, 13) * np.sin(phase)[..., None]
    for _ in range(int(rng.integers(0, 4))):
        cx, cy = rng.uniform(0, BASE, 2)
        blob = np.exp(-((xx - cx) ** 2 + (yy - cy) ** 2) / (2 * rng.uniform(8, 22) ** 2))
        field = field + blob[..., None] * rng.uniform(-22, 22, 3)
    return np.asarray(field, np.float32)


def cover(thing: Thing, t: float, size: int) -> F32:
    """How much of each pixel the thing covers at stream time t -> [size, size] in 0..1."""
    yy, xx = _grid(size)
    cx, cy = thing.centre(t)
    reach = thing.radius * 1.25 + 2
    scale = size / BASE
    lo_x, hi_x = (int(np.clip(v * scale, 0, size)) for v in (cx - reach, cx + reach))
    lo_y, hi_y = (int(np.clip(v * scale, 0, size)) for v in (cy - reach, cy + reach))
    out = np.zeros((size, size), np.float32)
    box = np.s_[lo_y:hi_y, lo_x:hi_x]
    c, s = np.cos(thing.turn), np.sin(thing.turn)
    dx, dy = xx[box] - cx, yy[box] - cy
    d = _distance(KINDS[thing.kind], dx * c + dy * s, -dx * s + dy * c, thing.radius)
    out[box] = np.clip(0.5 - d * scale, 0, 1)
    return out


def paint(canvas: F32, alpha: F32, rgb: tuple[float, float, float]) -> F32:
    """Lay a colour over the canvas where alpha says so."""
    a = alpha[..., None]
    return canvas * (1 - a) + np.asarray(rgb, np.float32) * a


def paint_speck(canvas: F32, speck: Speck, t: float) -> F32:
    """Draw a distractor at time t since its scene began."""
    size = canvas.shape[0]
    scale = size / BASE
    cx, cy = _bounce(speck.x + speck.vx * t, 6.0), _bounce(speck.y + speck.vy * t, 6.0)
    lo_x, hi_x = int((cx - speck.half_w) * scale), int((cx + speck.half_w) * scale) + 1
    lo_y, hi_y = int((cy - speck.half_h) * scale), int((cy + speck.half_h) * scale) + 1
    canvas = canvas.copy()
    canvas[max(0, lo_y) : hi_y, max(0, lo_x) : hi_x] = speck.grey
    return canvas


def _grid(size: int) -> tuple[F32, F32]:
    axis = ((np.arange(size, dtype=np.float32) + 0.5) * (BASE / size)).astype(np.float32)
    yy, xx = np.meshgrid(axis, axis, indexing="ij")
    return yy, xx


def _distance(kind: str, x: F32, y: F32, r: float) -> F32:
    """Signed distance (negative inside) of points to a shape of radius r around the origin."""
    if kind == "circle":
        return np.asarray(np.hypot(x, y) - r, np.float32)
    if kind == "square":
        return np.asarray(np.maximum(np.abs(x), np.abs(y)) - r * 0.85, np.float32)
    if kind == "ring":
        return np.asarray(np.abs(np.hypot(x, y) - r * 0.8) - r * 0.22, np.float32)
    if kind == "cross":
        ax, ay = np.abs(x), np.abs(y)
        bars = np.minimum(np.maximum(ax - r, ay - r * 0.3), np.maximum(ay - r, ax - r * 0.3))
        return np.asarray(bars, np.float32)
    if kind == "triangle":
        sides = np.maximum((0.866 * x - 0.5 * y) - r * 0.55, (-0.866 * x - 0.5 * y) - r * 0.55)
        return np.asarray(np.maximum(y - r * 0.6, sides), np.float32)
    if kind == "star":
        step = 2 * np.pi / 5
        a = np.abs((np.arctan2(x, -y) + step / 2) % step - step / 2) / (step / 2)
        return np.asarray(np.hypot(x, y) - r * (1.05 - 0.62 * a), np.float32)
    lines = [_segment(x / r, y / r, *line) for line in _STROKES[kind]]
    return np.asarray((np.minimum.reduce(lines) - 0.21) * r, np.float32)


def _segment(x: F32, y: F32, x0: float, y0: float, x1: float, y1: float) -> F32:
    dx, dy = x1 - x0, y1 - y0
    t = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
    return np.asarray(np.hypot(x - x0 - t * dx, y - y0 - t * dy), np.float32)
