"""Mailbox: JSON messages into a process that was forked before they were written."""

from __future__ import annotations

import json
import mmap
import struct
import threading
from typing import Any

HEAD = 32  # bytes before the ring: written, read, stopped, and room for one more
_LENGTH = struct.Struct("<I")


class Mailbox:
    """A ring of bytes in memory that every process forked later shares. One end writes, the other
    reads, and only counters say how far each has come: nothing stays locked when one is killed.
    """

    def __init__(self, size: int = 256 * 1024) -> None:
        self.size = size
        self._memory = mmap.mmap(-1, HEAD + size)  # shared with forks, and with nobody else
        self._counters = memoryview(self._memory)[:HEAD].cast("q")
        self._writing = threading.Lock()

    def clear(self) -> None:
        """Ready for a new reader; nobody may be reading."""
        for i in range(len(self._counters)):
            self._counters[i] = 0

    # ------------------------------------------------------------ the writing end

    def put(self, message: Any) -> bool:
        """Leave a message. False, and nothing is left, where there is no room for it."""
        content = json.dumps(message).encode()
        content = _LENGTH.pack(len(content)) + content
        with self._writing:
            written, read = self._counters[0], self._counters[1]
            if written - read + len(content) > self.size:
                return False
            at = written % self.size
            first = content[: self.size - at]
            self._memory[HEAD + at : HEAD + at + len(first)] = first
            self._memory[HEAD : HEAD + len(content) - len(first)] = content[len(first) :]
            self._counters[0] = written + len(content)  # only now can it be seen
        return True

    def stop(self, why: int = 1) -> None:
        """Ask the other end to come to an end; there is always room for this."""
        self._counters[2] = why

    # ------------------------------------------------------------ the reading end

    @property
    def stopped(self) -> int:
        """What `stop` was told; 0 before."""
        return self._counters[2]

    def take(self) -> list[Any]:
        """All messages that have come since the last call, in their order."""
        written, read = self._counters[0], self._counters[1]
        out = []
        while read < written:
            (length,) = _LENGTH.unpack(self._bytes(read, _LENGTH.size))
            out.append(json.loads(self._bytes(read + _LENGTH.size, length)))
            read += _LENGTH.size + length
        self._counters[1] = read
        return out

    def _bytes(self, begin: int, length: int) -> bytes:
        at = begin % self.size
        first = self._memory[HEAD + at : HEAD + min(at + length, self.size)]
        return first + self._memory[HEAD : HEAD + length - len(first)]
