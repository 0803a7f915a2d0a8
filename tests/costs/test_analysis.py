"""Analysis: shares that sum to the whole, reasons, the smallest budget; table, JSON, picture."""

import json
import pathlib
import subprocess
import sys

import tfprune  # noqa: F401  (before keras)
import keras
import pytest
from keras import layers
from PIL import Image

from tfprune.costs.analysis import analyze, format_analysis, headline
from tfprune.costs.model import CostModel
from tfprune.report.drawing import draw_groups
from tfprune.structure.groups import trace_groups
from tfprune.testing import TOYS, plain, residual

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize('name', TOYS)
def test_the_shares_sum_to_the_whole(name):
    model = TOYS[name].build()
    groups = trace_groups(model)
    found = analyze(model, groups)
    assert {row.name: row.width for row in found.groups if row.reason is None} == dict(groups)
    assert sum(row.macs for row in found.groups) == pytest.approx(found.dense.macs, abs=5)
    assert sum(row.params for row in found.groups) == pytest.approx(found.dense.params, abs=5)
    assert found.dense == CostModel(model, groups).dense


def test_by_hand():
    # image 6x6x3 - conv1 5 - conv2 7 /2 - flatten 63 - hidden 11 - logits 2
    model = plain()
    found = analyze(model, trace_groups(model), min_keep_ratio=0.4)
    rows = {row.name: row for row in found.groups}
    assert rows['conv1'].macs == 36 * 9 * 3 * 5 and rows['logits'].macs == 11 * 2
    assert [rows[name].least_width for name in ('conv1', 'conv2', 'hidden')] == [2, 3, 5]
    # conv1 at 2 of 5: its own 36·9·3 and conv2's 9·9·7 for each channel that goes.
    assert rows['conv1'].macs_saved == 3 * (36 * 9 * 3 + 9 * 9 * 7)
    assert found.least.macs == 36 * 9 * 3 * 2 + 81 * 2 * 3 + 9 * 3 * 5 + 5 * 2
    assert found.prunable_macs == found.dense.macs
    assert "it feeds the model's output" in rows['logits'].reason
    assert found.can_go == {name: pytest.approx(
        1 - getattr(found.least, name) / getattr(found.dense, name))
        for name in ('macs', 'params', 'peak_memory_bytes')}
    assert f'{found.can_go["params"]:.1%} of the parameters and ' in headline(found)


def with_a_lambda():
    """image 4x4x3 - a 5 - a Lambda - b 7 - logits 2."""
    image = keras.Input((4, 4, 3), name='image')
    x = layers.Lambda(lambda t: t, name='odd')(layers.Conv2D(5, 1, name='a')(image))
    x = layers.Conv2D(7, 1, name='b')(x)
    return keras.Model(image, layers.Dense(2, name='logits')(layers.Flatten()(x)), name='mine')


def test_a_layer_between_frozen_channels_is_not_prunable():
    model = with_a_lambda()
    found = analyze(model, trace_groups(model))
    # a reads the image and writes what the Lambda touches; b and logits share b's channels.
    assert found.prunable_macs == found.dense.macs - 16 * 3 * 5
    assert found.uncounted == ()  # it multiplies no matrices
    text = format_analysis(found)
    assert "group 'a' is not prunable: it touches layer 'odd' (Lambda), which has no rule" in text
    assert 'Not counted: nothing' in text and 'mine, input 4×4×3: ' in text
    assert json.loads(json.dumps(found.to_json()))['prunable_macs_share'] == pytest.approx(
        found.prunable_macs / found.dense.macs)
    assert text.splitlines()[1] == headline(found)


def test_the_headline_is_what_can_go_not_what_has_a_prunable_side():
    # The 16·3·5 of a stay, as the Lambda reads its channels. b goes from 7 channels to 1, and with
    # it 6/7 of its own 16·5·7 and of the head's 16·7·2.
    model = with_a_lambda()
    found = analyze(model, trace_groups(model))
    assert found.dense.macs == 1024
    assert found.can_go['macs'] == pytest.approx((560 + 224) * 6 / 7 / 1024)  # 65.6%
    assert headline(found).startswith('Up to 65.6% of the MACs, ')
    assert found.to_json()['can_go'] == found.can_go
    assert ('Of the MACs 23.4% stay because their layers have no prunable side, 10.9% because of '
            'the least widths.') in format_analysis(found)  # 240 and 112 of 1,024


@pytest.mark.parametrize('suffix', ['png', 'svg'])
def test_the_picture_shows_every_call(tmp_path, suffix):
    groups = trace_groups(residual())
    path = tmp_path / f'groups.{suffix}'
    draw_groups(groups, path, title='residual', note='up to so much can go')
    if suffix == 'png':
        with Image.open(path) as image:
            assert len(image.convert('RGB').getcolors(2 ** 24)) > len(groups)  # one each, and gray
    else:
        assert path.read_text().count('s2_conv2') >= 1


@pytest.mark.slow
def test_script_says_what_residual_groups_would_add():
    done = subprocess.run([sys.executable, ROOT / 'scripts' / 'analyze.py', '--model=resnet8'],
                          capture_output=True, text=True, check=True, timeout=300)
    assert '\nUp to 84.8% of the MACs' in done.stdout
    assert done.stdout.splitlines()[-1].startswith(
        'With --prune_residual_groups: Up to 98.1% of the MACs')


@pytest.mark.slow
def test_script_on_a_file_of_images_of_any_size(tmp_path):
    image = keras.Input((None, None, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, name='conv')(image))
    keras.Model(image, layers.Dense(4)(x), name='mine').save(tmp_path / 'mine.keras')
    done = subprocess.run(
        [sys.executable, ROOT / 'scripts' / 'analyze.py', f'--model={tmp_path}/mine.keras',
         '--image_size=10x12', f'--json={tmp_path}/groups.json', '--min_keep_ratio=0.5'],
        capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / 'groups.json').read_text())
    assert content['dense']['macs'] == 8 * 10 * 27 * 6 + 6 * 4
    row, = (row for row in content['groups'] if row['reason'] is None)
    assert (row['name'], row['least_width']) == ('mine/conv', 3)
    assert done.stdout.startswith('mine, input 10×12×3: ')
    assert 'Smallest reachable budget' in done.stdout
