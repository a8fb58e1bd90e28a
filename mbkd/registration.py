"""Our configurations among transformers' auto classes, once they are imported: `import mbkd` imports no transformers.

transformers has no entry point for models that a package brings. `AutoConfig` lives in one module of it. Right after
that module runs, `mbkd.model.configuration` is imported and registers itself there. It needs nothing of transformers
that is not imported by then, so no order of imports meets a half-imported module. A configuration imports its model
when an object of it is made: before transformers looks the model up.
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
    """Finds the module where it is anyway, and has it loaded by `_ThenOurs`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname == THEIRS else None
        if spec is not None and spec.origin is not None:
            spec.loader = _ThenOurs(fullname, spec.origin)
        return spec


def register() -> None:
    """Register now where transformers' module is imported already, else when it is."""
    if THEIRS in sys.modules:
        import_module(OURS)
    else:
        sys.meta_path.insert(0, _Finder())
