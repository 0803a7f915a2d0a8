"""The suites of tfprune's own speed, on tiny networks: what they measure, not how fast it is."""
import itertools
import json
import os
import sys
import time

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tfprune.benchmarks import (at_once, input_pipeline, memory, rewards, scoring, search,
                                torch_structure, training_step)
from tfprune.benchmarks.apart import call_apart
from tfprune.benchmarks.turns import cores, in_turns, quartiles, ratios
from tfprune.export.keras2 import to_keras2
from tfprune.methods.stopwatch import Stopwatch
from tfprune.models.building import build_model
from tfprune.structure.groups import trace_groups
from tfprune.testing import plain
from tfprune.training.distribution import make_strategy
from tfprune.training.step import Optimization, Trainer


def test_turns_alternate():
    order = []

    def contestant(name, seconds):
        return lambda: order.append(name) or seconds

    times = in_turns({'a': contestant('a', 2.0), 'b': contestant('b', 4.0)}, 3)
    assert order == ['a', 'b'] * 3
    np.testing.assert_array_equal(times['b'], [4, 4, 4])
    assert ratios(np.array([1., 4., 9.]), np.array([1., 2., 3.])) == {
        'ratio': 2.0, 'ratio_q1': 1.5, 'ratio_q3': 2.5}  # of each round, not of the medians
    assert quartiles('ms', np.array([1., 2., 3., 4., 5.])) == {'ms': 3, 'ms_q1': 2, 'ms_q3': 4}
    with pytest.raises(ValueError, match='rounds: expected at least 1, received 0'):
        in_turns({}, 0)


@pytest.mark.skipif(not hasattr(os, 'sched_setaffinity'), reason='only Linux pins processes')
def test_as_many_cores_as_threads():
    before = os.sched_getaffinity(0)
    with cores(1) as threads:
        assert threads == len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before
    with cores(0) as threads:
        assert threads == len(os.sched_getaffinity(0)) == len(before)


def test_a_second_counts_once():
    watch, begun = Stopwatch(), time.perf_counter()
    with watch('outer'):
        time.sleep(0.02)
        with watch('inner'):
            time.sleep(0.05)
    with watch('all', whole=True), watch('inner'):
        time.sleep(0.03)
    spent, seconds = time.perf_counter() - begun, watch.take()
    assert set(seconds) == {'outer_seconds', 'inner_seconds', 'all_seconds'}
    assert seconds['outer_seconds'] >= 0.02 and seconds['inner_seconds'] >= 0.05
    assert seconds['all_seconds'] >= 0.03
    assert sum(seconds.values()) <= spent and sum(seconds.values()) == pytest.approx(spent, abs=.1)
    assert watch.take() == {}


@pytest.mark.slow
def test_the_contestants_take_the_same_step():
    batch = training_step.noise(8)
    strategy = make_strategy(1)
    ours = training_step.build('resnet8', 'float32', strategy)
    by_hand = training_step.build('resnet8', 'float32')
    twin = to_keras2(by_hand)
    trainer = Trainer(ours, strategy, Optimization(global_batch_size=8))
    trainer.optimizer.learning_rate.assign(0.1)
    steps = [lambda *batch: trainer._train_step(batch)]
    for model, library in ((by_hand, keras), (twin, tf_keras)):
        optimizer = library.optimizers.SGD(0.1, momentum=0.9)
        optimizer.build(model.trainable_variables)
        kernels = [v for v in model.trainable_variables
                   if 'kernel' in (v.path if library is keras else v.name)]
        assert len(kernels) == 8  # 7 convolutions and the dense layer
        steps.append(training_step.make_step(model, optimizer, kernels))
    for step in steps:
        for _ in range(2):
            step(*batch)
    before = training_step.build('resnet8', 'float32').trainable_weights[0].numpy()
    assert np.abs(ours.trainable_weights[0].numpy() - before).max() > 1e-3
    for other in (by_hand, twin):
        for one, two in zip(ours.trainable_weights, other.trainable_weights, strict=True):
            np.testing.assert_allclose(one.numpy(), two.numpy(), rtol=2e-3, atol=2e-4)


@pytest.mark.slow
def test_rows_of_training_steps():
    rows = list(training_step.rows(['joint', 'keras'], models=['resnet8'], dtypes=['float32'],
                                   batch_size=2, step_rounds=2, determinism=False))
    rows = json.loads(json.dumps(rows))
    assert [(row['contestant'], row['ratio_to']) for row in rows] == [
        ('joint', 'joint'), ('keras', 'joint')]
    assert rows[0]['ratio'] == 1 and rows[1]['ms_q1'] <= rows[1]['ms'] <= rows[1]['ms_q3']
    assert '| resnet8 | float32 | keras |' in training_step.format_table(rows)


@pytest.mark.parametrize('given, error, message', [
    (dict(only=['x']), ValueError, "Unknown contestant 'x'. Available: joint, tfprune, plain"),
    (dict(dtypes=['int8']), ValueError, "Unknown dtype 'int8'. Available: float32, bfloat16"),
    (dict(models=['vgg']), ValueError, "models: expected CIFAR ResNets such as resnet20"),
])
def test_bad_training_steps(given, error, message):
    with pytest.raises(error, match=message):
        next(training_step.rows(**given))


def test_torch_says_how_to_get_it(tmp_path):
    python = tmp_path / 'python'
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import no_torch" 2>/dev/null\n')
    python.chmod(0o755)
    with pytest.raises(OSError, match=r'torch_step.py failed.*pip install -e .*benchmark'):
        training_step.TorchWorker(str(python), 'resnet8', 'float32', 2, 1)


def test_a_step_of_pytorch():
    pytest.importorskip('torch', reason="PyTorch comes with the extra 'benchmark'")
    with training_step.TorchWorker(sys.executable, 'resnet8', 'float32', 2, 1) as worker:
        assert worker.version.startswith('torch ') and worker() > 0 and worker() > 0


@pytest.mark.slow
def test_rows_of_scoring():
    rows = list(scoring.rows(models=['resnet8'], score_images=8, score_batch_size=4, subnetworks=1,
                             score_rounds=1, memory_subnetworks=3, memory_images=2))
    rows = json.loads(json.dumps(rows))
    assert [row.get('kind') for row in rows] == ['dense', 'evaluator', *scoring.KINDS, None]
    for row in rows[2:-1]:
        assert 0.3 < row['macs_ratio'] <= 0.5 and row['traces_while_timed'] == 0
    assert list(rows[-1]['resident_bytes']) == ['0', '3'] and rows[-1]['new_traces'] == 0
    text = scoring.format_table(rows)
    assert '| resnet8 | random, multiples of 8 |' in text and '| resnet8 | 3 |' in text


def test_sub_networks_differ():
    groups = trace_groups(plain())
    masks = list(scoring.different_masks(groups, 5 * 7 * 11))  # all that there are
    widths = {tuple(int(mask.sum()) for mask in each.values()) for each in masks}
    assert len(widths) == len(masks) == 385
    with pytest.raises(ValueError, match='there are no 386 different ones'):
        list(scoring.different_masks(groups, 386))


def test_traces_are_counted():
    class Traced:
        @tf.function
        def call(self, x):
            return x + 1

    traced = Traced()
    for size in (1, 2, 2):
        traced.call(tf.zeros(size))
    assert scoring.traces(traced) == 2


def test_rows_of_the_pipeline(tmp_path):
    input_pipeline.make_folder(tmp_path, 40)
    row = input_pipeline.pipeline_row('folder', str(tmp_path), '16', batch_size=8, rounds=1,
                                      batches_a_round=4)  # three an epoch
    assert row['image_shape'] == [16, 16, 3] and row['images'] == 40
    assert row['image_bytes'] == 40 * 16 * 16 * 3 < row['bytes_before'] <= row['peak_bytes']
    step = input_pipeline.step_rate('resnet8', [16, 16, 3], 2, steps=1)
    assert step['step_batch_size'] == 2
    text = input_pipeline.format_table([json.loads(json.dumps(
        {'source': 'folder', 'made': True, 'model': 'resnet8', **row, **step, 'ratio': 9.0}))])
    assert '| folder (made), 40 | 16x16x3 |' in text


@pytest.mark.slow
def test_rows_of_the_search(tmp_path):
    parts = {f'{name}_seconds': 1.0 for name in search.PARTS}
    rows = [{'epoch': epoch, 'phase': phase, 'train_seconds': 100.0, 'method_seconds': 8.0, **parts}
            for epoch, phase in enumerate(['warmup', 'random', 'joint', 'joint', 'joint'])]
    rows[-1] |= {'method_seconds': 18.0, 'comparison_seconds': 10.0}  # once a run: not counted
    run = tmp_path / 'run'
    run.mkdir()
    (run / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, rows)) + '\n')
    found = list(search.rows(search_runs=[str(run)]))
    assert [(row['epoch'], row['added'], row['rest_seconds']) for row in found] == [
        (3, 0.08, 8.0 - len(search.PARTS)), (4, 0.08, 8.0 - len(search.PARTS))]
    assert '| run | 5 | 100.0 | 8.0 | 1.00 |' in search.format_table(found)
    (run / 'metrics.jsonl').write_text(json.dumps(rows[0]) + '\n')
    with pytest.raises(ValueError, match='expected two joint epochs or more, received 0'):
        list(search.rows(search_runs=[str(run)]))


@pytest.mark.slow
def test_rows_of_rewards(tmp_path):
    path = tmp_path / 'resnet8.keras'
    build_model('resnet8', image_shape=(8, 8, 1), num_classes=10, mean=(0.5,),
                std=(0.5,)).save(path)
    options = dict(initial_weights=str(path), search_model='resnet8', search_dataset='digits',
                   reward_decisions=5, reward_epochs=1, reward_images=100)
    found = list(rewards.rows(**options))
    assert [row['kind'] for row in found] == [
        'near uniform', 'near knapsack', 'random', 'policy', 'near uniform']
    assert len({tuple(row['widths']) for row in found}) == 5
    for row in found:
        assert {'step 0, scored', 'step 10, others', 'end, others'} <= set(row)
        assert 'step 50, scored' not in row  # an epoch is of fewer steps
        assert 0 < row['test_accuracy'] < 1 and 0 <= row['reward'] <= 1
    again, = rewards.rows(['random'], **options)
    assert {**again, 'seconds': 0} == {**found[2], 'seconds': 0}
    table = rewards.format_table(found)
    assert '| reward | ' in table and '| end, others: cross-entropy, negative |' in table
    assert [*rewards.rows(['random'], **options, reward_first=4)] == []
    with pytest.raises(ValueError, match='give --initial_weights'):
        next(rewards.rows())


@pytest.mark.slow
def test_a_process_of_its_own_says_why_it_failed():
    with pytest.raises(ValueError, match='resident: OSError: .* no VmNothing'):
        call_apart(memory.resident, name='VmNothing')


def test_torch_structure_says_what_it_needs():
    with pytest.raises(ValueError, match="Unknown network 'x'. Available: resnet50, mobilenet_v2"):
        next(torch_structure.rows(['x']))
    with pytest.raises(OSError, match='Torch-Pruning ended: it needs PyTorch, torchvision'):
        next(torch_structure.rows(['mobilenet_v2'], torch_python='/bin/false'))


@pytest.mark.slow
def test_rows_of_pruning_at_once(tmp_path, monkeypatch):
    path = tmp_path / 'resnet8.keras'
    build_model('resnet8', image_shape=(8, 8, 1), num_classes=10, mean=(0.5,),
                std=(0.5,)).save(path)
    options = dict(initial_weights=str(path), search_model='resnet8', search_dataset='digits')
    monkeypatch.setattr(at_once, 'SHARES', (0.5,))
    made, seen = at_once.prune_to_budget, []
    monkeypatch.setattr(at_once, 'prune_to_budget', lambda *args, **kwargs: seen.append(
        made(*args, **kwargs)) or seen[-1])
    found = list(at_once.rows(**options))
    assert [row['kind'] for row in found] == ['as given', *at_once.KINDS]
    for model in seen[1:]:
        assert [a.shape for a in model.weights] == [b.shape for b in seen[0].weights]
    # combined may choose as one of the two that it is made of
    weights = [np.concatenate([np.ravel(each) for each in model.trainable_weights])
               for model in seen[:3]]
    assert not any(np.array_equal(*pair) for pair in itertools.combinations(weights, 2))
    assert at_once.format_table(found).splitlines()[-1].startswith('| 50% | ')
    with pytest.raises(ValueError, match='Unknown kind'):
        next(at_once.rows(['cuts'], **options))
    with pytest.raises(ValueError, match='give --initial_weights'):
        next(at_once.rows())
