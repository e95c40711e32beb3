"""Ask keyring for a URL, as a user who is in no table and has no home."""

import os
import pwd
import sys

from prelude import ask, show


def unknown(uid: int) -> pwd.struct_passwd:
    raise KeyError(uid)


pwd.getpwuid = unknown
del os.environ["HOME"]
show(ask(sys.argv[1]))
