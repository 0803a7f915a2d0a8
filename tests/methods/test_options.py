"""Options of methods: each number has a range, each error names its option, before any training."""
import re

import tfprune  # noqa: F401  (before keras)
import pytest

from made_up_problem import made_up_problem, started
from tfprune import command_line
from tfprune.config import flag_fields, kind
from tfprune.methods.names import METHODS, make_method, options_of
from tfprune.methods.options import Options
from tfprune.runs.config import Config
from tfprune.runs.run import train_and_prune
from tfprune.training.options import Epochs

FIELDS = [(name, field) for name in METHODS for field in flag_fields(options_of(name))]
NUMBERS = [(name, field) for name, field in FIELDS if kind(field)[0] in (int, float)]


def refused(method, text):
    """The message with which '--method.name=value --…' is refused."""
    with pytest.raises(ValueError) as error:
        command_line.read_config([
            f'--method={method}', *(f'--{method}.{item}' for item in text.split())])
    assert '\n' not in str(error.value)
    return str(error.value)


def beyond(field):
    """Values that the option cannot have, as texts."""
    limits = field.metadata['within']
    step = 1 if isinstance(field.default, int) else 1e-6
    texts = ['nan', 'inf', '-inf', '1e400', '1' + '0' * 400]
    for end, is_open, sign in ((limits.low, limits.open_low, -1),
                               (limits.high, limits.open_high, 1)):
        value = end if is_open else end + sign * max(step, step * abs(end))
        texts.append(str(int(value)) if isinstance(field.default, int) else repr(float(value)))
    return texts


def test_every_number_of_every_method_has_a_range_and_every_choice_its_names():
    assert len(FIELDS) > 40 and all(issubclass(options_of(name), Options) for name in METHODS)
    for name, field in FIELDS:
        if kind(field)[0] in (int, float):
            limits = field.metadata['within']
            assert field.default in limits, (name, field.name)
            assert abs(limits.low) < float('inf') and limits.high < float('inf')
        elif isinstance(field.default, str) and field.name != 'ratios':
            assert field.default in field.metadata['choices']
        assert isinstance(field.default, (int, float, str, bool))


@pytest.mark.parametrize('method, field', NUMBERS, ids=[f'{m}-{f.name}' for m, f in NUMBERS])
def test_a_number_that_an_option_cannot_have_is_refused_by_its_name(method, field):
    for text in beyond(field):
        said = refused(method, f'{field.name}={text}')
        assert f'{method}.{field.name}' in said, (text, said)


@pytest.mark.parametrize('method, text, culprit', [
    ('amc', 'episodes=5', 'amc.warmup_episodes must be below episodes=5'),
    ('amc', 'strategy=acuracy', "Unknown amc.strategy 'acuracy'. .*Available: accuracy, budget"),
    ('amc', 'episods=5', "Unknown flag --amc.episods. Did you mean .*'amc.episodes'"),
    ('amc', 'episodes=5e2', "flag --amc.episodes=5e2: invalid literal for int"),
    ('amc', 'noise=', 'flag --amc.noise=: could not convert'),
    ('cacp', 'ratios=0.5,nan', "cacp.ratios must be different numbers .* '0.5,nan'"),
    ('cacp', 'ratios=', 'cacp.ratios must be different numbers'),
    ('autocompress', 'stop_temperature=100', r'autocompress.stop_temperature must be in \(0, t'),
    ('autocompress', 'cooling=0.99999999', 'autocompress.cooling must be such that 1 to 1000'),
    ('autocompress', 'stop_temperature=99.99999999999', 'autocompress.cooling must be such'),
    ('n2n', 'removal_rounds=0 --n2n.shrinkage_rounds=0', 'n2n.shrinkage_rounds .*uniform'),
    ('purl', 'form=filters', "Unknown purl.form 'filters'. .*Available: channels, we"),
    ('purl', 'epsilon_decay=1', r'purl.epsilon_decay must be in \[0, 1\); received'),
    ('crl', 'multiplier=0', r'crl.multiplier must be in \[0.001, 1000\]; rec'),
    ('uniform', 'rate=0.5', 'Unknown flag --uniform.rate'),
    ('rlal', 'surrogate_candidates=9 --rlal.context_updates=0', 'rlal.surrogate_candidates are ra'),
])
def test_wrong_options_are_named(method, text, culprit):
    text = text.replace(f'--{method}.', '')
    assert re.match(culprit, refused(method, text))


@pytest.mark.parametrize('method, options, culprit', [
    # A round of ten acts at random, whatever of it is beyond warmup_episodes.
    ('amc', dict(episodes=10, warmup_episodes=1), 'amc.episodes must be at least 11 where'),
    ('cacp', dict(episodes=14, warmup_episodes=9, lockstep=2), 'cacp.episodes must be at lea'),
    ('cacp', dict(ratios='0.01'), 'cacp.ratios=0.01: macs=0.01 allows'),
])
def test_what_goes_wrong_by_options_later_names_them_too(method, options, culprit):
    with pytest.raises(ValueError, match=f'^{culprit}'):
        started(method, made_up_problem(), **options)


def test_options_that_are_just_possible_are_taken():
    for method, field in NUMBERS:
        limits = field.metadata['within']
        for end, is_open in ((limits.low, limits.open_low), (limits.high, limits.open_high)):
            value = type(field.default)(end)
            assert (value in limits) != is_open
    assert options_of('amc')(episodes=11, warmup_episodes=10).lockstep
    started('amc', made_up_problem(), episodes=11, warmup_episodes=1)


# A method that would search nothing is not called by its name.

@pytest.mark.parametrize('changes, culprit', [
    (dict(random_epochs=0, joint_epochs=0), "method 'rlal' searches in .*--method=uniform"),
    (dict(random_epochs=2, joint_epochs=0), "agent 'ppo' never acts.*--rlal.agent=random"),
])
def test_rlal_that_would_not_search_is_refused_before_anything_is_made(changes, culprit, tmp_path):
    config = Config(method='rlal', model='resnet8', dataset='digits', macs=0.5, **changes)
    with pytest.raises(ValueError, match=culprit) as error:
        train_and_prune(config, tmp_path / 'run', progress=False)
    assert '\n' not in str(error.value) and not (tmp_path / 'run').exists()


@pytest.mark.parametrize('epochs, agent', [
    (dict(random_epochs=0, joint_epochs=1), 'ppo'),
    (dict(random_epochs=1, joint_epochs=0), 'random')])
def test_rlal_that_searches_is_not(epochs, agent):
    make_method('rlal', options_of('rlal')(agent=agent)).check(Epochs(**epochs))


@pytest.mark.parametrize('method', sorted(METHODS.keys() - {'rlal'}))
def test_other_methods_need_no_epochs_of_rlal(method):
    make_method(method).check(Epochs(random_epochs=0, joint_epochs=0))
