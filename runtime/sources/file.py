"""A media file as a source: PyAV decodes, the file starts at 0.

The pictures and the sound are read through a container of their own each, and merged by
presentation time, so that a badly interleaved file needs no more memory than a good one. Only the
frames that the model's grid can pick are turned into RGB; where a picture stays up for long
(variable frame rate) it is handed on again at each slot, as a player would show it.
Not covered: non-square pixels.
"""

from __future__ import annotations

import heapq
import os
import stat
import threading
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import av
import av.error
from av.container import InputContainer

from omnidrop_stream.errors import SourceDenied, SourceError, SourceNotFound, SourceUnreadable
from omnidrop_stream.types import SAMPLE_RATE, Frame, Samples, StreamKind
from runtime.redact import redact
from runtime.sources.base import SourceInfo, SourceStats
from runtime.sources.choose import of_file
from runtime.sources.decode import decoded_pictures, decoded_sound, thinned
from runtime.sources.network import Broken

_WHAT_WORKS = "Give a video or sound file such as mp4, mkv, mov, webm, mp3, flac or wav"
_TEXT_FORMATS = {"tty", "bin", "xbin", "adf", "idf"}  # FFmpeg would draw a text file as a picture


class FileSource:
    """One media file. Open it with ``with``; iterate in the same thread.

    fps: the model's pictures a second; None hands on every frame. video_stream, audio_stream: which
    ones, counted from 0 in their kind; None: the largest picture, and the default or richest sound.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: float | None = 2.0,
        video_stream: int | None = None,
        audio_stream: int | None = None,
    ) -> None:
        self._path, self._fps = Path(path), fps
        self.wanted = (video_stream, audio_stream)
        """Numbers of the streams, picture and sound; None: chosen by what there is."""
        self._name = redact(path)
        self._info: SourceInfo | None = None
        self.stats = SourceStats()
        self._stop = threading.Event()
        self._containers: list[InputContainer] = []
        self._items: Iterator[Frame | Samples] = iter(())

    @property
    def path(self) -> Path:
        """The file, absolute."""
        return self._path.resolve()

    @property
    def info(self) -> SourceInfo:
        """Known inside the ``with`` block."""
        if self._info is None:
            raise RuntimeError("a source's info is known only inside its with block")
        return self._info

    def __enter__(self) -> Self:
        self._look_before_opening()
        try:
            self._begin()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self.__exit__(None, None, None)
            self._refuse(error)
        except SourceError:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._items = iter(())
        while self._containers:
            self._containers.pop().close()

    def __iter__(self) -> Iterator[Frame | Samples]:
        """Frames and samples in order of time; ends at the file's end or when stopped."""
        for item in self._items:
            if self._stop.is_set():
                return
            if isinstance(item, Frame):
                self.stats.frames += 1
                end_s = item.time_s
            else:
                self.stats.samples += len(item.pcm)
                end_s = item.time_s + len(item.pcm) / SAMPLE_RATE
            self.stats.ended_at_s = max(self.stats.ended_at_s, end_s)
            yield item

    def stop(self) -> None:
        """Ask the iterator to end; safe from any thread."""
        self._stop.set()

    def _look_before_opening(self) -> None:
        """What the file system knows, in plain words; a pipe or device would make FFmpeg wait."""
        try:
            found = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            raise SourceNotFound(
                f"{self._name}: there is no such file. Check the path and the spelling."
            ) from None
        except (OSError, ValueError) as error:
            self._refuse(error)
        if stat.S_ISDIR(found.st_mode):
            raise SourceUnreadable(f"{self._name} is a directory. {_WHAT_WORKS} inside it.")
        if not stat.S_ISREG(found.st_mode):
            raise SourceUnreadable(f"{self._name} is no ordinary file. {_WHAT_WORKS}.")
        if found.st_size == 0:
            raise SourceUnreadable(f"{self._name} is empty (0 bytes). Copy or record it again.")

    def _refuse(self, error: Exception) -> NoReturn:
        if isinstance(error, PermissionError):
            raise SourceDenied(
                f"{self._name}: no permission to read it. Change its permissions (chmod +r) "
                "or run as a user who may."
            ) from error
        if isinstance(error, FileNotFoundError):
            raise SourceNotFound(f"{self._name}: there is no such file.") from error
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise SourceUnreadable(
            f"{self._name} cannot be read as media ({redact(reason)}): it is truncated, corrupt or "
            f"no media file. {_WHAT_WORKS}, or copy it again."
        ) from error

    def _open(self) -> InputContainer:
        # "file:" and the whitelist: no name and no playlist can make FFmpeg reach for the network.
        container = av.open(
            f"file:{self._path.resolve()}", "r", options={"protocol_whitelist": "file"}
        )
        self._containers.append(container)
        return container

    def _chosen(
        self, container: InputContainer
    ) -> tuple[av.VideoStream | None, av.AudioStream | None]:
        try:
            return of_file(container, *self.wanted)
        except Broken as broken:
            trouble = broken.trouble
        raise trouble.kind(f"{self._name}: {trouble.reason}. {trouble.advice}")

    def _begin(self) -> None:
        for_video, for_audio = self._open(), self._open()
        if for_video.format.name in _TEXT_FORMATS:
            raise SourceUnreadable(f"{self._name} is a text file. {_WHAT_WORKS}.")
        # Each from its own container: a stream may be read only through the one it came from.
        video, audio = self._chosen(for_video)[0], self._chosen(for_audio)[1]
        if video is None and audio is None:
            raise SourceUnreadable(
                f"{self._name} holds neither pictures nor sound that can be decoded. {_WHAT_WORKS}."
            )
        pictures = None if video is None else decoded_pictures(for_video, video, self.stats)
        sounds = None if audio is None else decoded_sound(for_audio, audio, self.stats)
        picture = next(pictures, None) if pictures is not None else None
        sound = next(sounds, None) if sounds is not None else None
        if picture is None and sound is None:
            raise SourceUnreadable(
                f"{self._name}: nothing in it can be decoded ({self.stats.decode_errors} errors); "
                "it is truncated or corrupt. Copy or record it again."
            )
        starts = [item.time_s for item in (picture, sound) if item is not None]
        zero_s = min(starts)
        media: list[Iterator[Frame | Samples]] = []
        width = height = rate = None
        if picture is not None and pictures is not None and video is not None:
            width, height = picture.size
            rate = float(video.average_rate or video.guessed_rate or 0) or None
            media.append(thinned(chain([picture], pictures), self._fps, zero_s))
        if sound is not None and sounds is not None:
            media.append(Samples(run.pcm, run.time_s - zero_s) for run in chain([sound], sounds))
        self._items = heapq.merge(*media, key=lambda item: item.time_s)
        kinds = {(True, True): StreamKind.AV, (True, False): StreamKind.VIDEO}
        kind = kinds.get((picture is not None, sound is not None), StreamKind.AUDIO)
        duration_s = for_video.duration / 1e6 if for_video.duration else None
        self._info = SourceInfo(self._name, kind, width, height, rate, duration_s, live=False)
