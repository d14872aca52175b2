"""From a hub id or a folder to a `QwenOmni`: safetensors only, no remote code, one plain sentence
for each mistake.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from huggingface_hub import HfApi, snapshot_download
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, Qwen2_5OmniThinkerForConditionalGeneration
from transformers.utils import logging as hf_logging

from omnidrop_stream.errors import ModelMismatch, ModelNotFound
from omnidrop_stream.model.base import ModelSpec
from omnidrop_stream.model.compiled import check_compiler
from omnidrop_stream.model.kernels import bound_kernel_caches
from omnidrop_stream.model.parts import parts_of
from omnidrop_stream.model.pick import WaySettings, pick_device, pick_dtype, pick_ways
from omnidrop_stream.model.pixels import CLIP_MEAN, CLIP_STD, PixelSettings
from omnidrop_stream.model.quantised import check_weights, place
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.model.shapes import Shape, byte_tokenizer, random_quantised, random_thinker
from omnidrop_stream.model.template import ChatTemplate
from omnidrop_stream.model.threads import settle_threads
from omnidrop_stream.model.watch_words import WatchTemplates, templates_of
from omnidrop_stream.types import StreamKind

EMBEDDED = Path(__file__).parent.parent / "world" / "weights"
PAPER_FRAME_TOKENS = 144
HUB_TIMEOUT_S = 10.0
WANTED = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.jinja")
Progress = Callable[[str], None]


class ModelSettings(WaySettings, Protocol):
    """What to load and how it runs; ``config.ModelConfig`` has these."""

    @property
    def model(self) -> str:
        """Hub id, folder, or ``embedded``."""

    @property
    def dtype(self) -> str:
        """``auto``, ``bf16`` or ``fp32``."""

    @property
    def device(self) -> str:
        """``auto``, ``cpu`` or ``cuda[:n]``."""

    @property
    def weights(self) -> str:
        """``auto`` (as ``dtype`` says), ``int8`` or ``int4``."""

    @property
    def compile(self) -> bool:
        """Whether torch compiles the feed-forward networks."""

    @property
    def threads(self) -> int | Literal["auto"]:
        """Of the processor, for one pass."""


def _quiet(_: str) -> None:
    return None


def checkpoint_folder(model: str, progress: Progress = _quiet) -> Path:
    """The local folder of a hub id, a path or ``embedded``; downloads a hub id that is not there
    yet.
    """
    if model == "embedded":
        if not (EMBEDDED / "config.json").is_file():
            raise ModelNotFound(
                "the embedded model is not in this installation; give --model with a hub id or a "
                "folder"
            )
        return EMBEDDED
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFound(
                f"{path} holds no config.json: give the folder of a Qwen2.5-Omni checkpoint"
            )
        return path
    if path.exists() or model.startswith((".", "/", "~")):
        raise ModelNotFound(
            f"{model} is no folder: give a checkpoint's folder, a hub id such as "
            "Qwen/Qwen2.5-Omni-3B, or embedded"
        )
    progress(f"fetching {model}")
    return _from_hub(model)


def _from_hub(model: str) -> Path:
    refusal: Exception | None = None
    try:
        # snapshot_download asks this first too, but would wait for the hub's word without end.
        HfApi().model_info(model, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # the network library's own kinds differ between hub versions
        refusal = error
    try:
        return Path(
            snapshot_download(
                model, allow_patterns=list(WANTED), local_files_only=refusal is not None
            )
        )
    except Exception as error:
        raise ModelNotFound(
            f"model {model!r} is neither a folder nor in the local cache, and fetching it failed "
            f"({type(refusal or error).__name__}); check the name and the network, or give a folder"
        ) from None


def load_model(config: ModelSettings, progress: Progress = _quiet) -> QwenOmni:
    """Load the thinker of any Qwen2.5-Omni checkpoint (whole omni model or thinker alone).

    Raises ModelNotFound, ModelMismatch (another class, damaged or missing shards), ConfigError
    (device).
    """
    bound_kernel_caches()
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    ways = pick_ways(config, device, dtype)
    towers = "sdpa" if ways.attention is None else "flash_attention_2"
    check_weights(config.weights, device, dtype)
    if config.compile:
        check_compiler(device)
    folder = checkpoint_folder(config.model, progress)
    _check_class(folder)
    _check_shards(folder)
    progress(f"loading {config.model}")
    if config.weights == "auto":
        thinker = _read_thinker(folder, dtype, towers)
        progress(f"moving to {device}")
        thinker.to(device).eval()
    else:
        # As the checkpoint has them: nothing is copied until a layer's turn comes.
        thinker = _read_thinker(folder, "auto", towers).eval()
        progress(f"quantising to {config.weights} on {device}")
        place(thinker, config.weights, device, dtype)
    settle_threads(config.threads, thinker, device)
    tokenizer = _read_tokenizer(folder)
    _check_tokenizer(tokenizer, thinker)
    return QwenOmni(
        thinker,
        tokenizer,
        _spec(
            config.model,
            thinker,
            tokenizer,
            _pixel_settings(folder, thinker),
            _watch_templates(folder),
            config.weights,
            config.compile,
        ),
        ways,
    )


def random_model(name: str, shape: Shape, config: ModelSettings, seed: int = 0) -> QwenOmni:
    """A model of the given shape with random values on the configured device: real cost,
    meaningless words.
    """
    bound_kernel_caches()
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    ways = pick_ways(config, device, dtype)  # its towers keep torch's kernels
    check_weights(config.weights, device, dtype)
    if config.compile:
        check_compiler(device)
    tokenizer = byte_tokenizer()
    sizes = (shape, tokenizer, seed, str(device), dtype)
    if config.weights == "auto":
        thinker = random_thinker(*sizes)
    else:
        thinker = random_quantised(*sizes, config.weights)
    pixels = PixelSettings(max_tokens=shape.image_tokens)
    spec = _spec(name, thinker, tokenizer, pixels, weights=config.weights, compiled=config.compile)
    return QwenOmni(thinker, tokenizer, spec, ways)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelMismatch(
            f"{path.name} of the checkpoint cannot be read ({error}); fetch the checkpoint again"
        ) from None
    if not isinstance(values, dict):
        raise ModelMismatch(
            f"{path.name} of the checkpoint is no JSON object; fetch the checkpoint again"
        )
    return values


def _check_class(folder: Path) -> None:
    kind = _read_json(folder / "config.json").get("model_type")
    allowed = ("qwen2_5_omni", "qwen2_5_omni_thinker")
    if kind not in allowed:
        raise ModelMismatch(
            f"the checkpoint's model_type is {kind!r}; allowed: {' or '.join(allowed)}, as in "
            "Qwen/Qwen2.5-Omni-7B and -3B"
        )


def _check_shards(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file():
        shards = _read_json(index).get("weight_map")
        names = set(map(str, shards.values())) if isinstance(shards, dict) else set()
    if not names:
        raise ModelMismatch(f"{index.name} names no shard; fetch the checkpoint again")
    for name in sorted(names):
        try:
            with safe_open(folder / name, framework="pt") as shard:
                shard.keys()
        except FileNotFoundError:
            raise ModelMismatch(
                f"shard {name} of the checkpoint is missing (only safetensors are read); fetch "
                "the checkpoint again"
            ) from None
        except (SafetensorError, OSError) as error:
            raise ModelMismatch(
                f"shard {name} of the checkpoint is damaged ({error}); fetch the checkpoint again"
            ) from None


def _read_thinker(folder: Path, dtype: torch.dtype | Literal["auto"], attention: str) -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    hf_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        thinker, report = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # a damaged config.json can make any line of the class fail
        reason = " ".join(str(error).split())[:300]
        raise ModelMismatch(
            f"the checkpoint cannot be loaded as a Qwen2.5-Omni thinker ({reason}); fetch the "
            "checkpoint again, or give another"
        ) from None
    missing = sorted(report["missing_keys"])
    if missing or report["mismatched_keys"]:
        named = missing or sorted(str(key) for key in report["mismatched_keys"])
        raise ModelMismatch(
            f"{len(named)} tensors of the thinker are missing or misshapen in the checkpoint, "
            f"first {named[0]}; "
            "fetch the checkpoint again"
        )
    return thinker


def _read_tokenizer(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # as above, for tokenizer.json and tokenizer_config.json
        reason = " ".join(str(error).split())[:200]
        raise ModelMismatch(
            f"the checkpoint's tokenizer cannot be read ({reason}); fetch the checkpoint again"
        ) from None


def _check_tokenizer(tokenizer: Any, thinker: Any) -> None:
    """Refuse a tokenizer of another model: missing special tokens, or ids beyond the embedding."""
    ids = [ChatTemplate(tokenizer, kind).special("<|im_end|>") for kind in StreamKind]
    ids += tokenizer.get_added_vocab().values()
    rows = int(thinker.get_input_embeddings().weight.shape[0])
    if max(ids) >= rows:
        raise ModelMismatch(
            f"the tokenizer has ids up to {max(ids)}, and the model knows {rows} tokens; the two "
            "are not of one checkpoint: fetch it again"
        )


def _pixel_settings(folder: Path, thinker: Any) -> PixelSettings:
    vision = thinker.config.vision_config
    path = folder / "preprocessor_config.json"
    values = _read_json(path) if path.is_file() else {}
    factor = int(vision.patch_size) * int(vision.spatial_merge_size)
    size = values.get("size") if isinstance(values.get("size"), dict) else {}
    most = values.get("max_pixels") or (size or {}).get("longest_edge") or 768 * factor * factor
    mean, std = values.get("image_mean") or CLIP_MEAN, values.get("image_std") or CLIP_STD
    try:
        most, mean, std = int(most), tuple(map(float, mean)), tuple(map(float, std))
    except (TypeError, ValueError) as error:
        raise ModelMismatch(
            f"{path.name} of the checkpoint is damaged ({error}); fetch the checkpoint again"
        ) from None
    return PixelSettings(
        patch_size=int(vision.patch_size),
        merge_size=int(vision.spatial_merge_size),
        temporal_patch_size=int(vision.temporal_patch_size),
        max_tokens=max(1, most // (factor * factor)),
        mean=mean,
        std=std,
    )


def _watch_templates(folder: Path) -> WatchTemplates:
    path = folder / "watch.json"
    return templates_of(_read_json(path)) if path.is_file() else WatchTemplates()


def _spec(
    name: str,
    thinker: Any,
    tokenizer: Any,
    pixels: PixelSettings,
    watch: WatchTemplates | None = None,
    weights: str = "auto",
    compiled: bool = False,
) -> ModelSpec:
    text = thinker.config.text_config
    eos = thinker.generation_config.eos_token_id if thinker.generation_config is not None else None
    ids = [eos] if isinstance(eos, int) else list(eos or [])
    ids += [tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")]
    weight = thinker.lm_head.weight
    first = parts_of(thinker).text.layers[0].self_attn
    return ModelSpec(
        name=name,
        n_layers=int(text.num_hidden_layers),
        hidden_size=int(text.hidden_size),
        n_heads=int(text.num_attention_heads),
        n_kv_heads=int(text.num_key_value_heads),
        head_dim=int(first.head_dim),
        vocabulary=int(weight.shape[0]),
        max_positions=int(text.max_position_embeddings),
        ids_per_second=float(thinker.config.position_id_per_seconds),
        seconds_per_chunk=float(thinker.config.seconds_per_chunk),
        eos_ids=tuple(sorted({int(i) for i in ids if i is not None})),
        pixels=pixels,
        frame_tokens=min(PAPER_FRAME_TOKENS, pixels.max_tokens),
        dtype=str(weight.dtype).removeprefix("torch."),
        device=str(weight.device),
        watch=watch or WatchTemplates(),
        weights=weights,
        compiled=compiled,
    )
