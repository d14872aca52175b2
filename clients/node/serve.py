"""``omnidrop serve FILE``: cameras, model, broker, metrics in one process, for weeks.

It comes up by itself when camera, broker or model do. SIGHUP reads FILE again; SIGTERM or Ctrl-C
drains: what is being answered is finished or kept for the next start, within 5 s.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any

import structlog

from clients.mqtt.controls import kept_switches
from clients.mqtt.home_assistant import HomeAssistant
from clients.mqtt.ports import Extension
from clients.mqtt.service import MqttService
from clients.mqtt.topics import Topics
from clients.mqtt.watches import kept_watches
from clients.node import logs
from clients.node.config import CameraConfig, NodeConfig, load_node_config
from clients.node.config_commands import PID_FILE, advices
from clients.node.health import NodeHealth
from clients.node.http import application, serving
from clients.node.metrics import NodeMetrics
from clients.node.news import log_cameras
from clients.node.reload import Changes, changes
from clients.node.systemd import Notifier
from omnidrop_stream.errors import ConfigError, OmniDropError, UsageError
from omnidrop_stream.watch_config import WatchConfig
from runtime.journal import Journal
from runtime.memory import settle_heap
from runtime.node import CameraSpec, Node
from runtime.sources.complaints import listen

DRAIN_S = 3.0
"""Given to answers in progress; closing everything takes up to 2 s more."""
SWITCH_S = 0.0005
"""The loop is woken by the model thread while that computes on, and the model thread waits for the
loop: at Python's 5 ms each of the few steps to the socket may wait so long for the interpreter.
"""
_log = structlog.get_logger("omnidrop")


def flags_of(
    model: str | None = None,
    device: str | None = None,
    name: str | None = None,
    state_dir: Path | None = None,
    log_level: str | None = None,
    log_json: bool = False,
) -> dict[str, Any]:
    """What the command line says, nested as the file is."""
    given: dict[str, Any] = {
        "model": {"model": model, "device": device},
        "name": name,
        "state_dir": None if state_dir is None else str(state_dir),
        "log": {"level": log_level, "json_lines": log_json or None},
    }
    for section in ("model", "log"):
        given[section] = {key: value for key, value in given[section].items() if value is not None}
    return {key: value for key, value in given.items() if value not in (None, {})}


def serve(
    path: Path,
    flags: Mapping[str, Any],
    notifier: Notifier | None = None,
    own_process: bool = False,
) -> int:
    """Run until a signal ends it; 0. Raises OmniDropError for what can be known at the start.

    own_process: nothing else lives in this process, so it may end here and now.
    """
    config = load_node_config(path, flags)
    logs.set_up(config.log.level, config.log.json_lines)
    listen()
    for advice in advices(config):
        _log.warning(advice)
    with _only_one(config):
        sys.setswitchinterval(SWITCH_S)
        settle_heap()
        asyncio.run(_Serving(path, flags, config, notifier or Notifier()).run())
    if own_process:  # taking torch down takes seconds, and nothing is left to be written
        sys.stderr.flush()
        os._exit(0)
    return 0


@contextmanager
def _only_one(config: NodeConfig) -> Iterator[None]:
    """The state folder is ours while we run; the number of our process stands in it."""
    folder = config.state_folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / PID_FILE).open("a+", encoding="ascii")
    except OSError as error:
        raise ConfigError(
            f"state_dir = {folder} cannot be written ({error.strerror}); give a folder that this "
            "user may write"
        ) from None
    with file:
        _lock(file, folder, config.name)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _lock(file: IO[str], folder: Path, name: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        raise UsageError(
            f"a node of the name {name!r} runs already (process {file.read() or 'unknown'}, state "
            f"in {folder}); give this one another name, or state_dir"
        ) from None


class _Serving:
    """One run. All of it belongs to the event loop."""

    def __init__(
        self, path: Path, flags: Mapping[str, Any], config: NodeConfig, notifier: Notifier
    ) -> None:
        self._path = path
        self._flags = flags
        self._config = config
        self._notifier = notifier
        self._switched: dict[str, dict[str, bool]] = {}
        self._set: dict[str, dict[str, WatchConfig]] = {}
        """Standing questions that were set by MQTT."""
        self._journal: Journal | None = None
        self._service: MqttService | None = None
        self._stop: asyncio.Event
        self._reload: asyncio.Event

    async def run(self) -> None:
        """Everything, until a signal."""
        self._stop, self._reload = asyncio.Event(), asyncio.Event()
        with self._signals():
            config = self._config
            node = Node(config.library, wait_for_model=config.wait_for_model)
            async with node, self._remembering(node):
                # Before the broker: what it keeps of cameras that are not there is taken away.
                for name in config.cameras:
                    self._add(node, name)
                async with self._broker(node), self._http(node):
                    _log.info("serving", cameras=len(config.cameras), model=config.model.model)
                    self._notifier.ready(self._summary(node))
                    await self._until_stopped(node)
                    self._notifier.stopping()
                    _log.info("draining")
                    if self._service is not None:
                        await self._service.drain(DRAIN_S)
        _log.info("ended")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        calls: dict[int, Callable[[], None]] = {
            signal.SIGTERM: self._stop.set,
            signal.SIGINT: self._stop.set,
            signal.SIGHUP: self._reload.set,
        }
        for number, call in calls.items():
            loop.add_signal_handler(number, call)
        try:
            yield
        finally:
            for number in calls:
                loop.remove_signal_handler(number)

    @asynccontextmanager
    async def _remembering(self, node: Node) -> AsyncIterator[None]:
        """The journal beside the block, where there is a broker; what it holds is read."""
        config = self._config
        if config.mqtt is None:
            yield
            return
        path = config.mqtt.journal or config.state_folder / "journal.db"
        async with Journal(path, node.stats) as self._journal:
            await self._read_kept()
            yield

    @asynccontextmanager
    async def _broker(self, node: Node) -> AsyncIterator[None]:
        """The broker's service beside the block; its end by itself ends the node. Without a broker
        the log tells of the cameras.
        """
        config = self._config
        if config.mqtt is None or self._journal is None:
            news = asyncio.create_task(log_cameras(node), name="camera news")
            try:
                yield
            finally:
                news.cancel()
            return
        self._service = MqttService(
            config.mqtt,
            node,
            self._journal,
            config.name,
            config.state_folder,
            self._extensions(node),
            watch_node=node,
        )
        task = asyncio.create_task(self._service.run(), name="mqtt")
        task.add_done_callback(self._broker_ended)
        try:
            yield
        finally:
            task.cancel()
            (failure,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(failure, Exception):
            raise failure

    async def _read_kept(self) -> None:
        """What was set and switched by MQTT until now."""
        if self._journal is not None:
            self._switched = await kept_switches(self._journal)
            self._set = await kept_watches(self._journal)

    def _broker_ended(self, task: asyncio.Task[None]) -> None:
        self._stop.set()

    def _extensions(self, node: Node) -> tuple[Extension, ...]:
        mqtt = self._config.mqtt
        if mqtt is None or not mqtt.discovery:
            return ()
        topics = Topics(mqtt.prefix or self._config.name)

        def watches(camera: str) -> dict[str, str]:
            return {state.id: state.text for state in node.watches(camera)}

        name, prefix = self._config.name, mqtt.discovery_prefix
        return (HomeAssistant(node, topics, name, prefix, watches),)

    @asynccontextmanager
    async def _http(self, node: Node) -> AsyncIterator[None]:
        http = self._config.http
        if not http.enabled:
            yield
            return
        health = NodeHealth(node, lambda: self._service)
        metrics = NodeMetrics(health.look)
        app = application(metrics.text, health.alive, health.ready, http.token.get_secret_value())
        async with serving(app, http.bind, http.port) as port:
            _log.info("metrics and health", address=f"http://{http.bind}:{port}")
            yield

    # -- cameras

    def _add(self, node: Node, name: str) -> None:
        camera = self._config.cameras[name]
        kept = self._set.get(name, {})
        node.add_camera(name, _spec(self._config, name, camera, self._switched.get(name, {}), kept))

    async def _until_stopped(self, node: Node) -> None:
        health = NodeHealth(node, lambda: self._service)
        watchdog = asyncio.create_task(self._watchdog(node, health), name="watchdog")
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            while not stop.done():
                reload = asyncio.create_task(self._reload.wait(), name="reload")
                await asyncio.wait({stop, reload}, return_when=asyncio.FIRST_COMPLETED)
                if reload.done() and not stop.done():
                    self._reload.clear()
                    await self._read_again(node)
                reload.cancel()
        finally:
            watchdog.cancel()
            stop.cancel()

    async def _read_again(self, node: Node) -> None:
        """Take over what changed in the file; a file that is wrong changes nothing."""
        try:
            new = load_node_config(self._path, self._flags)
        except OmniDropError as error:
            _log.error("the file was not taken over", reason=str(error))
            return
        old, found = self._config, changes(self._config, new)
        logs.set_up(new.log.level, new.log.json_lines)
        self._config = _kept(self._config, new)
        await self._read_kept()
        await self._apply(node, found)
        for name in found.watches:
            await self._follow(node, name, old.cameras[name].watches)
        _log.info("read again", changes=str(found))

    async def _follow(self, node: Node, camera: str, before: Mapping[str, WatchConfig]) -> None:
        """Take over a camera's standing questions; those that MQTT has set stay as they are."""
        now, by_mqtt = self._config.cameras[camera].watches, self._set.get(camera, {})
        for name in set(before) - set(now) - set(by_mqtt):
            node.remove_watch(camera, name)
        for name, watch in now.items():
            if name in by_mqtt or before.get(name) == watch:
                continue
            try:
                await node.set_watch(camera, name, watch)
            except OmniDropError as error:
                _log.error("a standing question was refused", watch=name, reason=str(error))

    async def _apply(self, node: Node, found: Changes) -> None:
        gone = (*found.removed, *found.changed)
        await asyncio.gather(*(node.remove_camera(name) for name in gone))
        for name in (*found.changed, *found.added):
            self._add(node, name)

    async def _watchdog(self, node: Node, health: NodeHealth) -> None:
        """Tell systemd that we live, as long as we do."""
        every_s = self._notifier.every_s
        while every_s is not None:
            if (await health.alive()).ok:
                self._notifier.alive(self._summary(node))
            await asyncio.sleep(every_s)

    def _summary(self, node: Node) -> str:
        states = [node.status(name).state for name in node.cameras()]
        live = sum(state in ("live", "degraded") for state in states)
        return f"{live} of {len(states)} cameras live"


def _spec(
    config: NodeConfig,
    name: str,
    camera: CameraConfig,
    switched: Mapping[str, bool],
    watches: Mapping[str, WatchConfig],
) -> CameraSpec:
    """What was switched and set by MQTT outlives a restart, and wins over the file."""
    return CameraSpec(
        source=camera.source,
        config=config.of_camera(name),
        options=camera.options,
        enabled=switched.get("enabled", camera.enabled),
        muted=switched.get("muted", camera.muted),
        watches={**camera.watches, **watches},
    )


def _kept(old: NodeConfig, new: NodeConfig) -> NodeConfig:
    """The new settings, where only a restart takes them over the old ones."""
    kept = {name: getattr(old, name) for name in changes(old, new).restart}
    return new.model_copy(update=kept)
