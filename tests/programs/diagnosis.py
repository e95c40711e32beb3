"""The diagnosis, with dials."""

import sys

from prelude import module

sys.exit(module.main())
