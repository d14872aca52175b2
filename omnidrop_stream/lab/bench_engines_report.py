"""Both engines side by side, as tables."""

from __future__ import annotations

from omnidrop_stream.lab.bench_cost import Spread
from omnidrop_stream.lab.bench_decode import ANSWERS, LATER
from omnidrop_stream.lab.bench_engines import ENGINES, Engines
from omnidrop_stream.lab.bench_feed import WINDOW_CHUNKS

HEADS = (
    "chunks",
    "text rows",
    "engine",
    "first ms",
    "question ms",
    "x less",
    "must read MiB",
    "of copy",
    "GFLOP",
    "floor ms",
    "of floor",
)
TOKEN_HEADS = (
    "chunks",
    "engine",
    "early token ms",
    "later token ms",
    "x less",
    "must read MiB",
    "floor ms",
    "of floor",
)
ARRIVAL_HEADS = ("chunks", "engine", "arrival ms", "attention ms", "share")


def engine_tables(engines: Engines) -> list[tuple[tuple[str, ...], list[list[str]]]]:
    """Heads and cells of each: questions, tokens of an answer, arriving chunks."""
    return [
        (HEADS, _question_cells(engines)),
        (TOKEN_HEADS, _token_cells(engines)),
        (ARRIVAL_HEADS, _arrival_cells(engines)),
    ]


def _question_cells(engines: Engines) -> list[list[str]]:
    copy = engines.rates.copy_bytes_per_s
    return [
        [
            str(r.window),
            str(r.text_rows),
            r.engine,
            f"{r.first_ms:.0f}",
            _spread(r.question_ms),
            f"{r.faster.median:.2f} ({r.faster.min:.2f} - {r.faster.max:.2f})",
            f"{r.read_bytes / 2**20:.0f}",
            f"{2 * r.read_bytes_per_s / copy:.0%}",
            f"{r.flops / 1e9:.1f}",
            f"{r.floor_ms:.0f}",
            f"{r.floor_ms / r.question_ms.median:.0%}",
        ]
        for r in engines.rows
    ]


def _token_cells(engines: Engines) -> list[list[str]]:
    return [
        [
            str(r.window),
            r.engine,
            _tenths(r.early_ms),
            _tenths(r.token_ms),
            f"{r.faster.median:.2f}",
            f"{r.read_bytes / 2**20:.0f}",
            f"{r.floor_ms:.1f}",
            f"{r.floor_ms / r.token_ms.median:.0%}",
        ]
        for r in engines.tokens
    ]


def _arrival_cells(engines: Engines) -> list[list[str]]:
    return [
        [
            str(r.window),
            r.engine,
            f"{r.arrival_ms.median:.0f}",
            f"{r.attention_ms.median:.0f}",
            f"{r.attention_ms.median / r.arrival_ms.median:.0%}",
        ]
        for r in engines.arrivals
    ]


def engine_lines(engines: Engines) -> list[str]:
    """What the tables mean, and growth from the smallest window to the largest."""
    rates = engines.rates
    lines = [
        "Question at full depth (read_side, retention as configured) and its one-token answer, "
        f"processor time, median (least - most) of {engines.rounds} rounds in turn after a first "
        "one that stands apart; x less: plain by this row",
        f"a copy reads {rates.copy_bytes_per_s / 2e9:.2f} GB/s and writes as much; matrices "
        f"multiply at {rates.matmul_flops_per_s / 1e9:.0f} GFLOP/s; of copy: bytes that must be "
        "read in the question's time, by what a copy reads in the same time",
        "GFLOP: products and attention of the text rows, without which there is no first token; "
        "floor: the larger of the bytes at a copy's rate of reading and the products at the rate "
        "of large square ones",
        f"token: of {ANSWERS} answers; early: from the second on, in which the fast engine copies "
        "what it reads in the trunk, on a processor a layer with each token; later: the last "
        f"{LATER}; floor: the weights and the answer's keys and values at a copy's rate of reading",
        "arrival: the chunks behind a full window, encoders excluded, mean of "
        f"{WINDOW_CHUNKS}; attention: their attention "
        "again, with all that the engine does for it; share: of the arrival",
    ]
    for engine in ENGINES:
        own = [r for r in engines.rows if r.engine == engine]
        most = [r for r in own if r.text_rows == max(r.text_rows for r in own)]
        arrivals = [r for r in engines.arrivals if r.engine == engine]
        first, last = most[0], most[-1]
        if first is last:
            continue
        wider = last.window / first.window
        rest = [r.arrival_ms.median - r.attention_ms.median for r in (arrivals[0], arrivals[-1])]
        lines.append(
            f"{engine}: from {first.window} to {last.window} chunks ({wider:.0f} times) a question "
            f"takes {last.question_ms.median / first.question_ms.median:.1f} times as long; an "
            f"arrival without attention {rest[0]:.0f} and {rest[1]:.0f} ms"
        )
    return lines


def _tenths(ms: Spread) -> str:
    return f"{ms.median:.1f} ({ms.min:.1f} - {ms.max:.1f})"


def _spread(ms: Spread) -> str:
    return f"{ms.median:.0f} ({ms.min:.0f} - {ms.max:.0f})"
