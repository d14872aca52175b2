"""The nouns of OmniDrop Stream: frozen, slotted values with shapes and units.

Everything that crosses a border inside the project (a source to the chunker, the chunker to a
stream, a stream to whoever asked) is one of these. They import nothing of ours, and nothing changes
after it is made. Times ending in ``_s`` are seconds of *stream time*; wall time is a label and says
so in its name.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # a client that only reads settings or names a mistake does not wait for torch
    import torch

CHUNK_SECONDS = 2.0
"""Length of a chunk: the audio tower's quantum (200 mel frames)."""
SAMPLE_RATE = 16_000
CHUNK_SAMPLES = 32_000
LEFT_CONTEXT_SAMPLES = 200
RIGHT_CONTEXT_SAMPLES = 40


class Modality(enum.IntEnum):
    """Which tower an audiovisual token came from."""

    VIDEO = 0
    AUDIO = 1


class StreamKind(enum.StrEnum):
    """What a stream carries; each kind has its own prompt template."""

    AV = "av"
    VIDEO = "video"
    AUDIO = "audio"


@dataclass(frozen=True, slots=True)
class Frame:
    """One raw picture: ``image`` u8 [H, W, 3] RGB, shown from ``time_s`` on (the source's own
    clock).
    """

    image: np.ndarray
    time_s: float
    corrupt: bool = False
    """The decoder had to patch it, or something that it rests on is missing."""


@dataclass(frozen=True, slots=True)
class Samples:
    """A run of sound: ``pcm`` f32 [n] in [-1, 1], mono, 16 kHz; ``time_s`` is the time of
    ``pcm[0]``.
    """

    pcm: np.ndarray
    time_s: float


@dataclass(frozen=True, slots=True)
class ChunkFlags:
    """What is unusual about a chunk. Nothing is silently joined or made up."""

    repeated_frames: int = 0
    """How many of the frames repeat the one before because none arrived in time."""
    silence_filled_samples: int = 0
    """Short audio gaps that were filled with silence."""
    audio_absent: bool = False
    """The stream has sound but this chunk's is missing (it yields no audio tokens)."""
    corrupt: bool = False
    partial: bool = False
    """The chunk is not complete: an open chunk seen by a question, or the end of a file."""
    video_absent: bool = False
    """The stream has pictures but this chunk's did not come, or were left out (the model was
    overloaded).
    """


@dataclass(frozen=True, slots=True)
class Chunk:
    """Two seconds of stream, cut by presentation time.

    frames: u8 [F, H, W, 3] RGB at the model's rate (F = 4 at 2 fps; fewer only if
    ``flags.partial``), or None where the stream has no video. audio: f32 [32000] at 16 kHz (fewer
    only if partial), or None where there is none (a stream without sound, or
    ``flags.audio_absent``). audio_left / audio_right: the 200 samples before and the 40 after, for
    the log-mel's context; zeros at the start of an epoch and at an end.
    """

    index: int
    """Ordinal among all chunks of the stream, gaps included, never reused."""
    epoch: int
    """A stretch of stream without interruption; merging windows, mel state and frame size restart
    with it.
    """
    start_s: float
    frames: np.ndarray | None
    audio: np.ndarray | None
    audio_left: np.ndarray | None = None
    audio_right: np.ndarray | None = None
    fps: float = 2.0
    duration_s: float = CHUNK_SECONDS
    wall_time_s: float | None = None
    """POSIX time of the chunk's start; a label only."""
    flags: ChunkFlags = ChunkFlags()

    @property
    def end_s(self) -> float:
        """Stream time at which the chunk ends."""
        return self.start_s + self.duration_s


@dataclass(frozen=True, slots=True)
class ChunkTokens:
    """A chunk after the towers and the pruning within each modality; what enters layer 0.

    embeds [n, d] in the model's dtype; modality u8 [n]; offsets i64 [3, n]: temporal, height and
    width position ids counted from the block's first id, without the chunk's slot
    (``model/rope.py``); n_unpruned: how many tokens the towers made.
    """

    embeds: torch.Tensor
    modality: torch.Tensor
    offsets: torch.Tensor
    n_unpruned: int
    n_unpruned_video: int
    last_id: tuple[int, int] = (-1, -1)
    """Largest id of the chunk's last piece, pruned or not: (moving with the slot, anchored at the
    block's start).
    """
    saliency: torch.Tensor | None = None
    """f32 [n]: attention that an audio token receives in its tower's last layer; 0 for video. None
    where nothing measured it.
    """
    n_video: int | None = None
    """How many are video, where the host knows."""

    @property
    def count(self) -> int:
        """Tokens that survived, n."""
        return int(self.embeds.shape[0])

    def of(self, medium: Modality) -> int:
        """How many are of this medium; where the host does not know, it waits for the device."""
        video = self.n_video
        if video is None:
            video = int((self.modality == int(Modality.VIDEO)).sum())
        return video if medium is Modality.VIDEO else self.count - video


@dataclass(frozen=True, slots=True)
class Query:
    """A question. ``asked_at_s`` is stream time (None: now, the newest material)."""

    text: str
    id: str = ""
    asked_at_s: float | None = None
    session: str = ""
    """Follow-ups of one session see its bounded history; the empty session has none."""
    look_back_s: float | None = None
    """See only the chunks of the last so many seconds before it is asked; None: all held."""


class Step(enum.Enum):
    """What a turn of an answer did when there is no text to hand over."""

    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer's text, in order of ``seq``."""

    id: str
    seq: int
    text: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """A span of stream the answer rests on; weights of one answer add up to at most 1."""

    from_s: float
    to_s: float
    modality: str
    weight: float
    from_wall_s: float | None = None
    to_wall_s: float | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """A hole in the seen stream, and why it is there."""

    from_s: float
    to_s: float
    reason: str

    def continues(self, before: Gap) -> bool:
        """Whether it is more of the same hole: for the same reason, from where that ended."""
        goes_on = abs(self.from_s - before.to_s) < 1e-6 < self.to_s - self.from_s
        return goes_on and self.reason == before.reason


@dataclass(frozen=True, slots=True)
class Coverage:
    """The seconds of stream an answer could see, gaps named."""

    from_s: float
    to_s: float
    gaps: tuple[Gap, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerCount:
    """Audiovisual tokens entering and leaving one decoder layer during a question's prefill."""

    layer: int
    video: int
    audio: int
    dropped: int


@dataclass(frozen=True, slots=True)
class TokenUse:
    """Where the audiovisual tokens went. Retentions are relative to ``unpruned``, means over all
    layers.
    """

    unpruned: int
    entering: int
    mean_entering: float
    mean_leaving: float
    per_layer: tuple[LayerCount, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer: what `final` says on every face (command line, JSON, MQTT, Python)."""

    id: str
    question: str
    text: str
    finish: str
    """``stop``, ``length`` or ``cancelled``."""
    session: str
    asked_at_s: float
    ttft_ms: float
    total_ms: float
    ttft_parts_ms: dict[str, float]
    """What the time to first token is made of: ``open_chunk``, ``prefill``, ``first_token``."""
    prefill_depth: int
    label: str
    policy: str
    open_chunk: bool
    tokens: TokenUse
    evidence: tuple[Evidence, ...]
    coverage: Coverage
    staleness_s: float
    dropped_chunks: int
    answer_tokens: int
