"""The towers' attention in few calls is the stock one."""

from __future__ import annotations

import pytest
import torch

from omnidrop_stream.model.grids import Grids
from omnidrop_stream.model.parts import parts_of
from omnidrop_stream.model.tower_attention import Run, attend_within, with_joint_pictures
from tests.helpers import small_model
from tests.pretend_device import THERE, There, pretended, sent

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
LAYOUTS = [
    ((2, 8, 8),),
    ((2, 12, 20),),
    ((4, 10, 6), (2, 6, 22)),
    ((1, 2, 2), (3, 20, 10), (2, 8, 24)),
]
"""Pictures that are one window, that windows fill, and that they fill in part; several sizes."""


def visual():
    return parts_of(small_model(seed=1).thinker).visual


def patches(tower, grids):
    config, rows = tower.config, sum(t * h * w for t, h, w in grids)
    width = config.in_channels * config.temporal_patch_size * config.patch_size**2
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def stock(grids):
    tower = visual()
    return tower(patches(tower, grids), grid_thw=torch.tensor(grids)).pooler_output


@pytest.mark.parametrize("grids", LAYOUTS)
@torch.inference_mode()
def test_pictures_come_out_as_the_stock_tower_has_them(grids):
    tower = visual()
    layout = Grids(tower, flash=False).layout(grids)
    ours = with_joint_pictures(tower)(patches(tower, grids), **layout).pooler_output
    assert torch.allclose(ours, stock(grids), **CLOSE)


@pytest.mark.parametrize("grids", LAYOUTS)
def test_they_do_on_another_device_where_pictures_go_together(grids):
    with pretended():
        tower = visual()
        pixels = patches(tower, grids).to(THERE)
        sent(tower)
        layout = Grids(tower, flash=False).layout(grids)
        ours = with_joint_pictures(tower)(pixels, **layout).pooler_output
        assert isinstance(ours, There)
        assert torch.allclose(ours.held, stock(grids), **CLOSE)


@pytest.mark.parametrize("grids", LAYOUTS)
@torch.inference_mode()
def test_the_order_of_windows_suits_the_stock_layers_too(grids):
    """As flash attention uses them: by the bounds alone."""
    tower = visual()
    layout = Grids(tower, flash=False).layout(grids)
    del layout["within"]
    assert torch.allclose(
        tower(patches(tower, grids), **layout).pooler_output, stock(grids), **CLOSE
    )


def test_flash_attention_gets_its_bounds_there_and_the_longest_lengths():
    with pretended():
        tower = visual()
        sent(tower)
        layout = Grids(tower, flash=True).layout(((2, 12, 20),))
        assert "within" not in layout
        assert (layout["max_seqlen"], layout["max_window_seqlen"]) == (240, 64)
        assert isinstance(layout["cu_seqlens"], There)
        assert layout["cu_seqlens"].dtype is layout["cu_window_seqlens"].dtype is torch.int32
        assert layout["cu_seqlens"].held.tolist() == [0, 240, 480]


def test_more_pictures_take_no_more_calls_of_the_kernel():
    def calls(count):
        with pretended() as device:
            tower = visual()
            pixels = patches(tower, ((count, 12, 20),)).to(THERE)
            sent(tower)
            layout = Grids(tower, flash=False).layout(((count, 12, 20),))
            before = device.calls["scaled_dot_product_attention"]
            with_joint_pictures(tower)(pixels, **layout)
            return device.calls["scaled_dot_product_attention"] - before

    assert calls(2) == calls(16) > 0


def test_nothing_sees_beyond_its_block():
    q, k, v = torch.randn(3, 14, 2, 4, generator=torch.Generator().manual_seed(0))
    runs = (Run.of(2, [3, 3, 1]),)
    before = attend_within(q, k, v, runs, 0.5)
    k[3:6], v[3:6] = 9.0, 9.0
    changed = (attend_within(q, k, v, runs, 0.5) != before).any(2).any(1)
    assert changed.tolist() == [False] * 3 + [True] * 3 + [False] * 8


def test_a_layout_is_worked_out_once_and_few_are_kept():
    grids = Grids(visual(), flash=False)
    assert grids.layout(((2, 8, 8),)) is grids.layout(((2, 8, 8),))
    for n in range(1, 50):
        grids.layout(((n, 8, 8),))
    assert grids.layout.cache_info().currsize == 32
