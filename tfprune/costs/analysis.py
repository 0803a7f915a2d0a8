"""What can be pruned of a model and what cannot, before any training."""

import dataclasses
from typing import Any

import keras
import numpy as np

from tfprune.config import TARGETS
from tfprune.costs.model import Cost, CostModel, FixedCost
from tfprune.pruning.masks import allowed_widths
from tfprune.structure.graph import functional_graph
from tfprune.structure.groups import ChannelGroups


NOUNS = {'macs': 'MACs', 'params': 'parameters', 'peak_memory_bytes': 'peak memory'}


@dataclasses.dataclass(frozen=True)
class GroupRow:
    """One channel group.

    Attributes:
        name: the layer that produces it first.
        width, least_width: channels now, and the fewest allowed.
        macs: multiply-adds of the layers that write it, each layer's shared out among the channels
            that it writes; over all groups they sum to the model's.
        params: parameters along its channels in the layers that write it, likewise.
        macs_saved: multiply-adds that go if this group alone has its least width.
        members: all layers that touch it.
        is_residual: whether a sum couples it.
        reason: why it is not prunable; None if it is.
    """
    name: str
    width: int
    least_width: int
    macs: int
    params: int
    macs_saved: int
    members: tuple[str, ...]
    is_residual: bool
    reason: str | None


@dataclasses.dataclass(frozen=True)
class Analysis:
    """A model before any training.

    Attributes:
        model: its name.
        inputs: the shapes of its inputs, 'H×W×C'.
        groups: every group, in topological order.
        dense: its cost.
        least: its cost with all prunable groups at their least widths: the smallest budget.
        prunable_macs: multiply-adds of layers with a prunable group on one side or both.
        uncounted: "layer (class)" of what may multiply, but could not be counted.
        fixed: what has no rule and multiplies; its multiply-adds stay.
    """
    model: str
    inputs: tuple[str, ...]
    groups: tuple[GroupRow, ...]
    dense: Cost
    least: Cost
    prunable_macs: int
    uncounted: tuple[str, ...]
    fixed: tuple[FixedCost, ...] = ()

    @property
    def can_go(self) -> dict[str, float]:
        """{target: the largest share of the dense cost that pruning can remove, 1 - least / dense}.
        """
        return {name: 1 - _ratio(self.least, self.dense, name) for name in TARGETS}

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the shares that can go and the ratios of the smallest budget."""
        return {**dataclasses.asdict(self), 'can_go': self.can_go,
                'least_ratio': {name: _ratio(self.least, self.dense, name) for name in TARGETS},
                'prunable_macs_share': self.prunable_macs / max(self.dense.macs, 1)}


def analyze(model: keras.Model, groups: ChannelGroups, *, width_multiple: int = 1,
            min_keep_ratio: float = 0.1) -> Analysis:
    """Returns what of `model` can be pruned.

    Args:
        model: a functional or Sequential model of fixed input size.
        groups: its channel groups (`trace_groups`), those that must stay already unprunable.
        width_multiple, min_keep_ratio: the widths that are allowed; see `masks.allowed_widths`.

    Raises:
        ValueError: for groups of another model, or sizes that are not fixed.
    """
    cost_model = CostModel(model, groups)
    least = {name: int(allowed_widths(width, multiple=width_multiple,
                                      min_keep_ratio=min_keep_ratio)[0])
             for name, width in groups.items()}
    macs, params = _shared_out(groups, cost_model)
    rows = []
    for place, (name, group) in enumerate(groups.groups.items()):
        saved = 0
        if name in groups:
            saved = cost_model.dense.macs - cost_model({name: least[name]}).macs
        rows.append(GroupRow(
            name, group.width, least.get(name, group.width), round(macs[place]),
            round(params[place]), saved, group.members, group.is_residual,
            groups.unprunable.get(name)))
    prunable = sum(layer.macs for layer in cost_model.layers
                   if any(name in groups for name in (*layer.groups_in, *layer.groups_out)))
    inputs = tuple('×'.join(map(str, tensor.shape[1:])) for tensor in
                   functional_graph(model).inputs)
    return Analysis(model.name, inputs, tuple(rows), cost_model.dense, cost_model(least), prunable,
                    tuple(cost_model.uncounted), cost_model.fixed)


def _shared_out(groups: ChannelGroups, cost_model: CostModel) -> tuple[np.ndarray, np.ndarray]:
    """Returns MACs and parameters of every group, float [all groups]."""
    layout, size = groups.layout, len(groups.layout.names)
    shares = [np.bincount(tensor.positions.group, minlength=size) / max(
        len(tensor.positions.group), 1) for tensor in layout.tensors]
    macs = sum((count * share for count, share in zip(cost_model.macs_by_tensor(), shares)),
               np.zeros(size))
    params = np.zeros(size)
    for slot in layout.weights:
        for tensor in slot.made:
            params += np.prod(slot.shape) / len(slot.made) * shares[tensor]
    return macs, params


def headline(analysis: Analysis) -> str:
    """Returns what can go of the costs, in one sentence."""
    shares = [f'{analysis.can_go[name]:.1%} of the {NOUNS[name]}' for name in TARGETS]
    counted = ' (of what is counted)' if analysis.uncounted else ''
    return f'Up to {", ".join(shares[:-1])} and {shares[-1]} can go{counted}.'


def format_analysis(analysis: Analysis) -> str:
    """Returns the analysis as text: what can go, groups, reasons, the smallest budget, what is not
    counted."""
    dense = analysis.dense
    size = max([20, *(len(row.name) for row in analysis.groups if row.reason is None)])
    more = '+' * bool(analysis.uncounted)
    lines = [f'{analysis.model}, input {", ".join(analysis.inputs)}: {dense.macs:,}{more} MACs, '
             f'{dense.params:,} parameters ({dense.trainable_params:,} trainable), '
             f'{dense.peak_memory_bytes:,} bytes of activations at most', headline(analysis), '',
             f'{"group":<{size}}{"width":>7}{"least":>7}{"MACs":>8}{"params":>8}{"saves":>8}'
             '  layers']
    for row in analysis.groups:
        if row.reason is None:
            lines.append(
                f'{row.name:<{size}}{row.width:>7}{row.least_width:>7}'
                f'{row.macs / max(dense.macs, 1):>8.1%}{row.params / max(dense.params, 1):>8.1%}'
                f'{row.macs_saved / max(dense.macs, 1):>8.1%}  {len(row.members)}'
                f'{", residual" if row.is_residual else ""}')
    lines += ['', 'MACs and params: of the layers that write the group; saves: MACs that go if it '
              'alone has its least width.', '', 'Not prunable:']
    lines += [f'  {row.width:>5} channels, {row.macs / max(dense.macs, 1):6.1%} of the MACs: '
              f'{row.reason}' for row in analysis.groups if row.reason is not None]
    lines += ['', 'Smallest reachable budget:']
    for name in TARGETS:
        mark = more if name == 'macs' else ''
        lines.append(f'  {name}: {getattr(analysis.least, name):,}{mark} '
                     f'({_ratio(analysis.least, dense, name):.1%} of {getattr(dense, name):,}'
                     f'{mark})')
    stays = (dense.macs - analysis.prunable_macs) / max(dense.macs, 1)
    lines.append(f'Of the MACs {stays:.1%} stay because their layers have no prunable side, '
                 f'{1 - stays - analysis.can_go["macs"]:.1%} because of the least widths.')
    if analysis.fixed:
        lines.append('Without a rule, counted by running them: ' + ', '.join(
            f'{call.name} ({call.kind}) {call.macs:,} MACs' for call in analysis.fixed))
    lines.append(f'{more + " " if more else ""}Not counted: '
                 f'{", ".join(analysis.uncounted) or "nothing"}')
    return '\n'.join(lines)


def _ratio(least: Cost, dense: Cost, name: str) -> float:
    return getattr(least, name) / max(getattr(dense, name), 1)
