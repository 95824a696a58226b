"""Reserved file names: a small hidden file next to the name identifies the owner."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from videosys.utils.owners import PREFIX, current_owner, hidden_path, parse_owner, sweep_hidden

RESERVED = f"{PREFIX}reserved-"
LONGEST = 600  # bytes of a reservation


def reservation_path(path: Path) -> Path:
    """Return the hidden file that reserves a path; its name is always short."""
    return path.with_name(RESERVED + hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16])


def reserve(path: Path) -> bool:
    """Return whether this process has reserved the path. OSError if its folder is not writable.

    A path without a suffix becomes an empty folder. Reservations of dead processes are taken over.
    """
    place, content = reservation_path(path), f"{current_owner()} {path.name}"
    try:
        _create(place, os.fsencode(content))
    except FileExistsError:
        if not _take_over(place, os.fsencode(content)):
            return False
    try:
        if os.path.lexists(path):
            raise FileExistsError
        if not path.suffix:
            path.mkdir()
    except FileExistsError:  # by a process that has just finished
        place.unlink(missing_ok=True)
        return False
    except OSError:
        place.unlink(missing_ok=True)
        raise
    return True


def release(path: Path) -> None:
    """End a reservation; a folder that is still empty is removed."""
    with contextlib.suppress(OSError):
        path.rmdir()  # fails for anything else
    with contextlib.suppress(OSError):
        reservation_path(path).unlink()


def _create(place: Path, content: bytes) -> None:
    """Create the file with its content atomically."""
    temporary = hidden_path(place)
    temporary.write_bytes(content)
    try:
        os.link(temporary, place)
    except FileExistsError:
        raise
    except OSError:  # the file system does not support links
        with place.open("xb") as file:
            file.write(content)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[int | None]:
    """Yield the reservation of a dead process of this user, open and locked, or None."""
    descriptor = os.open(place, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        about = os.fstat(descriptor)
        is_same = os.stat(place, follow_symlinks=False).st_ino == about.st_ino
        is_mine = stat.S_ISREG(about.st_mode) and about.st_uid == os.getuid()
        owner = parse_owner(os.pread(descriptor, LONGEST, 0).decode("ascii", "replace"))
        is_dead = owner is not None and owner.is_dead(about.st_mtime)
        yield descriptor if is_same and is_mine and is_dead else None
    finally:
        os.close(descriptor)


def _take_over(place: Path, content: bytes) -> bool:
    with contextlib.suppress(OSError), _locked(place) as descriptor:
        if descriptor is not None:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, content, 0)
            return True
    return False


def sweep(folder: Path) -> None:
    """Remove the hidden files, folders and reservations of dead processes of this user from a folder."""
    sweep_hidden(folder)
    for place in folder.glob(f"{RESERVED}*"):
        with contextlib.suppress(OSError), _locked(place) as descriptor:
            if descriptor is not None:
                _remove_folder(place, descriptor)
                place.unlink()


def _remove_folder(place: Path, descriptor: int) -> None:
    """Remove the empty folder that a reservation made."""
    name = os.fsdecode(os.pread(descriptor, LONGEST, 0)).partition(" ")[2]
    if name and Path(name).name == name and not Path(name).suffix:
        with contextlib.suppress(OSError, ValueError):
            place.with_name(name).rmdir()  # fails for anything else
