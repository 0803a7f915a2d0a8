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

from tfprune.structure.copies import warn_of_configs
from tfprune.structure.graph import Graph, Shape, Step, unfold
from tfprune.structure.layer_rules import (Call, Channels, Labels, LayerRule, Tracer,
                                           find_rule, rule_of)
from tfprune.structure.layer_rules.base import width_of
from tfprune.structure.layout import (Layout, LayerNode, Positions, SlotAxis, TensorInfo,
                                      WeightSlot, weight_of)

RESIDUAL_REASON = 'couples several layers; --prune_residual_groups prunes it'
FROZEN_REASON = 'frozen (trainable=False); --prune_frozen prunes it'


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
        is_residual: whether a sum couples it with other channels, as in a residual stream: those of
            another kernel, or the zeros of a padded shortcut.
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
    """A model half way: channels per tensor, layers per node.

    The tensors of the graph come first; then the channels that only layers see, names by tensor.
    """
    shapes: list[Shape]
    channels: list[Channels]
    names: dict[int, str]
    nodes: list[LayerNode]
    mixing: set[str]
    weights: list[WeightSlot]
    outputs: tuple[int, ...]

    @property
    def labels(self) -> list[Labels]:
        """The labels of every tensor."""
        return [each.labels for each in self.channels]

    def internals(self, step: Step, tracer: Tracer) -> dict[str, int]:
        """Adds the channels that only the layer of a step sees, and returns their tensors."""
        rule, found = rule_of(step.operation), {}
        for name, width in rule.internals(step.operation).items() if rule else ():
            found[name] = len(self.shapes)
            self.names[found[name]] = f'{step.path}/{name}'
            self.shapes.append((None, width))
            self.channels.append(Channels(tracer.fresh(width)))
        return found


def _trace(graph: Graph, tracer: Tracer, unknown_layers: str) -> _Traced:
    nothing = Channels(np.empty(0, np.int64))
    traced = _Traced(list(graph.shapes), [nothing] * len(graph.shapes), {}, [], set(), [],
                     graph.outputs)
    first_calls: dict[str, LayerNode] = {}
    for step in graph.steps:
        layer = step.operation
        inputs = [traced.channels[i] for i in step.inputs]
        earlier = first_calls.get(step.path)
        internals = traced.internals(step, tracer) if earlier is None else earlier.internals
        call = Call(layer, tuple(graph.shapes[i] for i in step.inputs),
                    tuple(graph.shapes[i] for i in step.outputs), step.constants,
                    tuple(each.axis for each in inputs),
                    {name: traced.channels[i].labels for name, i in internals.items()},
                    tuple(step.arguments.args), step.masks,
                    tuple(graph.images[i] for i in step.inputs))
        rule, refused = find_rule(call)
        if step.closed:
            refused = f'{refused} and could not be opened: {step.closed}'
        first = first_calls.get(step.path)
        if first is not None and first.refused is not None:
            rule, refused = None, first.refused
        if rule is None:
            if unknown_layers == 'raise':
                raise UnsupportedLayerError(
                    f"Layer '{step.path}' ({call.kind}) is not supported: the model {refused}; "
                    "unknown_layers='freeze' keeps the channels that it touches")
            made = [Channels(tracer.fresh(width_of(shape))) for shape in call.output_shapes]
            before = () if first is None else (*first.inputs, *first.outputs)
            for i in (*internals.values(), *before):
                tracer.freeze(traced.channels[i].labels, f'it {refused}')
            for each in (*inputs, *made):
                tracer.freeze(each.labels, f'it {refused}')
        else:
            made = rule.trace(call, inputs, tracer)
            if rule.mixes_channels(layer):
                traced.mixing.add(step.path)
        for i, channels in zip(step.outputs, made, strict=True):
            traced.channels[i] = channels
        current = LayerNode(step.path, call.kind, step.inputs, step.outputs, refused, internals)
        traced.nodes.append(current)
        first_calls.setdefault(step.path, current)
        if rule is None:
            continue
        if first is None:
            traced.weights += _slots(layer, rule, current)
        elif rule.ties_calls(layer):
            # A call may have states or a mask that another one has not.
            for one, other in (*zip(first.inputs, step.inputs), *zip(first.outputs, step.outputs)):
                if len(traced.channels[one].labels) == len(traced.channels[other].labels):
                    tracer.union(traced.channels[one].labels, traced.channels[other].labels)
    for output in traced.outputs:
        tracer.freeze(traced.channels[output].labels, "it feeds the model's output", first=True)
    return traced


def _slots(layer: Any, rule: LayerRule, node: LayerNode) -> list[WeightSlot]:
    slots = []
    for axes in rule.weight_axes(layer):
        weight = weight_of(layer, axes.name)
        slots.append(WeightSlot(
            node.layer, axes.name, tuple(weight.shape), bool(weight.trainable),
            tuple(SlotAxis(each.axis, node.tensor(each.of, each.place), each.reads, each.repeat,
                           each.tile) for each in axes.axes)))
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
                 unknown_layers: str = 'freeze', prune_frozen: bool = False) -> ChannelGroups:
    """Returns the channel groups of a model.

    What reads a channel has to make up for its loss: a group that a layer with a frozen kernel
    reads is not prunable. One that only frozen layers write is, if what reads it can train: the
    features of a frozen backbone that its trainable head does without. Training of biases or of
    normalization alone makes up for nothing.

    Args:
        model: a functional or built Sequential Keras model on channels-last images.
        frozen: names of groups, or of layers whose output channels stay.
        unknown_layers: 'freeze' keeps every channel that a layer without a rule touches; 'raise'
            refuses such a model.
        prune_frozen: whether groups that frozen layers read are prunable all the same.

    Raises:
        TypeError: if `model` is not a Keras 3 model.
        ValueError: if it cannot be traced, or an argument is wrong.
        UnsupportedLayerError: for a layer without a rule, if unknown_layers='raise'.

    Warns of layers that no saved model can hold, such as one whose activation is a lambda.
    """
    if unknown_layers not in ('freeze', 'raise'):
        raise ValueError(f"unknown_layers must be 'freeze' or 'raise', received {unknown_layers!r}")
    frozen = (frozen,) if isinstance(frozen, str) else tuple(frozen)
    tracer = Tracer()
    graph = unfold(model)
    warn_of_configs(graph.layers.values())
    traced = _trace(graph, tracer, unknown_layers)
    roots = tracer.roots()
    reasons = tracer.reasons(roots)

    members = _group_roots(traced, roots)
    group_of = np.full(len(roots), -1)
    index_of = np.full(len(roots), -1)
    for number, group in enumerate(members):
        group_of[group], index_of[group] = number, np.arange(len(group))
    places = [Positions(group_of[roots[labels]], index_of[roots[labels]])
              for labels in traced.labels]

    summed = tracer.summed(roots)
    drafts = [Group('', len(group), *roles, is_residual=group[0] in summed)
              for group, roles in zip(members, _roles(traced, places, len(members)))]
    place = {node.layer: i for i, node in reversed(list(enumerate(traced.nodes)))}
    heads = [(draft.producers or draft.members)[0] for draft in drafts]
    order = sorted(range(len(drafts)), key=lambda g: (place[heads[g]], members[g][0]))
    renumber = np.empty(len(order), np.int64)
    renumber[order] = np.arange(len(order))
    own = _own_names(traced, places)
    names = _unique_names([own.get(g, heads[g]) for g in order])
    groups = {name: dataclasses.replace(drafts[g], name=name) for name, g in zip(names, order)}

    unprunable = {}
    by_layer = _frozen_groups(frozen, groups, traced, places, [names[n] for n in renumber])
    for name, g in zip(names, order):
        why = reasons.get(members[g][0]) or by_layer.get(name)
        if why is None and not groups[name].producers:
            why = 'it is produced by no weights'
        if why is None and not prune_frozen:
            why = _frozen_readers(groups[name], traced.weights)
        if why is not None:
            unprunable[name] = _reason(name, why)

    tensors = tuple(TensorInfo(shape, Positions(renumber[p.group], p.index), channels.axis)
                    for shape, p, channels in zip(traced.shapes, places, traced.channels))
    layout = Layout(tuple(names), tuple(group.width for group in groups.values()), tensors,
                    tuple(traced.nodes), tuple(traced.weights), traced.outputs)
    return ChannelGroups(groups, unprunable, layout)


def check_traced(model: keras.Model, graph: Graph, groups: ChannelGroups) -> None:
    """ValueError unless `groups` was traced on `model`, whose steps `graph` has, or on its like."""
    layout, other = groups.layout, f"groups was traced on another model than '{model.name}'"
    paths, expected = [step.path for step in graph.steps], [node.layer for node in layout.nodes]
    if paths != expected:
        missing = [path for path in expected if path not in paths]
        raise ValueError(f"{other}: it has no layer '{missing[0]}'" if missing else other)
    layers = graph.layers
    for slot in layout.weights:
        shape = tuple(weight_of(layers[slot.layer], slot.weight).shape)
        if shape != slot.shape:
            raise ValueError(f"{other}: '{slot.layer}/{slot.weight}' has the shape {shape}, "
                             f'expected {slot.shape}')


def _roles(traced: _Traced, places: list[Positions], size: int
           ) -> list[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]]:
    """Returns the producers, consumers and members of each group, each in topological order."""
    here = [np.unique(place.group).tolist() for place in places]
    # Dictionaries, for they keep the order and drop what comes again.
    roles: list[tuple[dict[str, None], ...]] = [({}, {}, {}) for _ in range(size)]
    for node in traced.nodes:
        within = tuple(node.internals.values())
        for side, tensors in ((1, (*node.inputs, *within)), (0, (*node.outputs, *within))):
            for group in {group for tensor in tensors for group in here[tensor]}:
                roles[group][2][node.layer] = None
                if node.layer in traced.mixing:
                    roles[group][side][node.layer] = None
    return [(tuple(writes), tuple(reads), tuple(every)) for writes, reads, every in roles]


def _own_names(traced: _Traced, places: list[Positions]) -> dict[int, str]:
    """Returns the names of groups that stand in no tensor of the graph, only within a layer."""
    outside = {group for tensor, place in enumerate(places) if tensor not in traced.names
               for group in np.unique(place.group).tolist()}
    found: dict[int, str] = {}
    for tensor, name in traced.names.items():
        for group in np.unique(places[tensor].group).tolist():
            if group not in outside:
                found.setdefault(group, name)
    return found


def _frozen_readers(group: Group, weights: Sequence[WeightSlot]) -> str | None:
    """Returns why a group cannot make up for lost channels, or None if it can."""
    kernels: dict[str, bool] = {}
    for slot in weights:
        if slot.is_kernel:
            kernels[slot.layer] = kernels.get(slot.layer, False) or slot.trainable
    frozen = [name for name in group.consumers if not kernels.get(name, True)]
    if not frozen:
        return None
    writers = [name for name in group.producers if not kernels.get(name, True)]
    wrote = f"of layer '{writers[0]}', which writes it, and " if writers else ''
    return f"the weights {wrote}of layer '{frozen[0]}', which reads it, are {FROZEN_REASON}"


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
