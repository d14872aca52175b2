"""The three things that streams and answers want of a model, as `Wanted`."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch

from omnidrop_stream.model.base import DecodeRequest, ExtendRequest, OmniModel, States
from omnidrop_stream.model.fork import Fork
from omnidrop_stream.model.towers import EncodeCarry, Encoded, EncodeRequest, EncodeSettings
from omnidrop_stream.types import Chunk
from omnidrop_stream.wanted import Wanted


def encode_wanted(
    model: OmniModel, chunk: Chunk, carry: EncodeCarry, settings: EncodeSettings
) -> Wanted:
    """A chunk encoded, in one turn; the result is an `Encoded`. Where the towers work beside the
    decoder there is a second turn, which may wait until they are done.
    """

    def plain(one: EncodeRequest) -> Generator[None, None, Encoded]:
        made = model.encode(one.chunk, one.carry, one.settings)
        if not model.encoded():
            yield
        return made

    def together(several: Sequence[EncodeRequest]) -> Generator[None, None, list[Encoded]]:
        made = model.encode_batch(several)
        if not model.encoded():
            yield
        return made

    request = EncodeRequest(chunk, carry, settings)
    return Wanted(("encode", id(model)), request, plain, together, ready=model.encoded)


def extend_wanted(model: OmniModel, request: ExtendRequest) -> Wanted:
    """A chunk prefilled, a turn for each layer; the result is `States`."""

    def plain(one: ExtendRequest) -> Generator[None, None, States]:
        return (
            yield from model.extend(
                one.prompt,
                one.past,
                one.past_slots,
                one.tokens,
                one.slot,
                one.hidden,
                one.layers,
                one.place,
            )
        )

    return Wanted(("extend", id(model)), request, plain, model.extend_batch)


def decode_wanted(model: OmniModel, fork: Fork, token: int) -> Wanted:
    """One more token of an answer, in one turn; the result is the logits of the next."""

    def plain(one: DecodeRequest) -> Generator[None, None, torch.Tensor]:
        return model.decode_step(one.fork, one.token)
        yield

    def together(several: Sequence[DecodeRequest]) -> Generator[None, None, list[torch.Tensor]]:
        return model.decode_batch(several)
        yield

    request = DecodeRequest(fork, token)
    return Wanted(("decode", id(model)), request, plain, together, repeatable=False)
