"""Modules that scripts outside of the package import by the names that they had: each is answered
with the module that has it now and a DeprecationWarning."""
import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings

MOVED = {'tfprune.analysis': 'tfprune.costs.analysis',
         'tfprune.batch_norm': 'tfprune.training.batch_norm',
         'tfprune.graph': 'tfprune.structure.graph', 'tfprune.masks': 'tfprune.pruning.masks',
         'tfprune.subnetwork': 'tfprune.search.subnetwork'}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):

    def find_spec(self, fullname, path=None, target=None):
        if fullname in MOVED:
            return importlib.machinery.ModuleSpec(fullname, self)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        warnings.warn(f'{spec.name} is {MOVED[spec.name]} now', DeprecationWarning, stacklevel=2)
        module = types.ModuleType(spec.name, __doc__)
        module.__getattr__ = lambda name: getattr(  # type: ignore[method-assign]
            importlib.import_module(MOVED[spec.name]), name)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def install() -> None:
    """Makes the old names importable."""
    sys.meta_path.append(_Finder())
