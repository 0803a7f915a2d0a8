"""Config: what is wrong is said in one line, and its flags give it back."""
import dataclasses
import json
import pathlib
import subprocess
import sys

import tfprune
import numpy as np
import pytest

from tfprune import _moved, command_line
from tfprune.config import TARGETS, Range, check_limit, flag_fields, kind
from tfprune.methods.names import METHODS, options_of
from tfprune.runs.config import PARTS, Config, completed, differing_fields, flag_names

ROOT = pathlib.Path(__file__).resolve().parents[1]
FIELDS = [field for part in PARTS.values() for field in flag_fields(part)]
OPTIONS = [(name, field) for name in METHODS for field in flag_fields(options_of(name))]
CHOICES = {field.name: field.metadata['choices'] for field in FIELDS if field.metadata['choices']}

# Every field another than its default.
OTHER = Config(
    **{f.name: {bool: not f.default, int: f.default + 1 if isinstance(f.default, int) else 0,
                float: .25, str: 'some/thing'}[kind(f)[0]] for f in FIELDS
       if f.name not in {*CHOICES, 'method', 'task', 'image_size', 'quantize', 'score_images',
                         'reward_images', 'score_batch_size', 'batch_size', 'replicas',
                         'tflite_batch', *TARGETS}},
    macs=0.57, params=300_000, peak_memory_bytes=1.0, schedule='step', unknown_layers='raise',
    image_size='8', fine_tune_schedule='restart', distillation_schedule='linear',
    optimizer='sgd', quantize='float16,int8', tflite_io='int8', tflite_batch=0,
    mixed_precision='bfloat16', reward_images=900, score_images=600, score_batch_size=200,
    batch_size=96, replicas=3, method='amc', amc={'episodes': 200, 'strategy': 'accuracy'})


def test_every_field_has_a_plain_type_and_a_help():
    for field in [*FIELDS, *(field for _, field in OPTIONS)]:
        expected, optional = kind(field)
        assert expected in (bool, int, float, str)
        assert type(field.default) is (type(None) if optional else expected)
        assert field.metadata['help'].endswith('.')
    values = OTHER.to_json()
    assert all(values[field.name] != field.default for field in FIELDS if field.name != 'task')
    assert len({field.name for field in FIELDS}) == len(FIELDS)  # of all parts


def test_flags_are_nested_by_the_package_that_reads_them():
    ours = Config(model='resnet8', macs=0.5, seed=3, joint_epochs=2, batch_size=64)
    assert ours.models.model == 'resnet8' and ours.costs.limits == {'macs': 0.5}
    assert ours.seed == ours.of_data().seed == 3 and ours.epochs.joint_epochs == 2
    assert ours.training.batch_size == 64 and ours.options == options_of('rlal')()


# Options of methods.

def test_options_are_given_by_their_method():
    ours = Config(method='amc', amc={'episodes': 200})
    assert ours == Config(method='amc', **{'amc.episodes': 200})
    assert ours == Config(method='amc', amc=options_of('amc')(episodes=200))
    assert ours.to_json()['amc.episodes'] == ours.options.episodes == 200
    assert not any(name.startswith('rlal.') for name in ours.to_json())
    assert ours.replace(amc={'noise': 0.1}).options == options_of('amc')(episodes=200, noise=0.1)
    assert ours.replace(method='crl').options == options_of('crl')()
    assert ours.replace(seed=4).options == ours.options


@pytest.mark.parametrize('flags, error, message', [
    ({'amc': {'episods': 3}}, ValueError, "method 'amc' has no option 'episods'. Did you mean 'e"),
    ({'cacp.episodes': 3}, ValueError, "cacp.episodes is for method 'cacp'; the method is 'amc'."),
    ({'amc.episodes': 3.5}, TypeError, 'amc.episodes must be int; received float 3.5.'),
    ({'amc': 3}, TypeError, 'amc must be a mapping or AmcOptions; received int 3.'),
    ({'macss': 3}, TypeError, "Unknown option 'macss'. Did you mean 'macs'?")])
def test_options_that_there_are_not(flags, error, message):
    with pytest.raises(error) as caught:
        Config(method='amc', **flags)
    assert str(caught.value).startswith(message)


def test_flags_of_other_methods_are_left_aside(capsys):
    arguments = ['--method=amc', '--amc.episodes=200', '--rlal.context_size=4']
    assert command_line.read_config(arguments) == Config(method='amc', amc={'episodes': 200})


@pytest.mark.parametrize('name', METHODS)
def test_options_stand_where_tensorflow_is_not_imported_and_at_the_method(name):
    assert METHODS[name].Options is options_of(name)


@pytest.mark.parametrize('name', sorted(CHOICES))
def test_a_wrong_choice_is_answered_with_the_right_ones(name):
    right = ', '.join(sorted(CHOICES[name]))
    with pytest.raises(ValueError) as caught:
        Config(**{name: 'wrogn'})
    assert str(caught.value) == f"Unknown {name} 'wrogn'. Available: {right}"
    for choice in CHOICES[name]:
        assert Config(**{name: choice}).to_json()[name] == choice


def test_choices_by_hand():
    with pytest.raises(ValueError, match='Available: cosine, step$'):
        Config(schedule='linear')
    with pytest.raises(ValueError, match='^Unknown rlal.alignment .*: adaptive, decay, fixed'):
        Config(rlal={'alignment': ''})


@pytest.mark.parametrize('field, value, message', [
    ('seed', 1.0, 'seed must be int; received float 1.0.'),
    ('seed', True, 'seed must be int; received bool True.'),
    ('seed', '1', "seed must be int; received str '1'."),
    ('macs', '0.5', "macs must be float; received str '0.5'."),
    ('macs', True, 'macs must be float; received bool True.'),
    ('prune_residual_groups', 1, 'prune_residual_groups must be bool; received int 1.'),
    ('model', None, 'model must be str; received NoneType None.')])
def test_types(field, value, message):
    with pytest.raises(TypeError) as caught:
        Config(**{field: value})
    assert str(caught.value) == message


def test_numbers_of_numpy_and_paths_are_plain(tmp_path):
    ours = Config(seed=np.uint8(3), macs=np.float64(.5), params=np.float32(.5), data_dir=tmp_path,
                  fine_tune_epochs=np.int64(2), charge_search=np.bool_(True))
    assert ours == Config(seed=3, macs=.5, params=.5, data_dir=str(tmp_path), fine_tune_epochs=2,
                          charge_search=True)
    assert json.loads(json.dumps(ours.to_json())) == ours.to_json()
    assert type(ours.costs.macs) is float
    assert Config(frozen=('a', 'b')) == Config(frozen='a,b')
    with pytest.raises(TypeError, match='macs must be float; received ndarray'):
        Config(macs=np.array([.5]))


def test_an_integer_is_a_float():
    assert Config(macs=1).costs.macs == 1


def test_budgets_are_the_limits_that_are_set():
    assert Config().costs.limits == {}
    assert Config(params=300_000, macs=.5).costs.limits == {'macs': .5, 'params': 300_000}
    assert Config(peak_memory_bytes=1).costs.limits == {'peak_memory_bytes': 1}


@pytest.mark.parametrize('name', TARGETS)
def test_a_limit_is_a_ratio_or_a_whole_number(name):
    for limit in (1e-9, .5, 1, 1.0, 2, 2e7, 10 ** 12):
        assert Config(**{name: limit}).costs.limits == {name: limit}
    for limit in (-1, -.5, 1.5, 300_000.5, float('nan'), float('inf')):
        with pytest.raises(ValueError) as caught:
            Config(**{name: limit})
        assert str(caught.value) == (f'{name} must be a ratio in (0, 1] or a whole number above 1; '
                                     f'received {limit!r}.')
    with pytest.raises(ValueError, match='received 0.'):
        check_limit(name, 0)


@pytest.mark.parametrize('wrong, message', [
    ({'min_keep_ratio': -0.1}, 'min_keep_ratio must be in [0, 1]; received -0.1.'),
    ({'label_smoothing': 1.0}, 'label_smoothing must be in [0, 1); received 1.0.'),
    ({'test_fraction': 0.0}, 'test_fraction must be in (0, 1); received 0.0.'),
    ({'width_multiple': 0}, 'width_multiple must be in [1, 1000000]; received 0.'),
    ({'seed': 2 ** 32}, 'seed must be in [0, 4294967295]; received 4294967296.'),
    ({'learning_rate': float('nan')}, 'learning_rate must be in [0, 1000]; received nan.'),
    ({'tflite_batch': 2}, 'tflite_batch must be in [0, 1]; received 2.'),
    ({'batch_size': 10, 'replicas': 4},
     'batch_size must be a multiple of --replicas=4; received 10.'),
    ({'score_images': 6000, 'reward_images': 5000},
     'score_images must be at most --reward_images=5000; received 6000.'),
    ({'score_images': 700, 'score_batch_size': 500},
     'score_images must be a multiple of --score_batch_size=500; received 700.'),
    ({'warmup_epochs': 0, 'random_epochs': 0, 'joint_epochs': 0, 'alignment_epochs': 0,
      'fine_tune_epochs': 0}, 'the sum of all epochs must be at least 1; received 0.')])
def test_ranges(wrong, message):
    with pytest.raises(ValueError) as caught:
        Config(**wrong)
    assert str(caught.value) == message


NUMBERS = [field for field in FIELDS if kind(field)[0] in (int, float)]


@pytest.mark.parametrize('field', NUMBERS, ids=lambda field: field.name)
def test_every_number_has_a_range_and_keeps_it(field):
    """No field can be forgotten: neither NaN, infinity nor a negative number gets in anywhere."""
    within = field.metadata['within']
    assert within.low >= 0
    # int64 and C's long hold what any of them allows.
    assert within.high < 2 ** 62
    expected = kind(field)[0]
    wrong = [-1, expected(2 * within.high + 1), 10 ** 400]
    wrong += [float('nan'), float('inf'), -float('inf'), -1e-300] if expected is float else []
    for value in wrong:
        needs = {'latency_table': 'x.json'} if 'latency' in field.name else {}
        with pytest.raises(ValueError, match=rf'^{field.name} must be .*; received ') as caught:
            Config(**{field.name: value}, **needs)
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize('within, inside, outside, text', [
    (Range(0, 1), (0, .5, 1), (-1e-9, 1.1), '[0, 1]'),
    (Range(0, 1, open_low=True), (1e-9, 1), (0, 2), '(0, 1]'),
    (Range(0, 1, open_high=True), (0, .9), (1, -1), '[0, 1)')])
def test_a_range_by_hand(within, inside, outside, text):
    assert str(within) == text
    for value in inside:
        assert value in within
    for value in (*outside, float('nan'), float('inf'), -float('inf')):
        assert value not in within


@pytest.mark.parametrize('given, reward, expected', [
    ({}, 5000, (1000, 500)), ({}, 800, (500, 500)), ({}, 80, (80, 80)), ({}, 1, (1, 1)),
    ({'score_images': 700}, 5000, (700, 350)), ({'score_images': 997}, 5000, (500, 500)),
    ({'score_images': 40}, 80, (40, 40)),
    ({'score_batch_size': 30}, 80, (60, 30)),
    ({'score_images': 90, 'score_batch_size': 45}, 100, (90, 45))])
def test_sizes_of_scoring_fit_the_data(given, reward, expected):
    config = Config(**given).sized(reward)
    assert (config.scoring.score_images, config.scoring.score_batch_size) == expected
    assert config.scoring.reward_images == reward


@pytest.mark.parametrize('given, message', [
    ({'score_images': 200}, 'score_images must be at most --reward_images=100; received 200.'),
    ({'score_batch_size': 200}, 'score_images must be at most --reward_images=100; received 200.')])
def test_sizes_of_scoring_that_do_not_fit(given, message):
    with pytest.raises(ValueError) as caught:
        Config(**given).sized(100)
    assert str(caught.value) == message


def test_epochs_and_phases():
    config = Config(warmup_epochs=2, random_epochs=1, joint_epochs=3, alignment_epochs=0,
                    fine_tune_epochs=2)
    assert (config.epochs.search, config.epochs.total) == (6, 8)
    assert [config.epochs.phase(epoch) for epoch in range(8)] == [
        'warmup', 'warmup', 'random', 'joint', 'joint', 'joint', 'fine_tune', 'fine_tune']
    assert Config().epochs.total == 2 + 1 + 6 + 3 + 8


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().costs.macs = 1  # type: ignore[misc]


@pytest.mark.parametrize('config', [Config(), OTHER])
def test_json_gives_it_back(config):
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_json_of_another_version():
    with pytest.raises(ValueError, match='Unknown configuration fields: depth, width.'):
        Config.from_json({**Config().to_json(), 'width': 1, 'depth': 2})


def test_differing_fields():
    stored = json.loads(json.dumps(Config().to_json()))
    assert differing_fields(Config(), stored) == []
    assert differing_fields(Config(seed=2, frozen='a'), stored) == [
        '--seed: 0 -> 2', "--frozen: '' -> 'a'"]
    whole = completed({'configuration': {'method': 'rlal'}})['configuration']
    of_before = {'distillation': 0.0, 'fine_tune_schedule': 'restart', 'rlal.action': 'rate',
                 'reconstruction': False, 'distillation_schedule': 'constant',
                 'distillation_before_surgery': False, 'criterion': 'l1',
                 'rlal.context_size': 128, 'rlal.agent_epochs': 1,
                 'rlal.alignment': 'fixed', 'rlal.subnetwork_every': 0}
    assert whole.items() <= {**stored, **of_before}.items()
    assert len(whole) == len(stored) - 4
    assert completed({'configuration': {}}) == {'configuration': {}}
    for method, is_control in (('magnitude', True), ('rlal', False)):  # a control since
        row = {'configuration': {'method': method}, 'is_control': False}
        assert completed(row)['is_control'] == is_control
    del stored['seed']  # younger than the stored one: it had its default
    assert differing_fields(Config(), stored) == []
    assert differing_fields(Config(seed=2), stored) == ['--seed: 0 -> 2']


# Flags.

def test_flags_as_text():
    lines = OTHER.to_flags().splitlines()
    assert lines[0].startswith('# ') and len(lines) == 1 + len(flag_names('amc'))
    for line in ('--prune_residual_groups=true', '--macs=0.57', '--params=300000', '--seed=1',
                 '--data_dir=some/thing', '--amc.strategy=accuracy'):
        assert line in lines
    default = Config().to_flags().splitlines()
    assert '--prune_residual_groups=false' in default and '--data_dir=' in default
    assert '--momentum=0.9' in default and 'weight_decay' not in ' '.join(default)


@pytest.mark.parametrize('config', [Config(), OTHER, Config(weight_decay=1e-12, seed=2 ** 31)])
def test_a_flagfile_gives_the_config_back(config, tmp_path):
    """Parsed by absl into flags defined as scripts/train.py defines them."""
    (tmp_path / 'config.flags').write_text(config.to_flags(), encoding='utf-8')
    flagfile = f'--flagfile={tmp_path / "config.flags"}'
    assert command_line.read_config([flagfile]) == config


def test_flagfiles_of_the_repository_name_existing_fields():
    known = {field.name for field in FIELDS} | {'flagfile', 'threads'}
    known |= {f'{name}.{field.name}' for name, field in OPTIONS}
    found = [path for path in sorted((ROOT / 'flags').rglob('*.flags'))
             if not path.name.startswith('compare_')]  # scripts/compare.py: test_compare.py
    assert found
    for path in found:
        for line in path.read_text(encoding='utf-8').splitlines():
            if line.startswith('--'):
                name = line[2:].split('=')[0]
                assert name.removeprefix('no') in known or name in known, f'{path.name}: {line}'


@pytest.mark.parametrize('script', ['train.py', 'compare.py'])
def test_help_lists_all_options_of_all_methods_without_tensorflow(script):
    """Under two seconds on a quiet machine: nothing slow is imported."""
    slow = ('tensorflow', 'keras', 'tf_keras', 'tf_agents', 'scipy', 'matplotlib')
    code = ('import runpy, sys\n'
            f'for name in {slow}: sys.modules[name] = None\n'
            f'sys.argv = [{script!r}, "--help"]\n'
            f'runpy.run_path({str(ROOT / "scripts" / script)!r}, run_name="__main__")')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT,
                          timeout=60)
    assert done.returncode == 0, done.stderr
    names = [f'{name}.{field.name}' for name, field in OPTIONS] + ['width_multiple']
    missing = [name for name in names
               if f'--{name} ' not in done.stdout and f'--[no]{name} ' not in done.stdout]
    assert not missing
    assert '\nRLAL: an agent chooses widths while the weights train\n' in done.stdout


def test_no_flags_in_the_package():
    assert 'absl' not in (pathlib.Path(tfprune.__file__).parent / 'config.py').read_text()


def test_options_that_every_method_had_are_answered_with_their_names_now():
    with pytest.warns(DeprecationWarning, match=r"agent_updates is rlal={'agent_updates': 5} now$"):
        config = Config(method='rlal', agent_updates=5, rlal={'context_size': 4})
    assert (config.options.agent_updates, config.options.context_size) == (5, 4)
    with pytest.warns(DeprecationWarning, match="method 'uniform' does without, leave it out"):
        assert Config(method='uniform', comparison_episodes=0) == Config(method='uniform')
    assert set(_moved.OPTIONS) <= {field.name for field in flag_fields(options_of('rlal'))}
