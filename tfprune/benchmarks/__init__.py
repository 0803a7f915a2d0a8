"""Measurements by name. Each suite yields rows, plain dictionaries; a table is made of them.

To add one: a file with `rows(only, **options)`, `OPTIONS`, the names of these, which are flags of
scripts/benchmark.py, `format_table(rows)`, and a line in SUITES.
"""

from types import ModuleType

from tfprune.benchmarks import (applications, artifacts, cost_model, dense_reward, input_pipeline,
                                latency_table, learning, scoring, search, training_step)

SUITES: dict[str, ModuleType] = {
    'applications': applications,
    'artifacts': artifacts,
    'cost_model': cost_model,
    'dense_reward': dense_reward,
    'input_pipeline': input_pipeline,
    'latency_table': latency_table,
    'learning': learning,
    'scoring': scoring,
    'search': search,
    'training_step': training_step,
}
