"""Native code: a C file next to the engine that uses it, compiled on the machine it runs on.

Where a step is a hundred small operations on small tensors, most of its time goes into starting
them. A C compiler, where there is one, makes one call of them within a second or two, in a
process of its own; the result is kept in the user's cache folder. Nobody waits for it: whoever
asks gets nothing until it is ready, and nothing for good where there is no compiler.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

log = logging.getLogger("playground")

FLAGS = ("-O3", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd")
# the first that the compiler takes: all instructions of this processor, or those of all its kind
TUNED = (("-march=native",), ("-mcpu=native",), ())
PATIENCE = 120.0  # seconds for the compiler
# a processor that lacks an instruction ends the process that tries it: not this one
TRIAL = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).trial() != 1)"


def wanted() -> bool:
    """Whether native code may be used: PLAYGROUND_COMPILE=0 turns it off."""
    return os.environ.get("PLAYGROUND_COMPILE", "1") != "0"


def compiler() -> str | None:
    """The C compiler's path: what CC names, else the first of the usual names."""
    names = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


def cache() -> Path:
    """The folder that libraries are kept in, which nobody else may write to."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "generative-playground"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} is open to others")
    return folder


class Library:
    """One C file, compiled when somebody first asks for it.

    It defines `int trial(void)`, which is run once in another process and returns 1 if all is well.

    Args:
        folder: where what was compiled is kept; `cache()` unless told.

    Attributes:
        state: "idle", "busy", "ready" or "off".
        why: why it is off, in a few words for the page.
        code: the loaded library once it is ready.
    """

    def __init__(self, source: Path, folder: Path | None = None) -> None:
        self.source, self.folder = source, folder
        self.state, self.why = "idle", ""
        self.code: ctypes.CDLL | None = None
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):  # a thread does not live on in the child
            os.register_at_fork(after_in_child=self._forked)

    def ask(self) -> ctypes.CDLL | None:
        """The library if it is ready; else see to it that it will be. Never waits."""
        if self.state == "idle":
            with self._lock:
                if self.state == "idle":
                    self.state = "busy"
                    threading.Thread(target=self._build, daemon=True, name="compiler").start()
        return self.code

    def _forked(self) -> None:
        self._lock = threading.Lock()
        if self.state == "busy":
            self.state = "idle"

    def _build(self) -> None:
        try:
            self.code = self._load()
            self.state = "ready"
        except Exception as error:
            log.info("%s stays uncompiled: %s", self.source.name, error)
            self.why = self.why or "the compiler failed"
            self.state = "off"

    def _load(self) -> ctypes.CDLL:
        if not wanted():
            self.why = "PLAYGROUND_COMPILE is 0"
            raise RuntimeError(self.why)
        if os.name != "posix" or (program := compiler()) is None:
            self.why = "no C compiler here"
            raise RuntimeError(self.why)
        with contextlib.ExitStack() as stack:
            try:
                folder = self.folder or cache()
            except (OSError, RuntimeError):  # no home of one's own; what is loaded may be deleted
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            path = folder / f"{self.source.stem}-{self._name(program)}.so"
            if not path.exists():
                self._compile(program, path)
            return ctypes.CDLL(str(path))

    def _name(self, program: str) -> str:
        """Other code, another compiler or another processor have another name."""
        version = self._quietly([program, "--version"]).stdout.decode(errors="replace")
        about = [repr((FLAGS, TUNED, platform.machine(), program)), version]
        with contextlib.suppress(OSError):
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            about += sorted({line for line in lines if line.startswith(("flags", "Features"))})
        digest = hashlib.blake2b(self.source.read_bytes(), digest_size=12)
        digest.update("\n".join(about).encode())
        return digest.hexdigest()

    def _compile(self, program: str, path: Path) -> None:
        """Compile, try it out, and only then give it its name."""
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            for tuned in TUNED:
                command = [program, *FLAGS, *tuned, "-o", made, self.source, "-lm"]
                if not (done := self._quietly(command)).returncode:
                    break
            else:
                raise RuntimeError(done.stderr.decode(errors="replace")[-500:])
            if self._quietly([sys.executable, "-I", "-S", "-c", TRIAL, made]).returncode:
                self.why = "what was compiled failed its trial"
                raise RuntimeError(self.why)
            made.replace(path)

    @staticmethod
    def _quietly(command: list) -> subprocess.CompletedProcess:
        return subprocess.run(
            command, capture_output=True, timeout=PATIENCE, stdin=subprocess.DEVNULL
        )
