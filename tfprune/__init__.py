"""tfprune: structural pruning for Keras. Import it before tensorflow and keras."""
import importlib

from tfprune import _legacy  # noqa: F401  (first: it prepares TensorFlow's environment)

__version__ = '0.1.0'

# Public name -> module. Resolved on first use, so that `import tfprune` stays cheap.
_EXPORTS = {
    'build_model': 'models',
    'load_data': 'data',
    'trace_groups': 'groups',
    'UnsupportedLayerError': 'groups',
    'CostModel': 'costs',
    'select_channels': 'masks',
    'insert_gates': 'gates',
    'prune_model': 'surgery',
    'removable_blocks': 'depth',
    'remove_blocks': 'depth',
    'PruningEnv': 'environment',
    'Budget': 'budget',
    'InfeasibleBudgetError': 'budget',
    'ContextNetwork': 'context',
    'alignment_penalty': 'alignment',
    'LatencyTable': 'latency_table',
    'Config': 'config',
    'train_and_prune': 'user_api',
    'export_model': 'export',
    'ParityError': 'export',
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module 'tfprune' has no attribute {name!r}")
    return getattr(importlib.import_module(f'tfprune.{_EXPORTS[name]}'), name)


def __dir__() -> list[str]:
    return __all__
