"""Epochs before surgery that another run has trained already.

A method that only decides (`Method.only_decides`) has no part in those epochs, so that all such
methods of one configuration and seed train them alike, bit for bit; the second need not. Of a
method whose search serves several budgets, the runs of the other budgets take its decision too.
"""
import pathlib
from typing import Any, Mapping

import keras

from tfprune.config import LIMITS
from tfprune.errors import look_up
from tfprune.methods.base import Decision
from tfprune.methods.names import METHODS
from tfprune.models.initial_weights import load_initial_weights
from tfprune.run_files import read_config, read_json, read_rows
from tfprune.runs.config import AFTER_TRAINING, Config, differing_fields, values_before
from tfprune.runs.first_epoch import lowered, note_lowered
from tfprune.runs.folder import RunFolder, changed_files
from tfprune.runs.recipe import FILE
from tfprune.runs.teacher import note_teacher_before

RATIOS_FILE = 'ratios.json'  # {budget ratio: decision}
_MAY_DIFFER = ('method', 'charge_search', 'pretraining_epochs', *LIMITS, *AFTER_TRAINING)


def differing_before_surgery(ours: Config, theirs: Mapping[str, Any]) -> list[str]:
    """'--flag: theirs -> ours' for each flag by which the epochs before surgery differ, of methods
    that only decide.
    """
    may_differ = tuple(f'--{name}:' for name in _MAY_DIFFER)
    return [row for row in differing_fields(ours, theirs)
            if not row.startswith(may_differ) and '.' not in row.partition(':')[0]]


def _of_method(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The method and its options."""
    return {name: value for name, value in flags.items() if name == 'method' or '.' in name}


def take_epochs(config: Config, folder: RunFolder, model: keras.Model) -> None:
    """Takes weights and rows of metrics.jsonl from the run that the configuration names.

    Raises:
        ValueError: it, or this run, is of a method that acts before surgery; or it differs in
            flags, which are listed, or in the content of the files that they name.
        FileNotFoundError: it is no run, or has not come to surgery yet.
    """
    source = pathlib.Path(config.run.before_surgery_from)
    theirs = read_config(source)
    if theirs is None or not (source / 'dense.keras').exists():
        raise FileNotFoundError(f'before_surgery_from: {source} is no run that came to surgery.')
    for name in (config.method, theirs['method']):
        if not look_up('method', name, METHODS).only_decides:
            raise ValueError(f'before_surgery_from: method {name!r} acts before surgery; its '
                             'epochs are its own.')
    ours = Config.from_json(folder.read_json('config.json'))  # as given, like theirs
    rows = differing_before_surgery(ours, theirs)
    if rows:
        raise ValueError(f'before_surgery_from: {source} has other flags: {"; ".join(rows)}.')
    files = (folder.read_json('environment.json') or {}).get('files', {})
    changed = changed_files(files, read_json(source / 'environment.json'))
    if changed:
        raise ValueError(f'before_surgery_from: {source} began with another content of '
                         f'{", ".join(changed)}.')
    recipes = [(recipe or {'training': {}})['training'] for recipe in (
        folder.read_json(FILE), read_json(source / FILE))]
    if len({recipe.get('continues', False) for recipe in recipes}) > 1:
        raise ValueError(f'before_surgery_from: the schedule of {source} ends at surgery or not, '
                         'and that of this run otherwise; say --fine_tune_learning_rate in both.')
    augmented = [recipe.get('augmentation', '') for recipe in recipes]
    if augmented[0] != augmented[1]:
        raise ValueError(f'before_surgery_from: {source} augmented its images otherwise '
                         f'({augmented[1] or "as asked"}) than this run would '
                         f'({augmented[0] or "as asked"}); say --augment or --noaugment in both.')
    load_initial_weights(model, str(source / 'dense.keras'))
    note_lowered(folder, lowered(source))  # in those epochs: so is the rate after surgery
    note_teacher_before(folder, source)
    folder.append_rows('metrics.jsonl', [row for row in read_rows(source / 'metrics.jsonl')
                                         if row['epoch'] < config.epochs.search])


def take_search(config: Config, folder: RunFolder) -> Decision | None:
    """Takes the decision for this budget, and the rows of rounds.jsonl, from the run
    of `take_epochs`; None where the search is this run's own.

    ValueError: the search was for other budgets.
    """
    source = pathlib.Path(config.run.before_surgery_from)
    decisions, theirs = read_json(source / RATIOS_FILE), read_config(source) or {}
    if decisions is None:
        return None
    known = values_before(theirs['method']) | theirs
    if _of_method(known) != _of_method(config.to_json()):
        return None
    limit, = config.costs.limits.values()
    if repr(limit) not in decisions:
        raise ValueError(f'before_surgery_from: {source} decided for {", ".join(decisions)}, not '
                         f'for {limit:g}.')
    folder.append_rows('rounds.jsonl', read_rows(source / 'rounds.jsonl'))
    return Decision.from_json(decisions[repr(limit)])


def other_ratios(config: Config, run_dir: pathlib.Path) -> dict[str, Config]:
    """The runs that a finished run of a conditional method leaves to do, by ratio."""
    decisions = read_json(run_dir / RATIOS_FILE)
    if decisions is None:
        return {}
    target, = config.costs.limits
    values = config.to_json() | {'before_surgery_from': str(run_dir)}
    return {ratio: Config.from_json(values | {target: float(ratio)}) for ratio in decisions
            if float(ratio) != values[target]}
