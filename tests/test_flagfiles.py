"""Flagfiles are found by name, in the working folder first, and a wheel has all of them."""
import configparser
import pathlib
import shutil

import pytest

from tfprune import command_line, flagfiles
from tfprune.flagfiles import expanded

ROOT = pathlib.Path(__file__).resolve().parents[1]
FLAGS = ROOT / 'flags'


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize('name', ['quickstart.flags', 'flags/quickstart.flags',
                                  str(FLAGS / 'quickstart.flags')])
def test_shipped_ones_are_found_from_anywhere(elsewhere, name):
    config = command_line.read_config([f'--flagfile={name}', '--seed=3'])
    assert (config.models.model, config.costs.macs, config.seed) == ('resnet8', 0.5, 3)


def test_those_of_the_working_folder_come_first(elsewhere):
    (elsewhere / 'quickstart.flags').write_text('# mine\n--seed=7\n\n  --macs=0.25  \n')
    assert expanded(['--flagfile=quickstart.flags', '--seed=8']) == [
        '--seed=7', '--macs=0.25', '--seed=8']


def test_what_is_no_flagfile_stays():
    words = ['--model=x.keras', 'stray', '--macs', '0.5', '--', '--flagfile=no.flags']
    assert expanded(words) == words


def test_what_a_shipped_one_names_lies_beside_it(elsewhere, monkeypatch):
    words = expanded(['--flagfile=digits/uniform.flags'])      # which includes another by its path
    assert '--model=resnet8' in words and '--method=uniform' in words
    assert f'--task={FLAGS}/tasks/digit_masks.py' in expanded(
        ['--flagfile=tasks/digit_masks/base.flags'])
    assert f'--method_flagfiles={FLAGS}/digits/{{}}.flags' in expanded(
        ['--flagfile=compare_digits.flags'])
    monkeypatch.chdir(ROOT)
    assert '--task=flags/tasks/digit_masks.py' in expanded(
        ['--flagfile=flags/tasks/digit_masks/base.flags'])


@pytest.mark.parametrize('name, near', [('quickstrat.flags', "'quickstart.flags'"),
                                        ('flags/digits/unifrom.flags', "'digits/uniform.flags'")])
def test_near_names_are_offered(elsewhere, name, near):
    with pytest.raises(ValueError, match=f'flagfile {name}: no such file. Did you mean {near}'):
        expanded([f'--flagfile={name}'])


def test_a_wheel_has_all_flagfiles_where_they_are_looked_for(tmp_path, monkeypatch):
    parser = configparser.ConfigParser()
    parser.read(ROOT / 'setup.cfg')
    listed = {path for folder, patterns in parser['options.data_files'].items()
              for pattern in patterns.split(',') for path in ROOT.glob(pattern.strip())
              if folder == f'share/tfprune/{path.relative_to(ROOT).parent}'}
    there = {path for path in FLAGS.rglob('*') if path.suffix in ('.flags', '.py', '.json')}
    assert listed == there

    class File(type(pathlib.PurePath())):
        def locate(self):
            return tmp_path / self

    shutil.copytree(FLAGS, tmp_path / 'share/tfprune/flags')
    monkeypatch.setattr(flagfiles, '__file__', str(tmp_path / 'lib/tfprune/flagfiles.py'))
    monkeypatch.setattr(flagfiles.metadata, 'files', lambda _: [
        File('lib/tfprune/flagfiles.py'), File('share/tfprune/flags/digits/base.flags'),
        File('share/tfprune/flags/quickstart.flags')])
    assert flagfiles.shipped() == tmp_path / 'share/tfprune/flags'
    assert '--model=resnet8' in expanded(['--flagfile=quickstart.flags'])
    monkeypatch.setattr(flagfiles.metadata, 'files', lambda _: None)
    assert flagfiles.shipped() is None
