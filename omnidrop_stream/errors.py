"""Everything this project raises on purpose, with the exit code the command line gives it.

OmniDropError                 1   anything of ours
    ├── UsageError                2   a value that is not allowed (a setting, a question, a flag)
    │   ├── ConfigError           2   names key, value and what is allowed
    │   ├── QuestionError         2   empty or too long
    │   └── UnknownCamera         2   no camera of that name here
    ├── SourceError               3   a file, stream or device that cannot be read
    │   ├── SourceNotFound        3
    │   ├── SourceUnreadable      3   empty, truncated, corrupt, neither video nor audio
    │   └── SourceDenied          3   authentication or permission
    ├── NodeError                 3   a running node that cannot be asked
    ├── ModelError                4   a checkpoint that cannot be used
    │   ├── ModelNotFound         4
    │   └── ModelMismatch         4   another class, a damaged or missing shard
    ├── Busy                      5   no room for another question right now
    ├── Overloaded                5   one more stream than the model can carry
    ├── NothingHeld               5   a question about a stream of which nothing is held
    ├── NoAnswer                  5   a node that did not answer in time
    └── MissingDependency         6   an optional package or program that is not installed

Interrupted by the user: 130. Each message says what was wrong, the value, what is allowed and what
to do.
"""

from __future__ import annotations


class OmniDropError(Exception):
    """Base of all errors raised on purpose."""

    exit_code: int = 1
    code: str = "internal"


class UsageError(OmniDropError):
    """A value that is not allowed."""

    exit_code = 2
    code = "bad_request"


class ConfigError(UsageError):
    """A setting out of range, unknown, or in conflict with another."""


class QuestionError(UsageError):
    """An empty question, or one longer than the limit."""


class UnknownCamera(UsageError):
    """A name that no camera of this node has."""

    code = "unknown_camera"


class SourceError(OmniDropError):
    """A file, stream or device that cannot be read."""

    exit_code = 3
    code = "camera_offline"


class SourceNotFound(SourceError):
    """There is nothing at that place."""

    code = "not_found"


class SourceUnreadable(SourceError):
    """Something is there but it is no usable media."""

    code = "unreadable"


class SourceDenied(SourceError):
    """Authentication failed or permission is missing."""

    code = "unauthorized"


class NodeError(OmniDropError):
    """A running node that cannot be asked: no broker, no login, or nobody there."""

    exit_code = 3
    code = "node_unreachable"


class ModelError(OmniDropError):
    """A checkpoint that cannot be used."""

    exit_code = 4
    code = "model_not_ready"


class ModelNotFound(ModelError):
    """No such folder, or a hub id that cannot be fetched."""


class ModelMismatch(ModelError):
    """A checkpoint of another class, or with damaged or missing shards."""


class Busy(OmniDropError):
    """No room for another question right now."""

    exit_code = 5
    code = "busy"


class Overloaded(OmniDropError):
    """One more stream than the model can carry, with the figures."""

    exit_code = 5
    code = "overloaded"


class MissingDependency(OmniDropError):
    """An optional package or program that is not installed."""

    exit_code = 6
    code = "missing_dependency"


class NothingHeld(OmniDropError):
    """A question about a stream of which nothing is held (not started, or everything forgotten)."""

    exit_code = 5
    code = "camera_offline"


class NoAnswer(OmniDropError):
    """A node took the question, or may have, and did not answer in time."""

    exit_code = 5
    code = "expired"
