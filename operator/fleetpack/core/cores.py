"""Sets of cores on one node, as bit masks, and how they are written.

Core i of a node is bit i. A mask is an `int`, so union, overlap and free space are single operations however large the node;
people and annotations see the compact form `0-7,12`. Text that is no such list is refused with `ValueError`.
"""

from __future__ import annotations

from collections.abc import Iterator


def range_mask(start: int, count: int) -> int:
    """Return the mask of `count` contiguous cores from core `start`."""
    return ((1 << count) - 1) << start


def core_ids(mask: int) -> Iterator[int]:
    """Yield the ids of the cores in `mask`, ascending."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def format_cores(mask: int) -> str:
    """Write a mask as ascending ids and ranges: `0-7,12`; the empty set is the empty text."""
    parts: list[str] = []
    start = previous = -2
    for core in core_ids(mask):
        if core != previous + 1:
            if start >= 0:
                parts.append(_format_range(start, previous))
            start = core
        previous = core
    if start >= 0:
        parts.append(_format_range(start, previous))
    return ",".join(parts)


def _format_range(start: int, end: int) -> str:
    return str(start) if start == end else f"{start}-{end}"


def parse_cores(text: str) -> int:
    """Read `0-7,12` as a mask.

    Raises `ValueError` that quotes the part which is no core id or ascending range.
    """
    mask = 0
    for part in text.split(",") if text else ():
        start_text, dash, end_text = part.strip().partition("-")
        if not start_text.isdecimal() or (dash and not end_text.isdecimal()):
            raise ValueError(f"cores {text!r}: {part!r} is neither a core id nor a range such as 8-15")
        start = int(start_text)
        end = int(end_text) if dash else start
        if end < start or end > 4095:
            raise ValueError(f"cores {text!r}: {part!r} must ascend and stay below 4096")
        mask |= range_mask(start, end - start + 1)
    return mask


def largest_free_range(free_mask: int) -> int:
    """Return the length of the longest run of contiguous cores in `free_mask`."""
    longest = 0
    while free_mask:
        # Each step shortens every run by one: the number of steps is the longest run.
        free_mask &= free_mask >> 1
        longest += 1
    return longest
