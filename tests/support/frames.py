"""How many functions of ours are between a public call and the driver."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any, Callable


def frames_to_driver(call: Callable[[], Any]) -> int:
    """Run ``call``; return the most frames of the package above a driver's execute().

    The public function that ``call`` calls is counted, the driver's own are not.
    """
    deepest = 0

    def watch(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal deepest
        if event == "c_call" and arg.__name__ == "execute":
            at: FrameType | None = frame
        elif event == "call" and frame.f_code.co_name == "execute":
            at = frame.f_back
        else:
            return
        if at is not None and _is_ours(at):
            deepest = max(deepest, _depth(at))

    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(None)
    assert deepest, "nothing was executed"
    return deepest


def _depth(frame: FrameType | None) -> int:
    depth = 0
    while frame is not None:
        depth += _is_ours(frame)
        frame = frame.f_back
    return depth


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("hydracache_sync.")
