"""A user's own .keras file: loaded as it is, or refused in one line that names the culprit."""
import tfprune  # noqa: F401  (first: sets up Keras)

import sys
import types

import keras
import numpy as np
import pytest
from keras import layers

from tfprune.models.building import build_model
from tfprune.models.initial_weights import load_initial_weights
from tfprune.models.model_files import as_classifier, run_custom_layers
from tfprune.models.names import is_model_file
from tfprune.runs.config import Config
from tfprune.runs.run import train_and_prune
from tfprune.structure.groups import trace_groups
from tfprune.testing import check_promises, randomize

DATA = dict(image_shape=(8, 8, 3), num_classes=4, mean=(0., 0., 0.), std=(1., 1., 1.))


def classifier(shape=(8, 8, 3), classes=4, activation=None, middle=(), name='mine', **ends):
    image = keras.Input(shape, name='pixels')
    x = layers.Rescaling(1 / 128, offset=-1, name='scale')(image)
    x = layers.Conv2D(5, 3, use_bias=False, name='conv')(x)
    x = layers.ReLU(name='relu')(layers.BatchNormalization(name='bn')(x))
    for layer in middle:
        x = layer(x)
    x = layers.GlobalAveragePooling2D(name='pool')(x)
    x = layers.Dense(classes, activation=activation, name='scores', **ends)(x)
    return keras.Model(image, x, name=name)


def saved(model, folder, name='model.keras'):
    model.save(folder / name)
    return str(folder / name)


def images(shape=(8, 8, 3)):
    return np.random.default_rng(0).uniform(0, 255, (2, *shape)).astype('float32')


def refusal(path, error=ValueError, **changes):
    with pytest.raises(error) as caught:
        build_model(path, **{**DATA, **changes})
    message = str(caught.value)
    assert '\n' not in message and path in message and len(message) < 500
    return message


def test_a_file_is_loaded_as_it_is(tmp_path):
    model = randomize(classifier())
    model.compile('adam', 'mse')
    loaded = build_model(saved(model, tmp_path), **DATA)
    np.testing.assert_array_equal(loaded(images()), model(images()))
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]
    assert not loaded.compiled
    assert dict(trace_groups(loaded)) == {'conv': 5}


def test_a_sequential_file_and_a_softmax(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(5, 3), layers.Flatten(),
                              layers.Dense(4, 'softmax')])
    loaded = build_model(saved(model, tmp_path), **DATA)
    np.testing.assert_array_equal(loaded(images()), model(images()))


def test_outputs_in_a_dict_or_a_list_come_out_of_it(tmp_path):
    model = classifier()
    for structure in ({'scores': model.output}, [model.output]):
        wrapped = keras.Model({'pixels': model.input}, structure, name='wrapped')
        loaded = build_model(saved(wrapped, tmp_path), **DATA)
        np.testing.assert_array_equal(loaded(images()), model(images()))
        assert loaded.name == 'wrapped'


def test_what_is_meant_as_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'resnet20').mkdir()
    (tmp_path / 'export').mkdir()
    for name in ('model.keras', 'a/b', 'model.h5', 'export'):
        assert is_model_file(name)
    for name in ('resnet20', 'resnet21', ''):
        assert not is_model_file(name)


# Other files.

def test_missing_file(tmp_path):
    assert refusal(str(tmp_path / 'none.keras'), FileNotFoundError).endswith('no such file')


def test_other_formats(tmp_path):
    (tmp_path / 'model.h5').write_bytes(b'\x89HDF')
    assert 'expected a .keras file, received an HDF5 file' in refusal(str(tmp_path / 'model.h5'))
    (tmp_path / 'served').mkdir()
    assert 'received a directory' in refusal(str(tmp_path / 'served'))
    (tmp_path / 'served/saved_model.pb').touch()
    assert 'received a SavedModel; model.save(' in refusal(str(tmp_path / 'served'))
    assert "a file of suffix '.tflite'" in refusal(str(tmp_path / 'model.tflite'))


@pytest.mark.parametrize('kept', [0, 20, 0.5])
def test_damaged_zip(tmp_path, kept):
    path = saved(classifier(), tmp_path)
    content = open(path, 'rb').read()
    with open(path, 'wb') as file:
        file.write(content[:kept if isinstance(kept, int) else int(len(content) * kept)])
    assert 'not a .keras file (a zip archive), or a damaged one' in refusal(path)


def test_damaged_weights(tmp_path):
    path = saved(classifier(), tmp_path)
    content = bytearray(open(path, 'rb').read())
    place = content.index(b'HDF')
    content[place:place + 400] = b'x' * 400
    with open(path, 'wb') as file:
        file.write(content)
    assert 'cannot be loaded: ' in refusal(path)


# Code in the file.

def test_lambda(tmp_path):
    model = classifier(middle=[layers.Lambda(lambda x: x * 2, name='twice')])
    message = refusal(saved(model, tmp_path))
    assert "layer 'twice' is a Lambda, whose code is in the file and is not run" in message
    nested = keras.Sequential([keras.Input((8, 8, 3)), model])
    assert "layer 'twice' is a Lambda" in refusal(saved(nested, tmp_path))


class Halve(keras.layers.Layer):

    def call(self, x):
        return x / 2


def doubled(x):
    return x * 2


def test_a_custom_class_loads_only_when_it_is_registered(tmp_path, monkeypatch):
    # That its module can be imported is no permission.
    module = types.ModuleType('someones_layers')
    module.Halve = Halve
    monkeypatch.setitem(sys.modules, 'someones_layers', module)
    monkeypatch.setattr(Halve, '__module__', 'someones_layers')
    model = randomize(classifier(middle=[Halve(name='half')]))
    path = saved(model, tmp_path)
    message = refusal(path)
    assert "Could not locate class 'Halve'" in message and 'register_keras_serializable' in message
    with keras.saving.custom_object_scope({'Halve': Halve}):
        loaded = build_model(path, **DATA)
    np.testing.assert_array_equal(loaded(images()), model(images()))
    assert 'conv' in trace_groups(loaded)  # it is opened


OWN_LAYERS = """
import keras
from tfprune.structure.layer_rules import RULES, LayerRule

@keras.saving.register_keras_serializable('own_layers')
class Third(keras.layers.Layer):
    def call(self, x):
        return x / 3

RULES[Third] = LayerRule()
"""


def test_a_file_of_custom_layers_is_run_on_request(tmp_path):
    (tmp_path / 'own.py').write_text(OWN_LAYERS)
    run_custom_layers(f'{tmp_path}/own.py, ')
    third = keras.saving.get_registered_object('own_layers>Third')
    model = randomize(classifier(middle=[third(name='third')]))
    path = saved(model, tmp_path)
    loaded = build_model(path, **DATA)
    assert dict(trace_groups(loaded)) == {'conv': 5}  # by the rule in the file
    np.testing.assert_array_equal(loaded(images()), model(images()))
    (tmp_path / 'bad.py').write_text('import keras\nkeras.layers.Conv9D()')
    with pytest.raises(ValueError, match="^custom_layers .*bad.py: AttributeError: .*'Conv9D'$"):
        run_custom_layers(f'{tmp_path}/own.py,{tmp_path}/bad.py')
    with pytest.raises(ValueError, match='^custom_layers nowhere.py: no such file$'):
        run_custom_layers('nowhere.py')


def test_a_model_of_any_size_becomes_one_of_the_data(tmp_path):
    for name, shape in (('any', (None, None, 3)), ('any_width', (8, None, 3))):
        model = randomize(classifier(shape, middle=[layers.MaxPooling2D()]))
        loaded = build_model(saved(model, tmp_path, f'{name}.keras'), **DATA)
        assert loaded.input_shape == (None, 8, 8, 3) and loaded.name == 'mine'
        np.testing.assert_array_equal(loaded(images()), model(images()))
        groups = trace_groups(loaded)
        assert dict(groups) == {'mine/conv': 5}
        masks = {'mine/conv': np.array([1, 0, 1, 1, 0], bool)}
        assert check_promises(loaded, masks, groups=groups, inputs=images()).hold()


@pytest.mark.keras('3.13')
def test_images_that_are_too_small_are_named(tmp_path):
    too_small = classifier((None, None, 3), middle=[layers.MaxPooling2D(9)])
    assert 'does not take images [8, 8, 3]: ' in refusal(saved(too_small, tmp_path))


def test_a_custom_function_is_named(tmp_path):
    message = refusal(saved(classifier(activation=doubled), tmp_path))
    assert "Could not locate function 'doubled'" in message
    assert 'register_keras_serializable' in message


class Subclassed(keras.Model):

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = classifier()

    def call(self, x):
        return self.inner(x)


def test_a_subclassed_model(tmp_path):
    model = Subclassed()
    model(images())
    path = saved(model, tmp_path)
    assert "Could not locate class 'Subclassed'" in refusal(path)
    with keras.saving.custom_object_scope({'Subclassed': Subclassed}):
        assert '(Subclassed) is a subclassed model' in refusal(path)


def test_an_unbuilt_sequential(tmp_path):
    model = keras.Sequential([layers.Conv2D(3, 3), layers.Flatten(), layers.Dense(4)], name='seq')
    assert "model 'seq' is not built" in refusal(saved(model, tmp_path))


# What does not fit.

def two_inputs():
    a, b = keras.Input((8, 8, 3), name='a'), keras.Input((8, 8, 3), name='b')
    return keras.Model([a, b], classifier()(layers.Add()([a, b])))


def two_outputs():
    model = classifier()
    return keras.Model(model.input, [model.output, layers.Dense(2, name='other')(model.output)])


def frozen():
    model = classifier()
    model.trainable = False
    return model


@pytest.mark.parametrize('build, message', [
    (lambda: classifier((160, 160, 3)),
     'takes images [160, 160, 3], those of the data are [8, 8, 3]: --image_size=160 resizes those'),
    (lambda: classifier((8, 8, 1)), 'takes images [8, 8, 1], those of the data are [8, 8, 3]'),
    (lambda: classifier((None, None, 1)),
     'takes images [None, None, 1], those of the data are [8, 8, 3]'),
    (lambda: keras.Sequential([keras.Input((64,)), layers.Dense(4)]),
     'expected an input of images [None, height, width, channels], received [None, 64]'),
    (lambda: keras.Sequential([keras.Input(batch_shape=(1, 8, 8, 3)), layers.Flatten(),
                               layers.Dense(4)]), 'received [1, 8, 8, 3]'),
    (lambda: classifier(classes=1000), 'gives 1000 outputs, the data have 4 classes'),
    (lambda: classifier(classes=1),
     'gives 1 outputs, the data have 4 classes (one output a class, also for two)'),
    (lambda: keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3)]),
     'expected an output [None, classes], received [None, 6, 6, 4]'),
    (two_inputs, 'expected one input, received 2: a, b'),
    (two_outputs, 'expected one output, received 2: scores, other'),
    (lambda: classifier(activation='sigmoid'), 'ends in a sigmoid; expected logits or a softmax'),
    (frozen, 'has no trainable weights'),
    (lambda: classifier(middle=[layers.Conv2D(3, 1, dtype='mixed_float16', name='fast')]),
     "layer 'fast' computes in float16, which needs loss scaling"),
], ids=lambda value: value[:40] if isinstance(value, str) else '')
def test_what_is_no_classifier_of_these_images(tmp_path, build, message):
    assert message in refusal(saved(build(), tmp_path))


def test_one_class(tmp_path):
    with pytest.raises(ValueError, match='num_classes: expected at least 2, received 1'):
        build_model(saved(classifier(classes=1), tmp_path), **{**DATA, 'num_classes': 1})


def test_a_model_in_memory_is_checked_alike():
    model = classifier()
    assert as_classifier(model, source='model', image_shape=(8, 8, 3), num_classes=4) is model
    with pytest.raises(ValueError, match='^model: gives 4 outputs, the data have 10 classes$'):
        as_classifier(model, source='model', image_shape=(8, 8, 3), num_classes=10)
    with pytest.raises(ValueError, match='^model: model must be a Keras 3 model'):
        as_classifier('a.keras', source='model', image_shape=(8, 8, 3), num_classes=10)


# What else acts on a model.

def test_dtype_policy_is_the_files_own(tmp_path):
    path = saved(classifier(), tmp_path)
    assert ('its layers have their own dtype policy, float32; for mixed_bfloat16 build'
            in refusal(path, dtype_policy='mixed_bfloat16'))
    keras.config.set_dtype_policy('mixed_bfloat16')
    try:
        path = saved(classifier(), tmp_path)
    finally:
        keras.config.set_dtype_policy('float32')
    for policy in ('mixed_bfloat16', 'float32'):
        loaded = build_model(path, **DATA, dtype_policy=policy)
        assert loaded.get_layer('conv').compute_dtype == 'bfloat16'


@pytest.mark.parametrize('suffix', ['.keras', '.weights.h5'])
def test_initial_weights_for_a_model_with_a_model_in_it(tmp_path, suffix):
    def nested(seed):
        inner = randomize(classifier(name='inner'), seed)
        image = keras.Input((8, 8, 3))
        return keras.Model(image, layers.Dense(4, name='head')(inner(image)))

    source, target = nested(1), build_model(saved(nested(2), tmp_path), **DATA)
    source.save(tmp_path / 'w.keras') if suffix == '.keras' else source.save_weights(
        tmp_path / 'w.weights.h5')
    load_initial_weights(target, tmp_path / f'w{suffix}')
    for one, other in zip(source.get_weights(), target.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.savez(tmp_path / 'w.npz', **{'inner/kernel': np.zeros(1)})
    with pytest.raises(ValueError, match="layer 'inner' has layers of its own, whose 'kernel'"):
        load_initial_weights(target, tmp_path / 'w.npz')


# A run.

@pytest.mark.slow
def test_a_run_prunes_the_users_model_and_knows_its_file(tmp_path):
    """No training before surgery: the weights of the file decide, and are the report's dense."""
    path = saved(randomize(classifier((8, 8, 1), 10, 'softmax')), tmp_path)
    config = Config(
        model=path, dataset='digits', method='uniform', macs=0.5, warmup_epochs=0, random_epochs=0,
        joint_epochs=0, alignment_epochs=0, fine_tune_epochs=1, lr_warmup_epochs=0.0,
        batch_size=256, reward_images=100, score_images=100, score_batch_size=100,
        calibration_batches=1)
    result = train_and_prune(config, tmp_path / 'run', progress=False)
    assert 0 < result.model.get_layer('conv').filters < 5
    assert result.model.get_layer('scores').activation is keras.activations.softmax
    np.testing.assert_allclose(result.model(images((8, 8, 1))).numpy().sum(1), 1, rtol=1e-5)
    assert result.report['model'] == path and result.report['dense']['test_accuracy'] is not None
    dense = keras.models.load_model(tmp_path / 'run/dense.keras')
    np.testing.assert_array_equal(dense.get_layer('conv').kernel,
                                  keras.models.load_model(path).get_layer('conv').kernel)
    again = train_and_prune(config, tmp_path / 'run', progress=False).report
    assert again['pruned'] == result.report['pruned']
    saved(randomize(classifier((8, 8, 1), 10, 'softmax'), seed=1), tmp_path)
    with pytest.raises(ValueError, match='run began with another content of --model. Choose'):
        train_and_prune(config, tmp_path / 'run', progress=False)


def test_a_file_that_does_not_fit_leaves_no_run_behind(tmp_path):
    path = saved(classifier((8, 8, 3), 10), tmp_path)
    config = Config(model=path, dataset='digits', macs=0.5, batch_size=256, reward_images=100,
                    score_images=100, score_batch_size=100)
    with pytest.raises(ValueError, match=r'takes images \[8, 8, 3\], those of the data are \[8, 8'):
        train_and_prune(config, tmp_path / 'run', progress=False)
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('model_name, layer_name, culprit', [
    ('my model', 'mixer', 'my model'), ('mine', 'my layer', 'my layer'), ('mine', 'é', 'é'),
    ('_mine', 'mixer', '_mine'), ('mine', '_mixer', '_mixer')])
def test_names_that_tensorflow_cannot_trace_are_refused_at_once(
        model_name, layer_name, culprit, tmp_path):
    image = keras.Input((8, 8, 3), name='an image')  # this may be
    x = layers.Conv2D(4, 3, name=layer_name)(image)
    x = layers.Dense(10, name='logits')(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, x, name=model_name)
    data = [(images(), np.arange(len(images())) % 10)] * 3

    def task():
        model.compile('adam', 'mse')
        tfprune.train_and_prune(model, *[(x, np.zeros((len(x), 10))) for x, _ in data], macs=0.5)

    for refused in (lambda: tfprune.train_and_prune(model, *data, macs=0.5),
                    lambda: tfprune.export_model(model, tmp_path / 'export'), task):
        with pytest.raises(ValueError, match=f"no graph of the name '{culprit}'") as error:
            refused()
        assert len(str(error.value).splitlines()) == 1
    assert f"the name '{culprit}'" in refusal(saved(model, tmp_path))
