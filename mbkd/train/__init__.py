"""How a student or teacher is trained. The package is called as `mbkd.api.train`, too."""

import sys

from mbkd import Room

sys.modules[__name__].__class__ = Room
