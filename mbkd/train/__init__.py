"""Training of a student or teacher. The package is also callable, as `mbkd.api.train`."""

import sys

from mbkd import CallablePackage

sys.modules[__name__].__class__ = CallablePackage
