"""Accuracy of a model in every language. The package itself is callable as `mbkd.api.evaluate`."""

import sys

from mbkd import CallablePackage

sys.modules[__name__].__class__ = CallablePackage
