"""Options of methods: each number has a range, each error names its option, before any training."""
import dataclasses
import re

import tfprune  # noqa: F401  (before keras)
import pytest

from made_up_problem import made_up_problem
from tfprune.config import Config
from tfprune.methods import METHODS, check_method, make_method
from tfprune.methods.options import Options, parse_options
from tfprune.runs.trainer import train_and_prune

FIELDS = [(name, field) for name, method in METHODS.items()
          for field in dataclasses.fields(method.Options)]
NUMBERS = [(name, field) for name, field in FIELDS if type(field.default) in (int, float)]


def refused(method, text):
    """The message with which `--method_options=text` is refused."""
    with pytest.raises(ValueError) as error:
        check_method(method).check(Config(method=method, method_options=text))
    assert '\n' not in str(error.value)
    return str(error.value)


def beyond(field):
    """Values that the option cannot have, as texts."""
    limits = field.metadata['range']
    step = 1 if isinstance(field.default, int) else 1e-6
    texts = ['nan', 'inf', '-inf', '1e400', '1' + '0' * 400]
    for end, is_open, sign in ((limits.low, limits.open_low, -1),
                               (limits.high, limits.open_high, 1)):
        value = end if is_open else end + sign * max(step, step * abs(end))
        texts.append(str(int(value)) if isinstance(field.default, int) else repr(float(value)))
    return texts


def test_every_number_of_every_method_has_a_range_and_every_choice_its_names():
    assert len(FIELDS) > 40 and all(issubclass(m.Options, Options) for m in METHODS.values())
    for name, field in FIELDS:
        if type(field.default) in (int, float):
            limits = field.metadata['range']
            assert field.default in limits, (name, field.name)
            assert abs(limits.low) < float('inf') and limits.high < float('inf')
        elif isinstance(field.default, str) and field.name != 'ratios':
            assert field.default in field.metadata['choices']
        assert isinstance(field.default, (int, float, str, bool))


@pytest.mark.parametrize('method, field', NUMBERS, ids=[f'{m}-{f.name}' for m, f in NUMBERS])
def test_a_number_that_an_option_cannot_have_is_refused_by_its_name(method, field):
    for text in beyond(field):
        said = refused(method, f'{field.name}={text}')
        assert said.startswith(f'method_options: {field.name} must be '), (text, said)
        assert 'received' in said


@pytest.mark.parametrize('method, text, culprit', [
    ('amc', 'episodes=5', 'method_options: warmup_episodes must be below episodes=5'),
    ('amc', 'strategy=acuracy', "method_options: unknown strategy 'acuracy'. Available: ac"),
    ('amc', 'episods=5', "method_options: .* no option 'episods=5'. Did you mean 'episodes'"),
    ('amc', 'episodes=5e2', "method_options: episodes must be int; received '5e2'"),
    ('amc', 'episodes=300,episodes=200', 'method_options: episodes is given twice'),
    ('amc', 'noise=', "method_options: noise must be float; received ''"),
    ('cacp', 'ratios=0.5/nan', "method_options: ratios must be different numbers .* '0.5/nan'"),
    ('cacp', 'ratios=', "method_options: ratios must be different numbers"),
    ('autocompress', 'stop_temperature=100', r'method_options: stop_temperature must be in \(0, t'),
    ('autocompress', 'cooling=0.99999999', 'method_options: cooling must be such that 1 to 1000'),
    ('autocompress', 'stop_temperature=99.99999999999', 'method_options: cooling must be such'),
    ('n2n', 'removal_rounds=0,shrinkage_rounds=0', 'method_options: shrinkage_rounds .*uniform'),
    ('n2n', 'distil=perhaps', "method_options: distil must be bool; received 'perhaps'"),
    ('purl', 'form=filters', "method_options: unknown form 'filters'. Available: channels, we"),
    ('purl', 'epsilon_decay=1', r'method_options: epsilon_decay must be in \[0, 1\); received'),
    ('crl', 'multiplier=0', r'method_options: multiplier must be in \[0.001, 1000\]; rec'),
    ('uniform', 'rate=0.5', "method_options: method 'uniform' has no option 'rate=0.5'. .*none"),
])
def test_wrong_options_are_named(method, text, culprit):
    assert re.match(culprit, refused(method, text))


@pytest.mark.parametrize('method, options, culprit', [
    # A round of ten acts at random, whatever of it is beyond warmup_episodes.
    ('amc', 'episodes=10,warmup_episodes=1', 'method_options: episodes must be at least 11 where'),
    ('cacp', 'episodes=14,warmup_episodes=9,lockstep=2', 'method_options: episodes must be at lea'),
    ('cacp', 'ratios=0.01', 'method_options: ratios=0.01: macs=0.01 allows'),
])
def test_what_goes_wrong_by_options_later_names_them_too(method, options, culprit):
    with pytest.raises(ValueError, match=f'^{culprit}'):
        make_method(made_up_problem(options, method=method))


def test_options_that_are_just_possible_are_taken():
    for method, field in NUMBERS:
        limits = field.metadata['range']
        for end, is_open in ((limits.low, limits.open_low), (limits.high, limits.open_high)):
            value = type(field.default)(end)
            assert (value in limits) != is_open
    assert parse_options(METHODS['amc'].Options, 'episodes=11,warmup_episodes=10', 'amc').lockstep
    make_method(made_up_problem('episodes=11,warmup_episodes=1', method='amc'))


# A method that would search nothing is not called by its name.

@pytest.mark.parametrize('changes, culprit', [
    (dict(random_epochs=0, joint_epochs=0), "method 'rlal' searches in .*--method=uniform"),
    (dict(random_epochs=2, joint_epochs=0), "agent 'ppo' never acts.*--agent=random"),
    (dict(surrogate_candidates=9, context_updates=0), 'surrogate_candidates are ranked by the rew'),
])
def test_rlal_that_would_not_search_is_refused_before_anything_is_made(changes, culprit, tmp_path):
    config = Config(method='rlal', model='resnet8', dataset='digits', macs=0.5, **changes)
    with pytest.raises(ValueError, match=culprit) as error:
        train_and_prune(config, tmp_path / 'run', progress=False)
    assert '\n' not in str(error.value) and not (tmp_path / 'run').exists()


@pytest.mark.parametrize('changes', [
    dict(random_epochs=0, joint_epochs=1), dict(random_epochs=1, joint_epochs=0, agent='random'),
    dict(surrogate_candidates=9), dict(context_size=0, context_updates=0)])
def test_rlal_that_searches_is_not(changes):
    METHODS['rlal'].check(Config(method='rlal', **changes))


@pytest.mark.parametrize('method', sorted(METHODS.keys() - {'rlal'}))
def test_other_methods_need_no_epochs_of_rlal(method):
    check_method(method).check(Config(method=method, random_epochs=0, joint_epochs=0))
