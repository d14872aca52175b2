"""What a changed file means for a node that runs: which cameras come, go and begin again."""

from __future__ import annotations

from dataclasses import dataclass

from clients.node.config import CameraConfig, NodeConfig

_LIVE = ("cameras", "log")
"""Sections that are taken over while running; cameras also take these over, by their settings."""
_OF_CAMERAS = ("stream", "intra", "pruning", "decode")


@dataclass(frozen=True, slots=True)
class Changes:
    """Names of cameras, and of sections that only a restart takes over."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    watches: tuple[str, ...] = ()
    """Cameras that go on, with other standing questions."""
    restart: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [
            f"{word} {', '.join(names)}"
            for word, names in (
                ("added", self.added),
                ("removed", self.removed),
                ("changed", self.changed),
                ("other standing questions for", self.watches),
                ("only a restart takes over", self.restart),
            )
            if names
        ]
        return "; ".join(parts) or "nothing changed"


def changes(old: NodeConfig, new: NodeConfig) -> Changes:
    """Compare by what a camera really runs with, so that the others are not disturbed."""
    both = [name for name in new.cameras if name in old.cameras]
    changed = [
        name
        for name in both
        if _without_watches(old, name) != _without_watches(new, name)
        or old.of_camera(name) != new.of_camera(name)
    ]
    watches = [
        name
        for name in both
        if name not in changed and old.cameras[name].watches != new.cameras[name].watches
    ]
    sections = [
        name
        for name in NodeConfig.model_fields
        if name not in (*_LIVE, *_OF_CAMERAS) and getattr(old, name) != getattr(new, name)
    ]
    return Changes(
        added=tuple(name for name in new.cameras if name not in old.cameras),
        removed=tuple(name for name in old.cameras if name not in new.cameras),
        changed=tuple(changed),
        watches=tuple(watches),
        restart=tuple(sections),
    )


def _without_watches(config: NodeConfig, name: str) -> CameraConfig:
    return config.cameras[name].model_copy(update={"watches": {}})
