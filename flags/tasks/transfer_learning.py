"""Transfer learning as Keras' guide does it, and what is pruned at each stage.

    IMAGENETTE_DIR=… python flags/tasks/transfer_learning.py

A backbone of keras.applications learns seven classes of Imagenette (in place of ImageNet, whose
weights need a download: `weights='imagenet'`). A new head then learns the other three, first alone,
then with the backbone unfrozen at a low rate. tfprune is asked for half of the multiply-adds at
each stage: while the backbone is frozen nothing may be taken from it, as its layers could not make
up for what they no longer read; once it trains, its channels go and come back in fine-tuning.
"""
import collections
import os
import pathlib
import re
import tempfile

import tfprune  # before tensorflow and keras
import keras
from keras import layers

SIZE = 64
JIT = False  # on a CPU XLA is several times slower
FIRST, FEW = slice(0, 7), slice(7, 10)  # of the classes, by name
OPTIONS = {'macs': 0.5, 'method': 'uniform', 'warmup_epochs': 0, 'random_epochs': 0,
           'joint_epochs': 0, 'alignment_epochs': 0, 'fine_tune_epochs': 6}


def main():
    keras.utils.set_random_seed(0)
    folder = os.environ['IMAGENETTE_DIR']
    classes = sorted(os.listdir(os.path.join(folder, 'train')))
    base = keras.applications.MobileNetV2((SIZE, SIZE, 3), alpha=0.35, include_top=False,
                                          weights=None)
    for layer in base.layers:  # 0.999 is for longer training than this
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9
    train, _, test = pictures(folder, classes[FIRST])
    known = with_head(base, 7)
    known.compile(keras.optimizers.Adam(2e-3), loss(), metrics=['accuracy'], jit_compile=JIT)
    known.fit(train, epochs=8, verbose=2)
    say('backbone, seven classes', known, test)

    train, held_out, test = pictures(folder, classes[FEW])
    base.trainable = False
    model = with_head(base, 3)
    model.compile(keras.optimizers.Adam(1e-3), loss(), metrics=['accuracy'], jit_compile=JIT)
    model.fit(train, epochs=4, verbose=2)
    say('head alone, backbone frozen', model, test)
    explain(model)

    base.trainable = True
    model.compile(keras.optimizers.Adam(2e-4), loss(), metrics=['accuracy'], jit_compile=JIT)
    model.fit(train, epochs=4, verbose=2)
    say('backbone unfrozen', model, test)
    explain(model)
    pruned = tfprune.train_and_prune(model, train, held_out, test, class_names=classes[FEW],
                                     run_dir=os.environ.get('RUN_DIR'), **OPTIONS)
    pruned.compile(loss=loss(), metrics=['accuracy'])
    say('pruned to half, fine-tuned', pruned, test)


def with_head(base, classes):
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = base(x)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(classes)(x))


def loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def pictures(folder, classes):
    """(train, held out, test) of some classes, as datasets of Keras."""
    chosen = pathlib.Path(tempfile.mkdtemp())
    for split in ('train', 'val'):
        (chosen / split).mkdir()
        for name in classes:
            (chosen / split / name).symlink_to(pathlib.Path(folder, split, name).resolve())

    def read(split, **options):
        return keras.utils.image_dataset_from_directory(
            chosen / split, image_size=(SIZE, SIZE), batch_size=32, seed=0, verbose=False,
            follow_links=True, **options)

    return (read('train', validation_split=0.1, subset='training'),
            read('train', validation_split=0.1, subset='validation').cache(), read('val').cache())


def explain(model):
    """What may be pruned, and why the rest may not."""
    groups = tfprune.trace_groups(model)
    print(f'    groups that may be pruned: {len(groups)} of {len(groups.groups)}')
    because = collections.Counter(re.sub("'[^']*'", '…', reason.partition(': ')[2])
                                  for reason in groups.unprunable.values())
    for reason, count in because.most_common(4):
        print(f'    {count} stay: {reason}')
    try:
        tfprune.prune_to_budget(model, macs=0.5)
    except ValueError as error:
        print(f'    half of the multiply-adds: {error}')


def say(stage, model, test):
    _, accuracy = model.evaluate(test, verbose=0)
    print(f'{stage}: test accuracy {accuracy:.2%}, {model.count_params():,} parameters', flush=True)


if __name__ == '__main__':
    main()
