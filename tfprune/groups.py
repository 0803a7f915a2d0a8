"""Channel groups: which channels must be removed together, and which never.

Every tensor carries one label per channel position. Kernels start new labels, an Add couples the
labels of its inputs position by position, padding starts labels for its zeros; everything else
passes, repeats or joins labels (`layer_rules`). Coupled labels are one channel. Channels that stand
in exactly the same tensors, equally often, form a group, so the width of every tensor is linear:

    width(tensor) = constant + Σ_g count_g · w_g.

The residual stream of a three-stage CIFAR ResNet with padding shortcuts is therefore three groups:
channels of all stages, those from the second on, those of the third.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.graph import functional_graph, ordered_nodes
from tfprune.layer_rules import Call, Labels, LayerRule, Shape, Tracer, find_rule
from tfprune.layout import Layout, LayerNode, Positions, TensorInfo, WeightSlot

RESIDUAL_REASON = 'couples several layers; --prune_residual_groups prunes it'


class UnsupportedLayerError(ValueError):
    """A layer has no rule and unknown_layers='raise'."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Channels that are removed together.

    Attributes:
      name: the layer that produces it first, with a suffix '/1', '/2' where groups share it.
      width: its number of channels in the dense model.
      producers: layers whose kernels write it.
      consumers: channel-mixing layers that read it.
      members: all layers that touch it, in topological order.
      is_residual: whether something else writes the same channels, as in a residual stream: another
        kernel, or the zeros of a padded shortcut.
    """
    name: str
    width: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    members: tuple[str, ...]
    is_residual: bool


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGroups(Mapping[str, int]):
    """The prunable groups, name to dense width in topological order, and all about the others.

    Attributes:
      groups: every group by name.
      unprunable: name to the reason, a sentence, for those that are not in the mapping.
      layout: where the groups stand in tensors and weights.
    """
    groups: Mapping[str, Group]
    unprunable: Mapping[str, str]
    layout: Layout

    def __getitem__(self, name: str) -> int:
        if name in self.unprunable:
            raise KeyError(self.unprunable[name])
        return self.groups[name].width

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.groups if name not in self.unprunable)

    def __len__(self) -> int:
        return len(self.groups) - len(self.unprunable)

    def __contains__(self, name: object) -> bool:
        return name in self.groups and name not in self.unprunable

    def without_residual(self) -> 'ChannelGroups':
        """Returns the same groups with those that couple several layers unprunable."""
        residual = {name: _reason(name, RESIDUAL_REASON)
                    for name in self if self.groups[name].is_residual}
        unprunable = {name: self.unprunable.get(name) or residual[name] for name in self.groups
                      if name in self.unprunable or name in residual}
        return dataclasses.replace(self, unprunable=unprunable)

    def to_json(self) -> dict[str, Any]:
        """Returns a plain dict of groups, members and reasons for groups.json."""
        rows = [{'name': name, 'width': group.width, 'producers': list(group.producers),
                 'consumers': list(group.consumers), 'members': list(group.members),
                 'residual': group.is_residual, 'reason': self.unprunable.get(name)}
                for name, group in self.groups.items()]
        return {'prunable': dict(self), 'groups': rows}


def _reason(name: str, why: str) -> str:
    return f"group '{name}' is not prunable: {why}"


@dataclasses.dataclass
class _Traced:
    """A model half way: labels per tensor, layers per node."""
    shapes: list[Shape]
    labels: list[Labels]
    nodes: list[LayerNode]
    mixing: set[str]
    weights: list[WeightSlot]
    outputs: tuple[int, ...]


def _trace(graph: Any, tracer: Tracer, unknown_layers: str) -> _Traced:
    traced = _Traced([], [], [], set(), [], ())
    ids: dict[int, int] = {}
    first_calls: dict[str, LayerNode] = {}

    def add(tensor: Any, labels: Labels) -> int:
        ids[id(tensor)] = len(traced.labels)
        traced.shapes.append(tuple(tensor.shape))
        traced.labels.append(labels)
        return ids[id(tensor)]

    for node in ordered_nodes(graph):
        layer = node.operation
        inputs = tuple(ids[id(tensor)] for tensor in node.input_tensors)
        in_labels = [traced.labels[i] for i in inputs]
        call = Call(layer, tuple(traced.shapes[i] for i in inputs),
                    tuple(tuple(tensor.shape) for tensor in node.output_tensors))
        rule, refused = find_rule(call)
        if rule is None:
            assert refused is not None
            if unknown_layers == 'raise':
                raise UnsupportedLayerError(
                    f"Layer '{layer.name}' ({type(layer).__name__}) is not supported: the model "
                    f"{refused}; unknown_layers='freeze' keeps the channels that it touches")
            outputs = []
            for tensor in node.output_tensors:
                width = tensor.shape[-1] if len(tensor.shape) > 1 else None
                outputs.append(add(tensor, tracer.fresh(width or 0)))
            for labels in [*in_labels, *(traced.labels[i] for i in outputs)]:
                tracer.freeze(labels, f'it {refused}')
        else:
            outputs = [add(node.output_tensors[0], rule.flow(call, in_labels, tracer))]
            if rule.mixes_channels:
                traced.mixing.add(layer.name)
        current = LayerNode(layer.name, type(layer).__name__, inputs, tuple(outputs), refused)
        traced.nodes.append(current)
        first = first_calls.setdefault(layer.name, current)
        if rule is None:
            continue
        if first is current:
            traced.weights += _slots(layer, rule, current)
        elif rule.ties_calls(layer):
            for one, other in zip((*first.inputs, *first.outputs), (*inputs, *outputs)):
                tracer.union(traced.labels[one], traced.labels[other])
    traced.outputs = tuple(ids[id(tensor)] for tensor in graph.outputs)
    for output in traced.outputs:
        tracer.freeze(traced.labels[output], "it feeds the model's output")
    return traced


def _slots(layer: Any, rule: LayerRule, node: LayerNode) -> list[WeightSlot]:
    slots = []
    for axes in rule.weight_axes(layer):
        weight = getattr(layer, axes.name)
        slots.append(WeightSlot(
            layer.name, axes.name, tuple(weight.shape), bool(weight.trainable),
            axes.in_axis, None if axes.in_axis is None else node.inputs[0],
            axes.out_axis, None if axes.out_axis is None else node.outputs[0]))
    return slots


def _group_roots(traced: _Traced, roots: np.ndarray) -> list[list[int]]:
    """Returns the roots of each group: those that stand in the same tensors, equally often."""
    signatures: dict[int, list[tuple[int, int]]] = {}
    for tensor, labels in enumerate(traced.labels):
        found, counts = np.unique(roots[labels], return_counts=True)
        for root, count in zip(found.tolist(), counts.tolist()):
            signatures.setdefault(root, []).append((tensor, count))
    groups: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for root in sorted(signatures):
        groups.setdefault(tuple(signatures[root]), []).append(root)
    return list(groups.values())


def trace_groups(model: keras.Model, *, frozen: Sequence[str] = (),
                 unknown_layers: str = 'freeze') -> ChannelGroups:
    """Returns the channel groups of a model.

    Args:
      model: a functional or built Sequential Keras model on channels-last images.
      frozen: names of groups, or of layers whose output channels stay.
      unknown_layers: 'freeze' keeps every channel that a layer without a rule touches; 'raise'
        refuses such a model.

    Raises:
      TypeError: if `model` is not a Keras 3 model.
      ValueError: if it cannot be traced, or an argument is wrong.
      UnsupportedLayerError: for a layer without a rule, if unknown_layers='raise'.
    """
    if unknown_layers not in ('freeze', 'raise'):
        raise ValueError(f"unknown_layers must be 'freeze' or 'raise', received {unknown_layers!r}")
    frozen = (frozen,) if isinstance(frozen, str) else tuple(frozen)
    tracer = Tracer()
    traced = _trace(functional_graph(model), tracer, unknown_layers)
    roots = tracer.roots()
    reasons = tracer.reasons(roots)

    members = _group_roots(traced, roots)
    group_of = np.full(len(roots), -1)
    index_of = np.full(len(roots), -1)
    for number, group in enumerate(members):
        group_of[group], index_of[group] = number, np.arange(len(group))
    places = [Positions(group_of[roots[labels]], index_of[roots[labels]])
              for labels in traced.labels]

    coupled = np.bincount(roots, minlength=len(roots))
    drafts = [Group('', len(group), *_roles(traced, places, number),
                    is_residual=bool(coupled[group[0]] > 1))
              for number, group in enumerate(members)]
    place = {node.layer: i for i, node in reversed(list(enumerate(traced.nodes)))}
    heads = [(draft.producers or draft.members)[0] for draft in drafts]
    order = sorted(range(len(drafts)), key=lambda g: (place[heads[g]], members[g][0]))
    renumber = np.empty(len(order), np.int64)
    renumber[order] = np.arange(len(order))
    names = _unique_names([heads[g] for g in order])
    groups = {name: dataclasses.replace(drafts[g], name=name) for name, g in zip(names, order)}

    unprunable = {}
    by_layer = _frozen_groups(frozen, groups, traced, places, [names[n] for n in renumber])
    for name, g in zip(names, order):
        why = reasons.get(members[g][0]) or by_layer.get(name)
        if why is None and not groups[name].producers:
            why = 'it is produced by no weights'
        if why is not None:
            unprunable[name] = _reason(name, why)

    tensors = tuple(TensorInfo(shape, Positions(renumber[p.group], p.index))
                    for shape, p in zip(traced.shapes, places))
    layout = Layout(tuple(names), tuple(group.width for group in groups.values()), tensors,
                    tuple(traced.nodes), tuple(traced.weights), traced.outputs)
    return ChannelGroups(groups, unprunable, layout)


def _roles(traced: _Traced, places: list[Positions], group: int
           ) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Returns the producers, consumers and members of a group, each in topological order."""
    here = {tensor for tensor, p in enumerate(places) if np.any(p.group == group)}
    writes = [node.layer for node in traced.nodes if here.intersection(node.outputs)]
    reads = {node.layer for node in traced.nodes if here.intersection(node.inputs)}
    every = [node.layer for node in traced.nodes if node.layer in reads or node.layer in writes]
    return (tuple(dict.fromkeys(name for name in writes if name in traced.mixing)),
            tuple(dict.fromkeys(name for name in every
                                if name in reads and name in traced.mixing)),
            tuple(dict.fromkeys(every)))


def _unique_names(heads: list[str]) -> list[str]:
    return [head if heads.count(head) == 1 else f'{head}/{heads[:place + 1].count(head)}'
            for place, head in enumerate(heads)]


def _frozen_groups(frozen: Sequence[str], groups: Mapping[str, Group], traced: _Traced,
                   places: list[Positions], names: list[str]) -> dict[str, str]:
    """Returns the groups that the user froze by their name or by a layer's, with the reason."""
    outputs: dict[str, list[int]] = {}
    for node in traced.nodes:
        outputs.setdefault(node.layer, []).extend(node.outputs)
    found = {}
    for name in frozen:
        if name in groups:
            found[name] = 'it is frozen by request'
        elif name not in outputs:
            raise ValueError(f"Unknown layer or group '{name}' in frozen. Groups: "
                             f"{', '.join(groups)}; layers: {', '.join(outputs)}")
        for tensor in outputs.get(name, ()):
            for group in np.unique(places[tensor].group).tolist():
                found.setdefault(names[group], f"layer '{name}' is frozen by request")
    return found
