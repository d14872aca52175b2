"""Bit for bit the stock video processor, run in a side environment that has torchvision."""

from __future__ import annotations

import subprocess
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
import torch

from omnidrop_stream.model.pixels import PixelSettings, patchify, resize_frames

TORCHVISION = "torchvision==0.28.0"

# torchvision's wheel is a CUDA build: on a CPU build of torch two of its operators must be declared
# before its first import, or it cannot be imported at all.
STOCK = """
import sys
import numpy as np
import torch

lib = torch.library.Library("torchvision", "DEF")
if not torch.version.cuda:
    for name in ("nms", "qnms"):
        lib.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from transformers import Qwen2VLVideoProcessor

frames = np.load(sys.argv[1])
edge = 28 * 28
processor = Qwen2VLVideoProcessor(
    size={"shortest_edge": 128 * edge, "longest_edge": 768 * edge},
    do_sample_frames=False,
    cap_pixels_per_frame=False,
)
video = torch.from_numpy(frames).permute(0, 3, 1, 2)
out = processor(videos=[video], return_tensors="pt")
np.savez(
    sys.argv[2],
    pixels=out["pixel_values_videos"].numpy(),
    grid=out["video_grid_thw"].numpy(),
)
"""


@pytest.fixture(scope="module")
def side_python(tmp_path_factory) -> Path:
    """A Python with torchvision and pillow; torch and transformers are this environment's own."""
    folder = tmp_path_factory.mktemp("side")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "-q", "--no-deps", TORCHVISION, "pillow"]
    subprocess.run(pip, check=True, timeout=600)
    side = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    (Path(side) / "main.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.mark.parity
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("count", "height", "width"),
    [(4, 224, 336), (4, 360, 640), (3, 720, 1280), (5, 480, 640), (2, 640, 360), (4, 252, 448)],
)
def test_patches_equal_the_stock_video_processor_bit_for_bit(
    side_python, tmp_path, count, height, width
):
    frames = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    (tmp_path / "stock.py").write_text(STOCK)
    given, made = tmp_path / "frames.npy", tmp_path / "out.npz"
    done = subprocess.run(
        [str(side_python), str(tmp_path / "stock.py"), str(given), str(made)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    stock = np.load(made)
    patches, rows, columns = stock["grid"][0].tolist()
    ours = patchify(resize_frames(frames, (rows * 14, columns * 14)), PixelSettings())
    assert patches == (count + 1) // 2
    assert torch.equal(ours, torch.from_numpy(stock["pixels"]))
