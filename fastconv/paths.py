"""Files that are read, which must be files, and files that are written, which appear when they are whole."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from .errors import FastconvError

UNLOCKABLE = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # some network file systems know no locks


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """A file, open for reading bytes. Raises OSError, also for a folder, and for devices and pipes, which may wait."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "is a device or a pipe: expected a file", os.fspath(path))
    return file


def open_log(path: str | os.PathLike[str], append: bool = False) -> TextIO:
    """A file to write text to, row by row. Devices and pipes will do: nothing here is read or replaced.

    Raises OSError, also for a pipe that nobody reads, which would wait for its reader.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if append else os.O_TRUNC)
    try:
        file = os.open(path, flags | os.O_NONBLOCK, 0o666)
    except OSError as e:
        if e.errno != errno.ENXIO or not stat.S_ISFIFO(os.stat(path).st_mode):  # a socket, a device that is not there
            raise
        raise OSError(errno.ENXIO, "is a pipe that nobody reads", os.fspath(path)) from None
    os.set_blocking(file, True)
    return open(file, "w", encoding="utf-8", newline="")


def target_path(path: str | os.PathLike[str]) -> Path:
    """The place of a file to be written. Raises FileNotFoundError, IsADirectoryError or another OSError where there can
    be none: a device or a pipe would be replaced by the file."""
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(target.parent))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder", str(target))
    if target.exists() and not target.is_file():
        raise FileExistsError(errno.EEXIST, "is a device or a pipe", str(target))
    return target


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty file to write to; when the block ends well, what was written is on the disk and at `path`.

    Where it does not, `path` stays as it was; what an earlier, killed process left half written is overwritten. Raises
    OSError, and FastconvError where somebody else writes the same file just now.
    """
    target = target_path(path)
    partial = target.with_name(f".{target.name}.part")
    lock = _locked(partial)
    try:
        os.ftruncate(lock, 0)
        yield partial
        _flush(partial)
        os.replace(partial, target)
        _flush(target.parent)
    except OSError as e:
        partial.unlink(missing_ok=True)
        if e.filename is not None or e.errno is None:
            raise
        raise OSError(e.errno, e.strerror, os.fspath(path)) from None  # which file the disk has no space for
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        os.close(lock)


def _flush(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _locked(partial: Path) -> int:
    """`partial`, open and ours alone. It may have been renamed away between opening and locking: then once more."""
    while True:
        file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(partial) and os.path.samestat(os.fstat(file), os.stat(partial)):
                return file
        except BlockingIOError:
            os.close(file)
            raise FastconvError(f"{partial}: another process is writing it") from None
        except FileNotFoundError:
            pass  # renamed away between the two looks
        except OSError as error:
            if error.errno in UNLOCKABLE:
                return file
            os.close(file)
            raise
        os.close(file)
