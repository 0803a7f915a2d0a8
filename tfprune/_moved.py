"""Names that scripts outside of the package use as they were: a module is answered with the one
that has it now, an option with that of its method, and each with a DeprecationWarning."""
import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from typing import Any

MOVED = {'tfprune.analysis': 'tfprune.costs.analysis',
         'tfprune.batch_norm': 'tfprune.training.batch_norm',
         'tfprune.graph': 'tfprune.structure.graph', 'tfprune.masks': 'tfprune.pruning.masks',
         'tfprune.subnetwork': 'tfprune.search.subnetwork'}

# Options that every method had, and that are those of one now.
OPTIONS = {name: 'rlal' for name in (
    'episodes_per_epoch', 'random_reference_episodes', 'rescored_candidates',
    'surrogate_candidates', 'surrogate_scored', 'comparison_episodes', 'agent',
    'agent_learning_rate', 'agent_updates', 'context_size', 'context_updates',
    'context_learning_rate', 'alignment', 'alignment_strength', 'alignment_gap')}


def current_options(options: dict[str, Any], method: str) -> dict[str, Any]:
    """The options by their current names; left out are those of another method than this one."""
    found = {name: value for name, value in options.items() if name not in OPTIONS}
    for name in options.keys() - found.keys():
        owner, value = OPTIONS[name], options[name]
        if method == owner:
            found[f'{owner}.{name}'] = value
        warnings.warn(f'{name} is {owner}={{{name!r}: {value!r}}} now' + (
            '' if method == owner else f": method {method!r} does without, leave it out"),
            DeprecationWarning, stacklevel=3)
    return found


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
