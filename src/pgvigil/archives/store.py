"""The place of archives: a directory, or a URL that fsspec knows, such as s3://bucket/archives.

A file comes into a directory whole or not at all: it is written beside its place, flushed to the disk and renamed. An object store
does that itself. Credentials are never in a URL: fsspec's implementations read them from the environment.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pgvigil import input_files
from pgvigil.backup.manifest import require_our_directory, require_ours
from pgvigil.errors import ArchiveError, RestoreError, UsageError

# What this module names; nothing else is ever removed, whatever a row of pgvigil.archives says.
_MADE = re.compile(
    r"(table=[a-z_]{1,40}/year=[0-9]{1,6}/month=[0-9]{2}/day=[0-9]{2})/([0-9]{1,6}[0-9]{4}T[0-9]{4}-[0-9]{1,6}[0-9]{4}T[0-9]{4}-[0-9a-f]{12})\.json"
)
_LARGEST_MANIFEST = 64_000_000  # bytes
# A location comes from the database: whoever may write there must not choose what this machine connects to, or makes.
_OBJECT_STORES = frozenset(
    {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "cos", "r2", "memory"}
)
_WITHIN = re.compile(r"(?:[A-Za-z0-9_=.-]+/)*[A-Za-z0-9_=-][A-Za-z0-9_=.-]*")


def open_store(location: str) -> Store:
    """Open a directory or URL.

    Raise UsageError for one that cannot be used, ArchiveError for a directory that is not ours.
    """
    if "://" not in location:
        return Store(Path(location))
    if location.startswith("file://"):
        return Store(_directory_of(location))
    parts = urlsplit(location)
    shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
    if parts.username or parts.password or parts.query:
        raise UsageError(
            f"the URL {shown} has credentials or options in it, and a URL is stored and printed",
            "Give them by environment variables, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        )
    return RemoteStore(location)


def _directory_of(url: str) -> Path:
    """Return the directory that a file: URL names, as fsspec reads one: `%`, `?` and `#` are characters of its name."""
    place = Path(url.removeprefix("file://"))
    if not place.is_absolute():
        raise UsageError(f"{url} names no directory of this machine", "Give file:///DIR, or the directory itself.")
    return place


def stored(location: str, chosen: str | None = None) -> Store:
    """Open a location that the database names.

    Raise ArchiveError for one that nobody has chosen here: only an object store, a directory that is there, and
    `chosen` (default: PGVIGIL_ARCHIVE) are opened.
    """
    scheme = location.partition("://")[0] if "://" in location else ""
    if scheme in ("", "file"):
        place = _directory_of(location) if scheme else Path(location)
        if not place.is_absolute() or not place.is_dir():
            raise ArchiveError(
                f"there is no directory {location}", "Restore it from a copy, or give the place where it is: --archive."
            )
    elif scheme not in _OBJECT_STORES and location != (chosen or os.environ.get("PGVIGIL_ARCHIVE", "")).rstrip("/"):
        raise ArchiveError(
            f"the database names {location} as the place of an archive, which is not an object store: it is not opened",
            "If the archives are there, name the place: --archive.",
        )
    return open_store(location)


def remove_made(location: str, path: str, chosen: str | None) -> None:
    """Remove the files of an archive that the database names, if pgvigil has named them.

    Raise ArchiveError for other names.
    """
    made = _MADE.fullmatch(path)
    if made is None:
        raise ArchiveError(f"{path!r} is not a name of an archive", "pgvigil.archives was changed: nothing is removed.")
    if "://" in location or Path(location).is_dir():  # a directory that is gone has no files
        stored(location, chosen).remove(made[1], made[2])


def require_name(name: str) -> str:
    """Return a path below a store, as pgvigil makes them.

    Raise ArchiveError for any other one, such as one with `..`.
    """
    if not _WITHIN.fullmatch(name) or ".." in PurePosixPath(name).parts:
        raise ArchiveError(f"{name!r} is not a name of an archive", "The manifest or pgvigil.archives was changed.")
    return name


class Store:
    """A directory of archives."""

    def __init__(self, root: Path) -> None:
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._root = root.resolve()
            require_our_directory(self._root)
        except RestoreError as error:
            raise ArchiveError(
                error.message.replace("backup", "file"), error.hint.replace("a backup", "a file")
            ) from error
        except OSError as error:
            raise UsageError(f"{root} cannot be used: {error.strerror}", "Give another directory.") from error
        self.location = str(self._root)

    @contextmanager
    def workshop(self, stem: str) -> Iterator[Path]:
        """A directory for what is not finished, on the same file system; gone at the end. `remove` finds it after a crash."""
        place = self._work(stem)
        place.parent.mkdir(exist_ok=True, mode=0o700)  # not by parents=True, whose mode is the umask's
        place.mkdir(mode=0o700)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _work(self, stem: str) -> Path:
        return self._root / ".unfinished" / require_name(stem)

    def publish(self, made: Path, name: str) -> None:
        """Move a finished file to its place."""
        target = self._root / require_name(name)
        made.chmod(0o600)
        with made.open("rb") as file:
            os.fsync(file.fileno())
        self._directory(target.parent)
        made.rename(target)
        _sync(target.parent)

    def _directory(self, directory: Path) -> None:
        if directory.is_dir():
            return
        self._directory(directory.parent)
        directory.mkdir(exist_ok=True, mode=0o700)
        _sync(directory.parent)

    @contextmanager
    def opened(self, name: str, sha256: str, size: int | None = None) -> Iterator[Path]:
        """Yield a file for reading, which is what it is said to be. Raise ArchiveError for any other one."""
        path = self._root / require_name(name)
        try:
            found = path.lstat()
            require_ours(path, found)
        except FileNotFoundError:
            raise _missing(name) from None
        except RestoreError as error:
            raise ArchiveError(error.message, error.hint) from error
        _require(path, name, sha256, size)
        yield path

    def text(self, name: str) -> bytes:
        """The contents of a small file. Raise ArchiveError where there is none."""
        path = self._root / require_name(name)
        try:
            require_ours(path, path.lstat())
            return input_files.read_bytes(path, _LARGEST_MANIFEST)
        except FileNotFoundError:
            raise _missing(name) from None
        except OSError as error:
            raise ArchiveError(
                f"{name} cannot be read: {input_files.reason(error)}", "Restore it from a copy."
            ) from error
        except RestoreError as error:
            raise ArchiveError(error.message, error.hint) from error

    def remove(self, directory: str, stem: str) -> None:
        """Remove all files of an archive, finished or not."""
        shutil.rmtree(self._work(stem), ignore_errors=True)
        place = self._root / require_name(directory)
        for path in place.glob(f"{require_name(stem)}[-.]*") if place.is_dir() else ():
            path.unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Return the names of all files below, but for unfinished ones."""
        return sorted(
            path.relative_to(self._root).as_posix()
            for path in self._root.glob("table=*/**/*")
            if (path.is_file() or path.is_symlink()) and not path.name.startswith(".")
        )


class RemoteStore(Store):
    """A bucket, or what else fsspec reaches. A file is fetched, compared, and read from there: never twice over the network."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ModuleNotFoundError as error:
            raise UsageError(
                "archives at a URL need the package fsspec, which is not installed",
                "Run: pip install 'pgvigil[archive]'",
            ) from error
        self.location = url.rstrip("/")
        try:
            self._fs: Any
            self._fs, base = fsspec.core.url_to_fs(self.location)
        except (ImportError, ValueError) as error:
            raise UsageError(
                f"{self.location} cannot be used: {error}", "Install the package that the message names."
            ) from error
        self._base = str(base).rstrip("/")

    def _work(self, stem: str) -> Path:
        return Path(tempfile.gettempdir()) / f"pgvigil-archive-{require_name(stem)}"

    def publish(self, made: Path, name: str) -> None:
        target = f"{self._base}/{require_name(name)}"
        self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._fs.put_file(str(made), target)
        made.unlink()

    @contextmanager
    def opened(self, name: str, sha256: str, size: int | None = None) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="pgvigil-archive-") as place:
            path = Path(place) / secrets.token_hex(8)
            try:
                self._fs.get_file(f"{self._base}/{require_name(name)}", str(path))
            except FileNotFoundError:
                raise _missing(name) from None
            _require(path, name, sha256, size)
            yield path

    def text(self, name: str) -> bytes:
        try:
            return bytes(self._fs.cat_file(f"{self._base}/{require_name(name)}"))
        except FileNotFoundError:
            raise _missing(name) from None

    def remove(self, directory: str, stem: str) -> None:
        shutil.rmtree(self._work(stem), ignore_errors=True)
        self._fs.invalidate_cache()
        ours = (f"{require_name(directory)}/{require_name(stem)}-", f"{directory}/{stem}.")
        for found, name in self._below(directory):
            if name.startswith(ours):
                self._fs.rm_file(found)

    def names(self) -> list[str]:
        self._fs.invalidate_cache()
        return sorted(name for _, name in self._below() if name.startswith("table="))

    def _below(self, directory: str = "") -> list[tuple[str, str]]:
        """Return the files of the store below a directory, as fsspec names them and from here. No name is a pattern."""
        found = (str(path) for path in self._fs.find(f"{self._base}/{directory}".rstrip("/")))
        return [(path, path[path.index(self._base) + len(self._base) + 1 :]) for path in found]


def _require(path: Path, name: str, sha256: str, size: int | None) -> None:
    if size is not None and (found := path.stat().st_size) != size:
        raise ArchiveError(
            f"{name} has {found:,} bytes, and was written with {size:,}", "Restore it from a copy: it is not read."
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise ArchiveError(
            f"{name} is not as it was written: SHA-256 is {digest[:16]}…, was {sha256[:16]}…",
            "Restore it from a copy: it is not read.",
        )


def _missing(name: str) -> ArchiveError:
    return ArchiveError(f"{name} is missing", "Restore it from a copy, or give the place where it is: --archive.")


def _sync(directory: Path) -> None:
    number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
