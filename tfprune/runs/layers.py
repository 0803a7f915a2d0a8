"""layers.json: what each call of a layer keeps and costs, before surgery and after it."""
import collections
from collections.abc import Iterable
from typing import Any

import numpy as np

from tfprune.costs.model import FixedCost, LayerCost
from tfprune.methods.base import Decision
from tfprune.search.problem import Problem
from tfprune.structure.layout import LayerNode, Layout

LAYERS_FILE = 'layers.json'


def layers_of(problem: Problem, left: Problem, decision: Decision) -> dict[str, Any]:
    """The network and its costs by layer.

    Args:
        problem: of the dense model.
        left: the same without the blocks that the decision removes.

    Returns:
        network: a row a call, see `network_of`.
        layers: a row a call of a layer that costs multiply-adds, in topological order: layer,
            kind, before, after (exact, as the cost model counts them); they add up to those of the
            whole model.
    """
    return {'network': network_of(problem, left, decision),
            'layers': _macs(problem, left, decision)}


def network_of(problem: Problem, left: Problem, decision: Decision) -> list[dict[str, Any]]:
    """A row a call of the dense model: layer, kind, inputs (rows), shape (of its first output),
    channels, kept (of these), is_prunable (whether a choice could have removed some).

    Calls that hand on each channel, as normalization, activations, spatial padding and pooling do,
    are left out; what reads them reads what they read. 0 channels are kept of a call that
    disappeared with its block.
    """
    layout = problem.groups.layout
    prunable = np.array([name in problem.groups for name in layout.names] or [False])
    after = {key: int(kept.sum()) for key, kept in zip(_keys(
        node.layer for node in left.groups.layout.nodes), _kept_outputs(left.groups.layout,
                                                                        decision))}
    rows: list[dict[str, Any]] = []
    made: dict[int, int] = {}  # tensor -> row
    for key, node in zip(_keys(node.layer for node in layout.nodes), layout.nodes):
        if _hands_on(layout, node):
            made |= dict.fromkeys(node.outputs, made[node.inputs[0]])
            continue
        made |= dict.fromkeys(node.outputs, len(rows))
        info = layout.tensors[node.outputs[0]]
        rows.append({
            'layer': node.layer, 'kind': node.kind,
            'inputs': sorted({made[tensor] for tensor in node.inputs}),
            'shape': list(info.shape[1:]), 'channels': len(info.positions.group),
            'kept': after.get(key, 0),
            'is_prunable': bool(prunable[info.positions.group].any())})
    return rows


def _kept_outputs(layout: Layout, decision: Decision) -> list[np.ndarray]:
    """What is kept of the first output of each call, bool [C]."""
    kept = layout.kept(decision.masks)
    return [kept[node.outputs[0]] for node in layout.nodes]


def _hands_on(layout: Layout, node: LayerNode) -> bool:
    if len(node.inputs) != 1 or len(node.outputs) != 1:
        return False
    before, after = (layout.tensors[side[0]] for side in (node.inputs, node.outputs))
    return all(
        np.array_equal(getattr(before.positions, name), getattr(after.positions, name))
        for name in ('group', 'index'))


def _macs(problem: Problem, left: Problem, decision: Decision) -> list[dict[str, Any]]:
    dense, model = problem.cost_model, left.cost_model
    widths = np.array([decision.widths.get(name, width)
                       for name, width in zip(model.group_names, model.dense_widths.tolist())],
                      np.int64)
    after = dict(zip(_keys(row.name for row in model.layers),
                     model.layer_macs(widths).tolist()))
    after |= dict(zip(_keys(f'{row.name}, whole' for row in model.fixed),
                      (row.macs for row in model.fixed)))
    every: list[LayerCost | FixedCost] = [*dense.layers, *dense.fixed]
    keys = [*_keys(row.name for row in dense.layers),
            *_keys(f'{row.name}, whole' for row in dense.fixed)]
    place = {node.layer: number for number, node in enumerate(problem.groups.layout.nodes)}
    found = [{'layer': row.name, 'kind': row.kind, 'before': row.macs, 'after': after.get(key, 0)}
             for key, row in zip(keys, every)]
    return sorted(found, key=lambda row: place[row['layer']])


def _keys(names: Iterable[str]) -> list[tuple[str, int]]:
    """(name, how often it came before) of each: a layer may be called several times."""
    seen: dict[str, int] = collections.Counter()
    found = []
    for name in names:
        found.append((name, seen[name]))
        seen[name] += 1
    return found
