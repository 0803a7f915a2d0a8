"""The phases of a run: epochs before surgery, rounds of search, the decision, fine-tuning."""
import dataclasses
import time
from typing import Any, Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from tfprune.data import ImageData
from tfprune.files import replacing
from tfprune.methods import Decision, Method, Problem, check_method, make_method
from tfprune.progress import Progress
from tfprune.pruning.masks import widths_of
from tfprune.pruning.sparsity import ZEROS_FILE, load_zeros, save_zeros, zeroing
from tfprune.pruning.surgery import float32_copy
from tfprune.runs.checkpoints import CheckpointError, Position, SharedCheckpoints, restore
from tfprune.runs.epochs import EpochLoop, Interrupted, Stage
from tfprune.runs.first_epoch import fine_tune_rate
from tfprune.runs.folder import RunFolder
from tfprune.runs.given import first_epoch
from tfprune.runs.lost_parts import lost_parts
from tfprune.runs.problem import (FineTuning, Setup, apply_decision, check_within_budget,
                                  criterion_batches, held_out_batches)
from tfprune.runs.reuse import RATIOS_FILE, take_search, take_epochs
from tfprune.search.scoring import SubnetworkScorer
from tfprune.search.subnetwork import Subnetwork
from tfprune.structure.graph import unfold
from tfprune.training.account import EpochAccount
from tfprune.training.batch_norm import (batch_norm_layers, reestimate_batch_norm,
                                         synchronize_batch_norm)
from tfprune.training.distribution import SharedScorer, from_chief, is_chief, num_workers
from tfprune.training.seeding import derived_seed, set_seed
from tfprune.training.step import Optimization, StopTraining, Trainer


_SURGERY = 2 ** 21  # of a seed; no run has so many rounds
# Share of a moving average that may be older than the training after surgery.
YOUNG = 0.05


class Phases:
    """The phases of a run, before surgery and after, from wherever its checkpoints stand."""

    def __init__(self, setup: Setup, folder: RunFolder, strategy: tf.distribute.Strategy,
                 should_stop: Callable[[], bool], progress: Progress):
        config = setup.config
        self.setup, self.config, self.folder, self.strategy = setup, config, folder, strategy
        self.should_stop = should_stop
        self.missing: list[str] = []  # what was lost while the run was interrupted
        self.decides_first = check_method(config.method).decides_first
        self.first = 0 if self.decides_first else config.search_epochs  # epoch after surgery
        self.loop = EpochLoop(
            config, folder, SharedCheckpoints(
                folder.path / 'checkpoints', progress.warn, strategy),
            held_out_batches(setup), should_stop, progress)

    def run(self) -> tuple[keras.Model, Decision]:
        """The pruned model in float32, trained to the last epoch, and the decision."""
        position, prefix = self.loop.checkpoints.newest() or (Position(), None)
        after_surgery = prefix is not None and (
            self.decides_first or (position.epoch, position.step) > (self.first, 0))
        decision = self._read_decision() if after_surgery else None
        self._forget_what_comes_again(position, after_surgery)
        if prefix:
            self.folder.note_resumption()
            rounds = f', round {position.round} of its search' if position.round else ''
            self.loop.progress.say(f'resuming {self.folder.path} after epoch {position.epoch}, '
                                   f'step {position.step}{rounds}')
            self._note_lost(position, after_surgery)
        if decision is None:
            decision = self._search(position, prefix)
            position, prefix = Position(self.first), None
        pruned, plan = self._prune(decision), FineTuning.after(self.setup, decision)
        self._train_pruned(pruned, decision, plan, position, prefix)
        self._settle_if_young(pruned, decision, plan.steps)
        if self.should_stop():
            raise Interrupted('stopped before export; the same command resumes '
                              f'{self.folder.path}.')
        return _as_float32(pruned), decision

    def _forget_what_comes_again(self, position: Position, after_surgery: bool) -> None:
        def is_done(row: Mapping[str, Any]) -> bool:
            if 'round' in row:
                return after_surgery or row['round'] < position.round
            return row['epoch'] < position.epoch

        for name in ('metrics.jsonl', 'episodes.jsonl', 'rounds.jsonl'):
            self.folder.keep_rows(name, is_done)

    def _note_lost(self, position: Position, after_surgery: bool) -> None:
        """Says what the run had written and its folder no longer has; the report says it, too."""
        if is_chief(self.strategy):
            self.missing = self.folder.note_lost(
                lost_parts(self.setup, self.folder, position, after_surgery))
            if self.missing:
                self.loop.progress.warn(f'{self.folder.path}: lost since it was written: '
                                        f'{"; ".join(self.missing)}. The run goes on without.')

    def _search(self, position: Position, prefix: str | None) -> Decision:
        """Trains to surgery, the method deciding; returns the decision, which is on disk."""
        setup, config = self.setup, self.config
        method, scorer, account = self._make_method()
        if method.rounds() and not (self.first or setup.has_weights):
            raise ValueError(f'method {config.method!r} searches on trained weights: give it '
                             'initial_weights, or epochs before surgery.')
        for ratio in method.ratios():
            setup.budget.scaled(ratio)  # what is impossible is said now
        if config.before_surgery_from and not self.decides_first and not prefix:
            take_epochs(config, self.folder, setup.model)
            decision = take_search(config, self.folder)
            position = Position(self.first)
        else:
            decision = None
            if self.first and not position.round:
                self._train_dense(method, scorer, account, position, prefix)
                position, prefix = Position(self.first), None
        if decision is None:
            self._run_rounds(method, scorer, account, position, prefix)
            decision = self._decide(method, scorer, account)
        check_within_budget(setup, decision)
        if not is_chief(self.strategy):
            return decision
        if self.first or (setup.has_weights and not self.decides_first):
            # The model as it is before surgery: the report's dense side.
            with replacing(self.folder.path / 'dense.keras') as path:
                _as_float32(setup.model).save(path)
        self.folder.write_json('decision.json', decision.to_json())
        return decision

    def _make_method(self) -> tuple[Method, SharedScorer, EpochAccount]:
        setup, config, data = self.setup, self.config, self.setup.data
        scorer = SharedScorer(self.strategy, self._stoppable(self._scorer()))
        account = EpochAccount(data.num_train, setup.cost_model.dense.macs)

        def score(masks: Mapping[str, np.ndarray]) -> float:
            account.forward(config.score_images, setup.cost_model(widths_of(masks)).macs)
            return scorer(masks)

        method = make_method(Problem(
            config, setup.model, setup.groups, setup.cost_model, setup.budget, score,
            criterion_batches(config, data), self.strategy.scope, account, self.loop.held_out,
            # An epoch that no schedule has.
            lambda round_: data.train_batches(config.total_epochs + round_, config.batch_size),
            self._poll if num_workers(self.strategy) == 1 else lambda: None))
        return method, scorer, account

    def _train_dense(self, method: Method, scorer: SharedScorer, account: EpochAccount,
                     position: Position, prefix: str | None) -> None:
        """The epochs before surgery, from `position`."""
        def after_epoch(epoch: int) -> dict[str, Any]:
            result = scorer.lead(lambda: method.after_epoch(epoch), method)
            if result is None:  # the chief's alone
                return {}
            self.folder.append_rows('episodes.jsonl', result.episodes)
            return {'phase': method.phase(epoch), **result.metrics,
                    'search_equivalents': account.epochs}

        judged = first_epoch(self.setup)
        trainer = self._trainer(self.setup.model, penalty=method.penalty)
        state = tf.train.Checkpoint(model=self.setup.model, trainer=trainer, method=method,
                                    account=account)
        if prefix:
            restore(state, prefix)
        self.loop.run(trainer, state, position, [self._before_surgery(self.setup.data)],
                      after_epoch, judged)

    def _run_rounds(self, method: Method, scorer: SharedScorer, account: EpochAccount,
                    position: Position, prefix: str | None) -> None:
        """The method's rounds of search, from `position`, weights frozen."""
        state = tf.train.Checkpoint(model=self.setup.model, method=method, account=account)
        if prefix:
            restore(state, prefix)
        for round_ in range(position.round, method.rounds()):
            set_seed(derived_seed(self.config.seed, self.first, round_), self.setup.model)
            begun = time.perf_counter()
            try:
                result = scorer.lead(lambda: method.search(round_), method)
            except StopTraining:
                raise self._interrupted(round_, method) from None
            if result is not None:
                place = {'round': round_, 'epoch': max(0, self.first - 1)}
                self.folder.append_rows('episodes.jsonl',
                                        [{**place, **row} for row in result.episodes])
                self.folder.append_rows('rounds.jsonl', [{
                    **place, **result.metrics, 'seconds': time.perf_counter() - begun,
                    'search_equivalents': account.epochs}])
                shown = ', '.join(f'{name} {value:.4g}' for name, value in result.metrics.items())
                self.loop.progress.say(f'round {round_ + 1} of {method.rounds()}: {shown}')
            self.loop.checkpoints.save(Position(self.first, round=round_ + 1), state)
            if self.should_stop():
                raise self._interrupted(round_ + 1, method)

    def _decide(self, method: Method, scorer: SharedScorer, account: EpochAccount) -> Decision:
        def decide() -> dict[str, Any]:
            decision = method.decide()
            if decision.zeros:
                with replacing(self.folder.path / ZEROS_FILE) as path:
                    save_zeros(path, decision.zeros)
            made = decision.to_json() | {'zeros': sorted(decision.zeros)}
            ratios = {repr(ratio): method.decide_for(self.setup.budget.scaled(ratio)).to_json()
                      for ratio in method.ratios()}
            spent = {'search_equivalents': account.epochs}
            if ratios:
                ratios |= {repr(limit): made for limit in self.config.budgets.values()}
                self.folder.write_json(RATIOS_FILE, {
                    ratio: values | spent for ratio, values in ratios.items()})
            return made | spent

        return self._with_zeros(from_chief(self.strategy, scorer.lead(decide, method)))

    def _with_zeros(self, decision: Mapping[str, Any]) -> Decision:
        zeros = load_zeros(self.folder.path / ZEROS_FILE)
        if sorted(zeros) != decision.get('zeros', sorted(zeros)):
            raise CheckpointError(f'{self.folder.path / ZEROS_FILE} is gone or another than '
                                  'decision.json says; remove the checkpoints folder to start '
                                  'anew.')
        return dataclasses.replace(Decision.from_json(decision), zeros=zeros)

    def _interrupted(self, rounds: int, method: Method) -> Interrupted:
        return Interrupted(f'stopped after {rounds} of {method.rounds()} rounds of search; the '
                           f'same command resumes {self.folder.path}.')

    def _prune(self, decision: Decision) -> keras.Model:
        # Copies of dropout layers draw their streams: from the same place, resumed or not.
        set_seed(derived_seed(self.config.seed, self.first, _SURGERY), self.setup.model)
        with self.strategy.scope():
            pruned = apply_decision(self.setup, decision)
            # From scratch: initialized anew for its own widths, not a slice of the dense one.
            return keras.models.clone_model(pruned) if self.decides_first else pruned

    def _train_pruned(self, pruned: keras.Model, decision: Decision, plan: FineTuning,
                      position: Position, prefix: str | None) -> None:
        """Trains the pruned model to the end."""
        if not plan.steps and self.config.fine_tune_epochs:
            self.loop.progress.warn(
                f'the search cost {decision.search_equivalents:.1f} epochs; charged, it leaves '
                f'none of {self.config.fine_tune_epochs} to fine-tuning.')
        keep_zeros = zeroing(pruned, decision.zeros) if decision.zeros else None
        trainer = self._trainer(pruned, teacher=self._teacher(), constrain=keep_zeros)
        state = tf.train.Checkpoint(model=pruned, trainer=trainer)
        if prefix:
            restore(state, prefix)
        elif keep_zeros or not self.decides_first and self._is_smaller(decision):
            if keep_zeros:
                keep_zeros()
            self._settle(pruned)
        phase = 'train' if self.decides_first else 'fine_tune'
        stages = [self._before_surgery(plan.data)] if self.decides_first else []
        stages += [Stage.of(self.config.search_epochs, plan.steps, self.config, plan.data,
                            fine_tune_rate(self.folder.path, self.setup.recipe))]
        self.loop.run(trainer, state, position, stages, lambda epoch: {'phase': phase})

    def _before_surgery(self, data: ImageData) -> Stage:
        config = self.config
        return Stage.of(0, config.search_epochs * (data.num_train // config.batch_size), config,
                        data, self.setup.recipe.learning_rate, config.lr_warmup_epochs)

    def _settle(self, pruned: keras.Model) -> None:
        """Batch-norm statistics of the sub-network, as when it was scored."""
        @tf.function
        def forward(images: tf.Tensor) -> None:
            self.strategy.run(lambda x: pruned(tf.cast(x, tf.float32), training=True), (images,))

        reestimate_batch_norm(unfold(pruned), forward,
                              (images for images, _ in self._calibration()))

    @staticmethod
    def _is_smaller(decision: Decision) -> bool:
        """Whether it removes anything, single weights too."""
        return bool(decision.zeros or decision.removed) or not all(
            mask.all() for mask in decision.masks.values())

    def _settle_if_young(self, pruned: keras.Model, decision: Decision, steps: int) -> None:
        """Re-estimates the statistics after training that was too short for them to follow, of so
        many steps since surgery; those that came with a model which lost nothing stay its own."""
        cut = not self.decides_first and self._is_smaller(decision)
        if self.setup.has_weights and not cut:
            return
        if not cut:
            steps += self.config.search_epochs * (
                self.setup.data.num_train // self.config.batch_size)
        if steps and any(layer.trainable and layer.momentum ** steps > YOUNG
                         for layer in batch_norm_layers(pruned)):
            self._settle(pruned)

    def _teacher(self) -> keras.Model | None:
        """The dense model as it was before surgery, for a method that distils.

        From its file, as a run that is resumed after surgery has it nowhere else.
        """
        method = check_method(self.config.method)
        if not method.distils(method.parse(self.config)):
            return None
        from_chief(self.strategy, 'the file is written')
        with self.strategy.scope():
            return keras.models.load_model(self.folder.path / 'dense.keras')

    def _trainer(self, model: keras.Model, **extras: Any) -> Trainer:
        config, recipe = self.config, self.setup.recipe
        return Trainer(model, self.strategy, Optimization(
            config.momentum, recipe.weight_decay, config.label_smoothing, config.batch_size,
            config.jit_compile, recipe.optimizer), **extras)

    def _scorer(self) -> SubnetworkScorer:
        with self.strategy.scope():
            network = Subnetwork(self.setup.model, self.setup.groups)
        return SubnetworkScorer(network, self.strategy, self.loop.held_out)

    def _poll(self) -> None:
        if self.should_stop():
            raise StopTraining()

    def _stoppable(self, scorer: SubnetworkScorer) -> Callable[[Mapping[str, np.ndarray]], float]:
        def score(masks: Mapping[str, np.ndarray]) -> float:
            self._poll()
            return scorer(masks)

        return score

    def _calibration(self) -> tf.data.Dataset:
        return self.setup.data.calibration_batches(self.config.score_batch_size,
                                                   self.config.calibration_batches)

    def _read_decision(self) -> Decision:
        rows = self.folder.read_json('decision.json')
        if rows is None:
            raise CheckpointError(f'{self.folder.path} has checkpoints from after surgery and no '
                                  'decision.json; remove its checkpoints folder to start anew.')
        path, groups = self.folder.path / 'decision.json', self.setup.groups
        for name, row in rows['groups'].items():
            # Removed blocks leave groups of their own.
            if name in groups or not rows['removed']:
                dense = groups.get(name)
                if dense is None:
                    raise CheckpointError(f'{path}: this model has no group {name!r}.')
                if row['dense_width'] != dense:
                    raise CheckpointError(f'{path}: group {name!r} must be of {dense} channels; '
                                          f'received {row["dense_width"]}.')
            if not all(0 <= index < row['dense_width'] for index in row['kept']):
                raise CheckpointError(f'{path}: group {name!r} must keep channels of 0 to '
                                      f'{row["dense_width"] - 1}; received {row["kept"]}.')
        missing = [name for name in groups if name not in rows['groups']]
        if rows['groups'] and missing and not rows['removed']:
            raise CheckpointError(f'{path}: no group {missing[0]!r}.')
        return self._with_zeros(rows)


def _as_float32(model: keras.Model) -> keras.Model:
    """A plain copy in float32, without what training set on its layers."""
    synchronize_batch_norm(model, False)
    return float32_copy(model)
