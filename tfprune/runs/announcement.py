"""What a run says before it begins, and how long it will take from what its epochs took."""
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfprune.costs.analysis import NOUNS
from tfprune.runs.state import State
from tfprune.search.problem import Problem


def announce(state: State, problem: Problem) -> None:
    """Model, groups, budget and data as they were found, and what comes, in its order."""
    say, data, epochs = state.progress.say, state.data, state.config.epochs
    dense, groups = problem.cost_model.dense, problem.groups
    say(f'{state.config.models.model}: {dense.macs:,} MACs, {dense.params:,} parameters; '
        f'{len(groups)} of {len(groups.groups)} channel groups can be pruned')
    if state.method.needs_budget:
        say('budget: ' + ', '.join(
            f'{NOUNS.get(row["target"], row["target"])} at most {row["limit"]:,} of '
            f'{row["dense"]:,}' for row in problem.budget.to_json()))
    say(f'{data.name}: {data.num_train:,} training, {data.num_reward:,} held-out and '
        f'{data.num_test:,} test {state.task.examples}')
    first = ('the model as given is measured, and learning rates that no flag states are tried on '
             'copies; ') * state.has_weights
    before = f'{epochs.search} before surgery, ' * bool(epochs.search)
    say(f'to do: {first}{epochs.total} epochs ({before}{epochs.fine_tune_epochs} after); export '
        'and tests. The time left is estimated after the first epoch.')


def seconds_left(rows: Sequence[Mapping[str, Any]], phases: Iterable[str]) -> float:
    """An estimate for epochs that come, by the mean of those of the same phase, else of all.

    The first epoch of a phase, in which functions are traced, counts only while it is the only one.

    Args:
        rows: of metrics.jsonl, at least one.
        phases: of the epochs that come.
    """
    def mean(found: Sequence[Mapping[str, Any]]) -> float:
        counted = found[1:] or found
        return sum(row['train_seconds'] + row['method_seconds'] for row in counted) / len(counted)

    of_phase: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        of_phase.setdefault(row.get('phase', ''), []).append(row)
    return sum(mean(of_phase.get(phase, rows)) for phase in phases)
