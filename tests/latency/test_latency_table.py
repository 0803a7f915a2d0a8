"""Latency tables: sums by hand, never falling with a width, refused where they do not fit."""
import itertools
import json

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest

from tfprune.costs.budget import Budget, InfeasibleBudgetError
from tfprune.costs.model import CostModel, count_cost
from tfprune.costs.proportional import uniform_widths
from tfprune.latency import prediction
from tfprune.latency.prediction import prediction_row
from tfprune.latency.table import Form, LatencyTable, StepRow, Surface, model_digest
from tfprune.runs.config import Config
from tfprune.structure.groups import trace_groups
from tfprune.testing import plain, residual

ABOUT = {'machine': 'by hand', 'runtime': 'none', 'threads': 1, 'form': 'tflite'}


def surface(ins, outs, times):
    return Surface(list(ins), list(outs), [[[t] for t in row] for row in times])


def table_of_plain():
    """plain's four products: conv1 3 -> w1, conv2 w1 -> w2, hidden 9·w2 -> w3, logits w3 -> 2."""
    model = plain()
    groups = trace_groups(model)
    g1, g2, g3 = (groups.layout.names.index(name) for name in groups)
    rows = (StepRow('conv', Form(3), Form(0, {g1: 1})),
            StepRow('conv', Form(0, {g1: 1}), Form(0, {g2: 1})),
            StepRow('dense', Form(0, {g2: 9}), Form(0, {g3: 1})),
            StepRow('last', Form(0, {g3: 1}), Form(2)))
    table = LatencyTable(dict(ABOUT), [.25, .125], {
        # Times are halves of milliseconds so that every sum below is exact.
        'conv': surface([1, 3, 5], [1, 4, 8], [[1, 1, 2], [1, 2, 4], [1.5, 3, 6]]),
        'dense': surface([0, 63], [1, 11], [[0, 0], [6.3, 12.6]]),
        'last': surface([1, 11], [0], [[.5], [1.5]]),
    }, {model_digest(model, groups): ('plain', rows)})
    return model, groups, table


def test_a_sum_by_hand():
    model, groups, table = table_of_plain()
    costs = CostModel(model, groups, latency_table=table)
    # Dense (5, 7, 11): conv at (3, 5) is 2 + (4 - 2)/4; at (5, 7) 3 + 3 · 3/4; call .125.
    assert costs.dense.latency_ms == .125 + 2.5 + 5.25 + 12.6 + 1.5
    # (1, 4, 1): conv at (3, 1) is 1, at (1, 4) 1; dense at 36 of 63, w3 = 1, 3.6; last .5.
    assert costs({'conv1': 1, 'conv2': 4, 'hidden': 1}).latency_ms == .125 + 1 + 1 + 3.6 + .5
    # (2, 5, 6), between points everywhere: conv(3, 2) = 1 + 1/3; conv(2, 5): rows 1 and 3 at 5 are
    # 1.25 and 2.5, half way 1.875; dense at 45: 4.5 and 9, half way 6.75; last 1. Nanoseconds.
    expected = .125 + 1.333333 + 1.875 + 6.75 + 1
    assert costs({'conv1': 2, 'conv2': 5, 'hidden': 6}).latency_ms == pytest.approx(expected)
    assert costs.batch(np.array([[2, 5, 6], [5, 7, 11]]))['latency_ms'].tolist() == [
        pytest.approx(expected), costs.dense.latency_ms]
    assert costs.target('latency_ms')(np.array([5, 7, 11])) == costs.dense.latency_ms


def test_groups_that_stay_are_constants():
    model, groups, table = table_of_plain()
    frozen = trace_groups(model, frozen=['conv2'])
    assert list(frozen) == ['conv1', 'hidden']
    widths = {'conv1': 2, 'hidden': 6}
    assert CostModel(model, frozen, latency_table=table)(widths).latency_ms == CostModel(
        model, groups, latency_table=table)(widths | {'conv2': 7}).latency_ms


def test_monotone_by_hand():
    """The mean of the largest time before and the smallest after; what rises stays."""
    falls = surface([1, 2, 3], [0], [[2], [4], [3]])
    assert falls.times()[:, 0].tolist() == [2, 3.5, 3.5]
    both = surface([1, 2], [1, 2, 3], [[1, 5, 2], [1, 2, 9]])
    # Upper [[1, 5, 5], [1, 5, 9]], lower [[1, 2, 2], [1, 2, 9]].
    assert both.times().tolist() == [[1, 3.5, 3.5], [1, 3.5, 9]]
    rises = [[1, 2, 2], [1, 3, 7]]
    assert surface([1, 2], [1, 2, 3], rises).times().tolist() == rises
    assert Surface([1], [0], [[[3.0, 2.0, 5.0]]]).times().tolist() == [[2.0]]


def test_no_wider_network_looks_faster():
    """Noise on every point, all widths against all neighbors, in exact numbers."""
    model, groups, table = table_of_plain()
    rng = np.random.default_rng(0)
    for found in table.surfaces.values():
        found.ms = [[[float(rng.uniform(.1, 1))] for _ in row] for row in found.ms]
    nanoseconds = table.bind(model, groups)
    times = nanoseconds(np.array(list(itertools.product(
        range(1, 6), range(1, 8), range(1, 12))))).reshape(5, 7, 11)
    assert times.dtype == np.int64 and len(np.unique(times)) > 50
    for axis in range(3):
        assert (np.diff(times, axis=axis) >= 0).all()


def test_json_round_trip(tmp_path):
    model, groups, table = table_of_plain()
    table.save(tmp_path / 'table.json')
    again = LatencyTable.load(tmp_path / 'table.json')
    assert again.source == str(tmp_path / 'table.json')
    assert (again.about, again.call_ms, again.surfaces, again.models) == (
        table.about, table.call_ms, table.surfaces, table.models)
    widths = np.array([[2, 5, 6]])
    assert again.bind(model, groups)(widths) == table.bind(model, groups)(widths)


def test_a_table_of_another_model_is_refused_in_one_line():
    _, _, table = table_of_plain()
    other = residual()
    with pytest.raises(ValueError) as caught:
        CostModel(other, trace_groups(other), latency_table=table)
    message = str(caught.value)
    assert "a table of another model: it has the operators of plain, not those of 'residual'" in (
        message) and '\n' not in message


def test_names_and_weights_are_no_part_of_a_model_but_its_sizes_are():
    model, groups, _ = table_of_plain()

    def digest(**changes):
        clone = keras.models.clone_model(model, clone_function=lambda layer: type(
            layer).from_config(layer.get_config() | {
                key: value for key, value in changes.items() if key in layer.get_config()
                and (key == 'name' or layer.name in ('hidden', 'conv1'))}
                | {'name': f'{layer.name}_2'}))
        return model_digest(clone, trace_groups(clone))

    assert digest() == model_digest(model, groups)
    assert len({digest(), digest(activation='elu'), digest(kernel_size=2),
                digest(padding='valid')}) == 4


def test_incomplete_narrow_and_damaged_tables(tmp_path):
    model, groups, table = table_of_plain()
    table.surfaces['last'].ms[1][0] = []
    with pytest.raises(ValueError, match=r"not measured to the end, as \['last'\] of plain"):
        table.bind(model, groups)
    _, _, table = table_of_plain()
    table.surfaces['last'].ins[1] = 10
    with pytest.raises(ValueError, match='last was measured up to 10 in-channels, the .* has 11'):
        table.bind(model, groups)
    path = tmp_path / 'table.json'
    with pytest.raises(FileNotFoundError, match='no such latency table; tfprune benchmark'):
        LatencyTable.load(path)
    for content in ('{', '[]', '{}', json.dumps({'latency_table': 9})):
        path.write_text(content)
        with pytest.raises(ValueError, match='not a latency table, or a damaged one'):
            LatencyTable.load(path)


def test_a_budget_of_latency_holds_and_leaves_less_than_a_step():
    model, groups, table = table_of_plain()
    costs = CostModel(model, groups, latency_table=table)
    for limits in ({'latency_ratio': .5}, {'latency_ms': 6.3}, {'latency_ms': .9 * 22, 'macs': .5}):
        budget = Budget(groups, costs, limits)
        rng = np.random.default_rng(0)
        for _ in range(20):
            widths: list[int] = []
            while len(widths) < 3:
                widths.append(budget.clip(widths, int(rng.choice(budget.allowed[len(widths)]))))
            assert budget.fits(widths)
            wider = [widths[:g] + [w + 1] + widths[g + 1:] for g, w in enumerate(widths)
                     if w < budget.dense_widths[g]]
            assert not all(budget.fits(more) for more in wider)
        assert costs(budget.as_dict(uniform_widths(budget))).latency_ms <= 22


def test_the_rows_of_a_latency_budget():
    model, groups, table = table_of_plain()
    costs = CostModel(model, groups, latency_table=table)
    dense = costs.dense.latency_ms
    ratio, absolute = Budget(groups, costs, {'latency_ratio': .5, 'latency_ms': .9 * dense}
                             ).to_json()
    assert ratio == {'target': 'latency_ms', 'asked': .5, 'is_ratio': True, 'limit': dense / 2,
                     'dense': dense}
    assert absolute['is_ratio'] is False and absolute['limit'] == pytest.approx(.9 * dense)
    with pytest.raises(InfeasibleBudgetError) as caught:
        Budget(groups, costs, {'latency_ms': 1.7})
    # (1, 1, 2): .125 + 1 + 1 + dense(9, 2) = .9 + .09, last .6.
    assert 'latency_ms=1.7 allows 1.7, but the smallest reachable is 3.715 (ratio ' in str(
        caught.value)
    assert Budget(groups, costs, {'latency_ms': 3.715}).fits([1, 1, 2])


def test_limits_of_latency_need_a_table_and_have_units_of_their_own():
    model, groups, _ = table_of_plain()
    with pytest.raises(ValueError, match='latency_ratio needs --latency_table'):
        Budget(groups, CostModel(model, groups), {'latency_ratio': .5})
    assert Config(latency_ms=.7, latency_table='t').costs.limits == {'latency_ms': .7}
    for wrong, message in (
            ({'latency_ratio': 1.5}, r'latency_ratio must be a ratio in \(0, 1\]; received 1.5'),
            ({'latency_ms': -1.0}, 'latency_ms must be a number of milliseconds above 0'),
            ({'latency_ms': float('nan')}, 'latency_ms must be a number of milliseconds above 0'),
            ({'latency_ratio': .5, 'latency_table': ''}, 'latency_table must be given')):
        with pytest.raises(ValueError, match=message):
            Config(**{'latency_table': 't', **wrong})


def test_blocks_are_taken_to_their_end():
    """Where time rises only from block to block, filling the budget ends at multiples of 4."""
    model, groups, table = table_of_plain()
    blocks = [1, 4, 5, 8, 9, 12]
    steps = [[(o + 3) // 4 for o in blocks]] * 2
    table.surfaces['conv'] = surface([1, 5], blocks, steps)
    table.surfaces['dense'] = surface([0, 63], blocks, steps)
    budget = Budget(groups, CostModel(model, groups, latency_table=table), {'latency_ms': 6.5})
    # .125 + blocks of w1, w2, w3 + last, 1.2 at 8: five blocks at most, and 7 is all of w2.
    assert uniform_widths(budget).tolist() == [4, 7, 8]


def test_prediction_beside_measurement(monkeypatch):
    def latency(ms, threads=1):
        # The table's threads are to be found among others.
        return [{'threads': 7, 'median_ms': 1e3}, {'threads': threads, 'median_ms': ms}]

    monkeypatch.setattr(prediction, 'machine_name', lambda: 'by hand')
    model, groups, table = table_of_plain()
    table.about['threads'] = 1
    costs = CostModel(model, groups, latency_table=table)
    widths = {'conv1': 1, 'conv2': 4, 'hidden': 1}
    row = prediction_row(costs, widths, latency(6.225 / 1.1), latency(costs.dense.latency_ms))
    assert row['machine'] == 'by hand' and row['ratio'] == row['pruned_ms'] / row['dense_ms']
    assert [row[name] for name in ('pruned_error', 'dense_error', 'ratio_error')] == [
        pytest.approx(.1), 0, pytest.approx(.1)]
    row = prediction_row(costs, widths, latency(5.0))
    assert row['ratio_error'] is None and row['dense_error'] is None
    row = prediction_row(costs, widths, latency(5.0, 2), latency(5.0, 2))
    assert row['ratio_error'] is None and row['pruned_error'] is None
    assert prediction_row(CostModel(model, groups), widths, latency(1.), latency(1.)) is None
    monkeypatch.setattr(prediction, 'machine_name', lambda: 'another')
    row = prediction_row(costs, widths, latency(6.225 / 1.1), latency(costs.dense.latency_ms))
    assert row['pruned_error'] is None and row['ratio_error'] == pytest.approx(.1)
    assert count_cost(model) == CostModel(model, groups).dense
