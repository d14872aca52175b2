"""Settings of one source: what a camera entry of a file, or the flags of a command, may say."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class SourceOptions(BaseModel):
    """Every source takes the same options and ignores what does not concern its kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str = ""
    """User name, as it is: we encode it."""
    password: SecretStr = SecretStr("")
    transport: Literal["tcp", "udp"] = "tcp"
    """RTSP only."""
    tls_verify: bool = True
    """Refuse certificates that no known authority signed."""
    tls_ca_file: str | None = None
    """Authorities to trust instead of the system's."""
    open_timeout_s: float = Field(default=5.0, ge=0.1, le=300)
    stall_timeout_s: float = Field(default=5.0, ge=0.1, le=300)
    """So long without a picture, or without sound, and that medium is said to be missing."""
    video_stream: int | None = Field(default=None, ge=0)
    """Which of a feed's video streams, counted from 0; None: the default rule."""
    audio_stream: int | None = Field(default=None, ge=0)
    hwaccel: str = Field(default="none", pattern=r"^[a-z0-9]+$")
    """none, auto, or a device type of FFmpeg: cuda, qsv, videotoolbox, d3d11va ..."""
    camera_backend: Literal["auto", "pyav", "opencv"] = "auto"
    camera_size: str | None = Field(default=None, pattern=r"^\d{2,5}x\d{2,5}$")
    """Width x height to ask a camera for; None: its own choice."""
    camera_fps: float | None = Field(default=None, gt=0, le=240)
    microphone: str | None = None
    """A microphone to pair with pictures that have no sound of their own: a name or number of
    ``omnidrop devices``, ``default``, or ``none``."""
    wait_for_first: bool = False
    """A source that cannot be had at first is waited for, instead of refused."""
