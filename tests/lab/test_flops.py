"""The counted cost of a prefill against torch's own counter and a literal sum."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from omnidrop_stream.lab.flops import DecoderSizes, prefill_flops, scored_layers, token_flops
from omnidrop_stream.lab.held import sizes_of
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.model.rope import text_positions
from tests.helpers import small_model

PROMPT, TEXT = 5, 3


@pytest.fixture(scope="module")
def model() -> QwenOmni:
    return small_model(heads=4, kv_heads=4, layers=4)


def counted(model: QwenOmni, entering: tuple[int, ...]) -> int:
    """What the counter sees when each row attends alone to exactly what it may read."""
    decoder = model.decoder
    width = model.spec.hidden_size
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        for layer, count in enumerate(entering):
            rows = torch.randn(PROMPT + count + TEXT, width)
            new = decoder.project(layer, rows, decoder.rotary.angles(text_positions(0, len(rows))))
            parts = []
            for i in range(len(rows)):  # plain products: torch does not count its fused kernel
                seen = new.q[:, i : i + 1] @ new.k[:, : i + 1].transpose(1, 2)
                parts.append(seen.softmax(dim=-1) @ new.v[:, : i + 1])
            decoder.finish(layer, rows, torch.cat(parts, dim=1))
        decoder.logits(rows)
    return counter.get_total_flops()


def test_a_prefill_costs_what_torch_counts_row_by_row(model: QwenOmni) -> None:
    entering = (11, 11, 6, 2)
    assert prefill_flops(sizes_of(model), PROMPT, entering, TEXT, 0).total == counted(
        model, entering
    )


def test_a_first_token_costs_what_torch_counts_of_the_text_rows_alone(model: QwenOmni) -> None:
    decoder, entering = model.decoder, (11, 6, 2)
    sizes = replace(sizes_of(model), layers=3)
    shared = torch.randn(model.spec.n_kv_heads, PROMPT + max(entering) + TEXT, model.spec.head_dim)
    rows = torch.randn(TEXT, model.spec.hidden_size)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        for layer, count in enumerate(entering):
            block = decoder.layers[layer]
            last = layer + 1 == len(entering)
            asked = rows[-1:] if last else rows
            for linear in (block.self_attn.k_proj, block.self_attn.v_proj):
                linear(rows)
            q = block.self_attn.q_proj(asked).view(len(asked), -1, model.spec.head_dim)
            for number, query in enumerate(q.transpose(0, 1).split(1, dim=1), TEXT - len(asked)):
                keys = shared[:, : PROMPT + count + number + 1]
                query @ keys.transpose(1, 2) @ keys
            decoder.finish(layer, asked, q.transpose(0, 1))
        decoder.logits(rows)
    assert token_flops(sizes, PROMPT, entering, TEXT) == counter.get_total_flops()


def test_grouped_heads_cost_less_to_project() -> None:
    grouped = small_model(heads=4, kv_heads=2, layers=3)
    sizes = sizes_of(grouped)
    assert (sizes.heads, sizes.kv_heads) == (4, 2)
    more = DecoderSizes(3, sizes.hidden, 4, 4, sizes.head_dim, sizes.inner, sizes.vocabulary)
    assert more.row - sizes.row == 2 * sizes.hidden * 2 * 2 * sizes.head_dim


def test_a_head_start_moves_cost_to_the_arrival_and_adds_none_where_nothing_dropped(
    model: QwenOmni,
) -> None:
    sizes, entering = sizes_of(model), (11, 11, 6, 2)
    whole = prefill_flops(sizes, PROMPT, entering, TEXT, 0)
    ahead = prefill_flops(sizes, PROMPT, entering, TEXT, 2)
    assert ahead.total == whole.total
    assert ahead.on_question < whole.on_question


def test_a_depth_past_the_first_drop_pays_for_every_token_on_arrival(model: QwenOmni) -> None:
    sizes = sizes_of(model)
    paper = prefill_flops(sizes, PROMPT, (11, 6, 4, 2), TEXT, 0)
    late = prefill_flops(sizes, PROMPT, (11, 11, 4, 2), TEXT, 2)
    assert late.total > paper.total
    assert late.on_question < paper.on_question


def test_scores_cost_one_product_of_the_guiding_rows_with_all_keys(model: QwenOmni) -> None:
    sizes, entering = sizes_of(model), (11, 11, 6, 2)
    plain = prefill_flops(sizes, PROMPT, entering, TEXT, 0)
    scored = prefill_flops(sizes, PROMPT, entering, TEXT, 0, guidance=2, scored=(1, 2))
    keys = (PROMPT + 11 + TEXT) + (PROMPT + 6 + TEXT)
    assert scored.total - plain.total == 2 * 2 * keys * sizes.heads * sizes.head_dim


def test_scores_are_made_where_a_guided_policy_drops_and_from_the_middle_on() -> None:
    assert scored_layers((9, 9, 8, 8, 7, 7), guided=True) == (1, 3, 4, 5)
    assert scored_layers((9, 9, 8, 8, 7, 7), guided=False) == (3, 4, 5)


def test_counts_that_do_not_fit_the_layers_are_refused(model: QwenOmni) -> None:
    with pytest.raises(ValueError, match="do not fit 4 layers"):
        prefill_flops(sizes_of(model), PROMPT, (3, 3), TEXT, 0)
    with pytest.raises(ValueError, match="depth 5"):
        prefill_flops(sizes_of(model), PROMPT, (3, 3, 3, 3), TEXT, 5)
