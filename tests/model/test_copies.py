"""How values get to the device: chosen by where they are and where they go."""

from __future__ import annotations

import pytest
import torch

from omnidrop_stream.model.copies import copy_path, moved


@pytest.mark.parametrize(
    ("source", "target", "path"),
    [
        ("cpu", "cpu", "none"),
        ("cuda:0", "cuda:0", "none"),
        ("cpu", "cuda:0", "pinned"),
        ("cuda:0", "cpu", "direct"),
        ("cuda:0", "cuda:1", "direct"),
        ("cpu", "meta", "direct"),
    ],
)
def test_only_what_goes_from_the_host_to_a_gpu_is_pinned(source, target, path):
    assert copy_path(torch.device(source), torch.device(target)) == path


def test_what_is_there_already_is_not_copied():
    values = torch.randn(3)
    assert moved(values, torch.device("cpu")).data_ptr() == values.data_ptr()


def test_what_moves_takes_the_type_that_is_asked_for():
    values = torch.arange(3)
    assert moved(values, torch.device("meta")).dtype == torch.long
    there = moved(values, torch.device("meta"), torch.bfloat16)
    assert (there.device.type, there.dtype) == ("meta", torch.bfloat16)
