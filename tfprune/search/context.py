"""A changing environment's representation: what is known and epoch embeddings -> RNN -> z, and a
decoder of rewards.

The weights train between the agent's epochs, so that one decision earns another reward each epoch.
RLAL (arXiv 2403.19490) tells the agent where it stands by z, of which here

    e_t    = e_{t-1} + d_t               learnable; a new epoch begins where the last one stood
    z_t    = GRU([k_0, e_0], ..., [k_t, e_t])
    r_hat  = decoder(action, z_t)
    loss   = mean (r - r_hat)^2 + mean (A - A_hat)^2 / mean A^2 + mu sum_t |d_t|^2

over all epochs' episodes. k_t is what is known of epoch t before the agent acts in it; A is r less
the mean of its epoch, of which alone an agent learns; z_t is an input of actor and critic. Nothing
here is of pruning: benchmarks/drifting_bandit.py is an example of something else.

Deviations: 1. rewards are standardized by the mean and spread of those observed so far (they lie
within a few hundredths of each other), what is known likewise. 2. z reaches the agent under
stop-gradient: a constant of the observation. 3. The published z_t = RNN(e_1, ..., e_t) knows
nothing of an epoch in which no reward has been seen: k_t, and that embeddings are sums of
increments which the last term keeps small. 4. 8 numbers instead of 128, of which a policy that sees
a few hundred episodes learns too slowly; the second term of the loss.
"""
import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tfprune.search.scoring import finite_reward
from tfprune.training.step import NonFiniteLossError


class EpisodeHistory(tf.Module):
    """All episodes so far, in variables of fixed capacity: checkpointed, never retraced.

    actions float32 [N, A] as carried out, rewards float32 [N], epochs int32 [N].
    """

    def __init__(self, capacity: int, num_actions: int):
        super().__init__()
        self.actions = tf.Variable(tf.zeros((capacity, num_actions)), trainable=False)
        self.rewards = tf.Variable(tf.zeros(capacity), trainable=False)
        self.epochs = tf.Variable(tf.zeros(capacity, tf.int32), trainable=False)
        self.count = tf.Variable(0, trainable=False)

    def append(self, epoch: int, actions: np.ndarray, reward: float) -> None:
        """Adds an episode; ValueError when full, and for a reward that is NaN or infinite."""
        finite_reward(reward, 'an episode')
        n = int(self.count)
        if n >= self.rewards.shape[0]:
            raise ValueError(f'the history holds {n} episodes and no more.')
        self.actions[n].assign(tf.constant(actions, tf.float32))
        self.rewards[n].assign(reward)
        self.epochs[n].assign(epoch)
        self.count.assign(n + 1)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(actions [n, A], rewards [n], epochs [n]) of the n episodes so far."""
        n = int(self.count)
        return self.actions.numpy()[:n], self.rewards.numpy()[:n], self.epochs.numpy()[:n]

    def best(self, count: int) -> np.ndarray:
        """Actions [<= count, A] of the highest rewards above their epoch's mean."""
        actions, rewards, epochs = self.arrays()
        advantages = [r - rewards[epochs == e].mean() for r, e in zip(rewards, epochs)]
        return actions[np.argsort(advantages, kind='stable')[::-1][:count]]


class ContextNetwork(keras.Model):
    """epochs int [B] -> z [B, context_size] in (-1, 1), and the decoder of rewards.

    Args:
        num_epochs: T, epochs that have an embedding.
        num_actions: A, length of what was done.
        num_known: K, length of what is known of an epoch before the agent acts.
        context_size: length of z; 0 gives a decoder without z (the control).
        embedding_size: length of e_t.
    """

    def __init__(self, num_epochs: int, num_actions: int, num_known: int = 0, *,
                 context_size: int = 8, embedding_size: int = 8, hidden: int = 64, seed: int = 0):
        super().__init__(name='context')
        if num_epochs < 1 or num_actions < 1 or num_known < 0 or context_size < 0:
            raise ValueError(
                'ContextNetwork expects num_epochs >= 1, num_actions >= 1, num_known >= 0, '
                f'context_size >= 0; received {num_epochs}, {num_actions}, {num_known}, '
                f'{context_size}.')
        self.num_epochs, self.num_known, self.context_size = num_epochs, num_known, context_size
        init = [keras.initializers.GlorotUniform(seed=seed + i) for i in range(3)]
        if context_size:
            self.increments = self.add_weight(
                name='increments', shape=(num_epochs, embedding_size), initializer='zeros')
            self.rnn = keras.layers.GRU(
                context_size, return_sequences=True, name='rnn', kernel_initializer=init[0],
                recurrent_initializer=keras.initializers.Orthogonal(seed=seed))
            self.rnn.build((1, num_epochs, num_known + embedding_size))
        self.decoder = keras.Sequential([
            keras.layers.Input((num_actions + context_size,)),
            keras.layers.Dense(hidden, 'relu', kernel_initializer=init[1]),
            keras.layers.Dense(1, kernel_initializer=init[2])], name='decoder')
        # Not a number where nothing is known.
        self.known = self._state('known', (num_epochs, num_known), float('nan'))
        self.known_mean = self._state('known_mean', (num_known,), 0.0)
        self.known_std = self._state('known_std', (num_known,), 1.0)
        self.reward_mean = self._state('reward_mean', (), 0.0)
        self.reward_std = self._state('reward_std', (), 1.0)
        self.built = True

    def know(self, epoch: int, values: Sequence[float] | np.ndarray) -> None:
        """Takes what is known of an epoch, [num_known], NaN for what is not."""
        values = np.asarray(values, np.float32)
        if values.shape != (self.num_known,):
            raise ValueError(f'what is known must have shape {(self.num_known,)}; received '
                             f'{values.shape}.')
        table = keras.ops.convert_to_numpy(self.known).copy()
        table[epoch] = values
        self.known.assign(table)
        seen = np.ma.masked_invalid(table.astype(np.float64))
        mean, std = seen.mean(0).filled(0), seen.std(0).filled(0)
        self.known_mean.assign(mean)
        # What has not varied says nothing.
        self.known_std.assign(np.where(std > 1e-6 * np.maximum(abs(mean), 1e-6), std, 1))

    def call(self, epochs: tf.Tensor) -> tf.Tensor:
        """z_t, float32 [B, context_size], of epochs int [B] in 0..T-1; differentiable."""
        epochs = tf.convert_to_tensor(epochs)
        if not self.context_size:
            return tf.zeros((tf.shape(epochs)[0], 0))
        # No further than the latest epoch that is asked for: a long schedule costs what it has run.
        count = tf.reduce_max(epochs) + 1
        known = (tf.convert_to_tensor(self.known)[:count] - self.known_mean) / self.known_std
        known = tf.where(tf.math.is_finite(known), known, 0.0)
        embeddings = tf.cumsum(tf.convert_to_tensor(self.increments)[:count])
        return tf.gather(self.rnn(tf.concat([known, embeddings], 1)[None])[0], epochs)

    def predict_rewards(self, actions: tf.Tensor, epochs: tf.Tensor) -> tf.Tensor:
        """Rewards [B] that the decoder expects of actions [B, A] at epochs [B]."""
        standard = self._decode(actions, epochs)
        return standard * self.reward_std + self.reward_mean

    def reconstruction_loss(self, actions: tf.Tensor, epochs: tf.Tensor, rewards: tf.Tensor,
                            weights: tf.Tensor | None = None) -> tf.Tensor:
        """Mean squared error, in units of the rewards' variance, of rewards [B].

        `weights` [B] leaves out what is not there yet; all ones by default.
        """
        return self.losses(actions, epochs, rewards, weights)[0]

    def losses(self, actions: tf.Tensor, epochs: tf.Tensor, rewards: tf.Tensor,
               weights: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The three terms of the module's formula: the reconstruction_loss; that of advantages, in
        units of their own variance; sum_t |d_t|^2."""
        standard = (rewards - self.reward_mean) / self.reward_std
        weights = tf.ones_like(standard) if weights is None else weights

        def mean_square(values: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(weights * tf.square(values)) / tf.reduce_sum(weights)

        def advantages(values: tf.Tensor) -> tf.Tensor:
            sums = tf.math.unsorted_segment_sum(
                tf.stack([weights * values, weights], 1), epochs, self.num_epochs)
            return values - tf.gather(tf.math.divide_no_nan(sums[:, 0], sums[:, 1]), epochs)

        errors = standard - self._decode(actions, epochs)
        spread = mean_square(advantages(standard)) + 1e-3  # of a single episode it is none
        drift = (tf.nn.l2_loss(tf.convert_to_tensor(self.increments)) * 2 if self.context_size
                 else tf.constant(0.0))
        return mean_square(errors), mean_square(advantages(errors)) / spread, drift

    def _decode(self, actions: tf.Tensor, epochs: tf.Tensor) -> tf.Tensor:
        return self.decoder(tf.concat([tf.cast(actions, tf.float32), self(epochs)], axis=1))[:, 0]

    def _state(self, name: str, shape: tuple[int, ...], value: float) -> keras.Variable:
        return self.add_weight(name=name, shape=shape, trainable=False,
                               initializer=keras.initializers.Constant(value))


class ContextTrainer(tf.Module):
    """Trains embeddings, RNN and decoder on the whole history (Adam); `drift_penalty` is mu."""

    def __init__(self, network: ContextNetwork, history: EpisodeHistory, *,
                 learning_rate: float = 1e-3, drift_penalty: float = 0.01):
        super().__init__()
        self.network, self.history = network, history
        self._drift_penalty = drift_penalty
        self.optimizer = keras.optimizers.Adam(learning_rate)
        self.optimizer.build(network.trainable_variables)

    def fit(self, updates: int) -> float:
        """`updates` full-batch steps; the last reconstruction_loss, NaN where there was nothing to
        learn from.

        Raises:
            NonFiniteLossError: the loss has become NaN or infinite.
        """
        _, rewards, _ = self.history.arrays()
        if not len(rewards):
            return float('nan')
        self.network.reward_mean.assign(rewards.mean())
        self.network.reward_std.assign(max(float(rewards.std()), 1e-4))
        loss = float('nan')
        for _ in range(updates):
            loss = self._step()
        if updates and not math.isfinite(loss):
            raise NonFiniteLossError(f'the loss of the context network is {float(loss)}: a lower '
                                     '--context_learning_rate may help.')
        return float(loss)

    @tf.function(autograph=False)
    def _step(self) -> tf.Tensor:
        history = self.history
        seen = tf.cast(tf.range(tf.shape(history.rewards)[0]) < history.count, tf.float32)
        with tf.GradientTape() as tape:
            reconstruction, advantages, drift = self.network.losses(
                history.actions.value(), history.epochs.value(), history.rewards.value(), seen)
            loss = reconstruction + advantages + self._drift_penalty * drift
        variables = self.network.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return reconstruction


def direction_of_better(reference: np.ndarray, reward: float, actions: np.ndarray,
                        rewards: np.ndarray) -> np.ndarray:
    """sum_i (r_i - r) (a_i - a) [A]: where from a reference action a [A] of reward r better ones
    [n, A] of rewards [n] lie. One vector of a set of any size, in which changes of the level of all
    rewards cancel."""
    return (rewards - reward) @ (actions - reference)
