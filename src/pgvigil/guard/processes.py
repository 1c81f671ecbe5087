"""The processes of a command, and the connections that they hold. Linux: all of it is read from /proc and from the kernel's socket tables."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_SOCK_DIAG, _BY_FAMILY, _DUMP = (
    4,
    20,
    0x301,
)  # netlink's family and message type; NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
_SHOW_NAME, _SHOW_PEER = 1, 4
_NAME, _PEER = 0, 2
_DONE, _ERROR = 3, 2


def descendants(pid: int) -> list[int]:
    """Return all processes below this one, the nearest first."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir(_PROC):  # noqa: PTH208 - thirty times a second
        if entry.isdecimal():
            with suppress(OSError, ValueError, IndexError):
                stat = (_PROC / entry / "stat").read_bytes()
                parents.setdefault(int(stat[stat.rindex(b")") + 2 :].split()[1]), []).append(int(entry))
    found: list[int] = []
    level = [pid]
    while level:
        level = [child for one in level for child in parents.get(one, [])]
        found += level
    return found


def tree(pid: int) -> list[int]:
    """The same by the kernel's own lists of children, which costs a hundredth and may miss one while another ends."""
    found: list[int] = []
    level = [pid]
    while level:
        children: list[int] = []
        for one in level:
            with suppress(OSError):
                for task in os.listdir(_PROC / str(one) / "task"):  # noqa: PTH208
                    place = _PROC / str(one) / "task" / task / "children"
                    if not place.exists() and (_PROC / str(one)).exists():
                        return descendants(pid)  # this kernel keeps no such lists
                    children += map(int, place.read_text().split())
        found += children
        level = children
    return found


@dataclass(frozen=True)
class Sockets:
    """The open sockets of processes. `tcp`: local address, local port, remote address, remote port. `unix`: paths of servers."""

    tcp: frozenset[tuple[str, int, str, int]]
    unix: frozenset[str]


def sockets(pids: list[int]) -> Sockets:
    """The connections of these processes."""
    inodes: set[int] = set()
    for pid in pids:
        with suppress(OSError):
            for number in os.listdir(_PROC / str(pid) / "fd"):  # noqa: PTH208
                with suppress(OSError):
                    link = os.readlink(_PROC / str(pid) / "fd" / number)  # noqa: PTH115
                    if link.startswith("socket:["):
                        inodes.add(int(link[8:-1]))
    if not inodes:
        return Sockets(frozenset(), frozenset())
    tcp = set()
    for table in {f"{pid}/net/{name}" for pid in pids[:1] for name in ("tcp", "tcp6")}:
        with suppress(OSError):
            for line in (_PROC / table).read_text().splitlines()[1:]:
                fields = line.split()
                if int(fields[9]) in inodes:
                    tcp.add((*_address(fields[1]), *_address(fields[2])))
    return Sockets(frozenset(tcp), frozenset(_unix_servers(inodes)))


def _address(text: str) -> tuple[str, int]:
    """Return address and port of an entry of /proc/net/tcp.

    The address is in words of 32 bits, as the machine stores them.
    """
    words, _, port = text.partition(":")
    raw = b"".join(struct.pack("=I", int(words[at : at + 8], 16)) for at in range(0, len(words), 8))
    if len(raw) == 16 and raw.startswith(b"\0" * 10 + b"\xff\xff"):
        raw = raw[12:]
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw), int(port, 16)


def _unix_servers(inodes: set[int]) -> set[str]:
    """The paths of the Unix sockets that these sockets are connected to."""
    names: dict[int, str] = {}
    peers: dict[int, int] = {}
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
            request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW_NAME | _SHOW_PEER, 0, 0)
            kernel.send(struct.pack("=IHHII", 16 + len(request), _BY_FAMILY, _DUMP, 1, 0) + request)
            while True:
                data = kernel.recv(1 << 18)
                while len(data) >= 16:
                    size, kind = struct.unpack_from("=IH", data)
                    if kind in (_DONE, _ERROR) or size < 16:
                        return {names[peers[inode]] for inode in inodes if names.get(peers.get(inode, 0))}
                    _read(data[16:size], names, peers)
                    data = data[(size + 3) & ~3 :]
    except OSError:
        return set()


def _read(message: bytes, names: dict[int, str], peers: dict[int, int]) -> None:
    inode = struct.unpack_from("=I", message, 4)[0]
    at = 16
    while at + 4 <= len(message):
        size, kind = struct.unpack_from("=HH", message, at)
        value = message[at + 4 : at + size]
        if kind == _NAME and not value.startswith(b"\0"):
            names[inode] = os.fsdecode(value.rstrip(b"\0"))
        elif kind == _PEER:
            peers[inode] = struct.unpack("=I", value)[0]
        at += max((size + 3) & ~3, 4)
