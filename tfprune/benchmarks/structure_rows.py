"""One row a model: pruned to half of its multiply-adds, promises checked, the file used."""
import functools
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

import keras
import numpy as np

from tfprune.costs.analysis import analyze
from tfprune.costs.budget import Budget, InfeasibleBudgetError
from tfprune.costs.model import CostModel
from tfprune.costs.multiply_adds import macs_by_running
from tfprune.costs.proportional import uniform_widths
from tfprune.pruning.gates import insert_gates
from tfprune.pruning.masks import Masks, select_channels
from tfprune.pruning.surgery import prune_model
from tfprune.structure.groups import ChannelGroups, trace_groups
from tfprune.testing import check_promises, largest_difference, normal_inputs, randomize

_CLIENT = pathlib.Path(__file__).with_name('client.py')


def row_of(name: str, model: keras.Model, files: bool = True, *, inputs: Any = None
           ) -> dict[str, Any]:
    """The row of a model, whose weights become noise.

    Args:
        name: its name in the table.
        model: functional, of fixed input size.
        files: whether to save the result and use it in a process without tfprune, too: load, train
            a step, convert to TFLite.
        inputs: those of the comparison; two of normal noise if none are given.

    `difference` is that of gated and pruned at half, `random_difference` under random masks of all
    groups; `exact`: costs are as predicted, of both. Where half of the multiply-adds cannot be
    reached, half of what can go is pruned, and `smallest` is the share that stays at least. What
    fails is the row's `error`.
    """
    randomize(model)
    inputs = normal_inputs(model, np.random.default_rng(0)) if inputs is None else inputs
    start = time.perf_counter()
    everything = trace_groups(model)
    groups, masks = _half(model, everything)
    traced = time.perf_counter() - start
    row = {'model': name, **_of_structure(model, groups, everything)}
    try:
        start = time.perf_counter()
        pruned = prune_model(model, groups, masks)
        row['seconds'] = traced + time.perf_counter() - start
        found = check_promises(model, masks, groups=groups, inputs=inputs)
        row |= {'macs': found.predicted[0], 'params': found.predicted[1],
                'exact': found.predicted == found.counted, 'difference': found.gated_difference}
        if groups:
            found = check_promises(model, groups=everything, inputs=inputs)
            row |= {'exact': row['exact'] and found.predicted == found.counted,
                    'random_difference': found.gated_difference}
        row |= _by_running(model, pruned, inputs)
        if files:
            row |= _use_elsewhere(pruned)
            if row['client'] != 'ok' or 'tflite' in row:
                dense = _use_elsewhere(model)
                row |= {f'{key}_dense': dense[key] for key in ('client', 'tflite') if key in dense}
    except Exception as error:  # what is known of its structure stays
        row['error'] = one_line(error)
    return row


def _of_structure(model: keras.Model, groups: ChannelGroups, everything: ChannelGroups
                  ) -> dict[str, Any]:
    """What the trace found: the groups, what can go, what cannot."""
    analysis, whole = analyze(model, groups), analyze(model, everything)
    inside = [row for row in whole.groups if row.reason is not None and not row.reason.endswith(
        ("it is the model's input", "it feeds the model's output"))]
    can_go = whole.can_go['macs']
    return {
        'groups': len(groups),
        'residual_groups': any(groups.groups[name].is_residual for name in groups),
        'prunable_share': analysis.prunable_macs / max(analysis.dense.macs, 1),
        'prunable_share_with_residual': whole.prunable_macs / max(analysis.dense.macs, 1),
        'can_go': can_go, **({'smallest': 1 - can_go} if can_go < .5 else {}),
        'dense_macs': analysis.dense.macs, 'dense_params': analysis.dense.params,
        'unprunable': len(inside), 'reasons': sorted({_reason(row.reason or '') for row in inside}),
        'without_rule': [f'{call.name} ({call.kind})' for call in analysis.fixed],
        'fixed_macs': sum(call.macs for call in analysis.fixed),
        'uncounted': list(analysis.uncounted)}


def _reason(sentence: str) -> str:
    """Without the group and layer that it speaks of: the rest, one a kind."""
    return re.sub(r"'[^']*/[^']*'|layer '[^']*'", '…', sentence.partition('not prunable: ')[2])


def _half(model: keras.Model, everything: ChannelGroups) -> tuple[ChannelGroups, Masks]:
    """Uniform widths at half of the MACs, of residual groups too if it takes them; where that
    cannot be reached, half of what can go."""
    for groups in (everything.without_residual(), everything):
        try:
            budget = Budget(groups, CostModel(model, groups), {'macs': 0.5})
            break
        except InfeasibleBudgetError:
            least = 1 - analyze(model, everything).can_go['macs']
            if least <= .5:
                continue
            if least == 1:
                return everything, {}
            budget = Budget(everything, CostModel(model, everything), {'macs': (1 + least) / 2})
            groups = everything
    return groups, select_channels(model, groups, budget.as_dict(uniform_widths(budget)))


def _by_running(model: keras.Model, pruned: keras.Model, inputs: Any) -> dict[str, Any]:
    """Multiply-adds that the two execute; `effect`, how far the outputs of the pruned are from
    those of the dense, without which no difference to the gated would say little."""
    effect = largest_difference(*(each(inputs, training=False) for each in (model, pruned)))
    one = keras.tree.map_structure(lambda x: x[:1], inputs)
    return {'effect': effect,
            **{name: macs_by_running(functools.partial(each, one, training=False))
               for name, each in (('dense_macs_run', model), ('macs_run', pruned))}}


def dead_groups(model: keras.Model, inputs: Any = None) -> list[str]:
    """Groups of which the outputs change by less than 1e-5 if only the first channel is left."""
    inputs = normal_inputs(model, np.random.default_rng(0)) if inputs is None else inputs
    groups = trace_groups(model)
    gated = insert_gates(model, groups)
    everything = {name: np.ones(width, bool) for name, width in groups.items()}

    def outputs(masks: Masks) -> Any:
        gated.set_masks(masks)
        return gated.model(inputs, training=False)

    dense = outputs(everything)
    return [name for name, width in groups.items() if width > 1 and
            largest_difference(dense, outputs({**everything, name: np.arange(width) == 0})) < 1e-5]


def _use_elsewhere(pruned: keras.Model) -> dict[str, Any]:
    """What a process without tfprune makes of the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / 'pruned.keras'
        try:
            pruned.save(path)
        except Exception as error:
            return {'client': f'not saved: {one_line(error)}'}
        done = subprocess.run([sys.executable, str(_CLIENT), str(path)], capture_output=True,
                              text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f'ended with {done.returncode}']
        errors = [line for line in lines if re.match(r'[\w.]*(Error|Exception)\b', line)]
        return {'client': (errors or lines)[-1][:300]}
    return {'client': 'ok', **json.loads(done.stdout.splitlines()[-1])}


def one_line(error: BaseException) -> str:
    """The class of an error and the start of what it says."""
    plain = re.sub(r'\x1b\[\d+m', '', str(error))  # Keras prints some in bold
    return f'{type(error).__name__}: {" ".join(plain.split())[:300]}'
