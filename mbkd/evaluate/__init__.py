"""What a model scores in every language. The package is called as `mbkd.api.evaluate`, too."""

import sys

from mbkd import Room

sys.modules[__name__].__class__ = Room
