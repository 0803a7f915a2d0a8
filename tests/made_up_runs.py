"""Run folders made by hand, whose every number is known, and readers of what is made of them."""
import html.parser
import json
import math
import re

from tfprune import report
from tfprune.methods.names import METHODS
from tfprune.runs.config import Config

DENSE = {'test_accuracy': 0.975, 'macs': 4000, 'params': 800, 'peak_memory_bytes': 512,
         'tflite_bytes': 10000, 'latency_ms': 0.5, 'latency_p10_ms': 0.45, 'latency_p90_ms': 0.6}
PRUNED = {'test_accuracy': 0.95, 'macs': 1990, 'params': 300, 'peak_memory_bytes': 256,
          'tflite_bytes': 6000, 'latency_ms': 0.3, 'latency_p10_ms': 0.25, 'latency_p90_ms': 0.4}
# Tasks of another kind, as report.json says them.
SEGMENTATION = {'metric': 'mean_io_u', 'larger_is_better': True, 'is_share': True,
                'loss': 'compiled_loss', 'examples': 'examples', 'start': None,
                'is_accuracy': False}
REGRESSION = {**SEGMENTATION, 'metric': 'mean_absolute_error', 'larger_is_better': False,
              'is_share': False, 'start': 0.5}
AGENT = {'episodes': 16, 'policy_reward_mean': 0.95, 'policy_reward_error': 0.003,
         'policy_reward_max': 0.97, 'random_reward_mean': 0.93, 'random_reward_error': 0.004,
         'random_reward_max': 0.96}


def make_report(method='rlal', seed=0, **changes):
    """The content of report.json."""
    dense = {**DENSE, 'test_accuracy': None, 'latency_ms': None} if method == 'scratch' else DENSE
    pruned = {**PRUNED, 'macs': 4000} if method == 'dense' else PRUNED
    return {
        'method': method, 'model': 'resnet8', 'dataset': 'digits', 'seed': seed,
        'decides_first': method == 'scratch', 'is_control': METHODS[method].is_control,
        'budgets': [{'target': 'macs', 'asked': 0.5, 'limit': 2000, 'dense': 4000,
                     'cost': pruned['macs']}],
        'epochs': {'search': 6, 'fine_tune': 4, 'total': 10}, 'dense': dense, 'pruned': pruned,
        'latency_ratio': None if method == 'scratch' else 0.61,
        'groups': [{'name': 'stage1/conv<1>', 'dense_width': 16,
                    'width': 16 if method == 'dense' else 7},
                   {'name': 'stage2/conv1', 'dense_width': 32, 'width': 32}],
        'agent': AGENT if method == 'rlal' else None,
        'phases': dict(METHODS[method].phases), 'sources': dict(METHODS[method].sources),
        'parity': {'images': 32, 'source': 'representative', 'largest_output': 9.5, 'pairs': [
            {'first': 'keras', 'second': 'tflite', 'difference': 3e-6, 'limit': 1e-4}]},
        'seconds': {'training': 60.0, 'search': 40.0, 'total': 100.0}, 'test_images': 1900,
        'files': {'keras': 'export/pruned.keras', 'tflite': 'export/model.tflite'}, **changes}


def make_side(score, base=PRUNED, **metrics):
    """A side of a report that is no classifier's; further metrics by name."""
    costs = {name: value for name, value in base.items() if name != 'test_accuracy'}
    return {**costs, 'test_score': score, **({'test_metrics': metrics} if metrics else {})}


def task_changes(task, before, after, **changes):
    """What make_report and make_run take for a run of `task` with these test scores; errors have a
    loss beside them, their square."""
    further = ((lambda score: {}) if task['is_share'] else
               lambda score: {task['metric']: score, 'loss': score ** 2})
    return {'task': task, 'dense': make_side(before, DENSE, **further(before)),
            'pruned': make_side(after, **further(after)), 'class_names': [], **changes}


def make_run(folder, method='rlal', seed=0, finished=True, environment=None, **changes):
    """A run folder: 6 epochs before surgery, 4 after it, made-up curves with a NaN."""
    folder.mkdir(parents=True)
    config = Config(method=method, seed=seed, model='resnet8', dataset='digits', macs=0.5,
                    warmup_epochs=1, random_epochs=1, joint_epochs=3, alignment_epochs=1,
                    fine_tune_epochs=4)
    metrics, episodes = [], []
    for epoch in range(10 if finished else 3):
        phase = 'train' if epoch < 6 else 'fine_tune'
        phase = config.epochs.phase(epoch) if method == 'rlal' else phase
        phase = 'train' if method == 'scratch' else phase
        row = {'epoch': epoch, 'phase': phase, 'learning_rate': 0.1 / (epoch + 1),
               'loss': math.nan if epoch == 2 else 2 / (epoch + 1), 'penalty': 0.0,
               'cross_entropy': 1.9 / (epoch + 1), 'accuracy': 1 - 0.5 / (epoch + 1),
               'reward_accuracy': 1 - 0.6 / (epoch + 1)}
        if phase in ('random', 'joint'):
            source = 'random' if phase == 'random' else 'policy'
            episodes += [{'epoch': epoch, 'source': source, 'reward': 0.9 + 0.01 * i,
                          'widths': {'stage2/conv1': 32}} for i in range(4)]
            row |= {'subnetwork_accuracy': 0.93, 'scored_full_accuracy': 0.94, 'strength': 1e-4}
        if phase == 'joint':
            episodes.append({'epoch': epoch, 'source': 'random_reference', 'reward': 0.9})
        metrics.append(_columns_of(changes.get('task'), row))
    if method == 'rlal' and finished:
        episodes += [{'epoch': 4, 'source': f'{source}_comparison', 'reward': 0.9 + 0.01 * i}
                     for source in ('policy', 'random') for i in range(3)]
    files = {'config.json': config.to_json(), 'environment.json': environment or {
        'command': 'scripts/train.py --seed=0', 'commit': 'abc123', 'python': '3.11.9',
        'packages': {'keras': '3.15.0', 'tf-keras': None}, 'platform': 'Linux',
        'processor': 'A processor', 'cores': 2}}
    if finished:
        files['report.json'] = make_report(method, seed, **changes)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    for name, rows in (('metrics.jsonl', metrics), ('episodes.jsonl', episodes)):
        (folder / name).write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return folder


def _columns_of(task, row):
    """A row of metrics.jsonl of another task: where smaller is better, 1 - accuracy."""
    if task is None:
        return row
    found = {}
    for name, value in row.items():
        of_metric = name.endswith('accuracy')
        name = {'cross_entropy': task['loss']}.get(name, name)
        found[name.replace('accuracy', task['metric'])] = (
            1 - value if of_metric and not task['larger_is_better'] else value)
    return found


def line_of(text, start):
    """Cells of the line that starts so."""
    line, = [line for line in text.splitlines() if line.startswith(start)]
    return re.split(r'\s{2,}', line.strip())


class Page(html.parser.HTMLParser):
    """Headings, tags, attributes and ids of a page; fails where tags do not close in order."""
    VOID = {'meta', 'br', 'link', 'img', 'input'}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.headings, self.attributes = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ('h2', 'summary'):
            self.headings.append(data)


def html_of(folder):
    report.write_html(folder)
    return (folder / 'report.html').read_text()
