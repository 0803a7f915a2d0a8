"""Bad input of every kind to every script: one line that names it, exit code 2, nothing left.

Each row is a process of its own; see bad_inputs.make_world for the files.
"""
import re
import shlex

import pytest

from bad_inputs import BASE, make_world
from script_server import ScriptServer

T, A, E, X, R, C, B = (f'{name}.py' for name in (
    'train', 'analyze', 'evaluate', 'export', 'report', 'compare', 'benchmark'))
OWN = '--model={w}/m.keras '
TABLE = f'{OWN}--macs=0 --latency_ratio=0.6 --latency_table={{w}}/'
COMPARE = '--method_flagfiles={w}/{{}}.flags --methods=method --out={o} '

TRAIN = [(flags, *culprits) for flags, *culprits in (
    # Numbers.
    ('--learning_rate=inf', 'learning_rate', 'inf'),
    ('--learning_rate=-0.1', 'learning_rate', '-0.1'),
    ('--learning_rate=fast', 'learning_rate', 'fast'),
    ('--fine_tune_learning_rate=inf', 'fine_tune_learning_rate', 'inf'),
    ('--weight_decay=inf', 'weight_decay', 'inf'),
    ('--lr_warmup_epochs=inf', 'lr_warmup_epochs', 'inf'),
    ('--lr_warmup_epochs=1e300', 'lr_warmup_epochs', '1e+300'),
    ('--rlal.alignment_strength=inf', 'rlal.alignment_strength', 'inf'),
    ('--quantize_learning_rate=nan', 'quantize_learning_rate', 'nan'),
    ('--rlal.agent_learning_rate=-1', 'rlal.agent_learning_rate', '-1'),
    ('--test_fraction=nan', 'test_fraction', 'nan'),
    ('--test_fraction=1', 'test_fraction', '1'),
    ('--seed=99999999999999999999', 'seed', '99999999999999999999'),
    ('--seed=-1', 'seed', '-1'),
    ('--seed=1.5', 'seed', '1.5'),
    ('--replicas=1000 --batch_size=1000', 'replicas', '1000'),
    ('--replicas=64 --batch_size=512', 'replicas', '64'),
    ('--replicas=0', 'replicas', '0'),
    ('--threads=100000', 'threads', '100000'),
    ('--threads=-1', 'threads', '-1'),
    ('--momentum=1', 'momentum', '1.0'),
    ('--label_smoothing=nan', 'label_smoothing', 'nan'),
    ('--min_keep_ratio=-0.1', 'min_keep_ratio', '-0.1'),
    ('--width_multiple=0', 'width_multiple', '0'),
    ('--batch_size=0', 'batch_size', '0'),
    ('--batch_size=510 --replicas=4', 'batch_size', 'replicas=4', '510'),
    ('--warmup_epochs=1000000', 'warmup_epochs', '1000000'),
    ('--warmup_epochs=0 --fine_tune_epochs=0', 'epochs', '0'),
    ('--rlal.context_size=10000000', 'rlal.context_size', '10000000'),
    ('--reward_images=100000', 'reward_images', '100000'),
    ('--score_images=200', 'score_images', '100', '200'),
    ('--representative_images=0', 'representative_images', '0'),
    # Budgets.
    ('--macs=nan', 'macs', 'nan'),
    ('--macs=-0.5', 'macs', '-0.5'),
    ('--macs=1.5', 'macs', '1.5'),
    ('--macs=1e30', 'macs', '1e+30'),
    ('--macs=0', 'uniform', 'budget', '--macs'),
    ('--macs=1000', 'macs=1000', 'smallest'),
    ('--params=0.0001', 'params=0.0001', 'smallest'),
    ('--latency_ratio=0.5', 'latency_table'),
    # Names.
    ('--method=unifrom', 'unifrom', 'uniform'),
    ('--model=resnet9', 'resnet9', 'resnet8'),
    ('--dataset=digit', 'digit', 'digits'),
    ('--criterion=l3', 'criterion', 'l3', 'l1'),
    ('--schedule=linear', 'schedule', 'linear', 'cosine'),
    ('--quantize=int4', 'quantize', 'int4'),
    ('--mixed_precision=float16', 'mixed_precision', 'float16'),
    ('--frozen=stage9', 'stage9'),
    ('--image_size=8x', 'image_size', '8x'),
    ('--amc.episode=3', '--amc.episode', "Did you mean 'amc.episodes'"),
    ('--mirror=maybe', 'mirror', 'maybe'),
    ('--learning_rat=0.1', '--learning_rat', "Did you mean 'learning_rate'"),
    ('--epochs=3', '--epochs'),
    ('stray', 'stray'),
    ('--run_dir=', 'run_dir'),
    ('--run_dir={w}/a_file', 'run_dir', 'a_file'),
    ('--run_dir={w}/a_file/run', 'a_file'),
    ('--run_dir={w}/classes', 'classes', 'config.json'),
    # Flagfiles.
    ('--flagfile={w}/nowhere.flags', 'nowhere.flags'),
    ('--flagfile={w}', 'flagfile'),
    ('--flagfile={w}/bytes.flags', 'bytes.flags', 'UTF-8'),
    ('--flagfile={w}/itself.flags', 'itself.flags', 'includes itself'),
    ('--flagfile={w}/round.flags', 'round.flags', 'includes itself'),
    ('--flagfile={w}/unknown.flags', 'learning_rat'),
    ('--flagfile={w}/value.flags', 'batch_size', 'many'),
    ('--flagfile={w}/missing.flags', 'nowhere.flags'),
    ('--flagfile={w}/stray.flags', 'batch_size=4'),
    # Custom layers.
    ('--custom_layers={w}/nowhere.py', 'nowhere.py'),
    ('--custom_layers={w}/exit.py', 'exit.py', 'SystemExit', '3'),
    ('--custom_layers={w}/syntax.py', 'syntax.py', 'SyntaxError'),
    ('--custom_layers={w}/error.py', 'error.py', 'gamma'),
    ('--custom_layers={w}/imports.py', 'imports.py', 'no_such_module'),
    ('--model={w}/mine.keras', 'mine.keras', 'Mine'),
    ('--model={w}/mine.keras --custom_layers={w}/raises.py', 'raises.py', 'MINE cannot train'),
    ('--model={w}/mine.keras --custom_layers={w}/key.py', 'key.py', 'no such key'),
    ('--model={w}/mine.keras --custom_layers={w}/shape.py', 'shape.py', 'line 7'),
    ('--model={w}/mine.keras --custom_layers={w}/exits.py', 'exits.py', 'sys.exit(4)'),
    # Models and weights.
    ('--model={w}/nowhere.keras', 'nowhere.keras'),
    ('--model={w}/text.keras', 'text.keras'),
    ('--model={w}/cut.keras', 'cut.keras'),
    ('--model={w}/text.h5', 'text.h5', '.keras'),
    ('--model={w}', 'directory'),
    ('--model={w}/nested.keras', 'nested.keras'),
    ('--model={w}/code.keras', 'code.keras', 'Lambda'),
    ('--model={w}/nan.keras', 'nan.keras', 'second/kernel', 'NaN'),
    ('--model={w}/two.keras', 'two.keras', 'one output'),
    ('--model={w}/vector.keras', 'vector.keras', '[None, 64]'),
    ('--model={w}/sigmoid.keras', 'sigmoid.keras', 'sigmoid'),
    ('--model={w}/seven.keras', 'seven.keras', '7', '10 classes'),
    ('--model={w}/large.keras', 'large.keras', '[16, 16, 1]', '[8, 8, 1]'),
    ('--model={w}/unsuited.keras', 'unsuited.keras', '[8, 8, 1]'),
    ('--initial_weights={w}/nowhere.npz', 'nowhere.npz'),
    ('--initial_weights={w}/a_file', 'a_file', '.npz'),
    ('--initial_weights={w}/text.npz', 'text.npz'),
    ('--initial_weights={w}/other.npz', 'other.npz', 'stem_conv/kernel'),
    ('--initial_weights={w}/inf.npz', 'inf.npz', 'logits/bias', 'finite'),
    ('--initial_weights={w}/m.weights.h5', 'm.weights.h5'),
    ('--initial_weights={w}/m.keras', 'm.keras'),
    ('--initial_weights={w}/nested.keras', 'nested.keras'),
    ('--initial_weights={w}/nan.keras', 'nan.keras', 'second/kernel'),
    # Latency tables.
    *((f'{TABLE}t_{name}.json', f't_{name}.json', *more) for name, *more in (
        ('negative', '-0.2'), ('nan', 'nan'), ('infinite', 'inf'), ('huge', '1e+300'),
        ('string', "'0.2'"), ('null', 'None'), ('ragged', 'ms'), ('empty', 'ins'),
        ('falling', 'ins'), ('about', 'about'), ('threads', "'two'"),
        ('files', "'int4'"), ('call', 'call_ms', '-5.0'), ('version', '7'),
        ('group', 'groups'), ('form', 'in must be an object'), ('key', 'surfaces'),
        ('zero', 'latency', '0'), ('list', 'object'), ('bytes', 'JSON'))),
    ('--latency_ratio=0.6 --latency_table={w}/table.json', 'table.json', 'another model'),
    ('--latency_ms=inf --latency_table={w}/table.json', 'latency_ms', 'inf'),
    # Run folders.
    *((f'--run_dir={{w}}/runs/t_{name}', f't_{name}', *more) for name, *more in (
        ('report_empty', 'report.json', "'method'"), ('report_null', 'report.json', 'None'),
        ('report_text', 'report.json', "'done'"), ('environment', 'environment.json', '[1, 2]'),
        ('environment_files', 'environment.json', 'files'), ('data', 'data.json', '[1]'),
        ('metrics', 'metrics.jsonl, line 1', 'epoch'), ('config_text', 'config.json', 'JSON'),
        ('other', '--seed: 7 -> 0'), ('no_export', 'export/pruned.keras'),
        ('decision', 'decision.json', "'groups'"), ('decision_list', 'decision.json', '[]'),
        ('decision_other', 'decision.json', "'other'"),
        ('decision_range', 'decision.json', '9'), ('no_decision', 'no decision.json'))),
    ('--before_surgery_from={w}/nowhere', 'before_surgery_from', 'nowhere'),
    ('--before_surgery_from={w}/runs/source_empty', 'source_empty/config.json', "'method'"),
    ('--before_surgery_from={w}/runs/source_list', 'source_list/config.json', '[]'),
    ('--before_surgery_from={w}/runs/source_other', 'before_surgery_from', 'rlal'),
)]

OTHERS = [
    (A, '', '--model'),
    (A, '--model=resnet9', 'resnet9'),
    (A, '--model={w}/nowhere.keras', 'nowhere.keras'),
    (A, '--model={w}/nested.keras', 'nested.keras'),
    (A, '--model={w}/unsuited.keras --image_size=8', 'unsuited.keras', '[8, 8, 1]'),
    (A, '--model={w}/any.keras', 'any.keras', 'image_size'),
    (A, '--model={w}/m.keras --image_size=64', 'm.keras', "'64'"),
    (A, '--model=resnet8 --num_classes=1000000000000', 'num_classes', '1000000000000'),
    (A, '--model=resnet8 --min_keep_ratio=nan', 'min_keep_ratio', 'nan'),
    (A, '--model=resnet8 --width_multiple=-3', 'width_multiple', '-3'),
    (A, '--model=resnet8 --image_size=0', 'image_size', '0'),
    (A, '--model=resnet8 --json={o}/x/y.json', 'json', 'folder'),
    (A, '--model=resnet8 --json={w}', 'json'),
    (A, '--model=resnet8 --picture={o}.xyz', 'xyz'),
    (A, '--model=resnet8 --modle=x', '--modle', "'model'"),
    (E, '--path={w}/nowhere', 'nowhere'),
    (E, '--path={w}/a_file', 'a_file'),
    (E, '--path={w}/classes', 'classes'),
    (E, '--path={w}/m.keras', 'dataset'),
    (E, '--path={w}/m.keras --dataset=digit', 'digit'),
    (E, '--path={w}/text.keras --dataset=digits', 'text.keras'),
    (E, '--path={w}/a.tflite --dataset=digits', 'a.tflite'),
    (E, '--path={w}/two.keras --dataset=digits', 'two.keras', 'one output'),
    (E, '--path={w}/vector.keras --dataset=digits', 'vector.keras', '[None, 64]'),
    (E, '--path={w}/seven.keras --dataset=digits', 'seven.keras', '7 classes'),
    (E, '--path={w}/nan.keras --dataset=digits', 'nan.keras', 'second/kernel'),
    (E, '--path={w}/m.keras --dataset=digits --batch_size=0', 'batch_size', '0'),
    (E, '--path={w}/m.keras --dataset=digits --json={w}/a/b.json', 'json'),
    (X, '--out={o}', '--model'),
    (X, '--model={w}/m.keras --out=', 'out'),
    (X, '--model={w}/m.keras --out={w}/a_file', 'out', 'a_file'),
    (X, '--model={w}/m.keras --out={w}/classes --dataset=digits', 'classes', 'no export'),
    (X, '--model={w}/nowhere.keras --out={o} --dataset=digits', 'nowhere.keras'),
    (X, '--model={w}/nan.keras --out={o} --dataset=digits', 'nan.keras', 'second/kernel'),
    (X, '--model={w}/seven.keras --out={o} --dataset=digits', 'seven.keras', '7'),
    (X, '--model={w}/m.keras --out={o} --dataset=digits --threads=99999', 'threads', '99999'),
    (X, '--model={w}/m.keras --out={o} --dataset=digits --quantize_learning_rate=inf',
     'quantize_learning_rate', 'inf'),
    (X, '--model={w}/m.keras --out={o} --dataset=digits --dense={w}/text.keras', 'text.keras'),
    (X, '--model={w}/m.keras --out={o} --dataset=digits --json={o}/a/b', 'json'),
    (X, '--model={w}/m.keras --out={o} --dataset=digits --tflite_io=int16', 'tflite_io', 'int16'),
    (R, '', 'no runs'),
    (R, '{w}/nowhere*', 'nowhere*'),
    (R, '{w}/runs/done --format=latex', 'latex', 'markdown'),
    (R, '{w}/runs/report_empty', 'report_empty/report.json', "'method'"),
    (R, '{w}/runs/report_null', 'report_null/report.json', 'None'),
    (R, '{w}/runs/report_list', 'report_list/report.json', '[]'),
    (R, '{w}/runs/metrics_text', 'metrics_text/report.json', 'JSON'),
    (R, '{w}/runs/dense_null', 'dense_null/report.json', 'dense'),
    (R, '{w}/runs/no_epochs', 'no_epochs/report.json', 'epochs'),
    (R, '{w}/runs/accuracy_text', 'accuracy_text/report.json', 'pruned.test_accuracy', "'good'"),
    (R, '{w}/runs/config_list', 'config_list/config.json', '[1]'),
    (R, '{w}/runs/environment_list', 'environment_list/environment.json', '[1, 2]'),
    (R, '--rows={w}/nowhere.jsonl', 'nowhere.jsonl'),
    *((R, f'--rows={{w}}/rows_{name}.jsonl', f'rows_{name}.jsonl', *more) for name, *more in (
        ('bytes', 'line 1', 'JSON'), ('short', 'finished'), ('list', 'object'), ('cut', 'JSON'),
        ('text', 'macs', "'many'"), ('less', 'test_accuracy'))),
    (R, '{w}/runs/done --out={o}/x/rows.jsonl', 'out'),
    (R, '{w}/runs/done --html={w}', 'html'),
    (C, '--method_flagfiles={w}/{{}}.flags --methods=method', '--out'),
    (C, COMPARE + '--methods=', 'methods'),
    (C, COMPARE + '--methods=metod', 'metod', 'method'),
    (C, COMPARE + '--methods=unknown', 'unknown.flags', 'learning_rat'),
    (C, COMPARE + '--methods=bytes', 'bytes.flags'),
    (C, COMPARE + '--method_flagfiles={w}/method.flags', 'method_flagfiles'),
    (C, COMPARE + '--seeds=-1 --budgets=macs=0.5', 'seeds', '-1'),
    (C, COMPARE + '--seeds=0,x', 'seeds', "'x'"),
    (C, COMPARE + '--seeds=0,0', 'seeds', '0,0'),
    (C, COMPARE + '--budgets=macs=0', 'macs', '0'),
    (C, COMPARE + '--budgets=macs=nan', 'macs', 'nan'),
    (C, COMPARE + '--budgets=macs', 'budgets', "'macs'"),
    (C, COMPARE + '--budgets=mac=0.5', "'mac=0.5'", "Did you mean 'macs'"),
    (C, COMPARE, 'method.flags', 'needs a budget'),
    (C, COMPARE + '--budgets=macs=0.5 --learning_rate=inf', 'learning_rate', 'inf'),
    (C, COMPARE + '--budgets=macs=0.5 --model=no.keras', 'no.keras'),
    (C, COMPARE + '--budgets=macs=0.5 --initial_weights=no.npz', 'no.npz'),
    (C, COMPARE + '--budgets=macs=0.5 --jobs=-1', 'jobs', '-1'),
    (C, COMPARE + '--budgets=macs=0.5 --devices=gpu', 'devices', "'gpu'"),
    (C, COMPARE + '--budgets=macs=0.5 --out={w}/a_file', 'a_file'),
    (C, COMPARE + '--budgets=macs=0.5 --out={w}/a_file/x', 'a_file'),
    (C, COMPARE + '--budgets=macs=0.5 --method=rlal', '--method'),
    (C, '--rows={w}/rows_short.jsonl', 'rows_short.jsonl'),
    (B, '', '--suite'),
    (B, '--suite=latency', 'suite', 'latency_table'),
    (B, '--suite=latency_table --table={o}', '--model'),
    (B, '--suite=latency_table --model=resnet8 --table={w}/t_list.json', 't_list.json'),
    (B, '--suite=latency_table --model={w}/nan.keras --table={o}', 'nan.keras'),
    (B, '--suite=latency_table --profiles={w}/classes --table={o} --device=x', 'points.json'),
    (B, '--suite=artifacts', 'artifacts'),
    (B, '--suite=artifacts --artifacts={w}/nowhere.tflite', 'nowhere.tflite'),
    (B, '--suite=artifacts --artifacts={w}/m.keras --artifact_threads=0', 'artifact_threads'),
    (B, '--suite=artifacts --artifacts={w}/m.keras --artifact_threads=many', "'many'"),
    (B, '--suite=applications --only=MobileNetV9', 'MobileNetV9'),
    (B, '--suite=training_step --models=resnet9 --step_rounds=1', 'resnet9'),
    (B, '--suite=search --search_runs={w}/classes', 'metrics.jsonl'),
    (B, '--suite=cost_model --out={o}/x/y.jsonl', 'out'),
    (B, '--suite=learning --search_epochs=99999999', 'search_epochs', '99999999'),
]

CALL = '''
import sys, tfprune, keras, numpy as np, tensorflow as tf
from tfprune import Config
model = keras.models.load_model('{w}/m.keras')
pixels = np.random.default_rng(0).uniform(0, 16, (100, 8, 8, 1)).astype('float32')
labels = np.arange(100) % 10

def of(pixels, labels):
    return tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(20)

def with_pixel(value):
    changed = pixels.copy()
    changed[7, 3, 3, 0] = value
    return of(changed, labels)

data = of(pixels, labels)
sets = dict(train_data=data, reward_data=data, test_data=data)
call = tfprune.train_and_prune
try:
    {call}
except (ValueError, TypeError, OSError) as error:
    print(error, file=sys.stderr)
    sys.exit(2)
'''
CALLS = [
    ('call()', 'model', 'train_data'),
    ('call(config={{}}, run_dir="{o}")', 'config', 'dict'),
    ('call(Config(macs=.5))', 'run_dir'),
    ('call(Config(macs=.5), 5)', 'run_dir', '5'),
    ('call(Config(macs=.5), "{o}", train_data=data)', 'train_data'),
    ('call(Config(macs=.5), "{o}", model=model, test_data=data)', 'model', 'test_data'),
    ('call(Config(macs=.5), "{o}", class_names=list("abc"))', 'class_names'),
    ('call(Config(macs=.5), "{o}", should_stop=True)', 'should_stop', 'True'),
    ('call(Config(macs=.5), "{o}", progress="no")', 'progress', 'no'),
    ('call(model="m.keras", **sets, macs=.5)', 'model', 'm.keras'),
    ('call(model=keras.models.load_model("{w}/vector.keras"), **sets, macs=.5)', '[None, 64]'),
    ('call(model=keras.Sequential([keras.layers.Dense(3)]), **sets, macs=.5)', 'sequential'),
    ('call(model=keras.models.load_model("{w}/nan.keras"), **sets, macs=.5)', 'second/kernel'),
    ('call(model=model, train_data=data, macs=.5)', 'reward_data', 'test_data'),
    ('call(model=model, **sets, learning_rat=.1)', 'learning_rat', "'learning_rate'"),
    ('call(model=model, **sets, dataset="digits")', 'dataset'),
    ('call(model=model, **sets, macs=float("nan"))', 'macs', 'nan'),
    ('call(model=model, **sets, macs="half")', 'macs', 'half'),
    ('call(model=model, **sets, macs=.5, method="rlla")', 'rlla', 'rlal'),
    ('call(model=model, **sets, macs=.5, run_dir="")', 'run_dir'),
    ('call(model=model, **sets, macs=.5, run_dir="{w}/classes")', 'classes'),
    ('call(model=model, **sets, macs=.5, seed=-1)', 'seed', '-1'),
    ('call(model=model, train_data=3, reward_data=data, test_data=data)', 'train_data', 'int'),
    ('tfprune.LatencyTable.load("{w}/t_nan.json")', 't_nan.json', 'nan'),
    ('tfprune.LatencyTable.load("{w}/nowhere.json")', 'nowhere.json'),
]

OTHERS += [  # what data sets, folders and methods refuse
    (T, f'{BASE} --run_dir={{o}} --method=amc --amc.episodes=5', 'amc.warmup_episodes'),
    (T, f'{BASE} --run_dir={{o}} --method=rlal --random_epochs=0 --joint_epochs=0', 'rlal',
     'joint_epochs'),
    (T, f'{BASE} --run_dir={{o}} --dataset=folder --data_dir={{w}}/fifo --image_size=8', 'x.png'),
]
CALLS += [
    *((f'call(model=model, **sets | dict({name}={data}), macs=.5)', name, *more)
      for name in ('train_data', 'reward_data', 'test_data') for data, *more in (
          ('with_pixel(np.nan)', 'nan'), ('with_pixel(np.inf)', 'inf'),
          ('of(pixels.astype(complex), labels)', 'complex'),
          ('of(pixels.astype(str), labels)', 'string'),
          ('of(pixels, np.full((100, 10), np.nan))', 'nan'))),
    ('call(model=model, **sets, macs=.5, class_names="abcdefghij")', 'class_names'),
    ('call(model=model, **sets, macs=.5, class_names=["a"] * 10)', 'class_names', "'a'"),
    ('tfprune.export_model(None, "{o}")', 'model', 'None'),
    ('tfprune.export_model(keras.models.load_model("{w}/nan.keras"), "{o}")', 'second/kernel'),
]

ROWS = [*((T, f'{BASE} --run_dir={{o}} {flags}', *culprits) for flags, *culprits in TRAIN),
        (T, BASE, '--run_dir'), *OTHERS]
CHUNKS = 12
WRITTEN_ANEW = ('.lock', 'data.json', 'groups.json', 'cost.json', 'training.json')


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp('world')
    make_world(folder)
    return folder


@pytest.fixture(scope='module')
def server():
    server = ScriptServer()
    yield server
    server.close()


def test_there_are_rows_enough():
    assert len(ROWS) + len(CALLS) >= 150
    assert {row[0] for row in ROWS} == {T, A, E, X, R, C, B}


@pytest.mark.parametrize('chunk', range(CHUNKS))
def test_bad_input_to_scripts(chunk, world, server, tmp_path):
    check(ROWS[chunk::CHUNKS], world, tmp_path, lambda script, flags, cwd: server.run(
        script, *shlex.split(flags), cwd=cwd))


@pytest.mark.parametrize('chunk', range(2))
def test_bad_input_to_calls(chunk, world, server, tmp_path):
    rows = [('call', *row) for row in CALLS[chunk::2]]
    check(rows, world, tmp_path, lambda _, call, cwd: server.run(
        code=CALL.replace('{call}', call).replace('{w}', str(world)), cwd=cwd))


def check(rows, world, tmp_path, run):
    """Runs rows in an empty folder each; lists all that are answered otherwise than they should."""
    before, wrong = state(world), []
    for number, (script, text, *culprits) in enumerate(rows):
        cwd = tmp_path / str(number)
        cwd.mkdir()
        done = run(script, text.replace('{w}', str(world)).replace('{o}', str(cwd / 'new'))
                   .replace('{{', '{').replace('}}', '}'), cwd)
        lines = said(done.err)
        reasons = [f'exit code {done.code}'] * (done.code != 2)
        reasons += ['not one line'] * (len(lines) != 1)
        reasons += [f'no {culprit!r}' for culprit in culprits if culprit not in ''.join(lines)]
        reasons += [f'left {path.name}' for path in cwd.iterdir()]
        after = state(world)
        reasons += [f'changed {path}' for path in before.keys() ^ after.keys()
                    | {path for path in before if before[path] != after.get(path)}]
        before = after
        if reasons:
            wrong.append(f'{script} {text}\n  {", ".join(reasons)}\n  ' + '\n  '.join(lines[-12:]))
    assert not wrong, '\n'.join([f'{len(wrong)} of {len(rows)}:', *wrong])


def state(folder):
    """{path: time of its last change} of all files but those that each start of a run writes."""
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob('*')
            if path.is_file() and path.name not in WRITTEN_ANEW}


def said(err):
    """Lines of stderr, without TensorFlow's log and progress bars."""
    lines = [line.split('\r')[-1].strip() for line in err.splitlines()]
    return [line for line in lines
            if line and not re.match(r'[IWE]\d{4} \d\d:|epoch \d+/\d+: ', line)]
