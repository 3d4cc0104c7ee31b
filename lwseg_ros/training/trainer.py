"""The training loop: resumable, safe to interrupt, validated as `lwseg evaluate` does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from lwseg_ros.errors import DataError
from lwseg_ros.evaluation.dataset import data_root, open_dataset
from lwseg_ros.evaluation.evaluate import evaluate
from lwseg_ros.inference.graph import ImageToLabels, save_safetensors
from lwseg_ros.inference.model_file import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ModelInfo,
    resolve_model,
    write_atomically,
)
from lwseg_ros.inference.segmenter import Segmentation
from lwseg_ros.label_space import LabelSpace
from lwseg_ros.memory import keep_freed_memory
from lwseg_ros.networks import create_network
from lwseg_ros.training.checkpoint_import import encoder_keys, load_encoder_weights, load_weights
from lwseg_ros.training.losses import label_set_loss, soft_jaccard_loss
from lwseg_ros.training.recipe import Recipe
from lwseg_ros.training.samples import Samples, load_source

LOSS_STRIDE = 2
"""The loss looks at every second row and column, others at each step (our choice).

It makes a step a sixth faster on a CPU; looking at the same ones always would shift the labels.
"""


class Trainer:
    """Trains one recipe in one folder.

    The folder holds `best.safetensors` and `last.safetensors` (model files with metadata),
    `state.pt` (what a resumed run needs), `log.jsonl` and, at the end, `result.json`. Each is
    replaced whole or not at all.
    """

    def __init__(self, recipe: Recipe, out: Path, root: Path | None = None) -> None:
        self.recipe = recipe
        self.out = out
        self.root = root
        self.console = Console()
        self.space = LabelSpace.load(recipe.label_space)
        self.device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        torch.manual_seed(recipe.seed)
        network = create_network(recipe.network, self.space.num_classes)
        if recipe.initial_weights:
            load_encoder_weights(network, data_root(root) / recipe.initial_weights)
        if recipe.initial_model:
            load_weights(network, resolve_model(recipe.initial_model, '.safetensors'))
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = network.to(self.device)
        self.average = AveragedModel(
            self.network,
            multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay),  # type: ignore[no-untyped-call]
            use_buffers=True,
        )
        self.optimizer = torch.optim.AdamW(self._groups(), weight_decay=recipe.weight_decay)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.class_weights = torch.ones(self.space.num_classes, device=self.device)
        for name, weight in recipe.class_weights.items():
            self.class_weights[self.space.class_id(name)] = weight
        self.iteration = 0
        self.best = -1.0
        self._stop = False

    def _groups(self) -> list[dict[str, Any]]:
        encoder = encoder_keys(self.network)
        named = list(self.network.named_parameters())
        return [
            {
                'params': [p for n, p in named if n in encoder],
                'lr': self.recipe.learning_rate_encoder,
            },
            {
                'params': [p for n, p in named if n not in encoder],
                'lr': self.recipe.learning_rate_decoder,
            },
        ]

    def _rate(self, iteration: int) -> float:
        """Linear warm-up, then the poly schedule (1 - t/T)^power."""
        warmup = min(1.0, (iteration + 1) / max(self.recipe.warmup_iterations, 1))
        left = max(0.0, 1 - iteration / self.recipe.iterations)
        return float(warmup * left**self.recipe.poly_power)

    def resume(self) -> None:
        """Continue from `state.pt`, which must be of the same recipe."""
        path = self.out / 'state.pt'
        if not path.is_file():
            raise DataError(f'there is nothing to resume in {self.out}: no state.pt')
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state['recipe'] != _plain(self.recipe):
            raise DataError(f'{path} was written with another recipe: use another --out')
        self.network.load_state_dict(state['network'])
        self.average.load_state_dict(state['average'])
        self.optimizer.load_state_dict(state['optimizer'])
        self.schedule.load_state_dict(state['schedule'])
        self.iteration = state['iteration']
        self.best = state['best']

    def run(self) -> dict[str, Any]:
        """Train to the end; return the last validation's figures.

        Ctrl-C finishes the iteration, saves and raises KeyboardInterrupt.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        result: dict[str, Any] = {}
        with self._interruptible(), self._progress() as progress:
            loading = progress.add_task('loading', total=len(self.recipe.train))
            sources = []
            for source in self.recipe.train:
                sources.append(load_source(source, self.space, self.root))
                progress.advance(loading)
            progress.remove_task(loading)
            samples = Samples(self.recipe, sources, self.iteration * self.recipe.batch_size)
            loader = DataLoader(
                samples, batch_size=self.recipe.batch_size, num_workers=self.recipe.workers
            )
            task = progress.add_task(
                'training', total=self.recipe.iterations, completed=self.iteration
            )
            losses: list[float] = []
            start = time.monotonic()
            for images, allowed in loader:
                losses.append(self._step(images, allowed))
                self.iteration += 1
                loss = f'loss {np.mean(losses[-50:]):.3f}'
                progress.update(task, advance=1, description=loss)
                if self.iteration % 50 == 0 and not self.console.is_terminal:
                    progress.console.print(f'{self.iteration:6d}  {loss}', highlight=False)
                last = self.iteration == self.recipe.iterations
                if last or self.iteration % self.recipe.validate_every == 0:
                    result = self._validate()
                    result['loss'] = float(np.mean(losses))
                    result['seconds'] = round(time.monotonic() - start, 1)
                    self._log(result)
                    progress.console.print(_summary(result), highlight=False)
                    losses.clear()
                    self.save()
                if self._stop:
                    self.save()
                    raise KeyboardInterrupt
        text = json.dumps(result, indent=2) + '\n'
        write_atomically(self.out / 'result.json', text.encode())
        return result

    def _step(self, images: Tensor, allowed: Tensor) -> float:
        self.network.train()
        x = images.to(self.device).permute(0, 3, 1, 2).to(torch.float32) / 255
        mean = torch.tensor(IMAGENET_MEAN, device=self.device).view(1, 3, 1, 1)
        std = torch.tensor(IMAGENET_STD, device=self.device).view(1, 3, 1, 1)
        x = ((x - mean) / std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16):
            logits = self.network(x)
        logits = F.interpolate(
            logits.float(), size=allowed.shape[1:], mode='bilinear', align_corners=False
        )
        rows, columns = (
            slice(start, None, LOSS_STRIDE)
            for start in divmod(self.iteration % LOSS_STRIDE**2, LOSS_STRIDE)
        )
        allowed = allowed.to(self.device)[:, rows, columns]
        logits = logits[:, :, rows, columns]
        loss = label_set_loss(logits, allowed, self.class_weights)
        if self.recipe.jaccard_weight:
            loss = loss + self.recipe.jaccard_weight * soft_jaccard_loss(logits, allowed)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.network)
        return float(loss.detach())

    def _validate(self) -> dict[str, Any]:
        """Evaluate the averaged weights in fp32, each image at its own size."""
        graph = ImageToLabels(self.average.module, IMAGENET_MEAN, IMAGENET_STD, label_stride=1)
        graph = graph.to(self.device).eval()
        vector = torch.from_numpy(self.space.drivable_vector()).to(self.device)

        @torch.inference_mode()
        def predict(image: npt.NDArray[np.uint8]) -> Segmentation:
            planes = graph(torch.from_numpy(image)[None].to(self.device), vector)
            return Segmentation(*(plane[0].cpu().numpy() for plane in planes))

        sets = [
            evaluate(predict, self.space, open_dataset(v.data, v.split, self.root))
            for v in self.recipe.validate
        ]
        score = float(np.mean([s['miou'] for s in sets])) if sets else 0.0
        result = {'iteration': self.iteration, 'score': score, 'sets': sets}
        if score >= self.best:
            self.best = score
            best = self.out / 'best.safetensors'
            save_safetensors(self.average.module, self._info(result), best)
        return result

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
                s['data']: {'miou': s['miou'], 'drivable_iou': s['drivable_iou']}
                for s in result.get('sets', [])
            },
        )

    def save(self) -> None:
        """Write the averaged weights and all that a resumed run needs."""
        save_safetensors(self.average.module, self._info({}), self.out / 'last.safetensors')
        state = {
            'recipe': _plain(self.recipe),
            'network': self.network.state_dict(),
            'average': self.average.state_dict(),
            'optimizer': self.optimizer.state_dict(),
            'schedule': self.schedule.state_dict(),
            'iteration': self.iteration,
            'best': self.best,
        }
        partial = self.out / 'state.pt.partial'
        torch.save(state, partial)
        os.replace(partial, self.out / 'state.pt')

    def _log(self, result: dict[str, Any]) -> None:
        with (self.out / 'log.jsonl').open('a', encoding='utf-8') as log:
            log.write(json.dumps(result) + '\n')

    def _progress(self) -> Progress:
        return Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        def stop(_signal: int, _frame: object) -> None:
            self._stop = True

        previous = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)


def train(recipe: Recipe, out: Path, root: Path | None = None, resume: bool = False) -> nn.Module:
    """Train a recipe into the folder `out` and return the averaged network."""
    if not resume and (out / 'state.pt').exists():
        raise DataError(f'{out} already holds a run: give --resume or another --out')
    keep_freed_memory()
    trainer = Trainer(recipe, out, root)
    if resume:
        trainer.resume()
    trainer.run()
    return trainer.average.module


def _plain(recipe: Recipe) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return plain


def _summary(result: dict[str, Any]) -> str:
    sets = '  '.join(
        f'{s["data"]} mIoU {s["miou"]:.4f} drivable {s["drivable_iou"]:.4f}'
        for s in result['sets']
    )
    return f'{result["iteration"]:6d}  loss {result["loss"]:.3f}  {sets}'
