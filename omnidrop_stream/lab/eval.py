"""``omnidrop eval``: answers and evidence on test streams of the world, over a grid of settings.

A stream is the unit of work and of statistics: its record is written when all its questions are
answered, a run that is started again goes on after the last record, and standard errors are
clustered by stream.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from omnidrop_stream.errors import ConfigError
from omnidrop_stream.lab.bench_cost import conditions
from omnidrop_stream.lab.eval_check import check_rolling, rolling, score_check, streamed
from omnidrop_stream.lab.eval_gate import play_gate, score_gate
from omnidrop_stream.lab.eval_past import play_past, score_past
from omnidrop_stream.lab.eval_play import apart, depth_of, play
from omnidrop_stream.lab.eval_score import clustered, difference, score_evidence
from omnidrop_stream.lab.eval_types import (
    Cell,
    Check,
    EvalSettings,
    Mean,
    Record,
    Report,
    Row,
    Versus,
)
from omnidrop_stream.model.load import checkpoint_folder
from omnidrop_stream.model.quantised import plain_tensors
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.world import QUESTION_KINDS

SINGLE_HOP = ("visual", "audio", "order", "yes/no", "absence")
UNTOLD = "not told (there is no built.json beside the weights); see the model card"
LATER = ("streams", "baselines", "timed", "batch")
"""Settings of the grid that a run may go on with changed."""
GROUPS = {
    **QUESTION_KINDS,
    "single-hop": tuple(kind for group in SINGLE_HOP for kind in QUESTION_KINDS[group]),
    "all": tuple(kind for kinds in QUESTION_KINDS.values() for kind in kinds),
}


class Evaluation:
    """One model on one grid; `steps` does what `done` does not hold yet."""

    def __init__(self, model: QwenOmni, settings: EvalSettings) -> None:
        """Raises ConfigError where no cell of the grid can be reached."""
        self._model, self._settings = model, settings
        self.depths: dict[Cell, int] = {}
        self.unreachable: dict[str, str] = {}
        for cell in settings.cells:
            try:
                self.depths[cell] = depth_of(model, settings, cell)
            except ConfigError as error:
                self.unreachable[cell.name] = str(error)
        if not self.depths:
            name, reason = next(iter(self.unreachable.items()))
            raise ConfigError(f"no cell of the grid can be reached; {name}: {reason}")

    @property
    def plain_cell(self) -> Cell:
        """What the checks use: the first cell that drops something, else the first."""
        cells = list(self.depths)
        return next((cell for cell in cells if cell.retention is not None), cells[0])

    def head(self) -> Record:
        """The state file's first line: what its records depend on. More streams may be asked for
        later.
        """
        told = self.told()
        del told["model"]["name"], told["model"]["made"]  # the weights' own hash says enough
        told["eval"] = {k: v for k, v in told["eval"].items() if k not in LATER}
        text = json.dumps(told, sort_keys=True)
        return {"type": "head", "run": hashlib.sha256(text.encode()).hexdigest()[:16]}

    def told(self) -> dict[str, Any]:
        """Everything a figure depends on besides the machine."""
        spec, settings = self._model.spec, self._settings
        return {
            "model": {
                "name": spec.name,
                "sha256": model_hash(self._model),
                "layers": spec.n_layers,
                "width": spec.hidden_size,
                "dtype": spec.dtype,
                "made": made(self._model),
            },
            "eval": settings.grid.model_dump(mode="json"),
            "config": settings.config.model_dump(mode="json", exclude={"model"}),
        }

    def steps(
        self,
        done: Iterable[Record],
        streamed_check: bool = False,
        rolling_chunks: int = 0,
        gate: bool = False,
        past: bool = False,
    ) -> Iterator[Record]:
        """The records that are missing, one by one."""
        if rolling_chunks:
            check_rolling(rolling_chunks)
        have = {(r["type"], r.get("seed")) for r in done}
        grid = self._settings.grid
        for seed in range(grid.seed, grid.seed + grid.streams):
            if gate and ("gate", seed) not in have:
                yield play_gate(self._model, self._settings, seed)
            if past and ("past", seed) not in have:
                yield play_past(self._model, self._settings, seed)
            if ("stream", seed) not in have:
                yield play(self._model, self._settings, self.depths, seed)
            if streamed_check and ("streamed", seed) not in have:
                yield streamed(self._model, self._settings, self.plain_cell, seed)
        if rolling_chunks and ("rolling", rolling_chunks) not in have:
            yield rolling(self._model, self._settings, self.plain_cell, rolling_chunks)

    def report(self, records: Sequence[Record]) -> Report:
        """Tables of all that is done."""
        grid = self._settings.grid
        wanted = range(grid.seed, grid.seed + grid.streams)
        played = [r for r in records if r["type"] == "stream" and r["seed"] in wanted]
        streams = [list(apart(record)) for record in played]
        cells = self._settings.cells
        first = next(iter(self.depths))
        rows = []
        for count in grid.chunks:
            base = _pick(streams, cells.index(first), count)
            for cell in self.depths:
                own = _pick(streams, cells.index(cell), count)
                if any(own):
                    rows.append(_row(cell, count, own, None if cell == first else base))
        checks: list[Check] = []
        for kind in ("streamed", "rolling"):
            found = [r for r in records if r["type"] == kind]
            checks += score_check(
                kind, [r for r in found if kind == "rolling" or r["seed"] in wanted]
            )
        checked = [c for r in played for c in r["answers"] if "plain_same" in c]
        gates = [r for r in records if r["type"] == "gate" and r["seed"] in wanted]
        pasts = [r for r in records if r["type"] == "past" and r["seed"] in wanted]
        device = torch.device(self._model.spec.device)
        return Report(
            conditions(device),
            self.told(),
            len(streams),
            tuple(rows),
            self.unreachable,
            tuple(cell for cell in self._settings.cells if cell not in self.depths),
            tuple(checks),
            tuple(self._versus(streams)),
            score_gate(gates),
            score_past(pasts),
            (sum(c["plain_same"] for c in checked), len(checked)) if checked else None,
        )

    def _versus(self, streams: Sequence[Stream]) -> Iterator[Versus]:
        """Every cell less every baseline at its retention and depth, or the nearest there is."""
        cells, lengths = self._settings.cells, self._settings.grid.chunks
        for name in self._settings.grid.baselines:
            for cell in self.depths:
                base = baseline_of(cell, name, list(self.depths))
                if base is None or base == cell:
                    continue
                for count in (None, *lengths) if len(lengths) > 1 else lengths:
                    pair = [_pick(streams, cells.index(c), count) for c in (base, cell)]
                    both = [(a, b) for a, b in zip(*pair, strict=True) if a]
                    apart_by = difference((_right(a), _right(b), len(a)) for a, b in both)
                    if apart_by is not None:
                        yield Versus(cell, base, count, len(both), apart_by)


def baseline_of(cell: Cell, name: str, cells: Sequence[Cell]) -> Cell | None:
    """The cell of the baseline ``name`` to compare with: at the same retention and depth; where it
    has only one of either, that one.
    """
    own = [c for c in cells if c.policy == name]
    for wanted in ((cell.retention, cell.depth), (None, cell.depth), (cell.retention, None)):
        for candidate in own:
            depth = candidate.depth if wanted[1] is None else wanted[1]
            if (candidate.retention, candidate.depth) == (wanted[0], depth):
                return candidate
    return own[0] if own and own[0].retention is None else None


def made(model: QwenOmni) -> str:
    """How the weights came about, by `built.json` beside them (lab/train/grow.py writes it): a
    built model tells implementations and scores apart and is no evidence for the method.
    """
    name = model.spec.name
    if name != "embedded" and not Path(name).is_dir():
        return UNTOLD
    try:
        told = json.loads((checkpoint_folder(name) / "built.json").read_text("utf-8"))
    except (OSError, ValueError):
        return UNTOLD
    texts = {k: ", ".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in told.items()}
    kind = texts.pop("kind", "not told")
    rest = "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in texts.items())
    return f"{kind} ({rest})" if rest else kind


def model_hash(model: QwenOmni) -> str:
    """sha256 over the weights, the same on any device; shows which model a table is about."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.thinker.state_dict().items()):
        digest.update(name.encode())
        for plain in plain_tensors(tensor.detach()):
            flat = plain.cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


Stream = list[dict[str, Any]]


def _pick(streams: Sequence[Stream], cell: int, count: int | None) -> list[Stream]:
    return [[a for a in s if a["cell"] == cell and count in (None, a["chunks"])] for s in streams]


def _row(cell: Cell, count: int, streams: list[Stream], base: list[Stream] | None) -> Row:
    answers = [a for s in streams for a in s]

    def mean(key: str) -> float:
        return float(sum(a[key] for a in answers)) / len(answers)

    accuracy = {name: m for name, kinds in GROUPS.items() if (m := _share(streams, kinds))}
    kinds = {kind: m for kind in GROUPS["all"] if (m := _share(streams, (kind,)))}
    paired = None
    if base is not None:
        sums = zip(base, streams, strict=True)
        paired = difference((_right(b), _right(s), len(s)) for b, s in sums)
    return Row(
        cell=cell,
        chunks=count,
        labels=dict(Counter(a["label"] for a in answers)),
        entering=mean("entering"),
        leaving=mean("leaving"),
        tokens=float(sum(a["counts"][0] for a in answers)) / len(answers),
        schedule=_schedule(answers),
        cost=_cost(answers),
        accuracy=accuracy,
        kinds=kinds,
        difference=paired,
        evidence=score_evidence(streams),
    )


def _schedule(answers: Stream) -> tuple[float, ...]:
    shares = [[n / a["unpruned"] for n in a["counts"]] for a in answers]
    return tuple(sum(layer) / len(answers) for layer in zip(*shares, strict=True))


def _cost(answers: Stream) -> dict[str, float | None]:
    n = len(answers)
    timed = [a["prefill_ms"] for a in answers if "prefill_ms" in a]
    return {
        "flops": sum(a["flops"] for a in answers) / n,
        "flops_question": sum(a["flops_question"] for a in answers) / n,
        "prefill_ms": statistics.median(timed) if timed else None,
    }


def _right(stream: Stream) -> int:
    return sum(a["ok"] for a in stream)


def _share(streams: list[Stream], kinds: Sequence[str]) -> Mean | None:
    parts = [[a for a in s if a["kind"] in kinds] for s in streams]
    return clustered((_right(part), len(part)) for part in parts)
