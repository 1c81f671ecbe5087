"""Confine processes to one proxy: a rehearsal cannot reach the real database, whatever address the command uses.

A seccomp filter, which no process can take off again, stops each connect(2) of the command and its children until the
supervisor has done it for them: to the proxy where they asked for the server, with an error otherwise. The other ways
to a connection (TCP fast open, io_uring, another system-call table) are closed. This needs Linux 5.6 or newer, and no
rights.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import re
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

# seccomp(2), include/uapi/linux/seccomp.h and audit.h
_ALLOW, _NOTIFY, _ERRNO = 0x7FFF0000, 0x7FC00000, 0x00050000
_SET_FILTER, _NEW_LISTENER = 1, 8
_RECV, _SEND, _VALID = 0xC0502100, 0xC0182101, 0x40082102
_NO_NEW_PRIVS = 38
_FAST_OPEN = 0x20000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_PIDFD_GETFD = 438
# By machine: audit number, seccomp, connect, sendto, sendmsg, sendmmsg. io_uring_setup is 425 everywhere.
_TABLES = {
    "x86_64": (0xC000003E, 317, 42, 44, 46, 307),
    "aarch64": (0xC00000B7, 277, 203, 206, 211, 269),
}
_IO_URING_SETUP = 425


@dataclass(frozen=True)
class Rules:
    """The addresses that lead to the server: `tcp` with their port, and `unix` paths.

    The proxy's port and path answer them instead.
    """

    tcp: frozenset[tuple[str, int]]
    unix: frozenset[str]
    proxy_port: int
    proxy_path: str
    refused: list[str] = field(default_factory=list)


def unavailable() -> str:
    """Return the reason why this machine cannot confine a command, or an empty text if it can."""
    if platform.system() != "Linux" or platform.machine() not in _TABLES:
        return f"it is {platform.system()} on {platform.machine()}"
    release = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))
    return "" if release >= (5, 6) else f"its Linux is {platform.release()}, older than 5.6"


def _program() -> bytes:
    audit, _, connect, sendto, sendmsg, sendmmsg = _TABLES[platform.machine()]
    refuse, notify, allow = "refuse", "notify", "allow"
    # Each instruction: code, operand, where to go if true, if false (None: on).
    code: list[tuple[int, int, str | None, str | None]] = [
        (_LOAD, 4, None, None), (_EQUAL, audit, None, refuse), (_LOAD, 0, None, None), (_AT_LEAST, 0x40000000, refuse, None),
        (_EQUAL, connect, notify, None), (_EQUAL, _IO_URING_SETUP, refuse, None),
    ]  # fmt: skip
    for number, flags in ((sendto, 3), (sendmsg, 2), (sendmmsg, 3)):
        code += [
            (_EQUAL, number, None, f"not {number}"),
            (_LOAD, 16 + 8 * flags, None, None),
            (_ANY_BIT, _FAST_OPEN, refuse, allow),
        ]
        code += [(-1, 0, f"not {number}", None)]
    labels: dict[str, int] = {}
    plain: list[tuple[int, int, str | None, str | None]] = []
    for entry in code:
        if entry[0] == -1:
            labels[str(entry[2])] = len(plain)
        else:
            plain.append(entry)
    ends = [(_RETURN, _ALLOW), (_RETURN, _NOTIFY), (_RETURN, _ERRNO | errno.EPERM)]
    labels |= {allow: len(plain), notify: len(plain) + 1, refuse: len(plain) + 2}
    out = b""
    for at, (operation, operand, yes, no) in enumerate(plain):
        jumps = [0 if label is None else labels[label] - at - 1 for label in (yes, no)]
        out += struct.pack("=HBBI", operation, *jumps, operand)
    return out + b"".join(struct.pack("=HBBI", operation, 0, 0, value) for operation, value in ends)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_char_p))


def install() -> int:
    """Confine this process and its children.

    Return the descriptor on which their connections are answered. Raise OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    program = ctypes.create_string_buffer(_program())
    filter_ = _Filter((len(program) - 1) // 8, ctypes.cast(program, ctypes.c_char_p))
    descriptor = libc.syscall(_TABLES[platform.machine()][1], _SET_FILTER, _NEW_LISTENER, ctypes.byref(filter_))
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "seccomp(SECCOMP_SET_MODE_FILTER)")
    return int(descriptor)


def answer(listener: int, rules: Rules) -> None:
    """Answer one connect(2) that waits.

    It is done here, on a copy of the socket, so that the address that was checked is the one that is used.
    """
    request = bytearray(80)
    try:
        fcntl.ioctl(listener, _RECV, request)
    except OSError:  # its process is gone
        return
    number, pid = struct.unpack_from("=QI", request)
    descriptor, pointer, length = struct.unpack_from("=QQQ", request, 32)
    try:
        with (Path("/proc") / str(pid) / "mem").open("rb", buffering=0) as memory:
            memory.seek(pointer)
            address = memory.read(min(length, 128))
        fcntl.ioctl(listener, _VALID, struct.pack("=Q", number))  # still the process whose memory was read
        result = _connect(_socket_of(pid, descriptor & 0x7FFFFFFF), address, rules)
    except OSError as error:
        result = error.errno or errno.ECONNREFUSED
    with suppress(OSError):
        fcntl.ioctl(listener, _SEND, struct.pack("=QqiI", number, 0, -result, 0))


def _socket_of(pid: int, descriptor: int) -> socket.socket:
    """A copy of a process's descriptor: both are the same socket."""
    status = (Path("/proc") / str(pid) / "status").read_text()  # `pid` is that of a thread
    group = int(re.search(r"^Tgid:\s*(\d+)", status, re.M)[1])  # type: ignore[index]
    process = os.pidfd_open(group)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        copy = libc.syscall(_PIDFD_GETFD, process, descriptor, 0)
        if copy < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd")
    finally:
        os.close(process)
    return socket.socket(fileno=copy)


def _connect(sock: socket.socket, address: bytes, rules: Rules) -> int:
    with sock:
        family = struct.unpack_from("=H", address)[0] if len(address) >= 2 else socket.AF_UNSPEC
        stream = sock.type & 0xF == socket.SOCK_STREAM
        if family == socket.AF_UNIX:
            path = os.fsdecode(address[2:].partition(b"\0")[0])
            if stream and path in rules.unix:
                return sock.connect_ex(rules.proxy_path)
            if not path.endswith("/nscd/socket"):  # names are looked up without it
                rules.refused.append(path or "an abstract socket")
            return errno.ECONNREFUSED
        if family in (socket.AF_INET, socket.AF_INET6):
            port = struct.unpack_from("!H", address, 2)[0]
            host = socket.inet_ntop(family, address[4:8] if family == socket.AF_INET else address[8:24])
            if not stream:  # names are looked up over UDP, and PostgreSQL does not speak it
                return sock.connect_ex((host, port))
            if (host.removeprefix("::ffff:"), port) in rules.tcp:
                return sock.connect_ex(
                    ("127.0.0.1" if family == socket.AF_INET else "::ffff:127.0.0.1", rules.proxy_port)
                )
            rules.refused.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
            return errno.ECONNREFUSED
        if family in (socket.AF_NETLINK, socket.AF_UNSPEC) and not stream:
            return 0 if family == socket.AF_UNSPEC else errno.EOPNOTSUPP
        rules.refused.append(f"a socket of family {family}")
        return errno.ECONNREFUSED
