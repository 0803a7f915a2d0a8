"""tfprune: structural pruning for Keras.

Import it before tensorflow and keras where agents or quantization-aware training are used.
"""
import importlib

from tfprune import _legacy  # noqa: F401  (first: it prepares TensorFlow's environment)
from tfprune import _moved, extras

__version__ = '0.1.0'
_moved.install()

# Public name -> module. Resolved on first use, so that `import tfprune` stays cheap.
_EXPORTS = {
    'build_model': 'models.building',
    'load_data': 'data.loading',
    'trace_groups': 'structure.groups',
    'UnsupportedLayerError': 'structure.groups',
    'register_rule': 'structure.layer_rules',
    'LayerRule': 'structure.layer_rules',
    'WeightAxes': 'structure.layer_rules',
    'MacTerm': 'structure.layer_rules',
    'Keras2Layer': 'structure.layer_rules',
    'CostModel': 'costs.model',
    'select_channels': 'pruning.masks',
    'insert_gates': 'pruning.gates',
    'prune_model': 'pruning.surgery',
    'removable_blocks': 'pruning.depth',
    'remove_blocks': 'pruning.depth',
    'PruningEnv': 'search.environment',
    'Budget': 'costs.budget',
    'InfeasibleBudgetError': 'costs.budget',
    'ContextNetwork': 'search.context',
    'alignment_penalty': 'search.alignment',
    'LatencyTable': 'latency.table',
    'Config': 'runs.config',
    'train_and_prune': 'runs.api',
    'prune_to_budget': 'runs.own_training',
    'Reconstruction': 'pruning.reconstruction',
    'search_widths': 'runs.own_training',
    'SearchResult': 'runs.own_training',
    'export_model': 'export.exporter',
    'ParityError': 'export.parity',
}
# Public name -> the extra that it needs, see tfprune.extras.
_NEEDS = {'PruningEnv': 'rl'}
_MODULES = ('callbacks', 'plots')
__all__ = sorted([*_EXPORTS, *_MODULES])


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f'tfprune.{name}')
    if name not in _EXPORTS:
        raise AttributeError(f"module 'tfprune' has no attribute {name!r}")
    if name in _NEEDS:
        extras.need(_NEEDS[name], f'tfprune.{name}')
    return getattr(importlib.import_module(f'tfprune.{_EXPORTS[name]}'), name)


def __dir__() -> list[str]:
    return __all__
