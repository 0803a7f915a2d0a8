"""A CNN as a user would train it by Keras with Adam: three classes of Imagenette at 64 pixels."""
import sys
import keras
from keras import layers as L

seed, folder = int(sys.argv[1]), sys.argv[2]
keras.utils.set_random_seed(seed)
load = dict(image_size=(64, 64), batch_size=32, seed=seed)
train = keras.utils.image_dataset_from_directory(f'{folder}/train', **load)
val = keras.utils.image_dataset_from_directory(f'{folder}/val', shuffle=False, **load)
model = keras.Sequential([keras.Input((64, 64, 3)), L.Rescaling(1 / 255)])
for width in (32, 64, 128, 128):
    model.add(L.Conv2D(width, 3, padding='same', use_bias=False))
    model.add(L.BatchNormalization())
    model.add(L.ReLU())
    model.add(L.MaxPooling2D())
model.add(L.GlobalAveragePooling2D())
model.add(L.Dropout(0.3))
model.add(L.Dense(3, activation='softmax'))
model.compile('adam', 'sparse_categorical_crossentropy', metrics=['accuracy'])
model.fit(train, epochs=12, validation_data=val, verbose=2)
model.save(f'given_s{seed}.keras')
