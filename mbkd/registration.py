"""Registration of mbkd's models with transformers' auto classes, without importing transformers.

transformers has no entry point for models of other packages. `mbkd.model.configuration` is imported right after the
module of `AutoConfig`, and registers itself there. It uses only parts of transformers that are imported by then, so
every order of imports works. A configuration imports its model when the configuration is created, before transformers
looks the model up.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

THEIRS, OURS = "transformers.models.auto.configuration_auto", "mbkd.model.configuration"


class _ThenOurs(SourceFileLoader):
    """Runs the module of transformers, then imports ours."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        import_module(OURS)


class _Finder(MetaPathFinder):
    """Finds the module of transformers, and sets `_ThenOurs` as its loader."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname == THEIRS else None
        if spec is not None and spec.origin is not None:
            spec.loader = _ThenOurs(fullname, spec.origin)
        return spec


def register() -> None:
    """Register at once if transformers' module is already imported, otherwise after its import."""
    if THEIRS in sys.modules:
        import_module(OURS)
    else:
        sys.meta_path.insert(0, _Finder())
