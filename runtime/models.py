"""From a model's name to a loaded model: ``embedded``, ``tiny``, a hub id or a folder.

torch and transformers are imported when a model is loaded, not before: what only looks at settings
or sources stays quick.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import omnidrop_stream
from omnidrop_stream.config import ModelConfig

if TYPE_CHECKING:
    from omnidrop_stream.model.base import OmniModel

EMBEDDED = "embedded"
TINY = "tiny"
EMBEDDED_FOLDER = Path(omnidrop_stream.__file__).parent / "world" / "weights"
TINY_WARNING = (
    "the tiny model has random weights: it shows the whole path, but its words mean nothing"
)
_TINY_VERSION = 1


def default_model() -> str:
    """``embedded`` where its weights are installed, else ``tiny``."""
    return EMBEDDED if (EMBEDDED_FOLDER / "config.json").is_file() else TINY


def note_on(model: str, question: str) -> str:
    """What is to be said of a question that this model was not made for; empty: nothing."""
    from omnidrop_stream.world.known import is_known, nearest

    if model != EMBEDDED or is_known(question):
        return ""
    return (
        "the embedded model knows only the questions of its small world, to the letter, and "
        f"answers any other at random. {textwrap.shorten(question, 60)!r} is none of them; the "
        f"nearest: {nearest(question)}"
    )


def import_torch() -> None:
    """Before the first import of what needs torch, where Ctrl-C comes as KeyboardInterrupt: one
    that falls into torch's own import aborts the process, so it waits for the import's end.
    """
    with interrupt_waits():
        import torch  # noqa: F401


@contextmanager
def interrupt_waits() -> Iterator[None]:
    """Ctrl-C within the block comes at its end."""
    before = signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread()
    if not ours or before is not signal.default_int_handler:
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def cache_folder() -> Path:
    """Where things that can be made again are kept: the user's cache, as the desktop says."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(root) if root and Path(root).is_absolute() else Path.home() / ".cache"
    return base / "omnidrop-stream"


def load(config: ModelConfig) -> OmniModel:
    """The loaded model. Raises ModelNotFound, ModelMismatch, ConfigError, MissingDependency."""
    from omnidrop_stream.model.load import load_model

    if config.model != TINY:
        return load_model(config)
    try:
        folder = _tiny_checkpoint(cache_folder())
    except (OSError, RuntimeError):  # no home, a full or read-only disk: it lives for this run
        with tempfile.TemporaryDirectory() as temporary:
            folder = _tiny_checkpoint(Path(temporary))
            return load_model(config.model_copy(update={"model": str(folder)}))
    return load_model(config.model_copy(update={"model": str(folder)}))


def _tiny_checkpoint(parent: Path) -> Path:
    """The seeded tiny checkpoint, written once; another process may write it at the same time."""
    from omnidrop_stream.model.shapes import SHAPES, write_checkpoint

    folder = parent / f"tiny-{_TINY_VERSION}"
    if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file():
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix="tiny-", dir=parent))
    try:
        write_checkpoint(fresh, SHAPES["tiny"])
        if folder.exists() and not (folder / "model.safetensors").is_file():
            shutil.rmtree(folder)
        try:
            fresh.rename(folder)
        except OSError:
            if not (folder / "model.safetensors").is_file():
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder
