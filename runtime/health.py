"""What this installation has, what it lacks, and the command that mends it: ``omnidrop doctor``."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.models import EMBEDDED_FOLDER, cache_folder, default_model

REINSTALL = "pip install omnidrop-stream (in a checkout: make venv)"
LITTLE_DISK_BYTES = 2 * 2**30
HUB_MODELS = ("Qwen/Qwen2.5-Omni-7B", "Qwen/Qwen2.5-Omni-3B")
_PACKAGES = (
    ("transformers", "transformers"),
    ("numpy", "numpy"),
    ("pydantic", "pydantic"),
    ("safetensors", "safetensors"),
)


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report. ``state``: ok, missing (the core does not work) or optional."""

    name: str
    state: str
    detail: str
    mend: str = ""


def survey() -> list[Check]:
    """Everything, in the order it is shown. Never raises; changes nothing."""
    checks = [_python()]
    checks += [_package(name, module) for name, module in _PACKAGES]
    checks += [
        _torch(),
        _cuda(),
        _flash(),
        _extra("torchao", "int8, int4", "small", "for --weights int8 or int4 on smaller cards"),
        _extra("matplotlib", "pictures", "inspect", "for omnidrop inspect --png"),
        _extra("pyarrow", "Parquet", "benchmarks", "for Video-MME as the hub has it"),
        _media(),
        _sound(),
        _broker(),
        *_models(),
        _disk(),
    ]
    return checks


def works(checks: list[Check]) -> bool:
    """Whether files can be asked about: nothing that the core needs is missing."""
    return all(check.state != "missing" for check in checks)


def _python() -> Check:
    where = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return _ok("Python", f"{where}, {os.cpu_count() or 1} processors")


def _package(name: str, module: str) -> Check:
    found = importlib.util.find_spec(module) is not None
    return _ok(name, _version(name)) if found else Check(name, "missing", "", REINSTALL)


def _torch() -> Check:
    return _imported("torch", lambda _: _version("torch"), "missing", REINSTALL)


def _cuda() -> Check:
    def about(torch: object) -> str:
        cuda = torch.cuda  # type: ignore[attr-defined]
        if not cuda.is_available():
            raise OSError("none: runs on the CPU")
        names = [
            f"{cuda.get_device_name(i)} "
            f"({cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB)"
            for i in range(cuda.device_count())
        ]
        return ", ".join(names)

    mend = "for an NVIDIA GPU: pip install torch with the CUDA build that your driver supports"
    return _imported("torch", about, "optional", mend, "CUDA device")


def _flash() -> Check:
    mend = "pip install --no-build-isolation 'omnidrop-stream[cuda]' (needs CUDA; sdpa works too)"
    if importlib.util.find_spec("flash_attn") is None:
        return Check("flash-attn", "optional", "not installed", mend)
    return _ok("flash-attn", _version("flash-attn"))


def _extra(package: str, use: str, extra: str, why: str) -> Check:
    """A package of one of our extras; not imported, since that takes long."""
    name = f"{package} ({use})"
    if importlib.util.find_spec(package) is None:
        mend = f"pip install 'omnidrop-stream[{extra}]' ({why})"
        return Check(name, "optional", "not installed", mend)
    return _ok(name, _version(package))


def _media() -> Check:
    def about(av: object) -> str:
        codecs = av.codecs_available  # type: ignore[attr-defined]
        lacking = [name for name in ("h264", "aac") if name not in codecs]
        if lacking:
            raise OSError(f"FFmpeg without {', '.join(lacking)}")
        libraries = av.library_versions  # type: ignore[attr-defined]
        return f"{_version('av')}, libavcodec {'.'.join(map(str, libraries['libavcodec']))}"

    return _imported("av", about, "missing", REINSTALL, "PyAV and FFmpeg")


def _sound() -> Check:
    mend = "pip install 'omnidrop-stream[mic]' and, on Debian, apt-get install libportaudio2"

    def about(sounddevice: object) -> str:
        return str(sounddevice.get_portaudio_version()[1])  # type: ignore[attr-defined]

    return _imported("sounddevice", about, "optional", mend, "microphone")


def _broker() -> Check:
    if importlib.util.find_spec("aiomqtt") is None:
        return Check("MQTT (aiomqtt)", "optional", "not installed", REINSTALL)
    return _ok("MQTT (aiomqtt)", _version("aiomqtt"))


def _models() -> list[Check]:
    files = [path for path in EMBEDDED_FOLDER.glob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 2**20
    embedded = Check(
        "embedded model",
        "optional",
        "not in this installation; the default is the tiny model, whose words mean nothing",
        "give --model with a hub id or a folder",
    )
    if default_model() == "embedded":
        embedded = _ok("embedded model", f"{len(files)} files, {size:.0f} MiB")
    return [embedded, *(_hub(name) for name in HUB_MODELS)]


def _hub(name: str) -> Check:
    def about(hub: object) -> str:
        found = hub.try_to_load_from_cache(name, "config.json")  # type: ignore[attr-defined]
        if not isinstance(found, str):
            raise OSError("not downloaded")
        return str(Path(found).parent)

    return _imported("huggingface_hub", about, "optional", f"hf download {name}", name)


def _disk() -> Check:
    folder = cache_folder()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    detail = f"{free / 2**30:.1f} GiB free for {cache_folder()}"
    if free >= LITTLE_DISK_BYTES:
        return _ok("disk", detail)
    return Check("disk", "optional", detail, "free some space, or set XDG_CACHE_HOME and HF_HOME")


def _imported(
    module: str, about: Callable[[object], str], otherwise: str, mend: str, name: str = ""
) -> Check:
    """Really import it: a library that it needs may be missing although it is installed."""
    try:
        return _ok(name or module, about(importlib.import_module(module)))
    except Exception as error:  # whatever a broken installation raises is what the report is about
        detail = "not installed" if isinstance(error, ModuleNotFoundError) else str(error)
        return Check(name or module, otherwise, " ".join(detail.split())[:200], mend)


def _ok(name: str, detail: str) -> Check:
    return Check(name, "ok", detail)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "installed, version unknown"
