"""Names that others chose: two never become one, and none does anything where it is shown."""
import json
import re
import zipfile
from html import unescape

import tfprune  # noqa: F401  (before tensorflow and keras)
import keras
import pytest
import tensorflow as tf
from markdown_it import MarkdownIt

from made_up_runs import html_of, make_run
from tfprune import report
from tfprune.export import exporter as export, saved_model
from tfprune.plain_text import labels, markdown_text, visible
from tfprune.report import model_card
from tfprune.report.reading import read_run
from tfprune.report.table import markdown

HOSTILE = ['<script>alert(1)</script>', '<img src=x onerror=alert(1)>', '[a](javascript:alert(1))',
           '![a](http://x.y/z.png)', '**bold** *i* _i_ __b__ ~~s~~', '`code` ``', 'a|b', 'a\\|b',
           'http://x.y', 'www.x.y', 'you@x.y', '<http://x.y>', '&lt;b&gt; &amp; &#60; & x',
           'new\nline', 'new line', 'x\r\n\r\n# heading', '\x1b[31mred\x1b[0m', 'tab\there',
           '\u202egpj.exe', 'sep\u2028arated', 'snake_case_name', '$x^2$', 'Élan 犬 👩‍🔬',
           'byte\udc80', '-', '1. one', '# one', '> one', '| --- |', '</p></body>']
NAMES = {'new\nline': 'new\\nline', 'new line': 'new line', 'wild\n dog': 'wild dog',
         'a\x1bb': 'a\\x1bb', ' cat': 'cat', 'x\udc80': 'x\\udc80', 'a  b': 'a  b', 'a b': 'a b'}


@pytest.fixture(scope='module')
def model():
    inputs = keras.Input((4, 4, 3))
    return keras.Model(inputs, keras.layers.Dense(len(NAMES))(keras.layers.Flatten()(inputs)))


def test_labels_stay_distinct():
    assert labels(list(NAMES)) == list(NAMES.values())
    assert len({*labels(HOSTILE)}) == len(HOSTILE)
    for names, pair in (((*'abcb',), "1 and 3 are both 'b'"),
                        (('new\nline', 'x', 'new\\nline', 'new line'), 'classes 0 and 2')):
        with pytest.raises(ValueError, match=pair):
            labels(names)


def test_every_file_has_the_same_labels(model, tmp_path):
    paths = export.export_model(model, tmp_path / 'export', formats=['saved_model', 'tflite'],
                                class_names=list(NAMES)).paths
    expected = list(NAMES.values())
    text = (tmp_path / 'export/labels.txt').read_bytes().decode()
    assert text.split('\n') == [*expected, '']
    with zipfile.ZipFile(paths['tflite']) as archive:
        assert archive.read('labels.txt').decode() == text
    picture = tf.io.encode_png(tf.zeros([4, 4, 3], tf.uint8)).numpy()
    answer = saved_model.open_bytes(paths['saved_model'])([picture])
    assert set(answer.classes[0]) <= set(expected)


@pytest.mark.parametrize('names, match', [
    (['a', *'abcdefg'], "classes 0 and 1 are both 'a'"), ([*'abcdefg', '\n '], 'class 7 has')])
def test_classes_without_a_label_of_their_own_are_refused(model, names, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        export.export_model(model, tmp_path / 'export', class_names=names)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', HOSTILE)
def test_markdown_shows_a_name_as_it_is(name):
    render = MarkdownIt('commonmark').enable(['table', 'strikethrough']).render
    html = render(f'**x**: {markdown_text(name)}, y\n')
    assert unescape(html) == f'<p><strong>x</strong>: {visible(name)}, y</p>\n'
    cells = render('\n'.join(markdown([('a', 'b'), (name, '1')])))
    assert re.findall(r'<td[^>]*>(.*?)</td>', cells, re.DOTALL)[1:] == ['1']
    assert unescape(re.findall(r'<td[^>]*>(.*?)</td>', cells, re.DOTALL)[0]).strip() == (
        visible(name).strip())
    # GitHub makes links of them unasked.
    assert not re.search(r'\w://|www\.', markdown_text(name))


def test_card_and_pages_of_hostile_names(tmp_path):
    names = [name for name in HOSTILE if 'udc80' not in ascii(name)]
    run = make_run(tmp_path / 'run', class_names=names)
    path = run / 'report.json'
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, 'model': 'm/<b>$x$\x1b', 'class_names': HOSTILE}))
    card, page = model_card(read_run(run)), html_of(run)
    for text in (card, page):
        assert not re.search('<(script|img)[ >]|<b>[$]x|[\x00-\x09\x0b-\x1f\x7f\u2028\u202e]', text)
        text.encode('utf-8')
    assert all(line.startswith(('# m/', '**', '|')) or not line for line in card.split('\n'))
    rows = report.run_rows(run)
    for text in (report.format_summary(rows, 'markdown'), report.summary_html(rows)):
        assert '<b>$x' not in text and '\x1b' not in text
