"""Ask keyring for the credential of a URL, and perhaps of a username."""

import sys

from prelude import ask, show

show(ask(*sys.argv[1:]))
