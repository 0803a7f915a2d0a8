"""Who computes what: replicas of one process, or of several worker processes (TF_CONFIG).

Workers run the same program in lockstep, for each reduction needs all of them. Worker 0, the
chief, alone decides and writes; the others follow it.
"""
import contextlib
import dataclasses
import functools
import json
import os
import signal
import threading
from typing import Any, Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.eager import context  # has no public name; sets the heartbeat

HEARTBEAT_SECONDS = 10  # silence after which a worker is lost
MOST_ON_CPU = 8  # replicas, where there are fewer cores
CONNECT_SECONDS = 600  # that workers wait for each other at the start

# What operations raise when another worker is gone.
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError,
         tf.errors.DeadlineExceededError, tf.errors.FailedPreconditionError)


class WorkerLostError(RuntimeError):
    """Another worker is gone: all must be started again, from the last checkpoint."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a run, as TF_CONFIG lists them, and which of them this process is."""
    workers: tuple[str, ...]
    index: int

    @classmethod
    def of_environment(cls) -> 'Cluster | None':
        """What TF_CONFIG says; None without it or for one worker alone.

        Raises:
            ValueError: it is not of the form {"cluster": {"worker": ["host:port", ...]}, "task":
                {"type": "worker", "index": 0}}.
        """
        text = os.environ.get('TF_CONFIG', '')
        if not text:
            return None
        try:
            value = json.loads(text)
            (job, workers), = value.get('cluster', {'worker': ['']}).items()
            task = value.get('task', {'type': 'worker', 'index': 0})
            index = int(task['index'])
            if job != 'worker' or task['type'] != 'worker' or not 0 <= index < len(workers):
                raise ValueError
            workers = tuple(str(worker) for worker in workers)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(
                'TF_CONFIG must be {"cluster": {"worker": ["host:port", ...]}, "task": {"type": '
                f'"worker", "index": 0}}}}; received {text}') from None
        return cls(workers, index) if len(workers) > 1 else None


def make_strategy(replicas: int = 1) -> tf.distribute.Strategy:
    """`replicas` accelerators or, where there are none, logical CPU devices; of each worker, if
    TF_CONFIG lists several, which then wait for each other.

    Raises:
        ValueError: there are fewer accelerators; TF_CONFIG is none.
        RuntimeError: TensorFlow is initialized with fewer logical CPU devices, or at all, and
            there are several workers.
        WorkerLostError: other workers did not come.
    """
    accelerators = tf.config.list_physical_devices('GPU')
    if 0 < len(accelerators) < replicas:
        raise ValueError(f'replicas={replicas}, but there are {len(accelerators)} accelerators.')
    cluster = Cluster.of_environment()
    if cluster:
        return _connect(cluster, replicas, bool(accelerators))
    if accelerators:
        return tf.distribute.MirroredStrategy([f'GPU:{i}' for i in range(replicas)])
    most = max(MOST_ON_CPU, os.cpu_count() or 1)
    if replicas > most:
        raise ValueError(f'replicas must be at most {most} on this CPU, which they share; received '
                         f'{replicas}.')
    cpu = tf.config.list_physical_devices('CPU')[0]
    if replicas > 1 and len(tf.config.get_logical_device_configuration(cpu) or ()) < replicas:
        try:
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
        except RuntimeError:
            raise RuntimeError(f'{replicas} replicas on CPU must be asked for before TensorFlow '
                               'runs its first operation.') from None
    return tf.distribute.MirroredStrategy([f'CPU:{i}' for i in range(replicas)])


def _connect(cluster: Cluster, replicas: int, accelerated: bool) -> tf.distribute.Strategy:
    if replicas > 1 and not accelerated:
        raise ValueError(f'replicas must be 1 in each of several workers on CPU; received '
                         f'{replicas}.')
    if context.context()._context_handle is not None:
        raise RuntimeError('several workers (TF_CONFIG) must be connected before TensorFlow runs '
                           'its first operation.')
    context.context().configure_coordination_service(
        'standalone', '/job:worker/replica:0/task:0',
        cluster_register_timeout_in_ms=CONNECT_SECONDS * 1000,
        heartbeat_timeout_in_ms=HEARTBEAT_SECONDS * 1000,
        coordinated_jobs=[coordination_config_pb2.CoordinatedJob(
            name='worker', num_tasks=len(cluster.workers))])
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({'worker': cluster.workers}), task_type='worker',
        task_id=cluster.index, num_accelerators={'GPU': replicas if accelerated else 0},
        rpc_layer='grpc')
    with _ended_by_signals(), losing_workers():
        return tf.distribute.MultiWorkerMirroredStrategy(resolver)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Python's handlers wait for TensorFlow, which waits for other workers: without them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, signal.SIG_DFL)
                for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def losing_workers() -> Iterator[None]:
    """Turns what TensorFlow raises when another worker is gone into WorkerLostError."""
    try:
        yield
    except _LOST as error:
        if Cluster.of_environment() is None:
            raise
        reason = (str(error).split('}} ')[-1].splitlines() or ['no reason'])[0]
        raise WorkerLostError(f'another worker is lost: {reason}') from error


def check_compilable(strategy: tf.distribute.Strategy) -> None:
    """ValueError where XLA cannot compile a training step: it reduces over accelerators only."""
    devices = strategy.extended.worker_devices
    if strategy.num_replicas_in_sync > 1 and not all('GPU' in device for device in devices):
        raise ValueError('jit_compile must be false for several replicas on CPU: XLA reduces over '
                         'accelerators only.')


def worker_index(strategy: tf.distribute.Strategy) -> int:
    """0 for the chief, as for a process that is alone."""
    resolver = strategy.cluster_resolver
    return resolver.task_id if resolver and num_workers(strategy) > 1 else 0


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process decides and writes."""
    return worker_index(strategy) == 0


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """Processes that take part."""
    resolver = strategy.cluster_resolver
    return len(resolver.cluster_spec().as_dict().get('worker', [0])) if resolver else 1


def from_chief(strategy: tf.distribute.Strategy, value: Any) -> Any:
    """The chief's `value`, of JSON, in every worker; all must call it."""
    if num_workers(strategy) == 1:
        return value
    text = json.dumps(value).encode() if is_chief(strategy) else b''
    size = int(_sum(strategy, np.array(len(text), np.int64)))
    padded = np.zeros(size, np.uint8)
    padded[:len(text)] = np.frombuffer(text, np.uint8)
    # float32 holds bytes exactly, and every kind of reduction takes it.
    return json.loads(_sum(strategy, padded.astype(np.float32)).astype(np.uint8).tobytes())


def any_worker(strategy: tf.distribute.Strategy, flag: bool) -> bool:
    """Whether `flag` is true in any worker; all must call it."""
    if num_workers(strategy) == 1:
        return flag
    return bool(_sum(strategy, np.array(flag)))


def _sum(strategy: tf.distribute.Strategy, value: np.ndarray) -> np.ndarray:
    """Sum over workers, of bools whether any is true; each has a value of the same shape."""
    if value.dtype == bool:
        return _sum(strategy, value.astype(np.int64)).astype(bool)
    return _sum_function(strategy)(tf.constant(value)).numpy()


@functools.lru_cache(maxsize=1)
def _sum_function(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
    """Traced: a sum takes 2 ms between processes of one machine, of single operations 14."""
    local = len(strategy.extended.worker_devices)

    def part(value: tf.Tensor) -> tf.Tensor:  # the first of a worker's replicas speaks for it
        index = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tf.where(tf.equal(index % local, 0), value, tf.zeros_like(value))

    @tf.function(reduce_retracing=True, autograph=False)
    def total(value: tf.Tensor) -> tf.Tensor:
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(part, (value,)), axis=None)

    return total


class DistributedBatches:
    """One pass over batches of examples, each global batch spread over all replicas.

    Order and content of the global batches are those of one process.
    """

    def __init__(self, batches: tf.data.Dataset, strategy: tf.distribute.Strategy):
        if num_workers(strategy) > 1:
            parts = _own_parts(batches, strategy)
            batches = strategy.distribute_datasets_from_function(lambda _: parts)
        elif strategy.num_replicas_in_sync > 1:
            batches = strategy.experimental_distribute_dataset(batches)
        self._iterator: Iterator | None = iter(batches)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        if self._iterator is None:
            raise ValueError('this iterator is closed.')
        return self._iterator

    def close(self) -> None:
        self._iterator = None


def _own_parts(batches: tf.data.Dataset, strategy: tf.distribute.Strategy) -> tf.data.Dataset:
    """The parts of each batch that are this worker's, one after the other for its replicas."""
    replicas = strategy.num_replicas_in_sync
    local = replicas // num_workers(strategy)
    first = worker_index(strategy) * local
    sizes = {spec.shape[0] for spec in tf.nest.flatten(batches.element_spec)}

    def parts(*batch: Any) -> tf.data.Dataset:
        count = tf.shape(tf.nest.flatten(batch)[0], tf.int64)[0]

        def part(replica: tf.Tensor) -> Any:
            begin, end = count * replica // replicas, count * (replica + 1) // replicas
            return tf.nest.map_structure(lambda values: values[begin:end], batch)

        return tf.data.Dataset.range(first, first + local).map(part)

    own = batches.flat_map(parts)
    if None not in sizes and not min(sizes) % replicas:
        own = own.map(lambda *batch: tf.nest.map_structure(
            lambda x: tf.ensure_shape(x, [min(sizes) // replicas, *x.shape[1:]]), batch))
    return own.prefetch(2 * local)


class SharedScorer:
    """masks -> reward, measured by all workers together at the chief's word.

    Args:
        score: what each of them does.
    """

    def __init__(self, strategy: tf.distribute.Strategy,
                 score: Callable[[Mapping[str, np.ndarray]], float]):
        self._strategy, self._score = strategy, score

    def __call__(self, masks: Mapping[str, np.ndarray]) -> float:
        """On the chief, within `lead`."""
        if num_workers(self._strategy) > 1:
            from_chief(self._strategy, {name: mask.tolist() for name, mask in masks.items()})
        return self._score(masks)

    def lead(self, act: Callable[[], Any], state: tf.Module) -> Any:
        """What act() returns on the chief, where alone it runs; None in the others, which score
        with it and then have the chief's variables of `state`, those under the strategy's scope.
        """
        strategy = self._strategy
        if num_workers(strategy) == 1:
            return act()
        result = None
        if is_chief(strategy):
            result = act()
            from_chief(strategy, None)
        else:
            while (masks := from_chief(strategy, None)) is not None:
                self._score({name: np.array(mask, bool) for name, mask in masks.items()})
        for variable in state.variables:
            if isinstance(variable, tf.distribute.DistributedValues):
                value = variable.numpy()
                own = value if is_chief(strategy) else np.zeros_like(value)
                variable.assign(_sum(strategy, own))
        return result
