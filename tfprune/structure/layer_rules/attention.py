"""Attention: heads and their widths are channels that only the layer sees; and embeddings.

A layer with heads multiplies, with H heads of key width D and value width V,

    q = x_q W_q [C_q, H, D],  k = x_k W_k [C_k, H, D],  v = x_v W_v [C_v, H, V],
    y = softmax(q kᵀ / sqrt(D)) v W_o [H, V, C].
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfprune.structure.keras_internals import arguments_of_calls, mask_of, nn, projections_of
from tfprune.structure.layer_rules.base import (Call, Channels, Kept, Labels, LayerRule, MacTerm,
                                                Tracer, WeightAxes, WeightAxis, known_size,
                                                positions)
from tfprune.structure.layer_rules.einsum import axis_of, without_weights
from tfprune.structure.layer_rules.kernels import tie_blocks


def _places(layer: Any) -> dict[str, int]:
    """Parameter of the first call -> place among its tensors."""
    tensors = [name for name, value in arguments_of_calls(layer)[0].items()
               if isinstance(value, keras.KerasTensor)]
    return {name: place for place, name in enumerate(tensors)}


class _Attention(LayerRule):
    """Layers and operations with a query, a value and maybe a key; other inputs are masks."""
    many_outputs = True
    parameters = ('query', 'value', 'key')

    def mixes_channels(self, layer: Any) -> bool:
        return True

    def places(self, layer: Any) -> tuple[int, int, int]:
        """Of query, value and key among the inputs; the value is the key if there is none."""
        found = _places(layer)
        query, value, key = (found.get(name) for name in self.parameters)
        if query is None or value is None:
            raise ValueError('is called on a query or value that is a constant')
        return query, value, value if key is None else key

    def refuse(self, call: Call) -> str | None:
        forms = [[name for name, value in given.items() if isinstance(value, keras.KerasTensor)]
                 for given in arguments_of_calls(call.layer)]
        if any(form != forms[0] for form in forms):
            return 'is called on different arguments'
        try:
            self.places(call.layer)
        except ValueError as error:
            return str(error)
        return None

    def freeze_masks(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> None:
        """Freezes the inputs that are no query, value or key."""
        used = self.places(call.layer)
        for place, each in enumerate(inputs):
            if place not in used:
                tracer.freeze(each.labels, f"layer '{call.layer.name}' ({call.kind}) masks with it")


class _WithHeads(_Attention):
    """Heads, each standing `_repeats` times in a row on the axes of queries, and their widths."""
    value_width = 'value_width'

    def refuse(self, call: Call) -> str | None:
        if len(call.output_shapes) > 1 and len(call.output_shapes[0]) != 3:
            return f'gives the scores of inputs of rank {len(call.input_shapes[0])}'
        return super().refuse(call)

    def internals(self, layer: Any) -> Mapping[str, int]:
        return {'heads': layer.num_heads, 'key_width': layer.key_dim,
                'value_width': layer.value_dim}

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        self.freeze_masks(call, inputs, tracer)
        scores = Channels(np.repeat(call.internals['heads'], self._repeats(call.layer)), -3)
        return [Channels(self._output(call, inputs, tracer)), scores][:len(call.output_shapes)]

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        names, repeats = projections_of(layer), self._repeats(layer)
        query, value, key = self.places(layer)
        found = []
        for role, place, width, repeat in (
                ('query', query, 'key_width', repeats), ('key', key, 'key_width', 1),
                ('value', value, self.value_width, 1), ('gate', query, self.value_width, repeats)):
            if role not in names:
                continue
            # Summed in q kᵀ: the keys read what the queries make.
            found.append(WeightAxes(f'{names[role]}.kernel', more=(
                WeightAxis(0, 'input', place, reads=True), WeightAxis(1, 'heads', repeat=repeat),
                WeightAxis(2, width, reads=role == 'key'))))
            if layer.use_bias:
                found.append(WeightAxes(f'{names[role]}.bias', more=(
                    WeightAxis(0, 'heads', repeat=repeat), WeightAxis(1, width))))
        rank = len(_weight(layer, 'output').shape)
        found.append(WeightAxes(f"{names['output']}.kernel", out_axis=rank - 1, more=(
            WeightAxis(0, 'heads', reads=True, repeat=repeats),
            WeightAxis(1, self.value_width, reads=True))))
        if layer.use_bias:
            found.append(WeightAxes(f"{names['output']}.bias", out_axis=rank - 3))
        return tuple(found)

    def edit(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        config.update(num_heads=int(kept.internals['heads'].sum()),
                      key_dim=int(kept.internals['key_width'].sum()),
                      value_dim=int(kept.internals['value_width'].sum()))
        width = int(kept.outputs[0].sum())
        if config['output_shape']:
            config['output_shape'] = (*config['output_shape'][:-1], width)
        elif width != kept.inputs[self.places(layer)[0]].sum():
            config['output_shape'] = (width,)
        return config

    def edit_weights(self, layer: Any, weights: dict[str, np.ndarray], kept: Kept
                     ) -> dict[str, np.ndarray]:
        # Keras divides the scores by the root of the key width, which is less now.
        width = kept.internals['key_width']
        for name in ('kernel', 'bias'):
            name = f"{projections_of(layer)['query']}.{name}"
            if name in weights:
                weights[name] = weights[name] * math.sqrt(width.sum() / width.size)
        return weights

    def narrow(self, layer: Any, inputs: Any, weights: Mapping[str, Any]) -> Any:
        given = arguments_of_calls(layer)[0]
        options = [value for name, value in given.items()
                   if name not in (*self.parameters, 'training')]
        names, repeats = projections_of(layer), self._repeats(layer)
        if (any(value is not None and value is not False for value in options)
                or layer.get_config().get('sliding_window') or mask_of(inputs) is not None
                or len(inputs.shape) != 3 or len(_weight(layer, 'output').shape) != 3):
            return None

        def projected(role: str) -> Any:
            result = tf.einsum('btc,chd->bthd', inputs, weights[f'{names[role]}.kernel'])
            return result + weights[f'{names[role]}.bias'] if layer.use_bias else result

        query, key, value = (projected(role) for role in ('query', 'key', 'value'))
        if repeats > 1:
            key, value = tf.repeat(key, repeats, 2), tf.repeat(value, repeats, 2)
        width = self.internals(layer)['key_width']
        scores = tf.nn.softmax(tf.einsum('bthd,bshd->bhts', query / math.sqrt(width), key))
        heads = tf.einsum('bhts,bshd->bthd', scores, value)
        if 'gate' in names:
            heads *= tf.sigmoid(projected('gate'))
        outputs = tf.einsum('bthd,hdc->btc', heads, weights[f"{names['output']}.kernel"])
        return outputs + weights[f"{names['output']}.bias"] if layer.use_bias else outputs

    def mac_terms(self, call: Call) -> tuple[MacTerm, ...]:
        layer = call.layer
        query, value, key = self.places(layer)
        asked, stored = (positions(call, call.input_shapes[each]) for each in (query, value))
        repeats, value_width = self._repeats(layer), self.value_width
        seen = math.prod(known_size(call, call.input_shapes[value], call.input_shapes[value][axis])
                         for axis in self._axes(layer, len(call.input_shapes[value])))
        static = math.prod(_weight(layer, 'output').shape[2:-1])
        gates = int('gate' in projections_of(layer))
        return (MacTerm(asked * repeats, uses=(query, 'heads', 'key_width')),
                MacTerm(stored, uses=(key, 'heads', 'key_width')),
                MacTerm(stored, uses=(value, 'heads', value_width)),
                *[MacTerm(asked * repeats, uses=(query, 'heads', value_width))] * gates,
                MacTerm(asked * seen * repeats, uses=('heads', 'key_width')),
                MacTerm(asked * seen * repeats, uses=('heads', value_width)),
                MacTerm(asked * repeats * static, uses_out=True, uses=('heads', value_width)))

    def _repeats(self, layer: Any) -> int:
        del layer
        return 1

    def _output(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> Labels:
        del inputs
        return tracer.fresh(call.output_shapes[0][-1] or 0)

    def _axes(self, layer: Any, rank: int) -> Sequence[int]:
        """The axes of the value that a query attends to."""
        del rank
        return tuple(layer.attention_axes)


class _GroupedQuery(_WithHeads):
    """Of `num_query_heads` several share the key and value of one head, which is the channel. One
    width is that of keys and values, and the output is as wide as the query."""
    value_width = 'key_width'

    def internals(self, layer: Any) -> Mapping[str, int]:
        return {'heads': layer.num_key_value_heads, 'key_width': layer.head_dim}

    def edit(self, layer: Any, config: dict[str, Any], kept: Kept) -> dict[str, Any]:
        heads = int(kept.internals['heads'].sum())
        return {**config, 'head_dim': int(kept.internals['key_width'].sum()),
                'num_key_value_heads': heads, 'num_query_heads': heads * self._repeats(layer)}

    def _repeats(self, layer: Any) -> int:
        return int(layer.num_repeats)

    def _output(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> Labels:
        query, value, _ = self.places(call.layer)
        tracer.union(inputs[query].labels, inputs[value].labels)
        return inputs[query].labels

    def _axes(self, layer: Any, rank: int) -> Sequence[int]:
        return range(1, rank - 1)


class _WithoutHeads(_Attention):
    """softmax(score(q, k)) v of inputs as they are: the score sums over the channels of q and k,
    and those of v are the output's. A closed channel adds tanh(0) or 0 to a score."""
    any_width = True
    parameters = ('inputs.0', 'inputs.1', 'inputs.2')

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        self.freeze_masks(call, inputs, tracer)
        query, value, key = self.places(call.layer)
        tracer.union(inputs[query].labels, inputs[key].labels)
        scores = [without_weights(call, place, tracer)
                  for place in range(1, len(call.output_shapes))]
        return [Channels(inputs[value].labels), *scores]

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        return tuple(WeightAxes(name) for name in ('scale', 'concat_score_weight')
                     if getattr(layer, name) is not None)

    def mac_terms(self, call: Call) -> tuple[MacTerm, ...]:
        query, value, _ = self.places(call.layer)
        shape = call.input_shapes[value]
        pairs = positions(call, call.input_shapes[query]) * known_size(call, shape, shape[-2])
        scores = (MacTerm(pairs, uses=(query,)),) if self.multiplies(call.layer) else ()
        return (*scores, MacTerm(pairs, uses=(value,)))

    def multiplies(self, layer: Any) -> bool:
        """Whether the scores are a product of matrices."""
        return bool(layer.score_mode == 'dot')


class _Additive(_WithoutHeads):
    """Scores Σ_c scale[c] · tanh(q_c + k_c)."""
    any_width = False

    def multiplies(self, layer: Any) -> bool:
        return False

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        if layer.scale is None:
            return ()
        return (WeightAxes('scale', more=(
            WeightAxis(0, 'input', self.places(layer)[0], reads=True),)),)


class _DotProductAttention(_Attention):
    """softmax(q kᵀ · scale) v of [B, T, heads, C]; the channels are C, or the heads."""
    any_axis = True

    def refuse(self, call: Call) -> str | None:
        wrong = super().refuse(call)
        if wrong is None:
            axes = {axis_of(call, place) for place in self.places(call.layer)}
            if len(axes) > 1 or not axes <= {-1, -2}:
                wrong = f'has channels on axes {sorted(axes)}, where -1 or -2 is expected of all'
        return wrong

    def trace(self, call: Call, inputs: Sequence[Channels], tracer: Tracer) -> list[Channels]:
        self.freeze_masks(call, inputs, tracer)
        query, value, key = (inputs[place] for place in self.places(call.layer))
        tracer.union(key.labels, value.labels)  # Keras gives the output the shape of the query
        blocks = len(key.labels)
        if len(query.labels) != blocks:  # several heads of queries share one of keys
            first = tie_blocks(query.labels, blocks, tracer)
        else:
            first = query.labels
        tracer.union(first, key.labels)
        return [Channels(query.labels, query.axis)]

    def edit_arguments(self, layer: Any, args: Any, kwargs: Any, kept: Kept) -> tuple[Any, Any]:
        query = self.places(layer)[0]
        if kept.input_axes[query] == -1 and kwargs.get('scale') is None:
            kwargs = {**kwargs, 'scale': 1 / math.sqrt(kept.inputs[query].size)}
        return args, kwargs

    def mac_terms(self, call: Call) -> tuple[MacTerm, ...]:
        query, value, _ = self.places(call.layer)
        asked, stored = (call.input_shapes[place] for place in (query, value))
        other = asked[-2 if axis_of(call, query) == -1 else -1]
        pairs = math.prod(known_size(call, asked, size) for size in (asked[1], stored[1], other))
        return (MacTerm(2 * pairs, uses=(query,)),)


class _Embedding(LayerRule):
    """A row [C] of `embeddings` for each index."""

    def mixes_channels(self, layer: Any) -> bool:
        return True

    def flow(self, call: Call, inputs: Sequence[Labels], tracer: Tracer) -> Labels:
        tracer.freeze(inputs[0], f"layer '{call.layer.name}' ({call.kind}) looks it up")
        return tracer.fresh(call.layer.output_dim)

    def weight_axes(self, layer: Any) -> tuple[WeightAxes, ...]:
        return (WeightAxes('embeddings', out_axis=1),)

    def edit_config(self, layer: Any, config: dict[str, Any],
                    kept_in: Sequence[np.ndarray], kept_out: np.ndarray) -> dict[str, Any]:
        return {**config, 'output_dim': int(kept_out.sum())}


def _weight(layer: Any, role: str) -> Any:
    """The kernel of a projection of `projections_of`."""
    return getattr(layer, projections_of(layer)[role]).kernel


RULES: dict[type[keras.Operation], LayerRule] = {
    layers.MultiHeadAttention: _WithHeads(),
    layers.GroupQueryAttention: _GroupedQuery(),
    layers.Attention: _WithoutHeads(),
    layers.AdditiveAttention: _Additive(),
    nn.DotProductAttention: _DotProductAttention(),
    layers.Embedding: _Embedding().in_keras2(),
}
