"""A kernel that refuses to lock files, as some network disks do: a filter of this process's system calls (seccomp)."""

import ctypes
import errno
import os
import platform
import struct

_FLOCK = {"x86_64": 73, "aarch64": 32}  # number of the system call
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2


def can_refuse() -> bool:
    """Whether this machine has such filters, by trying one in a process of its own."""
    if platform.system() != "Linux" or platform.machine() not in _FLOCK:
        return False
    if child := os.fork():
        return os.waitpid(child, 0)[1] == 0
    try:
        refuse_locks()
        os._exit(0)
    finally:
        os._exit(1)


def refuse_locks() -> None:
    """Let every `flock` of this process and of its children fail with ENOLCK from now on."""
    rules = [
        (_LOAD, 0, 0, 0),  # the number of the system call
        (_JUMP_IF_EQUAL, 0, 1, _FLOCK[platform.machine()]),
        (_RETURN, 0, 0, _FAIL | errno.ENOLCK),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(rules), ctypes.addressof(code)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for words in ((_NO_NEW_PRIVILEGES, 1, 0), (_SECCOMP, _FILTER, ctypes.addressof(program))):
        if prctl(words[0], ctypes.c_ulong(words[1]), ctypes.c_ulong(words[2]), ctypes.c_ulong(0), ctypes.c_ulong(0)):
            raise OSError(ctypes.get_errno(), "prctl")
