"""From a trained model to files that are measured: accuracy on test images, latency by threads."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.data.examples import Examples
from tfprune.data.image_data import ImageData, as_pictures
from tfprune.data.pixels import BYTES
from tfprune.errors import first_line
from tfprune.export.base import Signature, TFLiteOptions
from tfprune.export.exporter import (FORMATS, ExportReport, base_forms, check_calibration,
                                     check_class_names, check_out_dir, export_model, is_tflite,
                                     pixels_of)
from tfprune.export.latency import latencies_in_turns
from tfprune.export.operator_latency import operators_in_turns
from tfprune.export.options import INT8_QUANTIZATIONS, QUANTIZATIONS, ExportOptions
from tfprune.export.quantizable import quantizable
from tfprune.export.quantization_aware import QuantizationAware, quantize_aware
from tfprune.export.tflite import FLOAT32, INT8, convert
from tfprune.export.web import litert_js, page
from tfprune.progress import Progress
from tfprune.pruning.surgery import float32_copy
from tfprune.report.artifact_table import losses
from tfprune.runs.artifacts import score_key, test_metrics
from tfprune.tasks.base import Task
from tfprune.training.options import TrainingOptions
from tfprune.training.step import StopTraining

THREADS = (1, 2, 4)


@dataclasses.dataclass(frozen=True)
class Deployment:
    """Which files are written and how.

    Attributes:
        quantizations: keys of QUANTIZATIONS.
        tflite: options of the TFLite files.
        representative_images: training images that full-integer files are calibrated on.
        batch_size: of quantization-aware fine-tuning.
        quantization_aware: how it trains.
        web: whether there is a page that classifies in the browser.
        litert_js: see `web.page.write_page`, runtime.
    """
    quantizations: tuple[str, ...] = ()
    tflite: TFLiteOptions = TFLiteOptions()
    representative_images: int = 300
    batch_size: int = 128
    quantization_aware: QuantizationAware = QuantizationAware()
    web: bool = False
    litert_js: str = ''

    @classmethod
    def of(cls, options: ExportOptions, training: TrainingOptions, seed: int = 0) -> Deployment:
        """What options ask for, the weights being trained as others say."""
        return cls(
            options.quantizations, TFLiteOptions(
                options.tflite_io, options.tflite_softmax, options.tflite_batch),
            options.representative_images, training.batch_size,
            QuantizationAware(
                epochs=options.quantize_epochs, learning_rate=options.quantize_learning_rate,
                momentum=training.momentum, weight_decay=training.weight_decay or 0.0,
                label_smoothing=training.label_smoothing, seed=seed),
            options.web, options.litert_js)


@dataclasses.dataclass(frozen=True)
class Deployed:
    """What was written and measured.

    Attributes:
        exported: the files and their parity.
        rows: one a file: form, file, bytes, accuracy, lost (accuracy of the Keras model less its
            own) and, of TFLite files, latency: [{threads, median_ms, p10_ms, p90_ms, ratio}], the
            ratio being to the dense float32 file, None without one.
        dense_latency: the same of the dense float32 file, without ratio; [] without one.
        operators: of the dense and the exported float32 file, see `operators_in_turns`; [] without
            a dense one, or where one cannot be timed alone.
    """
    exported: ExportReport
    rows: list[dict[str, Any]]
    dense_latency: list[dict[str, Any]]
    operators: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def deploy(model: keras.Model, task: Task, data: Examples, out_dir: str | os.PathLike[str],
           settings: Deployment, *, dense_tflite: bytes | None = None,
           is_pruned: bool = True, should_stop: Callable[[], bool] = lambda: False,
           progress: Progress | None = None, overwrite: bool = False) -> Deployed:
    """Writes and measures all forms of a float32 model, by the metric of its task.

    Args:
        dense_tflite: the float32 file that latencies are compared with, in turns.
        is_pruned: whether that is of another model, of which `model` was made.
        should_stop: asked in quantization-aware fine-tuning and before each file that is written or
            tested; True raises StopTraining. An export that is written as a whole stays.

    Raises what `export_model` and `quantize_aware` raise; nothing is left behind then.
    """
    progress = progress or Progress(False)
    check_out_dir(out_dir, overwrite=overwrite)  # before hours of fine-tuning
    quantized = None
    if 'int8_qat' in settings.quantizations:
        quantized = fine_tune_quantized(model, as_pictures(data), settings, should_stop, progress)
    progress.say('exporting ...')
    further = (QUANTIZATIONS[name] for name in settings.quantizations)
    exported = export_model(
        model, out_dir, formats=(*base_forms(), *further),
        representative_data=representative_images(data, settings.representative_images),
        pixel_range=data.pixels, class_names=data.class_names or None,
        tflite_options=settings.tflite, quantized=quantized, overwrite=overwrite,
        should_stop=should_stop)
    progress.say('testing ...')
    rows = measured_forms(exported, model, task, data, should_stop,
                          softmax=settings.tflite.softmax)
    dense_latency = add_latencies(rows, exported, dense_tflite, should_stop)
    for line in losses(rows, task.to_json()):
        progress.warn(line)
    operators = [] if dense_tflite is None else _operators(
        dense_tflite, exported.paths['tflite'].read_bytes(), should_stop, progress)
    if settings.web:
        missing = page.write_page(
            exported.out_dir / page.FOLDER,
            page.files_of(exported, dense_tflite if is_pruned else None), title=model.name,
            pixels=exported.pixels, class_names=data.class_names or None,
            runtime=settings.litert_js)
        if missing:
            progress.warn(missing)
    return Deployed(exported, rows, dense_latency, operators)


def check_deployable(model: keras.Model, task: Task, data: Examples, settings: Deployment) -> None:
    """ValueError, in one line, for what would stop the export after all training."""
    signature = Signature.of(model)
    check_class_names(data.class_names or None, signature.num_classes)
    if 'int8_qat' in settings.quantizations:
        if not task.is_classification:
            raise ValueError("quantize: 'int8_qat' trains classifiers of pictures alone, by their "
                             "cross-entropy; expected others of float16, dynamic, int8")
        quantizable(model)  # names a layer that has no int8 form
    if settings.web:
        litert_js.check_folder(settings.litert_js)
        pixels = data.pixels or pixels_of(representative_images(
            data, settings.representative_images), None, signature)
        page.check_page(signature, pixels, settings.tflite.batch)
    for name in INT8_QUANTIZATIONS:
        if name in settings.quantizations:
            check_calibration(QUANTIZATIONS[name], representative_images(data, 32),
                              data.pixels or BYTES, settings.tflite.fitting(signature))


def check_convertible(model: keras.Model) -> None:
    """ValueError naming what TFLite lacks of a model, in float32 as it is exported."""
    convert(float32_copy(model))


def fine_tune_quantized(model: keras.Model, data: ImageData, settings: Deployment,
                        should_stop: Callable[[], bool], progress: Progress) -> Any:
    """The tf_keras model of `model` fine-tuned under the rounding of int8."""
    progress.say('quantization-aware fine-tuning ...')

    def on_epoch(epoch: int, means: Mapping[str, float]) -> None:
        data.end_epoch()
        if epoch + 1 < settings.quantization_aware.epochs:
            data.begin_epoch()
        progress.say(f'quantization-aware epoch {epoch + 1}: loss {means["loss"]:.4g}, accuracy '
                     f'{means["accuracy"]:.4g}')

    batch_size = min(settings.batch_size, data.num_train)
    data.begin_epoch()
    return quantize_aware(model, lambda epoch: data.train_batches(epoch, batch_size),
                          settings.quantization_aware, pixels=data.pixels,
                          should_stop=should_stop, on_epoch=on_epoch)


def representative_images(data: Examples, count: int) -> Any:
    """The inputs of `count` training examples [N, …] as they come, not augmented; fewer if there
    are fewer. One array, or a list of several in the order of the model's inputs."""
    size, count = min(32, data.num_train), min(count, data.num_train)
    batches = -(-count // size)
    found = zip(*(data.in_order(x) for x, *_ in data.calibration_batches(size, batches)))
    arrays = [np.concatenate([part.numpy() for part in parts])[:count] for parts in found]
    return arrays[0] if len(arrays) == 1 else arrays


def measured_forms(exported: ExportReport, model: keras.Model, task: Task, data: Examples,
                   should_stop: Callable[[], bool] = lambda: False, *, softmax: bool = False
                   ) -> list[dict[str, Any]]:
    """A row a file: form, file, bytes, its metric on all test examples, what it loses; `softmax` as
    the TFLite files were written."""
    name, measure = score_key(task), task.measure
    rows: list[dict[str, Any]] = []
    for form, path in exported.paths.items():
        if should_stop():
            raise StopTraining()
        metrics = test_metrics(FORMATS[form].open(path), model, task, data, softmax=softmax)
        rows.append({'form': form, 'file': str(path.relative_to(exported.out_dir)),
                     'bytes': exported.bytes[form], name: metrics[measure.name],
                     'metrics': metrics, 'advice': FORMATS[form].advice})
    reference = next(row[name] for row in rows if row['form'] == 'keras')
    for row in rows:
        lost = reference - row[name]
        row['lost'] = lost if measure.larger_is_better else -lost
    return rows


def _operators(before: bytes, after: bytes, should_stop: Callable[[], bool], progress: Progress
               ) -> list[dict[str, Any]]:
    try:
        found = operators_in_turns(before, after, should_stop=should_stop)
    except (ValueError, RuntimeError, KeyError, IndexError) as error:
        # A network of subgraphs, as of a loop, has operators that run in it alone.
        progress.say(f'operators are not timed one by one: {first_line(error)}')
        return []
    if found is None:
        raise StopTraining()
    return found


def latencies_of_form(form: str, threads: int, deployed: Deployed, dense: keras.Model | None,
                      data: Examples, settings: Deployment
                      ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Latencies of the pruned and the dense file of a form, by threads, in turns; [] of those that
    there are not. Beside float32, the dense one is made for this and not kept.

    Args:
        form: FLOAT32, or INT8, which stands for what was trained under rounding, too.
        threads: those of which INT8 files are timed.
    """
    by_form = {row['form']: row for row in deployed.rows}
    if form == FLOAT32:
        return by_form[FLOAT32]['latency'], deployed.dense_latency
    written = [QUANTIZATIONS[name] for name in INT8_QUANTIZATIONS]
    found = next((name for name in written if name in by_form), None)
    if found is None:
        return [], []
    if dense is None:
        return by_form[found]['latency'], []
    file = convert(dense, INT8, images=representative_images(data, settings.representative_images),
                   options=settings.tflite, pixels=deployed.exported.pixels)
    seen, _ = latencies_in_turns([deployed.exported.paths[found], file], threads=threads)
    pruned_latency, dense_latency = (
        [{'threads': threads, 'median_ms': stats.median}] for stats in seen)
    return pruned_latency, dense_latency


def add_latencies(rows: Sequence[dict[str, Any]], exported: ExportReport, dense: bytes | None,
                  should_stop: Callable[[], bool] = lambda: False) -> list[dict[str, Any]]:
    """Times the TFLite files, and `dense` first, in turns; returns the latencies of `dense`."""
    lite = [row for row in rows if is_tflite(row['form'])]
    models: list[Any] = [*([dense] if dense else []),
                         *(exported.paths[row['form']] for row in lite)]
    dense_latency = []
    for row in lite:
        row['latency'] = []
    for threads in THREADS:
        if should_stop():
            raise StopTraining()
        stats, ratios = latencies_in_turns(models, threads=threads)
        seen = [{'threads': threads, 'median_ms': found.median, 'p10_ms': found.p10,
                 'p90_ms': found.p90} for found in stats]
        if dense:
            dense_latency.append(seen.pop(0))
            ratios = ratios[1:]
        for row, latency, ratio in zip(lite, seen, ratios):
            row['latency'].append({**latency, 'ratio': ratio if dense else None})
    return dense_latency
