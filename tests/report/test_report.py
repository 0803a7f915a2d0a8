"""Reports of runs made by hand, whose every number is known."""
import math
import re

import pytest

from made_up_runs import AGENT, Page, html_of, line_of, make_report, make_run
from tfprune import report
from tfprune.report import table
from tfprune.report.number_text import count, duration, milliseconds, percent, points


def test_table_sums():
    text = report.format_table(make_report())
    assert line_of(text, 'test accuracy')[1:] == ['97.50%', '95.00%', '–']
    assert line_of(text, 'MACs')[1:] == ['4,000', '1,990', '49.75%']
    assert line_of(text, 'params')[1:] == ['800', '300', '37.50%']
    assert line_of(text, 'TFLite bytes')[1:] == ['10,000', '6,000', '60.00%']
    # The ratio is the one measured in turns, not 0.3 / 0.5.
    assert line_of(text, 'TFLite latency')[1:] == ['0.5', '0.3', '61.0%']
    words = ' '.join(text.split())
    assert 'at most 2,000 (0.5 of dense 4,000); cost 1,990, 99.50% of the budget' in words
    assert "'before surgery' is this run's model after 6 of 10 epochs, not fine-tuned" in words
    assert 'that is --method=dense' in words
    # sqrt(0.95 * 0.05 / 1900) = 0.005
    assert 'standard error of one accuracy 0.50 points' in words
    assert 'peak memory' not in text
    assert max(map(len, text.splitlines())) <= 100
    assert 'latency ratio' not in text  # 60.0% is near enough
    text = ' '.join(report.format_table(make_report(latency_ratio=0.8)).split())
    assert 'latency ratio is the median over rounds' in text and 'are at 60.0%' in text


GIVEN = {'test_accuracy': 0.96, 'held_out_accuracy': 0.97, 'trained_on_accuracy': 0.99,
         'images': 100, 'is_trained': True, 'held_out_floor': 0.97, 'trained_on_floor': 0.99}


def test_differences_are_against_the_model_as_given(tmp_path):
    values = make_report(given=GIVEN, training={'reasons': ['the rate is 0.01 for a reason']})
    text = report.format_table(values)
    assert line_of(text, 'test accuracy')[1:] == ['96.00%', '97.50%', '95.00%', '-1.00 points']
    assert line_of(text, 'MACs')[1:] == ['4,000', '4,000', '1,990', '49.75%']
    assert line_of(text, 'TFLite latency')[1:] == ['0.5', '0.5', '0.3', '61.0%']
    assert 'pruned / as given' in text and 'The rate is 0.01 for a reason.' in text
    run = make_run(tmp_path / 'run', given=GIVEN)
    page = html_of(run)
    assert '1.00 points against 96.00% as given' in page and 'test images, as given' in page
    card = report.model_card(report.reading.read_run(run))
    assert '95.00% after the last epoch; before surgery 97.50%; as given 96.00%' in card
    assert '-1.00 points' in card
    scratch = report.format_table(make_report('scratch', given=GIVEN))
    assert line_of(scratch, 'test accuracy')[1:] == ['96.00%', '95.00%', '-1.00 points']
    dense = report.format_table(make_report('dense', given=GIVEN))
    assert line_of(dense, 'test accuracy')[1:] == ['96.00%', '97.50%', '95.00%', '-1.00 points']


def test_a_given_model_at_chance_is_no_reference():
    text = report.format_table(make_report(given=GIVEN | {'is_trained': False}))
    assert line_of(text, 'test accuracy')[1:] == ['97.50%', '95.00%', '–']
    assert 'The given model scored 96.00%, no better than chance' in ' '.join(text.split())


def test_every_budget_is_said():
    rows = [{'target': 'params', 'asked': 400.0, 'limit': 400, 'dense': 800, 'cost': 300},
            {'target': 'peak_memory_bytes', 'asked': 0.75, 'limit': 384, 'dense': 512, 'cost': 256}]
    text = report.format_table(make_report(budgets=rows))
    assert line_of(text, 'peak memory, bytes')[1:] == ['512', '256', '50.00%']
    assert [line for line in text.splitlines() if line.startswith('Budget')] == [
        'Budget: params at most 400 (dense 800); cost 300, 75.00% of the budget.',
        'Budget: peak_memory_bytes at most 384 (0.75 of dense 512); cost 256, 66.67% of the '
        'budget.']
    text = report.format_table(make_report('dense', budgets=rows))
    assert 'Budget: not applied; nothing is pruned, params 300, peak_memory_bytes 256.' in text


def test_table_is_aligned():
    lines = report.format_table(make_report()).splitlines()
    rows = lines[lines.index('', 0) + 1:][:7]
    assert len({len(line) for line in rows}) == 1


def test_table_of_controls():
    scratch = report.format_table(make_report('scratch'))
    assert line_of(scratch, 'test accuracy')[1:] == ['–', '95.00%', '–']
    assert line_of(scratch, 'TFLite latency')[1:] == ['–', '0.3', '–']
    assert 'all after surgery' in scratch and 'was not trained in this run' in scratch
    dense = report.format_table(make_report('dense'))
    assert 'final / before' in dense and 'nothing was pruned' in dense and 'pruned /' not in dense


@pytest.mark.parametrize('policy, verdict', [
    # errors 0.003 and 0.004: the difference's is 0.005.
    (0.95, '+0.0200, +4.0 standard errors: the agent beats random actions.'),
    (0.935, '+0.0050, +1.0 standard errors: the agent does not beat random actions: a difference'),
    (0.91, '-0.0200, -4.0 standard errors: the agent does not beat random actions; it is worse.'),
    (math.nan, 'cannot be judged'), (None, 'cannot be judged')])
def test_agent_against_random_in_words(policy, verdict):
    agent = {**AGENT, 'policy_reward_mean': policy}
    said = table.agent_sentences(make_report(agent=agent))
    assert verdict in ' '.join(said)
    assert ('no evidence about the method' in said[-1]) == ('standard errors:' in verdict)


def test_agent_without_spread_is_not_judged():
    agent = {**AGENT, 'policy_reward_error': 0.0, 'random_reward_error': 0.0}
    assert table.reward_difference(agent)[0] == pytest.approx(0.02)
    assert 'cannot be judged' in ' '.join(table.agent_sentences({'agent': agent}))


def test_numbers_as_text():
    assert percent(None) == percent(math.nan) == count(math.inf) == '–'
    assert points(0.5, 0.5 + 1e-9) == '+0.00 points'
    assert [milliseconds(x) for x in (0.04123, 1.5, 1234.5)] == ['0.0412', '1.5', '1,234']
    assert [duration(x) for x in (48.4, 738, 18720, None)] == [
        '48 s', '12.3 min', '5.2 h', '–']


def test_html_is_one_file_without_network(tmp_path):
    text = html_of(make_run(tmp_path / 'run'))
    page = Page(text)
    assert not re.search(r'https?:|//[a-z]|@import|\burl\((?!#)', text)
    assert not {'script', 'img', 'link', 'iframe', 'object', 'image'} & set(page.tags)
    targets = [value for name, value in page.attributes if name in ('src', 'href', 'xlink:href')]
    assert all(t.startswith('#') or t.startswith('export/') for t in targets)
    ids = [value for name, value in page.attributes if name == 'id']
    assert len(ids) == len(set(ids))
    assert {t[1:] for t in targets if t.startswith('#')} <= set(ids)
    assert set(re.findall(r'url\(#([^)]+)\)', text)) <= set(ids)
    assert page.tags.count('svg') == 5 and not list(tmp_path.glob('run/.*'))


def test_html_sections_and_escaping(tmp_path):
    text = html_of(make_run(tmp_path / 'run', environment={'command': 'a <b>&"c"', 'cores': 2},
                            peak_process_bytes=3 * 2 ** 29))
    assert Page(text).headings == [
        'Before surgery and pruned', 'Widths', 'Accuracy', 'Loss and learning rate', 'Episodes',
        'Strength of the alignment', 'Parity of the exported forms', 'Files', 'Model card',
        'Environment', 'Configuration']
    assert 'a &lt;b&gt;&amp;&#34;c&#34;' in text and '<b>&' not in text
    assert 'stage1/conv&lt;1&gt;' in text and 'conv<1>' not in text
    assert '1.50 GiB at most' in text
    assert 'surgery' in text and 'fine-tuning' in text and '7 / 16' in text
    assert '+4.0 standard errors: the agent beats random actions' in text
    assert not re.search(r'\bnan\b', text, re.IGNORECASE)


def test_html_lists_the_classes(tmp_path):
    text = html_of(make_run(tmp_path / 'run', class_names=['cat', 'dog <2>']))
    assert 'Classes (2)' in Page(text).headings
    assert re.search(r'>0</td>\s*<td[^>]*>cat<', text)
    assert re.search(r'>1</td>\s*<td[^>]*>dog &lt;2&gt;<', text)


@pytest.mark.parametrize('method, widths', [('uniform', True), ('scratch', True), ('dense', False)])
def test_html_leaves_out_what_does_not_apply(tmp_path, method, widths):
    text = html_of(make_run(tmp_path / 'run', method))
    headings = Page(text).headings
    assert not {'Episodes', 'Strength of the alignment'} & set(headings)
    assert ('Widths' in headings) == widths
    assert 'random actions' not in text and 'Accuracy' in headings
    # A surgery inside the curves is marked; scratch had it before, dense has none.
    assert bool(re.search(r'>surgery<', text)) == (method == 'uniform')


def test_html_of_bare_runs(tmp_path):
    run = make_run(tmp_path / 'run', 'uniform', groups=[], parity=None, files={})
    for name in ('metrics.jsonl', 'episodes.jsonl', 'environment.json', 'config.json'):
        (run / name).unlink()
    assert Page(html_of(run)).headings == ['Before and final', 'Model card', 'Environment']
    with pytest.raises(FileNotFoundError, match='no report.json'):
        report.write_html(tmp_path)
    (run / 'report.json').write_text('{"method"')
    with pytest.raises(ValueError, match='report.json is damaged'):
        report.write_html(run)


def test_html_is_reproducible(tmp_path):
    run = make_run(tmp_path / 'run')
    assert html_of(run) == html_of(run)
