"""Costs of a model as pure functions of integer widths, with the rounding of surgery.

Convention: one multiply-add is one MAC, at batch 1, of convolutions and products of matrices only;
biases, normalization, activations, pooling and additions count nothing. What has no rule keeps its
channels, so that its MACs are a number: they are counted by running it. Every width is a linear
form of the group widths w, so MACs and parameters are polynomials with natural coefficients,

    cost(w) = q0 + q1 · w + wᵀ Q w + Σ of products of three forms (attention: input, heads, width),

exact in float64 up to 2⁵³. Predicted costs therefore equal a recount of the pruned model.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import keras
import numpy as np

from tfprune.costs.running import macs_of_call
from tfprune.pruning.masks import check_widths
from tfprune.structure.graph import Graph, unfold
from tfprune.structure.groups import ChannelGroups, check_traced, trace_groups
from tfprune.structure.layer_rules import Call, MacTerm, rule_of
from tfprune.structure.layout import LayerNode

BYTES = 4  # of a float32 activation
EXACT = 2 ** 53
NANOSECONDS = 10 ** 6  # of a millisecond: latencies are whole numbers of them


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a model costs at batch 1.

    Attributes:
        macs: multiply-adds.
        params: all weights, frozen ones and moving statistics included, as model.count_params().
        peak_memory_bytes: the most bytes of live float32 activations while the layers run in order;
            normalization, activation, dropout, rescaling and flatten work in place where they can.
        trainable_params: of `params`, those that train.
        latency_ms: from the latency table, None without one.
    """
    macs: int
    params: int
    peak_memory_bytes: int
    trainable_params: int
    latency_ms: float | None = None


@dataclasses.dataclass(frozen=True)
class FixedCost:
    """A call of what has no rule, and so always the same MACs, above 0, counted by running it.

    output is the tensor in `groups.layout` that it makes first.
    """
    name: str
    kind: str
    macs: int
    output: int


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """A call of a layer that costs MACs: in_width and out_width are dense channels."""
    name: str
    kind: str
    groups_in: tuple[str, ...]
    groups_out: tuple[str, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    in_width: int
    out_width: int
    input_shape: tuple[int | None, ...]
    output_shape: tuple[int | None, ...]
    macs: int


class LatencyTable(Protocol):
    """Measured operator times, interpolated in widths: `latency_table.LatencyTable`."""
    about: dict[str, Any]

    def bind(self, model: keras.Model, groups: ChannelGroups
             ) -> Callable[[np.ndarray], np.ndarray]:
        """Returns widths int [..., G] of `groups` -> whole nanoseconds, int64 [...].

        They fall with no width. ValueError if the table is not one of `model`.
        """


class _Polynomial:
    """q0 + q1 · w + wᵀ Q w in natural numbers, and products of three linear forms."""

    def __init__(self, size: int) -> None:
        self.q0, self.q1 = 0, np.zeros(size, np.int64)
        self.q2 = np.zeros((size, size), np.int64)
        self._cubic: list[tuple[int, tuple[np.ndarray, ...]]] = []

    def add(self, coefficient: int, *forms: np.ndarray) -> None:
        """Adds coefficient · Π form, for up to three forms [1 + G]: constant, then per group."""
        if len(forms) == 3 and all(form[1:].any() for form in forms):
            self._cubic.append((coefficient, forms))
            return
        # At most two are no constants.
        forms = tuple(sorted(forms, key=lambda form: not form[1:].any()))
        coefficient *= math.prod(int(form[0]) for form in forms[2:])
        one = np.zeros(1 + len(self.q1), np.int64)
        one[0] = 1
        a, b = (*forms[:2], one, one)[:2]
        self.q0 += coefficient * int(a[0]) * int(b[0])
        self.q1 += coefficient * (a[0] * b[1:] + b[0] * a[1:])
        self.q2 += coefficient * np.outer(a[1:], b[1:])

    def compiled(self, dense: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Returns w [..., G] -> values [...], exact integers in the dtype that is fast."""
        most = self.q0 + int(self.q1 @ dense) + int(dense @ self.q2 @ dense) + sum(
            coefficient * math.prod(int(form[0] + form[1:] @ dense) for form in forms)
            for coefficient, forms in self._cubic)
        # BLAS has no integers; below 2⁵³ float64 has no rounding.
        dtype = np.float64 if most < EXACT else np.int64
        q0, q1, q2 = dtype(self.q0), self.q1.astype(dtype), self.q2.astype(dtype)
        scales = np.array([coefficient for coefficient, _ in self._cubic], dtype)
        cubic = np.array([forms for _, forms in self._cubic], dtype).reshape(
            -1, 3, 1 + len(dense))

        def value(widths: np.ndarray) -> np.ndarray:
            w = np.asarray(widths, dtype)
            # einsum, not @: BLAS starts threads for this little, which wait where cores are busy.
            low = q0 + w @ q1 + (np.einsum('...i,ij->...j', w, q2) * w).sum(-1)
            if not len(scales):
                return low
            factors = cubic[..., 0] + np.einsum('...g,ktg->...kt', w, cubic[..., 1:])
            return low + factors.prod(-1) @ scales
        return value


class CostModel:
    """The cost of a model under any widths of its channel groups.

    Attributes:
        group_names: the prunable groups, the order of all width vectors [G].
        dense_widths: their dense widths, int64 [G].
        dense: the cost of the dense model.
        layers: every call of a layer with a rule that costs MACs, in topological order.
        fixed: every call of what has no rule that costs MACs, in topological order.
        latency_table: as given.
        uncounted: "layer (class)" of what has no rule and may multiply, but could not be counted;
            [] says that all is counted.
    """

    def __init__(self, model: keras.Model, groups: ChannelGroups, *,
                 latency_table: LatencyTable | None = None) -> None:
        """Traces nothing again: `groups` must be those of `model`.

        Raises:
            ValueError: for groups or a latency table of another model, or activations whose size is
                not fixed.
        """
        self.group_names = tuple(groups)
        self.dense_widths = np.array([groups[name] for name in groups], np.int64)
        self._groups, self.latency_table = groups, latency_table
        self._forms = linear_forms(groups)
        graph = unfold(model)
        check_traced(model, graph, groups)
        self._count_macs(graph)
        self._count_fixed(graph)
        params, trainable = self._count_params(graph)
        self._live = _live_bytes(self._forms, groups, graph)
        self._values: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            'macs': self._macs.compiled(self.dense_widths),
            'params': params.compiled(self.dense_widths),
            'peak_memory_bytes': self._peak_memory,
            'trainable_params': trainable.compiled(self.dense_widths),
        }
        if latency_table is not None:
            nanoseconds = latency_table.bind(model, groups)
            self._values['latency_ms'] = lambda widths: nanoseconds(widths) / NANOSECONDS
        self.dense = self({})

    def __call__(self, widths: Mapping[str, int]) -> Cost:
        """Returns the cost at {group name: width}; a missing group is dense.

        Raises:
            ValueError, TypeError: for an unknown group, a width out of range or not an integer.
        """
        checked = check_widths(self._groups, widths)
        row = np.array([[checked[name] for name in self.group_names]], np.int64)
        costs = {name: values[0].item() for name, values in self.batch(row).items()}
        return Cost(**costs)

    def batch(self, widths: np.ndarray) -> dict[str, np.ndarray]:
        """Returns each cost, int64 [N] (latency float64), for widths int [N, G].

        Raises:
            TypeError: if `widths` is not integer.
            ValueError: for a wrong shape, or a width out of range.
        """
        widths = np.asarray(widths)
        size = len(self.group_names)
        if not np.issubdtype(widths.dtype, np.integer):
            raise TypeError(f'widths must be integers, received {widths.dtype}')
        if widths.ndim != 2 or widths.shape[1] != size:
            raise ValueError(f'widths must have the shape [N, {size}], received {widths.shape}')
        wrong = np.argwhere((widths < 1) | (widths > self.dense_widths))
        if len(wrong):
            row, column = wrong[0]
            raise ValueError(f"width of group '{self.group_names[column]}' must be in "
                             f'[1, {self.dense_widths[column]}], received {widths[row, column]}')
        return {name: value(widths).astype(np.float64 if name == 'latency_ms' else np.int64)
                for name, value in self._values.items()}

    def target(self, name: str) -> Callable[[np.ndarray], int | float]:
        """Returns the cost `name` as a fast function of a width vector int [G], unchecked.

        Raises:
            ValueError: for an unknown target.
        """
        if name not in self._values:
            hint = ' (latency_ms needs a latency table)' if name == 'latency_ms' else ''
            raise ValueError(f"Unknown target '{name}'{hint}. Available: "
                             f"{', '.join(sorted(self._values))}")
        value = self._values[name]
        if name == 'latency_ms':
            return lambda widths: float(value(widths))
        return lambda widths: int(value(widths))

    def layer_of(self, group: str) -> LayerCost:
        """Returns the first layer that makes a group and costs MACs; if none does, as of an
        embedding, the first that reads it."""
        costly = {layer.name: layer for layer in self.layers}
        here = self._groups.groups[group]
        return next(costly[name] for name in (*here.producers, *here.consumers) if name in costly)

    def layer_widths(self, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns in- and out-channels of `self.layers`, int64 [..., L], for widths [..., G]."""
        widths = np.asarray(widths, np.int64)
        inputs, outputs = (self._forms[ids] for ids in self._layer_tensors.T)
        return (inputs[:, 0] + widths @ inputs[:, 1:].T, outputs[:, 0] + widths @ outputs[:, 1:].T)

    def layer_macs(self, widths: np.ndarray) -> np.ndarray:
        """Returns the MACs of `self.layers`, int64 [..., L], for widths [..., G]."""
        widths = np.asarray(widths, np.int64)
        total = np.zeros((*widths.shape[:-1], len(self._terms)), np.int64)
        for column, terms in enumerate(self._terms):
            for coefficient, tensors in terms:
                macs = np.full(total.shape[:-1], coefficient, np.int64)
                for tensor in tensors:
                    form = self._forms[tensor]
                    macs = macs * (form[0] + widths @ form[1:])
                total[..., column] += macs
        return total

    def macs_by_tensor(self) -> np.ndarray:
        """Returns the dense MACs by the tensor in `groups.layout` whose channels they make, float
        [T]: heads and widths of attention have equal shares of a product that makes both."""
        found = np.zeros(len(self._forms))
        dense = self._forms[:, 0] + self._forms[:, 1:] @ self.dense_widths
        for (source, output), terms in zip(self._layer_tensors.tolist(), self._terms):
            for coefficient, tensors in terms:
                made = [tensor for tensor in tensors if tensor != source] or [output]
                macs = coefficient * np.prod(dense[tensors], dtype=np.float64)
                np.add.at(found, made, macs / len(made))
        for call in self.fixed:
            found[call.output] += call.macs
        return found

    def _count_macs(self, graph: Graph) -> None:
        self._macs = _Polynomial(len(self.group_names))
        # Of each layer (coefficient, the tensors whose widths it is multiplied with).
        self._terms: list[list[tuple[int, list[int]]]] = []
        tensors, rows = [], []
        layout, forms = self._groups.layout, self._forms
        for step, traced in zip(graph.steps, layout.nodes):
            rule = rule_of(step.operation)
            if rule is None or traced.refused is not None:
                continue
            before, after = ([layout.tensors[i] for i in side]
                             for side in (traced.inputs, traced.outputs))
            call = Call(step.operation, tuple(info.shape for info in before),
                        tuple(info.shape for info in after), step.constants,
                        tuple(info.axis for info in before),
                        images=tuple(graph.images[i] for i in traced.inputs))
            times = graph.times(step)
            terms = [(times * term.coefficient, _used(term, traced))
                     for term in rule.mac_terms(call)]
            if not terms:
                continue
            pair = traced.inputs[0], traced.outputs[0]
            for coefficient, used in terms:
                self._macs.add(coefficient, *(forms[i] for i in used))
            kernel, stride = rule.geometry(step.operation)
            sides = (traced.inputs[0], *traced.internals.values()), (traced.outputs[0],)
            names = [tuple(dict.fromkeys(
                layout.names[group] for i in side
                for group in np.unique(layout.tensors[i].positions.group))) for side in sides]
            self._terms.append(terms)
            tensors.append(pair)
            rows.append(LayerCost(traced.layer, traced.kind, names[0], names[1], kernel, stride,
                                  len(before[0].positions.group), len(after[0].positions.group),
                                  before[0].shape, after[0].shape, 0))
        self._layer_tensors = np.array(tensors, np.int64).reshape(-1, 2)
        macs = self.layer_macs(self.dense_widths)
        self.layers = tuple(dataclasses.replace(row, macs=int(n)) for row, n in zip(rows, macs))

    def _count_fixed(self, graph: Graph) -> None:
        fixed, self.uncounted = [], list[str]()
        for step, traced in zip(graph.steps, self._groups.layout.nodes):
            if traced.refused is None:
                continue
            macs = macs_of_call(step, [graph.shapes[value] for value in step.inputs])
            if macs is None:
                self.uncounted.append(f'{traced.layer} ({traced.kind})')
            elif macs:
                macs *= graph.times(step)
                fixed.append(FixedCost(traced.layer, traced.kind, macs, traced.outputs[0]))
                self._macs.add(macs)
        self.fixed = tuple(fixed)

    def _count_params(self, graph: Graph) -> tuple[_Polynomial, _Polynomial]:
        """All weights, and those of them that train."""
        every, trainable = (_Polynomial(len(self.group_names)) for _ in range(2))
        ruled = {slot.layer for slot in self._groups.layout.weights}
        for slot in self._groups.layout.weights:
            running = [each.axis for each in slot.axes]
            static = [n for axis, n in enumerate(slot.shape) if axis not in running]
            size = math.prod([*static, *(each.repeat * each.tile for each in slot.axes)])
            for total in (every, trainable) if slot.trainable else (every,):
                total.add(size, *(self._forms[each.tensor] for each in slot.axes))
        # A layer may stand in several that have no rule.
        left = {id(weight): weight for path, layer in graph.layers.items() if path not in ruled
                for weight in getattr(layer, 'weights', ())}
        for weight in left.values():
            for total in (every, trainable) if weight.trainable else (every,):
                total.add(math.prod(weight.shape))
        return every, trainable

    def _peak_memory(self, widths: np.ndarray) -> np.ndarray:
        widths = np.asarray(widths, np.float64)
        return (self._live[:, 0] + widths @ self._live[:, 1:].T).max(-1)


def _used(term: MacTerm, node: LayerNode) -> list[int]:
    """The tensors whose widths a term is multiplied with."""
    pair = [node.inputs[0]] * term.uses_in + [node.outputs[0]] * term.uses_out
    return pair + [node.inputs[each] if isinstance(each, int) else node.internals[each]
                   for each in term.uses]


def count_cost(model: keras.Model) -> Cost:
    """Returns the cost of any functional or Sequential model as it is."""
    return CostModel(model, trace_groups(model)).dense


def linear_forms(groups: ChannelGroups) -> np.ndarray:
    """Returns the width of every tensor as constant, then a count per group, int64 [T, 1 + G]."""
    layout = groups.layout
    column = {name: 1 + place for place, name in enumerate(groups)}
    columns = np.array([column.get(name, 0) for name in layout.names], np.int64)
    # A fixed channel counts itself; a group's stand equally often, so one per unit of width.
    weights = [1 if place == 0 else width for place, width in zip(columns, layout.widths)]
    forms = np.zeros((len(layout.tensors), 1 + len(column)), np.int64)
    for row, tensor in zip(forms, layout.tensors):
        counts = np.bincount(tensor.positions.group, minlength=len(columns))
        np.add.at(row, columns, counts // np.array(weights, np.int64))
    return forms


def _live_bytes(forms: np.ndarray, groups: ChannelGroups, graph: Graph) -> np.ndarray:
    """Returns the live bytes while each node runs, as distinct linear forms, float64 [M, 1 + G]."""
    layout = groups.layout
    size = []
    for info, form, times in zip(layout.tensors, forms, (*graph.rows, *[1] * len(forms))):
        inner = [n for n in info.others if n is not None]
        if len(info.others) > len(inner):
            raise ValueError(f'a tensor of the model has the shape {info.shape}: a cost needs '
                             'fixed sizes; give the model a fixed input shape')
        size.append(BYTES * times * math.prod(inner) * form)
    uses = np.zeros(len(size), np.int64)
    for traced in layout.nodes:
        np.add.at(uses, list(traced.inputs), 1)
    uses[list(layout.outputs)] += 1
    buffer = list(range(len(size)))  # tensor -> the tensor that owns its bytes
    live: dict[int, int] = {}        # owner -> uses to come
    rows = []
    for step, traced in zip(graph.steps, layout.nodes):
        rule = rule_of(step.operation)
        for tensor in traced.inputs:
            live[buffer[tensor]] -= 1
        source = buffer[traced.inputs[0]] if traced.inputs else -1
        if step.is_entry or (traced.refused is None and rule is not None and rule.in_place
                             and live.get(source) == 0):
            buffer[traced.outputs[0]] = source
        for tensor in traced.outputs:
            live[buffer[tensor]] = live.get(buffer[tensor], 0) + int(uses[tensor])
        now = set(live).union(buffer[tensor] for tensor in traced.inputs)
        rows.append(sum((size[owner] for owner in now), 0 * forms[0]))
        live = {owner: count for owner, count in live.items() if count > 0}
    return np.unique(np.array(rows), axis=0).astype(np.float64)
