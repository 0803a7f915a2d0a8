"""Image data by name, and a user's own examples of any task.

    loading        `load_data`, and DATASETS by name
    options        what is asked of any data set
    examples       what every set of examples gives: `Examples`
    image_data     those that are pictures of classes: `ImageData`
    array_data     images in memory or in a file: `ArrayImageData`
    digits, folder, tfds_images
                   data sets
    user_datasets  a user's own pictures of classes
    user_examples  a user's own examples of any task, from arrays, tf.data, PyDataset
    augment        shifting and mirroring of training images

To add a data set: a file with a `load` function that takes DataOptions and returns an `ImageData`
(`ArrayImageData.from_arrays` does the work), and a line in DATASETS.
"""
