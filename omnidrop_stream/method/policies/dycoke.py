"""DyCoke's temporal token merging on its own (arXiv 2411.15024, repository KD-TAO/DyCoke; the port
to Qwen2.5-Omni in xuyang-liu16/VidCom2), re-implemented.

In words. In every window of four frames frame 0 stays whole; of frames 1, 2 and 3 those tokens stay
that are least similar to the token in the same place of frame 0, 0 and 2. Nothing is merged,
whatever the name says. Sound is not touched. So a window with sound cannot go below a quarter of
its video and all of its audio (36 % for the paper's chunks): less is refused, not approximated.

The sources leave open, or do otherwise, and we chose:

- A frame is a temporal patch, as in the port.
- `as_coded` reproduces two quirks of the code: of a clip whose length is a multiple of four frames
  the last window's frame 2 stays whole, and an odd last frame is lost. The third, kept tokens in
  the order of their similarity, is not reproduced: here a token's position travels with it, so the
  order within a patch would change which token sees which and nothing else. Nor does it crash on
  four frames or fewer.
- Counts per pruned frame differ by at most one, so that the count asked for is met exactly; with a
  rate k the code keeps int((1 - k) n) of each (`least_similar`).
- A frame of another size starts a new window.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cosine_similarity

from omnidrop_stream.method.intra import WINDOW
from omnidrop_stream.method.policies.inputs import apportion, highest, in_order
from omnidrop_stream.method.policies.window import Selection, Window

_REFERENCE = (None, 0, 0, 2)
"""Place of the frame that the frame at each place of a window is compared with."""


def least_similar(tokens: Tensor, reference: Tensor, count: int) -> Tensor:
    """Ascending indices of the `count` tokens [n, d] least like those in the same places."""
    return highest(-cosine_similarity(tokens.float(), reference.float(), dim=-1), count)


def references(sizes: Sequence[int], as_coded: bool = False) -> list[int | None]:
    """For each frame, by its size, the one it is compared with; None: it stays whole; -1: lost."""
    found, start = list[int | None](), 0
    for i, size in enumerate(sizes):
        place = (i - start) % WINDOW
        offset = _REFERENCE[place]
        reference = None if offset is None else i - place + offset
        if reference is not None and sizes[reference] != size:
            start, reference = i, None
        found.append(reference)
    if as_coded and len(sizes) % 2:
        found[-1] = -1
    elif as_coded and len(sizes) % WINDOW == 0 and sizes:
        found[-2] = None
    return found


@dataclass(frozen=True, slots=True)
class DyCoke:
    """Temporal token merging of the video, at the count asked for."""

    as_coded: bool = False

    def least(self, n_audio: int, sizes: Sequence[int]) -> int:
        """All the sound, and the frames that stay whole."""
        compared = references(sizes, self.as_coded)
        whole = (n for n, reference in zip(sizes, compared, strict=True) if reference is None)
        return n_audio + sum(whole)

    def select(self, window: Window, keep: int) -> Selection:
        """Exactly `keep` tokens; ValueError where whole frames and sound are more than that."""
        patches = window.patches()
        compared = references([len(patch) for patch in patches], self.as_coded)
        whole = [p for p, r in zip(patches, compared, strict=True) if r is None]
        pruned = [
            (patch, reference)
            for patch, reference in zip(patches, compared, strict=True)
            if reference is not None and reference >= 0
        ]
        kept = [window.audio, *whole]
        rest = keep - sum(len(part) for part in kept)
        caps = [len(patch) for patch, _ in pruned]
        if not 0 <= rest <= sum(caps):
            raise ValueError(
                f"DyCoke keeps all sound and every fourth frame, {keep - rest} tokens here, and "
                f"prunes the other {sum(caps)}; allowed: to keep {keep - rest} to "
                f"{keep - rest + sum(caps)} tokens, not {keep}"
            )
        counts = apportion([rest / max(1, len(caps))] * len(caps), caps, rest)
        for (patch, reference), count in zip(pruned, counts, strict=True):
            own, other = window.embeds[patch], window.embeds[patches[reference]]
            kept.append(patch[least_similar(own, other, count)])
        return Selection(in_order(kept, window.embeds.device))
