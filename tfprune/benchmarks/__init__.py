"""Measurements by name. Each suite yields rows, plain dictionaries; a table is made of them.

To add one: a file with `rows(only, **options)`, `OPTIONS`, the names of these, which are flags of
scripts/benchmark.py, `format_table(rows)`, and a line in SUITES.
"""

from types import ModuleType

from tfprune.registry import Registry

SUITES: Registry[ModuleType] = Registry({name: f'tfprune.benchmarks.{name}:' for name in (
    'applications', 'artifacts', 'at_once', 'backbones', 'cost_model', 'dense_reward',
    'drifting_bandit', 'input_pipeline', 'latency_table', 'learning', 'rewards', 'scoring',
    'search', 'startup', 'torch_structure', 'training_step')})
