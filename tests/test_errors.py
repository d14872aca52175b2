"""The exception tree is the one drawn at the top of its file, exit codes included."""

from __future__ import annotations

import re

import pytest

from omnidrop_stream import errors
from omnidrop_stream.errors import OmniDropError


def everything(kind: type) -> set[type]:
    return {kind}.union(*(everything(sub) for sub in kind.__subclasses__()))


OURS = sorted(
    (k for k in everything(OmniDropError) if k.__module__ == errors.__name__),
    key=lambda k: k.__name__,
)


def drawn() -> dict[str, tuple[int, str]]:
    """Name -> (exit code, parent) as the drawing has it."""
    found, parents = {}, {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^([ │]*)(?:[├└]── )?(\w+) +(\d)(?: |$)", line)
        if match:
            depth = len(match[1]) // 4
            parents[depth] = match[2]
            found[match[2]] = (int(match[3]), parents.get(depth - 1, "Exception"))
    return found


@pytest.mark.parametrize("kind", OURS)
def test_each_error_stands_in_the_drawing_with_its_exit_code_and_parent(kind):
    assert drawn()[kind.__name__] == (kind.exit_code, kind.__bases__[0].__name__)


def test_the_drawing_has_no_error_that_is_not_there():
    assert set(drawn()) == {kind.__name__ for kind in OURS}


@pytest.mark.parametrize("kind", OURS)
def test_each_error_has_a_machine_readable_code(kind):
    assert re.fullmatch(r"[a-z_]+", kind.code)


def test_no_exit_code_means_success_or_an_interruption():
    assert not {0, 130} & {kind.exit_code for kind in OURS}
