"""Dense models by name, or from a user's .keras file.

    names          MODELS by name
    building       `build_model`
    resnet_cifar, resnet, mobilenet, vgg, vit, parts
                   networks
    model_files    .keras files and custom layers of a user's
    outputs        logits and probabilities
    compiled       the optimizer that a model was compiled with
    initial_weights
                   weights from a file

resnet8 … resnet110 are the narrow CIFAR networks with padding shortcuts, resnet18, 34 and 50 the
ImageNet ones with projections; a name with `_cifar` keeps the resolution of small images longer.

To add a model: a file with a builder taking the keywords of `build_model` (a functional model of
stock Keras layers, raw pixels in, logits out), and a line in MODELS. Imports `structure`, `data`.
"""
