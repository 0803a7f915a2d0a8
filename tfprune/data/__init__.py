"""Image data by name.

    loading        `load_data`, and DATASETS by name
    options        what is asked of any data set
    image_data     what every data set gives: `ImageData`
    array_data     images in memory or in a file: `ArrayImageData`
    digits, folder, tfds_images
                   data sets
    user_datasets  tf.data datasets of a user's own
    augment        shifting and mirroring of training images

To add a data set: a file with a `load` function that takes DataOptions and returns an `ImageData`
(`ArrayImageData.from_arrays` does the work), and a line in DATASETS.
"""
