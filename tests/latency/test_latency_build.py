"""Building a latency table: operators and widths found, times real; from another device, too."""
import json
import functools

import tfprune  # noqa: F401  (before keras)
import numpy as np
import pytest

from tfprune.costs.model import CostModel
from tfprune.export.latency import latencies_in_turns
from tfprune.export.operators import read_steps
from tfprune.export.tflite import FLOAT32, INT8
from tfprune.latency import build as latency_build, phone as latency_phone
from tfprune.latency.build import add_model, build, file_of, grid
from tfprune.latency.table import LatencyTable
from tfprune.pruning.surgery import prune_model
from tfprune.structure.groups import trace_groups
from tfprune.testing import TOYS

# One conversion of a model at given widths serves all tests of this file.
CONVERTED: dict[tuple, bytes] = {}


def converted(model, form=FLOAT32):
    key = (form, model.name, *(tuple(weight.shape) for weight in model.weights))
    if key not in CONVERTED:
        CONVERTED[key] = file_of(model, form)
    return CONVERTED[key]


@functools.cache
def toy(name):
    return TOYS[name].build()


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp('table') / 'table.json'
    said = []
    table = build(toy('residual'), path, passes=1, say=said.append, to_tflite=converted)
    return path, table, said


def pruned_at_random(name, seed):
    groups = trace_groups(toy(name))
    rng = np.random.default_rng(seed)
    widths = {group: int(rng.integers(2, width + 1)) for group, width in groups.items()}
    masks = {group: np.arange(groups[group]) < width for group, width in widths.items()}
    return groups, widths, prune_model(toy(name), groups, masks)


@pytest.mark.parametrize('name, form', [
    ('plain', FLOAT32), ('residual', FLOAT32), ('branches', FLOAT32),
    pytest.param('residual', INT8, marks=pytest.mark.slow)])
def test_widths_of_steps_are_those_of_the_converted_model(name, form):
    table = LatencyTable({'form': form})
    add_model(table, toy(name), to_tflite=functools.partial(converted, form=form))
    (_, rows), = table.models.values()
    groups, widths, pruned = pruned_at_random(name, 1)
    steps = read_steps(converted(pruned, form))
    assert [row.signature for row in rows] == [step.signature for step in steps]
    now = {place: widths.get(group, width) for place, (group, width) in enumerate(
        zip(groups.layout.names, groups.layout.widths))}
    for row, step in zip(rows, steps):
        ins, outs = (form.constant + sum(count * now[g] for g, count in form.counts.items())
                     for form in (row.in_form, row.out_form))
        assert outs == step.out_width
        assert ins == (step.out_width if step.scaling == 'linear' else step.in_width)


def test_grid_by_hand():
    assert grid(5, blocks=True) == [1, 2, 4, 5]
    assert grid(24, blocks=False) == [1, 2, 4, 8, 16, 24]
    assert grid(24, blocks=True) == [1, 2, 4, 8, 9, 16, 17, 24]
    assert grid(200, blocks=False) == [1, 2, 4, 8, 16, 32, 48, 64, 96, 144, 200]
    for blocks in (False, True):
        for most in (1, 7, 63, 64, 65, 512, 2048):
            widths = grid(most, blocks=blocks)
            assert widths == sorted(set(widths)) and (widths[0], widths[-1]) == (1, most)
            assert len(widths) < 45


def test_a_built_table_predicts_in_the_order_of_size(built):
    """How near to what is measured is for the benchmark: a toy is mostly calls, and the machine may
    be busy."""
    path, table, said = built
    model, groups = toy('residual'), trace_groups(toy('residual'))
    assert said[0] == 'converting residual ...'
    assert all(found.is_complete for found in table.surfaces.values())
    costs = CostModel(model, groups, latency_table=LatencyTable.load(path))
    _, widths, _ = pruned_at_random('residual', 1)
    narrowest = costs({name: 1 for name in groups}).latency_ms
    assert 0 < narrowest <= costs(widths).latency_ms <= costs.dense.latency_ms
    assert narrowest < costs.dense.latency_ms


@pytest.mark.slow  # for a machine with nothing else to do
def test_a_built_table_predicts_what_is_measured(built):
    path, _, _ = built
    costs = CostModel(toy('residual'), trace_groups(toy('residual')),
                      latency_table=LatencyTable.load(path))
    _, widths, pruned = pruned_at_random('residual', 1)
    stats, _ = latencies_in_turns([converted(pruned)], rounds=5)
    assert .2 < costs(widths).latency_ms / stats[0].p10 < 3


def test_what_was_measured_is_not_measured_again(built, monkeypatch):
    path, table, _ = built
    before = path.read_bytes()
    monkeypatch.setattr(latency_build, 'quick_median', lambda invoke: pytest.fail('measured'))
    build(toy('residual'), path, passes=1, to_tflite=converted)
    assert path.read_bytes() == before
    again = LatencyTable.load(path)
    found = next(iter(again.surfaces.values()))
    found.ms[0][0] = []
    again.save(path)
    monkeypatch.setattr(latency_build, 'quick_median', lambda invoke: 123.0)
    build(toy('residual'), path, passes=1, to_tflite=converted)
    changed = next(iter(LatencyTable.load(path).surfaces.values()))
    assert changed.ms[0][0] == [pytest.approx((123.0 - min(table.call_ms)) / 4)]
    path.write_bytes(before)


def test_a_second_model_joins_the_table_of_the_same_device(built, monkeypatch):
    path, table, _ = built
    monkeypatch.setattr(latency_build, 'quick_median', lambda invoke: 1.0)
    before = path.read_bytes()
    both = build(toy('plain'), path, passes=1, to_tflite=converted)
    assert [name for name, _ in both.models.values()] == ['residual', 'plain']
    for name in ('residual', 'plain'):
        CostModel(toy(name), trace_groups(toy(name)), latency_table=both)
    path.write_bytes(before)


def test_a_table_of_another_device_is_not_added_to(built):
    path, _, _ = built
    with pytest.raises(ValueError, match='a table of another device: threads 1, here 2; choose'):
        build(toy('residual'), path, threads=2, to_tflite=converted)
    with pytest.raises(ValueError, match="another device: form 'tflite', here 'tflite_int8'"):
        build(toy('residual'), path, form=INT8)
    with pytest.raises(ValueError, match='threads: expected at least 1, received 0'):
        build(toy('residual'), path, threads=0, to_tflite=converted)


# As benchmark_model of TensorFlow 2.x writes it, shortened.
PROFILE = '''Profiling Info for Benchmark Initialization:
============================== Run Order ==============================
node type, first, avg_ms, %, cdf%, mem KB, times called, name
ModifyGraphWithDelegate, 11.026, 11.026, 74.2%, 74.2%, 5484, 1, ModifyGraphWithDelegate/0

Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
node type, start, first, avg_ms, %, cdf%, mem KB, times called, name
CONV_2D, 0, 0.5, 0.25, 50%, 50%, 0, 1, [a;b, c]:0
TfLiteXNNPackDelegate, 0.5, 0.25, 0.125, 25%, 75%, 0, 1, [d]:4
MEAN, 0.75, 0.5, 1.25e-01, 25%, 100%, 0, 2, [e]:3

============================== Top by Computation Time ==============================
node type, start, first, avg_ms, %, cdf%, mem KB, times called, name
CONV_2D, 0, 0.5, 0.25, 50%, 50%, 0, 1, [a;b, c]:0

Number of nodes executed: 3
============================== Summary by node type ==============================
node type, count, avg_ms, avg %, cdf %, mem KB, times called
CONV_2D, 1, 0.25, 50%, 50%, 0, 1

Timings (microseconds): count=50 first=1250 curr=500 min=480 max=1250 avg=500 std=9
Memory (bytes): count=0
3 nodes observed

Delegate internal:
============================== Run Order ==============================
node type, start, first, avg_ms, %, cdf%, mem KB, times called, name
Convolution (NHWC, F32) IGEMM, 0, 0.2, 0.1, 100%, 100%, 0, 1, Delegate/Convolution:0
'''


def test_a_profile_by_hand():
    assert latency_phone.profiled_ms(PROFILE) == .25 + .125 + 2 * .125
    older = PROFILE.replace(' start,', '').replace('CONV_2D, 0, 0.5', 'CONV_2D (NHWC, F32), 0.5')
    older = older.replace('Delegate, 0.5, 0.25', 'Delegate, 0.25').replace('MEAN, 0.75, ', 'MEAN, ')
    assert latency_phone.profiled_ms(older) == .25 + .125 + 2 * .125
    with pytest.raises(ValueError, match='x.csv: not a profile: expected the CSV file of bench'):
        latency_phone.profiled_ms('node type, avg_ms', 'x.csv')
    with pytest.raises(ValueError, match='a profile without operators'):
        latency_phone.profiled_ms(PROFILE[:PROFILE.index('CONV_2D, 0')])
    with pytest.raises(ValueError, match="not a row of a profile: 'CONV_2D, none"):
        latency_phone.profiled_ms(PROFILE.replace('CONV_2D, 0, 0.5', 'CONV_2D, none, 0.5'))


def test_a_table_from_another_device(tmp_path, built):
    """Files out, profiles in: with the same times, the table that was measured here."""
    _, here, _ = built
    model = toy('residual')
    count = latency_phone.write_probes(model, tmp_path / 'probes', to_tflite=converted)
    files = sorted((tmp_path / 'probes').glob('*.tflite'))
    assert len(files) == count > 50
    with pytest.raises(FileNotFoundError, match=f'{count} of {count} profiles are missing, the fi'):
        latency_phone.import_profiles(tmp_path / 'probes', machine='phone')
    rows = json.loads((tmp_path / 'probes' / 'points.json').read_text())
    for number, row in enumerate(rows):
        ms = here.surfaces[row['signature']].ms[row['row']][row['column']][0] / row['factor']
        (tmp_path / 'probes' / f'{number:05d}.csv').write_text(PROFILE.replace(
            '0.25, 50%, 50%, 0, 1, [a', f'{ms!r}, 50%, 50%, 0, 1, [a').replace(
                '0.125, 25%', '0, 25%').replace('1.25e-01', '0'))
    table = latency_phone.import_profiles(tmp_path / 'probes', machine='phone', threads=2)
    assert table.about == {'machine': 'phone', 'runtime': 'benchmark_model', 'threads': 2,
                           'form': 'tflite'}
    table.call_ms = here.call_ms
    groups = trace_groups(model)
    widths = np.array([[2, 3, 4, 5, 6, 3], list(groups.values())])
    difference = table.bind(model, groups)(widths) - here.bind(model, groups)(widths)
    assert (np.abs(difference) <= 20).all()  # a nanosecond a step
    with pytest.raises(FileExistsError, match='expected a new or empty folder'):
        latency_phone.write_probes(model, tmp_path / 'probes', to_tflite=converted)
    with pytest.raises(FileNotFoundError, match='no points.json'):
        latency_phone.import_profiles(tmp_path, machine='phone')
