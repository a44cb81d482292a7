"""OpenELM for transformers' Auto classes from `import ntps` on, at no cost until one of them meets it.

ntps.openelm takes seconds to import, as does transformers. So the Auto classes are told of it when they are
imported themselves, by a name that brings the module in on first use.
"""

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

AUTO = "transformers.models.auto.configuration_auto"


class OpenELMWhenNeeded:
    """Stands for OpenELMConfig in CONFIG_MAPPING until it is called or looked into."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_config_class(), name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return _config_class()(*arguments, **options)


def _config_class() -> Any:
    from ntps.models.openelm import OpenELMConfig  # its import registers it, in this one's place

    return OpenELMConfig


def _announce(auto: ModuleType) -> None:
    if "openelm" not in auto.CONFIG_MAPPING:
        auto.CONFIG_MAPPING.register("openelm", OpenELMWhenNeeded())


class _AtImport(MetaPathFinder):
    """Lets the import of AUTO go its way, then announces OpenELM in it."""

    def find_spec(self, name, path=None, target=None):
        if name != AUTO:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_announce(module: ModuleType) -> None:
            load(module)
            _announce(module)

        spec.loader.exec_module = load_and_announce  # type: ignore[method-assign]
        return spec


def register_when_needed() -> None:
    """Announce OpenELM now if the Auto classes are there already, else as soon as they are imported."""
    if AUTO in sys.modules:
        _announce(sys.modules[AUTO])
    elif not any(isinstance(finder, _AtImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AtImport())
