"""File names that identify the process of a hidden file, so that files of dead processes can be removed.

An owner is a machine (its name and id), one of its boots, a PID namespace, and a process with
its start time. Processes of other machines or containers never count as dead: they are not visible here.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import time
from dataclasses import astuple, dataclass
from pathlib import Path

PREFIX = ".videosys-"
_OWNER = re.compile(r"([0-9a-f]{8})-([0-9a-f]{8})-(\d+)-(\d+)-(\d+)")
_NAME = re.compile(re.escape(PREFIX) + _OWNER.pattern + r"-[0-9a-f]{12}(\.\w{1,8})?")


@dataclass(frozen=True)
class Owner:
    """A process. machine and boot: digests. namespace: of PIDs. start: ticks after the boot."""

    machine: str
    boot: str
    namespace: int
    pid: int
    start: int

    def __str__(self) -> str:
        return "-".join(map(str, astuple(self)))

    def is_dead(self, changed: float) -> bool:
        """Whether this process has certainly ended. changed: mtime of its file, in seconds since 1970."""
        own = current_owner()
        if self.machine != own.machine:
            return False
        if self.boot != own.boot:
            return changed < boot_time()  # written since then: not from an earlier boot of this machine
        return self.namespace == own.namespace and process_start(self.pid) != self.start


def parse_owner(text: str) -> Owner | None:
    """Return the owner that a text begins with, or None."""
    match = _OWNER.match(text)
    return match and Owner(match[1], match[2], *(int(number) for number in match.groups()[2:5]))


def current_owner() -> Owner:
    """Return this process."""
    machine, boot, namespace = _host()
    pid = os.getpid()
    return Owner(machine, boot, namespace, pid, process_start(pid) or 0)


@functools.lru_cache(maxsize=1)
def _host() -> tuple[str, str, int]:
    namespace = 0
    with contextlib.suppress(OSError):
        namespace = os.stat("/proc/self/ns/pid").st_ino
    machine = [platform.node(), *map(_content, ("/etc/machine-id", "/sys/class/dmi/id/product_uuid"))]
    return _digest(*machine), _digest(_content("/proc/sys/kernel/random/boot_id")), namespace


def _content(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    return ""


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:8]


def process_start(pid: int) -> int | None:
    """Return the start of a process in ticks; None if it does not exist, 0 if its start is unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return _exists(pid)


def _exists(pid: int) -> int | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except (OSError, OverflowError):
        pass  # it belongs to another user
    return 0


def boot_time() -> float:
    """Return the boot time of this machine, in seconds since 1970."""
    return time.time() - time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def hidden_path(path: Path) -> Path:
    """Return a new name of this process in the folder of `path`, with its suffix."""
    # Short, because `path` may use up the length that a file name may have.
    suffix = path.suffix if re.fullmatch(r"\.\w{1,8}", path.suffix, re.ASCII) else ""
    return path.with_name(f"{PREFIX}{current_owner()}-{secrets.token_hex(6)}{suffix}")


def sweep_hidden(folder: Path) -> None:
    """Remove the hidden files and folders of dead processes of this user from a folder."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in [entry for entry in entries if entry.name.startswith(PREFIX)]:
            _sweep_one(entry)


def _sweep_one(entry: os.DirEntry[str]) -> None:
    match = _NAME.fullmatch(entry.name)
    owner = match and parse_owner(entry.name.removeprefix(PREFIX))
    with contextlib.suppress(OSError):
        about = entry.stat(follow_symlinks=False)
        if not owner or about.st_uid != os.getuid() or not owner.is_dead(about.st_mtime):
            return
        if stat.S_ISDIR(about.st_mode):
            shutil.rmtree(entry.path, ignore_errors=True)
        elif stat.S_ISREG(about.st_mode):
            os.unlink(entry.path)
