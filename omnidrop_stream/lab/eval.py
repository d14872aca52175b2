"""``omnidrop eval``: answers and evidence on test streams of the world, over a grid of settings.

A stream is the unit of work and of statistics: its record is written when all its questions are
answered, a run that is started again goes on after the last record, and standard errors are
clustered by stream.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from omnidrop_stream.errors import ConfigError
from omnidrop_stream.lab.bench_cost import conditions
from omnidrop_stream.lab.eval_check import check_rolling, rolling, score_check, streamed
from omnidrop_stream.lab.eval_play import depth_of, play
from omnidrop_stream.lab.eval_score import clustered, difference, score_evidence
from omnidrop_stream.lab.eval_types import Cell, Check, EvalSettings, Mean, Record, Report, Row
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.world import QUESTION_KINDS

SINGLE_HOP = ("visual", "audio", "order", "yes/no", "absence")
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
                self.depths[cell] = depth_of(model, settings.config, cell)
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
        told["eval"] = {k: v for k, v in told["eval"].items() if k != "streams"}
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
            },
            "eval": settings.grid.model_dump(mode="json"),
            "config": settings.config.model_dump(mode="json", exclude={"model"}),
        }

    def steps(
        self, done: Iterable[Record], streamed_check: bool = False, rolling_chunks: int = 0
    ) -> Iterator[Record]:
        """The records that are missing, one by one."""
        if rolling_chunks:
            check_rolling(rolling_chunks)
        have = {(r["type"], r.get("seed")) for r in done}
        grid = self._settings.grid
        for seed in range(grid.seed, grid.seed + grid.streams):
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
        streams = [r["answers"] for r in records if r["type"] == "stream" and r["seed"] in wanted]
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
        device = torch.device(self._model.spec.device)
        return Report(
            conditions(device),
            self.told(),
            len(streams),
            tuple(rows),
            self.unreachable,
            tuple(checks),
        )


def model_hash(model: QwenOmni) -> str:
    """sha256 over the weights, the same on any device; shows which model a table is about."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.thinker.state_dict().items()):
        digest.update(name.encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


Stream = list[dict[str, Any]]


def _pick(streams: Sequence[Stream], cell: int, count: int) -> list[Stream]:
    return [[a for a in s if a["cell"] == cell and a["chunks"] == count] for s in streams]


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
        tokens=mean("tokens"),
        accuracy=accuracy,
        kinds=kinds,
        difference=paired,
        evidence=score_evidence(streams),
    )


def _right(stream: Stream) -> int:
    return sum(a["ok"] for a in stream)


def _share(streams: list[Stream], kinds: Sequence[str]) -> Mean | None:
    parts = [[a for a in s if a["kind"] in kinds] for s in streams]
    return clustered((_right(part), len(part)) for part in parts)
