"""Name the modules that asking keyring for another service imports."""

import argparse  # noqa: F401 - as in the keyring command
import json  # noqa: F401
import sys

if sys.argv[1:]:
    sys.modules["artifacts_keyring_nofuss"] = None  # type: ignore[assignment]

import keyring

keyring.get_credential("https://pypi.org/simple/", None)
print(*sys.modules)
