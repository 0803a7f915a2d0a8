"""A folder of files, most of them broken, and the commands that they are given to.

A row is (script, flags, culprits): the flags as in a shell, {w} being the folder of files, which
stays as it is, and {o} a path where nothing is yet, where nothing is left behind; culprits are
texts that the one line of stderr must have, all of them.
"""
import copy
import json
import os
import pathlib
import shutil
import zipfile

import tfprune  # noqa: F401  (before keras)
import keras
import numpy as np

from made_up_runs import make_run
from tfprune.latency.build import add_model
from tfprune.latency.table import LatencyTable
from tfprune.report.rows import run_row, write_rows_file
from tfprune.runs.config import Config
from tfprune.structure.groups import trace_groups

BASE = ('--dataset=digits --model=resnet8 --method=uniform --macs=0.5 --warmup_epochs=1 '
        '--random_epochs=0 --joint_epochs=0 --alignment_epochs=0 --fine_tune_epochs=1 '
        '--batch_size=512 --reward_images=100 --score_images=100 --score_batch_size=100')
RUN = Config(dataset='digits', model='resnet8', method='uniform', macs=0.5, warmup_epochs=1,
             random_epochs=0, joint_epochs=0, alignment_epochs=0, fine_tune_epochs=1,
             batch_size=512, reward_images=100, score_images=100, score_batch_size=100)

_LAYER = '''
import keras
@keras.saving.register_keras_serializable(package='mine')
class Mine(keras.layers.Layer):
    def call(self, x, training=False):
        if training:
            {}
        return x * 1.0
'''


def make_world(folder: pathlib.Path) -> None:
    """Writes all files that rows name."""
    _models(folder)
    _tables(folder)
    _runs(folder)
    _flagfiles(folder)
    (folder / 'a_file').write_text('mine')
    for name in ('one/a', 'two/a', 'two/b'):
        (folder / 'classes' / name).mkdir(parents=True)
    for name in 'ab':
        (folder / 'fifo' / name).mkdir(parents=True)
        for number in range(30):
            keras.utils.save_img(folder / f'fifo/{name}/{number}.png', np.zeros((8, 8, 3)))
    os.mkfifo(folder / 'fifo/b/x.png')


def small(size=(8, 8, 1), outputs=10, last=None, custom=None):
    image = keras.Input(size)
    x = keras.layers.Rescaling(1 / 16)(image)
    x = keras.layers.Conv2D(8, 3, name='first')(x)
    x = custom(x) if custom else x
    x = keras.layers.Conv2D(8, 3, name='second')(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(outputs, activation=last, name='logits')(x))


def _models(folder):
    for name, text in (('raises', "raise ValueError('MINE cannot train')"),
                       ('key', 'return {}["no such key"]'), ('exits', 'raise SystemExit(4)'),
                       ('shape', 'return keras.ops.reshape(x, (3, 5))')):
        (folder / f'{name}.py').write_text(_LAYER.format(text))
    for name, text in (('exit', 'import sys\nsys.exit(3)'), ('syntax', 'def ('),
                       ('error', "raise KeyError('gamma')"), ('imports', 'import no_such_module')):
        (folder / f'{name}.py').write_text(text)
    scope: dict = {}
    exec((folder / 'raises.py').read_text(), scope)
    small(custom=scope['Mine']()).save(folder / 'mine.keras')
    model = small()
    model.save(folder / 'm.keras')
    model.save_weights(folder / 'm.weights.h5')
    np.savez(folder / 'other.npz', kernel=np.zeros(3))
    (folder / 'cut.keras').write_bytes((folder / 'm.keras').read_bytes()[:-300])
    (folder / 'text.keras').write_text('no zip')
    (folder / 'text.npz').write_text('no zip')
    (folder / 'text.h5').write_text('no hdf5')
    (folder / 'a.tflite').write_text('no flatbuffer')
    small((16, 16, 1)).save(folder / 'large.keras')
    small(outputs=7).save(folder / 'seven.keras')
    small(last='sigmoid').save(folder / 'sigmoid.keras')
    small((None, None, 1)).save(folder / 'any.keras')
    keras.Sequential([keras.Input((None, None, 1)), keras.layers.Conv2D(8, 9),
                      keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(10)]
                     ).save(folder / 'unsuited.keras')
    keras.Model(model.inputs, [model.output, model.get_layer('second').output]
                ).save(folder / 'two.keras')
    keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)]).save(folder / 'vector.keras')
    keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Lambda(lambda x: x + 1.0),
                      keras.layers.Flatten(), keras.layers.Dense(10)]).save(folder / 'code.keras')
    kernel, bias = model.get_layer('second').get_weights()
    model.get_layer('second').set_weights([np.full_like(kernel, np.nan), bias])
    model.save(folder / 'nan.keras')
    with zipfile.ZipFile(folder / 'm.keras') as old, zipfile.ZipFile(
            folder / 'nested.keras', 'w') as new:
        for name in old.namelist():
            new.writestr(name, '[' * 200_000 if name == 'config.json' else old.read(name))
    resnet = tfprune.build_model('resnet8', image_shape=(8, 8, 1), num_classes=10, mean=[.3],
                                 std=[.4])
    arrays = {f'{layer.name}/{variable.name}': keras.ops.convert_to_numpy(variable)
              for layer in resnet.layers for variable in layer.variables}
    arrays['logits/bias'] = np.full_like(arrays['logits/bias'], np.inf)
    np.savez(folder / 'inf.npz', **arrays)


def _tables(folder):
    model = small()
    table = LatencyTable({'machine': 'made up', 'runtime': 'none', 'threads': 1}, [0.1])
    add_model(table, model)
    for surface in table.surfaces.values():
        surface.ms = [[[0.2 + 0.01 * (i + j)] for j in range(len(surface.outs))]
                      for i in range(len(surface.ins))]
    table.save(folder / 'table.json')
    content = json.loads((folder / 'table.json').read_text())
    name = max(content['surfaces'], key=lambda n: len(content['surfaces'][n]['ins']))
    digest = next(iter(content['models']))
    groups = len(trace_groups(model).layout.names)

    def write(file, change):
        changed = copy.deepcopy(content)
        change(changed)
        (folder / file).write_text(json.dumps(changed))

    for file, value in (('negative', -0.2), ('nan', float('nan')), ('infinite', float('inf')),
                        ('huge', 1e300), ('string', '0.2'), ('null', None)):
        write(f't_{file}.json', lambda c: c['surfaces'][name].update(ms=[
            [[value] for _ in row] for row in c['surfaces'][name]['ms']]))
    write('t_ragged.json', lambda c: c['surfaces'][name]['ms'][0].pop())
    write('t_empty.json', lambda c: c['surfaces'][name].update(ins=[]))
    write('t_falling.json', lambda c: c['surfaces'][name]['ins'].reverse())
    write('t_about.json', lambda c: c.update(about=['phone']))
    write('t_threads.json', lambda c: c['about'].update(threads='two'))
    write('t_files.json', lambda c: c['about'].update(form='int4'))
    write('t_call.json', lambda c: c.update(call_ms=[-5.0]))
    write('t_version.json', lambda c: c.update(latency_table=7))
    write('t_group.json', lambda c: c['models'][digest]['steps'][0]['in'].update(
        counts={str(groups + 5): 1}))
    write('t_form.json', lambda c: c['models'][digest]['steps'][0].update({'in': [1, 2]}))
    write('t_key.json', lambda c: c.pop('surfaces'))

    def silence(c):
        c['call_ms'] = [0.0]
        for surface in c['surfaces'].values():
            surface['ms'] = [[[0.0] for _ in row] for row in surface['ms']]

    write('t_zero.json', silence)
    (folder / 't_list.json').write_text('[1, 2]')
    (folder / 't_bytes.json').write_bytes(b'\xff\xfe\x00')


def _runs(folder):
    runs = folder / 'runs'
    make_run(runs / 'done')
    for name, file, text in (
            ('report_empty', 'report.json', '{}'), ('report_null', 'report.json', 'null'),
            ('report_list', 'report.json', '[]'), ('config_list', 'config.json', '[1]'),
            ('environment_list', 'environment.json', '[1, 2]'), ('data_list', 'data.json', '[3]'),
            ('metrics_rows', 'metrics.jsonl', '{"loss": 1}\n'),
            ('episodes_rows', 'episodes.jsonl', '3\n'), ('metrics_text', 'report.json', '{"a":')):
        shutil.copytree(runs / 'done', runs / name)
        (runs / name / file).write_text(text)
    text = (runs / 'done/report.json').read_text()
    for name, old, new in (('dense_null', '"dense": {', '"dense": null, "x": {'),
                           ('accuracy_text', '"test_accuracy": 0.95', '"test_accuracy": "good"')):
        shutil.copytree(runs / 'done', runs / name)
        assert old in text
        (runs / name / 'report.json').write_text(text.replace(old, new))
    shutil.copytree(runs / 'done', runs / 'no_epochs')
    (runs / 'no_epochs/report.json').write_text(text.replace('"epochs"', '"eopchs"'))
    # As scripts/train.py with BASE would have left them, up to a file.
    for name, files in (
            ('t_report_empty', {'report.json': '{}'}), ('t_report_null', {'report.json': 'null'}),
            ('t_report_text', {'report.json': '"done"'}),
            ('t_environment', {'environment.json': '[1, 2]', 'export/x': ''}),
            ('t_environment_files', {'environment.json': '{"files": 3}', 'export/x': ''}),
            ('t_data', {'data.json': '[1]', 'export/x': ''}),
            ('t_metrics', {'metrics.jsonl': '{"loss": 1}\n', 'export/x': ''}),
            ('t_config_text', {'config.json': '{"method"', 'export/x': ''}),
            ('t_other', {'export/x': '', 'config.json': json.dumps(
                RUN.replace(seed=7).to_json())}),
            ('t_no_export', {'report.json': json.dumps(_report())}),
            ('t_decision', {**_after_surgery(), 'decision.json': '{}'}),
            ('t_decision_list', {**_after_surgery(), 'decision.json': '[]'}),
            ('t_decision_other', {**_after_surgery(), 'decision.json': json.dumps(
                {'groups': {'other': {'width': 1, 'dense_width': 2, 'kept': [0]}}, 'removed': [],
                 'search_equivalents': 0.0})}),
            ('t_decision_range', {**_after_surgery(), 'decision.json': json.dumps(
                {'groups': {'other': {'width': 1, 'dense_width': 2, 'kept': [9]}}, 'removed': ['x'],
                 'search_equivalents': 0.0})}),
            ('t_no_decision', _after_surgery()),
            ('t_manifest', {'checkpoints/e00001_s00000000/manifest.json': '[1]'})):
        for path, text in {'config.json': json.dumps(RUN.to_json()), 'config.flags': '',
                           '.lock': '', 'environment.json': '{}', **files}.items():
            (runs / name / path).parent.mkdir(parents=True, exist_ok=True)
            (runs / name / path).write_text(text)
    for name, content in (('source_empty', '{}'), ('source_list', '[]')):
        (runs / name).mkdir()
        (runs / name / 'config.json').write_text(content)
        (runs / name / 'dense.keras').touch()
    shutil.copytree(runs / 'done', runs / 'source_other')
    (runs / 'source_other/dense.keras').touch()
    row = run_row(runs / 'done')
    write_rows_file(folder / 'rows.jsonl', [row])
    (folder / 'rows_bytes.jsonl').write_bytes(b'\xff\xfe')
    (folder / 'rows_short.jsonl').write_text('{"run": "x"}\n')
    (folder / 'rows_list.jsonl').write_text('[1, 2]\n')
    (folder / 'rows_cut.jsonl').write_text(json.dumps(row)[:-5] + '\n')
    (folder / 'rows_text.jsonl').write_text(json.dumps(row | {'macs': 'many'}) + '\n')
    (folder / 'rows_less.jsonl').write_text(json.dumps(
        {k: v for k, v in row.items() if k != 'test_accuracy'}) + '\n')


def _report():
    from made_up_runs import make_report
    return make_report('uniform')


def _after_surgery():
    return {'checkpoints/e00002_s00000000/manifest.json': json.dumps(
        {'position': {'epoch': 2, 'step': 0, 'seconds': 1.0, 'round': 0}, 'sha256': {}})}


def _flagfiles(folder):
    (folder / 'bytes.flags').write_bytes(b'--seed=1\n\xff\xfe\n')
    (folder / 'itself.flags').write_text(f'--seed=1\n--flagfile={folder}/itself.flags\n')
    (folder / 'round.flags').write_text(f'--flagfile={folder}/round2.flags\n')
    (folder / 'round2.flags').write_text(f'--flagfile={folder}/round.flags\n')
    (folder / 'unknown.flags').write_text('--learning_rat=0.1\n')
    (folder / 'value.flags').write_text('--batch_size=many\n')
    (folder / 'missing.flags').write_text('--flagfile=nowhere.flags\n')
    (folder / 'stray.flags').write_text('batch_size=4\n')
    (folder / 'method.flags').write_text('--dataset=digits\n--model=resnet8\n--method=uniform\n')
