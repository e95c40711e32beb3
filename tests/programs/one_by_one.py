"""Ask keyring for one URL after the other; a number lets as many seconds pass."""

import sys
import time

from prelude import ask, show

real = time.monotonic
passed = 0.0
time.monotonic = lambda: real() + passed

values = []
for url in sys.argv[1:]:
    if url.isdigit():
        passed += float(url)
    else:
        values.append(ask(url))
show(values)
