"""Runs a program as a container does that may do nothing: `python3 empty_root.py FOLDER COMMAND…`, by root.

FOLDER is all that it sees, and it cannot write there. It is user 65532, has no capability, and gets none.
"""

import ctypes
import os
import sys

CLONE_NEWNS = 0x20000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
LAST_CAPABILITY = 63

libc = ctypes.CDLL(None, use_errno=True)


def check(result, what):
    if result:
        raise OSError(ctypes.get_errno(), what)


def mount(source, target, flags):
    check(libc.mount(source.encode(), target.encode(), None, flags, None), "mount")


def main():
    folder, *command = sys.argv[1:]
    check(libc.unshare(CLONE_NEWNS), "unshare")
    mount("none", "/", MS_REC | MS_PRIVATE)
    mount(folder, folder, MS_BIND)
    mount(folder, folder, MS_BIND | MS_REMOUNT | MS_RDONLY)
    os.chroot(folder)
    os.chdir("/")
    for capability in range(LAST_CAPABILITY + 1):
        # Older kernels know fewer.
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            break
    os.setgroups([])
    os.setresgid(65532, 65532, 65532)
    os.setresuid(65532, 65532, 65532)
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
