"""A CNN as a user would train it by Keras with Adam: three classes of Imagenette at 64 pixels.

python flags/own_model_imagenette_given.py SEED FOLDER         # 12 epochs, given_sSEED.keras
python flags/own_model_imagenette_given.py SEED FOLDER long    # 30, augmented, long_sSEED.keras

FOLDER holds train/<class> and val/<class>.
"""
import sys

import keras
from keras import layers

seed, folder, is_long = int(sys.argv[1]), sys.argv[2], sys.argv[3:] == ['long']
keras.utils.set_random_seed(seed)
load = {'image_size': (64, 64), 'batch_size': 32, 'seed': seed}
train = keras.utils.image_dataset_from_directory(f'{folder}/train', **load)
val = keras.utils.image_dataset_from_directory(f'{folder}/val', shuffle=False, **load)
model = keras.Sequential([keras.Input((64, 64, 3)), layers.Rescaling(1 / 255)])
for width in (32, 64, 128, 128):
    model.add(layers.Conv2D(width, 3, padding='same', use_bias=False))
    model.add(layers.BatchNormalization())
    model.add(layers.ReLU())
    model.add(layers.MaxPooling2D())
model.add(layers.GlobalAveragePooling2D())
model.add(layers.Dropout(0.3))
model.add(layers.Dense(3, activation='softmax'))
model.compile('adam', 'sparse_categorical_crossentropy', metrics=['accuracy'])
if is_long:
    augment = keras.Sequential([layers.RandomFlip('horizontal', seed=seed),
                                layers.RandomTranslation(0.1, 0.1, seed=seed)])
    train = train.map(lambda x, y: (augment(x, training=True), y)).prefetch(2)
model.fit(train, epochs=30 if is_long else 12, validation_data=val, verbose=2)
model.save(f'{"long" if is_long else "given"}_s{seed}.keras')
