"""The training loop: resumable, safe to interrupt, validated as `lwseg evaluate` does.

Started by `torchrun`, each process takes its part of every batch, and the loss is that of one
process with the whole batch; only the contrast stays within each part. GPUs share the statistics
of batch norms; on CPUs, where PyTorch cannot, each process normalises by its own part.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from lwseg_ros.datasets.dataset import open_dataset
from lwseg_ros.errors import DataError, TrainingError
from lwseg_ros.files import write_json
from lwseg_ros.inference.graph import save_safetensors
from lwseg_ros.inference.model_info import IMAGENET_MEAN, IMAGENET_STD, ModelInfo
from lwseg_ros.label_space import LabelSpace
from lwseg_ros.memory import keep_freed_memory
from lwseg_ros.networks import create_network
from lwseg_ros.training.checkpoint_import import (
    encoder_keys,
    find_weights,
    load_encoder_weights,
    load_weights,
)
from lwseg_ros.training.objective import Objective, Trainee
from lwseg_ros.training.processes import start_processes, total
from lwseg_ros.training.recipe import Recipe, in_iterations, learning_rates
from lwseg_ros.training.run_log import RunLog
from lwseg_ros.training.samples import (
    GENERATED_DRIVE,
    Samples,
    check_classes,
    load_source,
    plainly,
    start_worker,
)
from lwseg_ros.training.teacher import Teacher
from lwseg_ros.training.validation import Validation

REPORT_EVERY = 50
"""Iterations between two lines of a log, and between two points of TensorBoard's curves."""


class Trainer:
    """Trains one recipe in one folder.

    The folder holds `best.safetensors` and `last.safetensors` (model files with metadata),
    `state.pt` (what a resumed run needs), `log.jsonl`, TensorBoard's curves in `tensorboard/`
    and, at the end, `result.json`. A file is replaced whole or not at all. `device` is `auto`,
    `cpu` or `cuda`.
    """

    def __init__(
        self, recipe: Recipe, out: Path, root: Path | None = None, device: str = 'auto'
    ) -> None:
        self.fabric = start_processes(recipe, device)
        self.device = self.fabric.device
        self.recipe = recipe = in_iterations(recipe, _count_images(recipe, root))
        self.out = out
        self.root = root
        self.log = RunLog(out, self.fabric.is_global_zero)
        self.space = LabelSpace.load(recipe.label_space)
        self.validation = Validation(recipe, self.space, root, self.device)
        torch.manual_seed(recipe.seed)
        network = create_network(recipe.network, self.space.num_classes)
        if recipe.initial_weights:
            load_encoder_weights(network, find_weights(recipe.initial_weights, root))
        if recipe.initial_model:
            load_weights(network, find_weights(recipe.initial_model, root))
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = network.to(self.device)
        self.initial = copy.deepcopy(network.state_dict()) if recipe.blend_initial else {}
        self.average = AveragedModel(
            self.network,
            multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay),  # type: ignore[no-untyped-call]
            use_buffers=True,
        )
        trainee = Trainee(self.network, recipe.contrastive_weight > 0)
        if self.fabric.world_size > 1 and self.device.type == 'cuda':
            trainee = nn.SyncBatchNorm.convert_sync_batchnorm(trainee)  # type: ignore[no-untyped-call]
        _set_training(trainee, recipe)
        self.trainee, self.optimizer = self.fabric.setup(trainee, _optimizer(trainee, recipe))
        teacher = None
        if recipe.teacher:
            teacher = Teacher(
                find_weights(recipe.teacher, root),
                self.space,
                network.centred,
                recipe.teacher_network,
                recipe.teacher_label_space,
                recipe.teacher_scale,
                self.fabric.autocast,
            ).to(self.device)
        self.objective = Objective(
            recipe,
            self.space,
            self.trainee,
            teacher,
            partial(total, self.fabric),
            network.centred,
        )
        self.generator = torch.Generator(self.device)
        self.iteration = 0
        self.best = -1.0
        self.result: dict[str, Any] = {}
        self._losses: list[dict[str, float]] = []
        self._started = time.monotonic()
        self._stop = False

    def resume(self) -> None:
        """Continue from `state.pt`, which must be of the same recipe."""
        path = self.out / 'state.pt'
        if not path.is_file():
            raise DataError(f'there is nothing to resume in {self.out}: no state.pt')
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state['recipe'] != _plain(self.recipe):
            raise DataError(f'{path} was written with another recipe: use another --out')
        if state['iteration'] >= self.recipe.iterations:
            raise DataError(f'the run in {self.out} is finished: there is nothing to resume')
        self.trainee.load_state_dict(state['trainee'])
        self.average.load_state_dict(state['average'])
        self.optimizer.load_state_dict(state['optimizer'])
        self.fabric.strategy.precision.load_state_dict(state['scaler'])
        self.iteration = state['iteration']
        self.best = state['best']

    def run(self) -> dict[str, Any]:
        """Train to the end; return the last validation's figures.

        Ctrl-C finishes the iteration, saves and raises KeyboardInterrupt. TrainingError when the
        loss or a weight is no longer finite; what was saved before stays.
        """
        recipe = self.recipe
        self.out.mkdir(parents=True, exist_ok=True)
        with self._interruptible(), self.log.begin(self.iteration) as progress:
            batches = self._batches(progress)
            task = progress.add_task('training', total=recipe.iterations, completed=self.iteration)
            self._started = time.monotonic()
            for images, allowed in plainly(batches):
                self._losses.append(self._step(images, allowed))
                self.iteration += 1
                losses = _means(self._losses[-REPORT_EVERY:])
                progress.update(task, advance=1, description=f'loss {losses["loss"]:.3f}')
                last = self.iteration == recipe.iterations
                stop = self._anywhere(self._stop)
                validates = last or self.iteration % recipe.validate_every == 0
                saves = validates or stop or self.iteration % recipe.save_every == 0
                if self.fabric.is_global_zero:
                    if last or self.iteration % REPORT_EVERY == 0:
                        encoder, decoder = (g['lr'] for g in self.optimizer.param_groups)
                        rates = {'encoder': encoder, 'decoder': decoder}
                        self.log.add_losses(self.iteration, losses, rates)
                    if saves:
                        self._check_weights()
                    if validates:
                        self._validate()
                    if saves:
                        self.save()
                if validates:
                    self._losses.clear()
                if saves:
                    self.fabric.barrier()
                if stop and not last:
                    raise KeyboardInterrupt
        return self.result

    def _batches(self, progress: Progress) -> DataLoader[tuple[Tensor, Tensor]]:
        """Load and check the data; give this process's part of each batch still to come."""
        loading = progress.add_task('loading', total=len(self.recipe.train))
        sources = []
        for source in self.recipe.train:
            sources.append(load_source(source, self.space, self.root))
            progress.advance(loading)
        progress.remove_task(loading)
        self.log.add_class_shares(loaded.class_shares for loaded in sources)
        check_classes(sources, self.space)
        self.log.add_class_shares(self.validation.class_shares())
        part = self.recipe.batch_size // self.fabric.world_size
        starts = (
            iteration * self.recipe.batch_size + self.fabric.global_rank * part
            for iteration in range(self.iteration, self.recipe.iterations)
        )
        return DataLoader(
            Samples(self.recipe, sources),
            batch_sampler=[list(range(start, start + part)) for start in starts],
            num_workers=self.recipe.workers,
            # A forked worker can hang on locks of OpenCV's threads.
            multiprocessing_context='spawn' if self.recipe.workers else None,
            worker_init_fn=start_worker,
            pin_memory=self.device.type == 'cuda',
        )

    def _step(self, images: Tensor, allowed: Tensor) -> dict[str, float]:
        """Train on one batch; return the loss and its terms."""
        # What is drawn here depends on seed, step and process alone, so resuming is exact.
        place = self.recipe.seed, self.iteration, self.fabric.global_rank
        seed = int(np.random.SeedSequence(place).generate_state(1)[0])
        torch.manual_seed(seed)
        self.generator.manual_seed(seed)
        rates = learning_rates(self.recipe, self.iteration)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group['lr'] = rate
        images = images.to(self.device, non_blocking=True)
        allowed = allowed.to(self.device, non_blocking=True)
        loss, terms = self.objective(images, allowed, self.iteration, self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        # Processes average their gradients; the loss wants the sum of them.
        self.fabric.backward(loss * self.fabric.world_size)
        values = torch.stack([loss, *terms.values()]).tolist()
        if not math.isfinite(values[0]):
            raise TrainingError(
                f'the loss is {values[0]} at iteration {self.iteration}: {self._advice()}'
            )
        self.optimizer.step()
        self.average.update_parameters(self.network)
        return dict(zip(('loss', *terms), values, strict=True))

    def _check_weights(self) -> None:
        if not all(bool(w.isfinite().all()) for w in self.trainee.state_dict().values()):
            raise TrainingError(
                f'a weight is not finite at iteration {self.iteration}: {self._advice()}'
            )

    def _advice(self) -> str:
        saved = self.out / 'state.pt'
        kept = f'{saved} holds the last good state' if saved.exists() else 'nothing was saved yet'
        return f'lower the learning rates, lengthen the warm-up or take fp32; {kept}'

    def kept(self) -> nn.Module:
        """Return the network with the weights that are validated and kept.

        They are the averaged ones, with `blend_initial` b those times 1 - b plus b times the
        initial model's (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903): what was learnt before
        is kept beside what is learnt now. That running means and variances of batch norms are
        blended as weights are is our choice: no data is needed for it.
        """
        if not self.initial:
            return self.average.module
        network = copy.deepcopy(self.average.module)
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                value.lerp_(self.initial[name], self.recipe.blend_initial)
        return network

    def _validate(self) -> None:
        """Evaluate the weights that are kept, and keep them as the best if they are so far."""
        kept = self.kept()
        predict = self.validation.predictor(kept)
        sets = self.validation.figures(predict)
        score = float(np.mean([s['miou'] for s in sets])) if sets else 0.0
        result = self.result = {'iteration': self.iteration, 'score': score, 'sets': sets}
        if score >= self.best:
            self.best = score
            best = self.out / 'best.safetensors'
            save_safetensors(kept, self._info(result), best)
        result['losses'] = losses = _means(self._losses)
        result['loss'] = losses['loss']
        result['seconds'] = round(time.monotonic() - self._started, 1)
        with (self.out / 'log.jsonl').open('a', encoding='utf-8') as log:
            log.write(json.dumps(result) + '\n')
        if self.iteration == self.recipe.iterations:
            write_json(self.out / 'result.json', result)
        self.log.add_validation(result, self.validation.pictures(predict))

    def _info(self, result: dict[str, Any]) -> ModelInfo:
        return ModelInfo(
            name=self.recipe.name,
            network=self.recipe.network,
            label_space=self.space,
            input_size=self.recipe.input_size,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            provenance={
                'recipe': self.recipe.name,
                'iterations': str(self.iteration),
                'seed': str(self.recipe.seed),
                'data': ', '.join(s.data.split(':')[0] for s in self.recipe.train),
                'licence': self.recipe.licence,
            },
            accuracy={
                s['data']: {
                    name: s[name] for name in ('miou', 'drivable_iou') if s[name] is not None
                }
                for s in result.get('sets', [])
            },
        )

    def save(self) -> None:
        """Write the weights that are kept and all that a resumed run needs."""
        save_safetensors(self.kept(), self._info({}), self.out / 'last.safetensors')
        state = {
            'recipe': _plain(self.recipe),
            'trainee': self.trainee.state_dict(),
            'average': self.average.state_dict(),
            'optimizer': self.optimizer.state_dict(),
            'scaler': self.fabric.strategy.precision.state_dict(),
            'iteration': self.iteration,
            'best': self.best,
        }
        partial_file = self.out / 'state.pt.partial'
        torch.save(state, partial_file)
        os.replace(partial_file, self.out / 'state.pt')

    def _anywhere(self, happened: bool) -> bool:
        """Return whether it happened in any process."""
        return bool(total(self.fabric, torch.tensor(float(happened), device=self.device)) > 0.5)

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        def stop(_signal: int, _frame: object) -> None:
            self._stop = True

        previous = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)


def train(
    recipe: Recipe,
    out: Path,
    root: Path | None = None,
    resume: bool = False,
    device: str = 'auto',
) -> nn.Module:
    """Train a recipe into the folder `out` and return the network that is kept."""
    if not resume and (out / 'state.pt').exists():
        raise DataError(f'{out} already holds a run: give --resume or another --out')
    keep_freed_memory()
    trainer = Trainer(recipe, out, root, device)
    if resume:
        trainer.resume()
    trainer.run()
    return trainer.kept()


def _set_training(trainee: Trainee, recipe: Recipe) -> None:
    """Set what trains; frozen, the network's batch norms keep running statistics and affine."""
    trainee.train()
    if recipe.frozen_batch_norm:
        for module in trainee.network.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
                module.eval().requires_grad_(False)


def _optimizer(trainee: Trainee, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the optimizer of two groups, encoder and decoder; the schedule sets their rates."""
    keys = {f'network.{key}' for key in encoder_keys(trainee.network)}
    weights = [(name, p) for name, p in trainee.named_parameters() if p.requires_grad]
    groups = [
        {'params': [p for name, p in weights if name in keys]},
        {'params': [p for name, p in weights if name not in keys]},
    ]
    if recipe.optimizer == 'sgd':
        return torch.optim.SGD(
            groups, lr=0, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True
        )
    return torch.optim.AdamW(groups, lr=0, weight_decay=recipe.weight_decay, fused=True)


def _count_images(recipe: Recipe, root: Path | None) -> int:
    """Return how many images an epoch has; 0 where no stage is given in epochs."""
    if not any(stage.epochs for stage in recipe.all_stages):
        return 0
    return sum(
        source.images
        if source.data == GENERATED_DRIVE
        else len(open_dataset(source.data, source.split, root).pairs)
        for source in recipe.train
    )


def _means(losses: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each term, over the steps that had it."""
    return {
        name: float(np.mean([step[name] for step in losses if name in step]))
        for name in losses[-1]
    }


def _plain(recipe: Recipe) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return plain
