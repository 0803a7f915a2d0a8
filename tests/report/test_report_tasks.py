"""Reports of runs that are no classifiers', whose every number is known."""
import dataclasses
import json
import math
import re

import pytest

from made_up_runs import (PRUNED, REGRESSION, SEGMENTATION, Page, html_of, line_of, make_report,
                          make_run, make_side, task_changes)
from test_report_answers import ANSWERS
from tfprune import report
from tfprune.report import reading, scores, table
from tfprune.report.answers import class_rows, confusions, plot_confusion
from tfprune.report.artifact_table import artifact_rows, latency_notes, losses
from tfprune.report.html import render
from tfprune.report.judgment import verdicts
from tfprune.report.pairs import against

SEGMENTED = task_changes(SEGMENTATION, 0.71, 0.68, given={**make_side(0.7), 'is_trained': True})
REGRESSED = task_changes(REGRESSION, 0.5, 0.62, given={
    'test_score': 0.5, 'test_metrics': {'loss': 0.25}, 'is_trained': True})
ACCURACY_WORDS = ('accuracy', 'Accuracy', 'cross-entropy', 'images', 'classes',
                  'standard error of one')
DATA = {'name': 'depth', 'num_train': 800, 'num_reward': 100,
        'inputs': {'image': [None, 32, 3], 'pose': [6]}, 'outputs': {'depth': [32, 32]}}


def test_what_is_not_said_is_a_classifier():
    classifier = make_report()
    assert reading.task_of(classifier) == reading.TASK_OF_CLASSIFIERS
    assert reading.test_score(classifier['pruned']) == 0.95
    assert reading.test_score({'dense_test_score': 2.5}, 'dense_') == 2.5
    assert reading.test_score({'test_score': None}) is None is reading.test_score({})


def test_a_share_is_in_percent():
    text = report.format_table(make_report(**SEGMENTED))
    assert line_of(text, 'test mean_io_u')[1:] == ['70.00%', '71.00%', '68.00%', '-2.00 points']
    assert not [word for word in ACCURACY_WORDS if word in text]
    assert 'mean_io_u on 1,900 test examples: how much of a difference is chance is not' in text


def test_an_error_is_a_number_and_smaller_is_better():
    text = report.format_table(make_report(**REGRESSED))
    cells = line_of(text, 'test mean_absolute_error (smaller is better)')
    assert cells[1:] == ['0.5', '0.5', '0.62', '+0.12']
    # 0.62^2 - 0.25
    assert line_of(text, 'test loss')[1:] == ['0.25', '0.25', '0.3844', '+0.1344']
    assert text.count('smaller is better') == 1 and '%' not in text.split('MACs')[0]
    assert not [word for word in ACCURACY_WORDS if word in text]


def test_no_standard_errors_without_independent_right_answers():
    """A share that fell by as much would be 9 standard errors below, were it an accuracy."""
    values = make_report(**task_changes(SEGMENTATION, 0.9, 0.8,
                                        given={**make_side(0.9), 'is_trained': True}))
    assert table.shortfall_sentences(values) == []
    accuracy = {**SEGMENTATION, 'metric': 'binary_accuracy', 'is_accuracy': True}
    said, = table.shortfall_sentences({**values, 'task': accuracy})
    assert '10.00 points below' in said
    # sqrt(0.8 * 0.2 / 1900) = 0.0092
    assert ('binary_accuracy on 1,900 test examples: standard error of one binary_accuracy 0.92 '
            'points.' in table.caveats({**values, 'task': accuracy}))


def test_a_report_without_a_score_is_damaged(tmp_path):
    lacking = {name: value for name, value in PRUNED.items() if name != 'test_accuracy'}
    run = make_run(tmp_path / 'run', pruned=lacking)
    with pytest.raises(ValueError, match="report.json is not what was written: no 'pruned.test_ac"):
        report.run_row(run)


def test_scores_as_text():
    assert scores.score(REGRESSION, 0.123456) == '0.1235' and scores.score(REGRESSION, None) == '–'
    assert scores.difference(REGRESSION, 0.1 + 0.2, 0.3) == '+0'
    assert scores.difference(REGRESSION, 0.25, math.nan) == '–'
    assert scores.mean_and_spread(REGRESSION, -0.5, math.nan, signed=True) == '-0.5 ± –'
    assert scores.mean_and_spread(SEGMENTATION, 0.5, 0.01, signed=True) == '+50.00 ± 1.00'


@pytest.mark.parametrize('changes, row, loss', [
    (SEGMENTED, '70.00%', None), (REGRESSED, '0.5', 'test loss')])
def test_page(tmp_path, changes, row, loss):
    text = html_of(make_run(tmp_path / 'run', **changes))
    metric = changes['task']['metric']
    headings = Page(text).headings
    assert metric in headings and 'Accuracy' not in headings and 'Accuracy by class' not in headings
    seen = re.sub(r'<[^>]*>', ' ', text.split('<body>')[1].split('>Environment<')[0])
    assert not [word for word in ACCURACY_WORDS if word in seen]
    for said in (f'test {metric}', f'>{row}<', 'training examples (as trained)', 'compiled loss',
                 'full model, held-out examples', 'full model, scored like it',
                 'sub-network, as rewarded', 'test examples, as given', loss or metric):
        assert said in text, said


def test_rewards_are_labelled_by_what_they_are(tmp_path):
    """A reward is the metric, in percent, or a number that is none."""
    metric = html_of(make_run(tmp_path / 'metric', **SEGMENTED))
    assert '>reward (mean_io_u)<' in metric and 'episode: the mean_io_u of one sub' in metric
    other = html_of(make_run(tmp_path / 'other', **REGRESSED))
    assert '>reward<' in other and '1/2 + d / (2(1 + |d|)), where d is by how much the ' in other
    episodes = other.split('<h2>Episodes')[1].split('<h2>')[0]
    assert '%<' not in episodes and '%<' in metric.split('<h2>Episodes')[1].split('<h2>')[0]


def test_losses_below_zero_are_drawn(tmp_path):
    run = reading.read_run(make_run(tmp_path / 'run', **REGRESSED))
    below = [{**row, 'compiled_loss': -row['compiled_loss']} for row in run.metrics]
    assert '−1.' in render(dataclasses.replace(run, metrics=below)).split('<h2>Loss and')[1]


def test_answers_need_no_names_of_classes(tmp_path):
    run = reading.read_run(make_run(tmp_path / 'run'))
    for names in ({}, {'class_names': []}):
        nameless = dataclasses.replace(run, answers=ANSWERS, report={**run.report, **names})
        assert [row[0] for row in class_rows(nameless)] == ['class', '2', '0', '1']
        assert confusions(nameless)[0] == '1 as 0: 5' and plot_confusion(nameless)


def test_card(tmp_path):
    folder = make_run(tmp_path / 'run', **REGRESSED, test_images=200)
    (folder / 'data.json').write_text(json.dumps(DATA))
    card = report.model_card(reading.read_run(folder)).replace('\\', '')
    assert ('**task**: metric mean_absolute_error (smaller is better); trained with its compiled '
            'loss; test loss 0.3844\n' in card)
    assert '**input**: image ?×32×3, pose 6\n' in card and '**output**: depth 32×32\n' in card
    assert '800 examples trained on, 100 training examples held out' in card
    assert '200 test examples' in card
    assert ('**test mean_absolute_error (smaller is better)**: 0.62 after the last epoch; before '
            'surgery 0.5; as given 0.5, a difference of +0.12\n' in card)
    assert 'cameras' not in card and 'The mean_absolute_error holds for examples like' in card
    pictures = {name: value for name, value in DATA.items() if name not in ('inputs', 'outputs')}
    (folder / 'data.json').write_text(json.dumps({**pictures, 'image_shape': [8, 8, 1]}))
    assert 'cameras' in report.model_card(reading.read_run(folder))


def artifact(score, lost, **more):
    return {'file': 'a.tflite', 'bytes': 10, 'score': score, 'lost': lost, **more}


def test_exported_files():
    assert artifact_rows([artifact(0.68, 0.0)], (), SEGMENTATION)[1] == ('a.tflite', '10', '68.00%')
    header, row = artifact_rows([artifact(0.62, 0.0)], (), REGRESSION)
    assert header[2] == 'test mean_absolute_error (smaller is better)' and row[2] == '0.62'
    assert losses([artifact(0.68, 0.02)], SEGMENTATION) == [
        'a.tflite loses 2.0 points of mean_io_u against the Keras model; look at its parity.']
    # The Keras file has 0.50: 2% of it are 0.01.
    assert losses([artifact(0.511, 0.011, advice='do this')], REGRESSION) == [
        'a.tflite has mean_absolute_error 0.511, worse than 0.5 of the Keras model; do this.']
    assert not losses([artifact(0.509, 0.009), artifact(0.4, -0.1), artifact(None, None)],
                      REGRESSION)
    ratio = {**REGRESSION, 'larger_is_better': True}  # -20 decibel are worse than -19
    assert losses([artifact(-20.0, 1.0)], ratio) and not losses([artifact(-20.0, 0.3)], ratio)
    said, = latency_notes([artifact(1, 0, latency=[{}])], None, REGRESSION)
    assert 'inferences of one example,' in said


ERRORS = {('rlal', 0): 0.30, ('rlal', 1): 0.32, ('rlal', 2): 0.31,
          ('uniform', 0): 0.40, ('uniform', 1): 0.43, ('uniform', 2): 0.40}


def rows_of(folder, values, task):
    """Rows of a comparison, a run folder each, read."""
    rows = []
    for (method, seed), value in values.items():
        run = make_run(folder / method / f's{seed}', method, seed,
                       **task_changes({**task, 'start': task['start'] and 0.5 + seed}, 0.5, value))
        rows.append({**report.run_row(run), 'cell': method})
    return rows


def test_rows_say_their_task(tmp_path):
    rows = rows_of(tmp_path, {('rlal', 0): 0.3}, REGRESSION)
    assert 'test_accuracy' not in rows[0] and rows[0]['task'] == REGRESSION
    assert [rows[0][name] for name in ('test_score', 'dense_test_score', 'given_test_score')] == [
        0.3, 0.5, None]
    report.write_rows_file(tmp_path / 'rows.jsonl', rows)
    assert report.read_rows_file(tmp_path / 'rows.jsonl') == rows
    classifier = report.run_row(make_run(tmp_path / 'a', pruned=PRUNED))
    assert 'task' not in classifier and classifier['test_accuracy'] == 0.95
    del rows[0]['test_score']
    report.write_rows_file(tmp_path / 'rows.jsonl', rows)
    with pytest.raises(ValueError, match="line 1 is not what was written: no 'test_score'"):
        report.read_rows_file(tmp_path / 'rows.jsonl')


def test_three_seeds_by_hand(tmp_path):
    """One line, although rewards of each seed start elsewhere."""
    line, = report.aggregate(rows_of(tmp_path, dict(list(ERRORS.items())[:3]), REGRESSION))
    assert (line['n'], line['score_mean']) == (3, pytest.approx(0.31))
    assert line['score_sd'] == pytest.approx(0.01) and line['dense_score_mean'] == 0.5
    text = report.format_summary(rows_of(tmp_path / 'b', ERRORS, REGRESSION))
    assert line_of(text, 'rlal')[6:9] == ['0.31 ± 0.01', '-0.1 ± 0.02484', '0.5 ± 0']
    assert 'test mean_absolute_error (smaller is better)   against uniform   before' in text
    assert 'test mean_absolute_error after the last epoch' in text and 'accuracy' not in text


def test_of_two_methods_that_of_the_smaller_error_is_better(tmp_path):
    rows = rows_of(tmp_path, ERRORS, REGRESSION)
    lines = report.aggregate(rows)
    # -0.10, -0.11, -0.09: mean -0.1, sd 0.01; t(2) = 4.303 of 0.01 / sqrt(3)
    pair = against(lines[0], 'uniform', lines)
    assert (pair.mean, pair.pairs) == (pytest.approx(-0.1), 3)
    assert pair.half_width == pytest.approx(4.303 * 0.01 / math.sqrt(3), 1e-3)
    assert verdicts(lines) == [
        'Shown to beat uniform, by 95% intervals over 3 seeds: rlal -0.1 ± 0.02484.']
    text = report.format_comparison(rows)
    assert line_of(text.split('\n\n')[1], 'rlal')[5:7] == ['0.31 ± 0.01', '-0.1 ± 0.02484']
    assert 'epochs and weights, below 0 is better, mean ± half of the 95% interval' in text
    assert 'accuracy' not in text and 'image' not in text
    swapped = {({'rlal': 'uniform', 'uniform': 'rlal'}[method], seed): value
               for (method, seed), value in ERRORS.items()}
    assert verdicts(report.aggregate(rows_of(tmp_path / 'swapped', swapped, REGRESSION))) == [
        'Shown to be worse than uniform, by 95% intervals over 3 seeds: rlal +0.1 ± 0.02484.']


def test_equal_differences_of_another_metric_show_nothing(tmp_path):
    """The test data's own uncertainty is not known: three times -0.1 may be chance."""
    equal = {('rlal', 0): 0.3, ('rlal', 1): 0.4, ('rlal', 2): 0.5,
             ('uniform', 0): 0.4, ('uniform', 1): 0.5, ('uniform', 2): 0.6}
    lines = report.aggregate(rows_of(tmp_path, equal, REGRESSION))
    pair = against(lines[0], 'uniform', lines)
    assert (pair.mean, pair.pairs) == (pytest.approx(-0.1), 3) and math.isnan(pair.half_width)
    assert verdicts(lines)[0].startswith('Not shown to beat uniform')


def test_page_of_a_comparison(tmp_path):
    text = report.comparison_html(rows_of(tmp_path, ERRORS, REGRESSION))
    assert Page(text).headings[:3] == ['Methods', 'Test mean_absolute_error',
                                       'mean_absolute_error against MACs']
    assert text.count('>test mean_absolute_error (smaller is better)<') == 3
    assert 'accuracy' not in text


def test_several_metrics_in_one_summary(tmp_path):
    """Each cell names its metric; each metric has its own plots."""
    mixed = [*rows_of(tmp_path / 'a', {('rlal', 0): 0.3, ('uniform', 0): 0.4}, REGRESSION),
             *rows_of(tmp_path / 'b', {('rlal', 0): 0.7}, SEGMENTATION)]
    error, _, share = report.aggregate(mixed)
    assert (error['n'], share['n']) == (1, 1)  # one configuration, two metrics
    text = report.format_summary(mixed)
    assert 'test score   ' in text and 'mean_absolute_error 0.3 ± –' in text
    assert 'mean_io_u 70.00 ± – %' in text
    assert 'mean_absolute_error: smaller is better.' in text
    compared = report.format_comparison(mixed)
    assert 'against uniform: test score minus that of' in compared
    assert math.isnan(against(share, 'uniform', [error, share]).mean)
    for page in map(Page, (report.summary_html(mixed), report.comparison_html(mixed))):
        ids = [value for name, value in page.attributes if name == 'id']
        assert len(ids) == len(set(ids))
        assert {'Test mean_io_u', 'Test mean_absolute_error'} <= set(page.headings)
