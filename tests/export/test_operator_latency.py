"""Operators of two files, paired and timed in turns."""
import types

import tfprune  # noqa: F401  (before keras)
import keras
import pytest

from tfprune.export.operator_latency import operators_in_turns, paired
from tfprune.export.tflite import convert

L = keras.layers


def step(kind, name):
    return types.SimpleNamespace(kind=kind, name=name)


def names(pairs):
    return [tuple(side and side.name for side in pair) for pair in pairs]


def test_operators_are_paired_by_place_or_by_name():
    conv, add, other = step('CONV_2D', 'a'), step('ADD', 'b'), step('CONV_2D', 'c')
    renamed = [step('CONV_2D', 'x'), step('ADD', 'y'), step('CONV_2D', 'z')]
    assert names(paired([conv, add, other], renamed)) == [('a', 'x'), ('b', 'y'), ('c', 'z')]
    assert names(paired([conv, add, other], [other])) == [('a', None), ('b', None), ('c', 'c')]
    assert names(paired([conv], [conv, add, conv])) == [('a', 'a'), (None, 'a'), (None, 'b')]


def test_less_work_takes_less_time():
    def file(width):
        image = keras.Input((32, 32, 16), name='image')
        x = L.Conv2D(width, 3, padding='same', name='conv')(image)
        x = L.GlobalAveragePooling2D(name='pool')(x)
        return convert(keras.Model(image, L.Dense(2, name='logits')(x)))

    rows = operators_in_turns(file(128), file(8))
    assert [row['kind'] for row in rows] == ['CONV_2D', 'MEAN', 'FULLY_CONNECTED']
    assert rows[0]['after_ms'] < 0.5 * rows[0]['before_ms']  # of 1/16 of the multiply-adds
    assert rows[0]['before_ms'] > max(row['before_ms'] for row in rows[1:])
    assert operators_in_turns(file(8), file(8), should_stop=lambda: True) is None
    with pytest.raises(ValueError):
        operators_in_turns(b'no file', file(8))
