"""What a stage before the decoder sees and gives back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """All audiovisual tokens of a window before any pruning, in the order in which they stand."""

    embeds: Tensor  # [n, d]
    modality: Tensor  # u8 [n], `types.Modality`
    chunk: Tensor  # i64 [n], window-relative
    patch: Tensor  # i64 [n], temporal patch counted over the window; -1 for audio
    saliency: Tensor  # f32 [n], attention received in the audio encoder's last layer; 0 for video

    @property
    def audio(self) -> Tensor:
        """Indices i64 of the audio tokens, ascending."""
        return (self.modality == 1).nonzero()[:, 0]

    @property
    def video(self) -> Tensor:
        """Indices i64 of the video tokens, ascending."""
        return (self.modality == 0).nonzero()[:, 0]

    def patches(self) -> list[Tensor]:
        """Indices of each temporal patch's tokens, oldest patch first."""
        video = self.video
        _, counts = torch.unique_consecutive(self.patch[video], return_counts=True)
        return list(torch.split(video, counts.tolist()))


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """What stays: ascending indices i64 [k], and their embeddings [k, d] where some were merged."""

    kept: Tensor
    embeds: Tensor | None = None


class InputStage(Protocol):
    """Chooses tokens of a window before the decoder."""

    def least(self, n_audio: int, sizes: Sequence[int]) -> int:
        """The fewest tokens it can keep of so many audio tokens and patches of such sizes."""
        ...

    def select(self, window: Window, keep: int) -> Selection:
        """Exactly `keep` tokens of the window; ValueError where the rule cannot keep so few."""
        ...
