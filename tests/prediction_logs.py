"""Reads TensorFlow Serving's warm-up requests by messages declared as its .proto files do."""
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorflow.core.framework import tensor_pb2

FIELD = descriptor_pb2.FieldDescriptorProto
PACKAGE = 'tensorflow.serving'
# message -> {field: (number, type)}, of tensorflow_serving/apis: model, predict, prediction_log.
MESSAGES = {
    'ModelSpec': {'name': (1, str), 'signature_name': (3, str)},
    'PredictRequest': {'model_spec': (1, f'.{PACKAGE}.ModelSpec'),
                       'inputs': (2, {str: '.tensorflow.TensorProto'}),
                       'output_filter': (3, [str])},
    'PredictLog': {'request': (1, f'.{PACKAGE}.PredictRequest')},
    'PredictionLog': {'predict_log': (6, f'.{PACKAGE}.PredictLog')},
}


def copy_file(pool, file):
    """Adds a generated file and what it imports to another pool."""
    for imported in file.dependencies:
        copy_file(pool, imported)
    pool.AddSerializedFile(file.serialized_pb)


def add_field(message, name, number, kind, label=FIELD.LABEL_OPTIONAL):
    """Declares a field: str, the name of a message, [str] or a map {str: message}."""
    if isinstance(kind, dict):
        entry = message.nested_type.add(name=f'{name.capitalize()}Entry')
        entry.options.map_entry = True
        add_field(entry, 'key', 1, str)
        add_field(entry, 'value', 2, kind[str])
        kind, label = f'.{PACKAGE}.{message.name}.{entry.name}', FIELD.LABEL_REPEATED
    if isinstance(kind, list):
        kind, label = kind[0], FIELD.LABEL_REPEATED
    if kind is str:
        message.field.add(name=name, number=number, type=FIELD.TYPE_STRING, label=label)
    else:
        message.field.add(name=name, number=number, type=FIELD.TYPE_MESSAGE, type_name=kind,
                          label=label)


def prediction_log_class():
    """The class of tensorflow.serving.PredictionLog, in a pool of its own."""
    pool = descriptor_pool.DescriptorPool()
    copy_file(pool, tensor_pb2.DESCRIPTOR)
    file = descriptor_pb2.FileDescriptorProto(
        name='prediction_log.proto', package=PACKAGE, syntax='proto3',
        dependency=[tensor_pb2.DESCRIPTOR.name])
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            add_field(message, field, number, kind)
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f'{PACKAGE}.PredictionLog'))


def read_requests(path):
    """[(model, signature, {input: array})] of a TFRecord file; ValueError for unknown fields."""
    parse = prediction_log_class().FromString
    requests = []
    for record in tf.compat.v1.io.tf_record_iterator(str(path)):
        log = parse(record)
        request = log.predict_log.request
        known = type(log)()
        known.predict_log.request.CopyFrom(request)
        known.DiscardUnknownFields()
        if known.SerializeToString(deterministic=True) != record:
            raise ValueError(f'{path}: a record is more than a predict request')
        requests.append((request.model_spec.name, request.model_spec.signature_name, {
            name: tf.make_ndarray(tensor_pb2.TensorProto.FromString(tensor.SerializeToString()))
            for name, tensor in request.inputs.items()}))
    return requests
