"""Our models among transformers' auto classes, once they are imported: `import mbkd` imports neither torch nor them.

transformers has no entry point for models that a package brings. Its auto classes live in two modules; right after
either is imported, the modules of ours that register themselves there are imported too.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

REGISTERS = {
    "transformers.models.auto.configuration_auto": ("mbkd.model.configuration",),
    "transformers.models.auto.modeling_auto": ("mbkd.model.mblm", "mbkd.ensemble.model"),
}


class _ThenOurs(SourceFileLoader):
    """Runs a module of transformers, then imports those of ours that belong to it."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        for ours in REGISTERS[module.__name__]:
            import_module(ours)


class _Finder(MetaPathFinder):
    """Finds the two modules where they are anyway, and has them loaded by `_ThenOurs`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in REGISTERS else None
        if spec is not None and spec.origin is not None:
            spec.loader = _ThenOurs(fullname, spec.origin)
        return spec


def register() -> None:
    """Register with what is imported already, and with the rest when it is."""
    sys.meta_path.insert(0, _Finder())
    for theirs, ours in REGISTERS.items():
        if theirs in sys.modules:
            for name in ours:
                import_module(name)
