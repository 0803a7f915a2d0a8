"""Measurements by name. Each suite yields rows, plain dictionaries; a table is made of them.

To add one: a file with `rows(only)`, `format_table(rows)`, and a line in SUITES.
"""

from types import ModuleType

from tfprune.benchmarks import applications, cost_model

SUITES: dict[str, ModuleType] = {
    'applications': applications,
    'cost_model': cost_model,
}
