"""Writes the ViT of the comparison, untrained and compiled with AdamW.

Patches of 4 pixels, 64 channels, 4 blocks of 4 heads: it trains twice as fast as vit_cifar.

python flags/vit_cifar10/untrained.py OUT.keras [SEED]
"""
import sys

import tfprune  # noqa: F401  (before keras)
import keras

from tfprune.models import vit

model = vit.build(patch=4, width=64, depth=4, heads=4, mlp_ratio=2, image_shape=(32, 32, 3),
                  num_classes=10, mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616),
                  seed=int(sys.argv[2]) if len(sys.argv) > 2 else 0)
model.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.05),
              keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=['accuracy'])
model.save(sys.argv[1])
