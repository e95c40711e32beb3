"""Ask a copy of the module for a URL; keyring may be missing."""

import sys
from importlib import import_module

folder, missing, url = sys.argv[1:]
sys.path.insert(0, folder)
sys.modules[missing] = None  # type: ignore[assignment]
backend = import_module("vendored_copy").ArtifactsKeyringBackend()

credential = backend.get_credential(url, None)
print(type(credential).__module__, credential.username, credential.password)
assert credential.password not in repr(credential)
try:
    backend.set_password("x", "y", "z")
except NotImplementedError:
    print("not stored")
