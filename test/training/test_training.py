"""Training on small generated data sets: the samples, the runs and resuming them."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import yaml
from paths_for_tests import ROOT

torch = pytest.importorskip('torch')
pytest.importorskip('lightning_fabric')

from safetensors.torch import load_file, save_file  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import (  # noqa: E402
    EventAccumulator,
)

from lwseg_ros.errors import DataError, LwsegError, TrainingError  # noqa: E402
from lwseg_ros.inference.model_file import read_model_info  # noqa: E402
from lwseg_ros.inference.model_source import resolve_model  # noqa: E402
from lwseg_ros.label_space import IGNORE_ID, LabelSpace  # noqa: E402
from lwseg_ros.networks import create_network  # noqa: E402
from lwseg_ros.training.recipe import load_recipe  # noqa: E402
from lwseg_ros.training.samples import (  # noqa: E402
    Samples,
    allowed_bits,
    load_source,
    random_crop,
)
from lwseg_ros.training.trainer import Trainer, train  # noqa: E402

RECIPE = """
name: small
network: lw_refinenet_mobilenet_v2_torchvision
label_space: camvid
train:
  - {data: 'camvid:fine', share: 0.5}
  - {data: 'idd_lite:coarse', share: 0.5, scale: [0.8, 1.2]}
validate:
  - {data: 'camvid:fine'}
input_size: [97, 129]
crop_size: [64, 64]
batch_size: 2
iterations: 4
warmup_iterations: 1
validate_every: 4
seed: 5
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Two data sets of coloured stripes: one with fine labels, one with coarse ones."""
    root = tmp_path_factory.mktemp('data')
    rng = np.random.default_rng(0)
    for name, classes in (('fine', 11), ('coarse', 7)):
        for split in ('train', 'val'):
            (root / name / 'images' / split).mkdir(parents=True)
            (root / name / 'labels' / split).mkdir(parents=True)
            for index in range(3):
                stripes = rng.integers(0, classes, 12).astype(np.uint8)
                labels = np.repeat(np.repeat(stripes[:, None], 8, 0), 128, 1)
                image = np.dstack([labels * 20, 255 - labels * 20, labels * 7])
                labels = np.where(rng.random(labels.shape) < 0.01, IGNORE_ID, labels)
                cv2.imwrite(str(root / name / 'images' / split / f'{index}.png'), image)
                cv2.imwrite(str(root / name / 'labels' / split / f'{index}.png'), labels)
    return root


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / 'small.yaml'
    path.write_text(RECIPE)
    return load_recipe(path)


def test_coarse_labels_become_sets_of_bits():
    camvid, idd = LabelSpace.load('camvid'), LabelSpace.load('idd_level1')
    bits = allowed_bits(idd, camvid)
    assert bits[0] == 1 << 3
    assert bits[2] == 1 << 9 | 1 << 10
    assert bits[IGNORE_ID] == 0
    assert allowed_bits(camvid, camvid)[11] == 0


@pytest.mark.parametrize('scale', [(0.3, 0.4), (1.0, 1.0), (2.5, 3.0)])
def test_crop_keeps_pixels_and_labels_together(scale):
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(8, dtype=np.uint8), 20)[None].repeat(90, 0)
    image = np.dstack([labels * 30] * 3)
    for _ in range(20):
        crop, crop_labels = random_crop(image, labels, (64, 48), scale, 1.2, rng)
        assert crop.shape == (64, 48, 3)
        assert crop_labels.shape == (64, 48)
        inside = crop_labels != IGNORE_ID
        assert inside.any()
        agree = np.abs(crop[..., 0][inside].astype(int) - 30 * crop_labels[inside]) <= 15
        assert agree.mean() > 0.8  # at the edges of stripes pixels mix


def test_samples_depend_on_the_seed_and_their_number_alone(data, recipe):
    space = LabelSpace.load('camvid')
    sources = [load_source(s, space, data) for s in recipe.train]
    whole, rest = Samples(recipe, sources), Samples(recipe, sources, first=3)
    assert len(whole) == 8
    for index in range(5):
        for a, b in zip(whole[3 + index], rest[index], strict=True):
            assert torch.equal(a, b)
    other = Samples(replace(recipe, seed=6), sources)
    assert not torch.equal(whole[0][0], other[0][0])


HYBRID = {
    'network': 'fpn_van_b0_compact',  # its drop path and dropout draw at random
    'jaccard_weight': 0.5,
    'contrastive_weight': 0.1,
    'contrastive_warmup': 1,
    'ohem_threshold': 0.7,
    'teacher': 'road',
    'teacher_scale': 1.5,
    'save_every': 2,
    'precision': 'fp32',  # processors without bfloat16 take five times as long for it
}
KILLED = """
import os, signal, sys
from pathlib import Path
from lwseg_ros.training.recipe import load_recipe
from lwseg_ros.training.trainer import Trainer, train

step = Trainer._step

def killing(self, *batch):
    if self.iteration == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *batch)

Trainer._step = killing
train(load_recipe(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]))
"""


def interrupt_after(iteration, monkeypatch):
    """Let Ctrl-C come in the iteration of that number, counted from 0."""
    step = Trainer._step

    def interrupting(self, images, allowed):
        losses = step(self, images, allowed)
        if self.iteration == iteration:
            os.kill(os.getpid(), signal.SIGINT)
        return losses

    monkeypatch.setattr(Trainer, '_step', interrupting)


def test_interrupted_and_killed_runs_resume_as_if_nothing_had_been(data, tmp_path, monkeypatch):
    path = tmp_path / 'hybrid.yaml'
    path.write_text(yaml.safe_dump({**yaml.safe_load(RECIPE), **HYBRID}))
    recipe = load_recipe(path)
    train(recipe, tmp_path / 'whole', data)
    losses = json.loads((tmp_path / 'whole' / 'result.json').read_text())['losses']
    assert set(losses) == {'loss', 'cross_entropy', 'jaccard', 'contrast', 'distillation'}

    interrupt_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / 'interrupted', data)
    monkeypatch.undo()

    command = [sys.executable, '-c', KILLED, path, tmp_path / 'killed', data]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    whole = load_file(tmp_path / 'whole' / 'last.safetensors')
    for run in ('interrupted', 'killed'):
        assert not (tmp_path / run / 'result.json').exists()
        train(recipe, tmp_path / run, data, resume=True)
        again = load_file(tmp_path / run / 'last.safetensors')
        for key, value in whole.items():
            torch.testing.assert_close(again[key], value, rtol=1e-4, atol=1e-5)


def test_what_is_kept_is_blended_with_the_initial_model(data, recipe, tmp_path, monkeypatch):
    torch.manual_seed(1)
    initial = create_network(recipe.network, 11).state_dict()
    save_file(initial, data / 'public.safetensors')  # no metadata, found from the data's root
    blending = replace(recipe, initial_model='public.safetensors', blend_initial=0.3)
    returned = train(blending, tmp_path / 'whole', data).state_dict()
    average = torch.load(tmp_path / 'whole' / 'state.pt', weights_only=True)['average']
    interrupt_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(blending, tmp_path / 'resumed', data)
    monkeypatch.undo()
    train(blending, tmp_path / 'resumed', data, resume=True)
    last, best, resumed = (
        load_file(tmp_path / file)
        for file in (
            'whole/last.safetensors',
            'whole/best.safetensors',
            'resumed/last.safetensors',
        )
    )
    for key, value in last.items():
        if value.is_floating_point():
            expected = 0.7 * average[f'module.{key}'] + 0.3 * initial[key]
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(best[key], value)
        assert torch.equal(returned[key], value)
        torch.testing.assert_close(resumed[key], value, rtol=1e-4, atol=1e-5)
    assert not torch.equal(last['conv8.weight'], average['module.conv8.weight'])


def test_workers_do_not_change_a_run(data, recipe, tmp_path):
    for workers in (0, 1):
        train(replace(recipe, workers=workers, iterations=2), tmp_path / str(workers), data)
    alone, helped = (load_file(tmp_path / str(n) / 'last.safetensors') for n in (0, 1))
    for key, value in alone.items():
        torch.testing.assert_close(helped[key], value, rtol=1e-4, atol=1e-5)


def test_two_processes_train_as_one(data, tmp_path):
    path = tmp_path / 'shared.yaml'
    changes = {
        'optimizer': 'sgd',
        'precision': 'fp32',
        'frozen_batch_norm': True,  # on CPUs its statistics are not shared
        'class_weights': {'road': 3},
        'jaccard_weight': 0.5,
        'ohem_threshold': 0.7,
        'teacher': 'road',
        # Gentle: steps as large as in earnest let rounding, which each processor does in its own
        # way, grow a thousandfold with every step.
        'stages': [
            {'epochs': 0.3, 'learning_rate_encoder': 1e-5, 'learning_rate_decoder': 1e-4},
            {'iterations': 2, 'learning_rate_encoder': 1e-6, 'learning_rate_decoder': 1e-5},
        ],
        'validate': [],
        'initial_model': 'road',
    }
    content = {**yaml.safe_load(RECIPE), **changes}
    del content['iterations']
    path.write_text(yaml.safe_dump(content))
    train(load_recipe(path), tmp_path / 'one', data)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    command += ['--nproc-per-node', '2', '-m', 'lwseg_ros.cli', 'train', path]
    command += ['--out', tmp_path / 'two', '--data-root', data, '--device', 'cpu']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr

    one, two = (json.loads((tmp_path / run / 'result.json').read_text()) for run in ('one', 'two'))
    assert one['iteration'] == two['iteration'] == 3
    assert two['losses'] == pytest.approx(one['losses'], rel=1e-4)
    one, two = (load_file(tmp_path / run / 'last.safetensors') for run in ('one', 'two'))
    road = load_file(resolve_model('road', '.safetensors'))

    def steps(run):
        return torch.cat([(run[key] - road[key]).double().flatten() for key in road])

    # Inputs that differ by a millionth part change the steps by 1.4e-4; a term of the loss that
    # does not see the other process changes them by 0.97.
    assert steps(one).norm() > 1e-3
    assert (steps(two) - steps(one)).norm() < 0.01 * steps(one).norm()


def test_frozen_batch_norms_keep_everything(data, recipe, tmp_path):
    trained = train(replace(recipe, frozen_batch_norm=True, iterations=2), tmp_path / 'run', data)
    torch.manual_seed(recipe.seed)
    fresh = create_network(recipe.network, 11)
    changed = {
        key
        for (key, value), old in zip(
            trained.state_dict().items(), fresh.state_dict().values(), strict=True
        )
        if not torch.equal(value, old)
    }
    norms = {
        f'{name}.{key}'
        for name, module in fresh.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
        for key in module.state_dict()
    }
    assert changed
    assert not changed & norms


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_state(data, recipe, tmp_path):
    wild = replace(recipe, learning_rate_decoder=1e30, iterations=50, save_every=1)
    with pytest.raises(TrainingError, match='iteration 1: lower the learning rates') as error:
        train(wild, tmp_path / 'run', data)
    assert '\n' not in str(error.value)
    state = torch.load(tmp_path / 'run' / 'state.pt', weights_only=True)
    assert state['iteration'] == 1
    assert all(weight.isfinite().all() for weight in state['trainee'].values())


def test_tensorboard_shows_losses_figures_and_pictures(data, recipe, tmp_path):
    train(replace(recipe, iterations=2), tmp_path / 'run', data)
    events = EventAccumulator(str(tmp_path / 'run' / 'tensorboard')).Reload()
    assert {'loss/loss', 'learning_rate/encoder', 'camvid/val/miou'} <= set(
        events.Tags()['scalars']
    )
    assert events.Tags()['images'] == ['camvid/val/0', 'camvid/val/1']


@pytest.mark.parametrize(
    ('changes', 'device', 'message'),
    [
        ({'precision': 'fp16-mixed'}, 'cpu', 'needs a GPU'),
        ({}, 'tpu', 'wanted one of auto, cpu, cuda'),
        ({'teacher': 'road', 'label_space': 'voc', 'train': ()}, 'cpu', 'cannot teach voc'),
    ],
)
def test_what_cannot_be_trained_is_told_in_one_sentence(
    data, recipe, tmp_path, changes, device, message
):
    with pytest.raises(LwsegError, match=message) as error:
        train(replace(recipe, **changes), tmp_path / 'run', data, device=device)
    assert '\n' not in str(error.value)


def test_a_run_leaves_models_that_say_what_they_are(data, recipe, tmp_path):
    train(recipe, tmp_path / 'run', data)
    info = read_model_info(tmp_path / 'run' / 'best.safetensors')
    assert info.network == recipe.network
    assert info.label_space.name == 'camvid'
    result = json.loads((tmp_path / 'run' / 'result.json').read_text())
    assert result['iteration'] == 4
    assert info.accuracy['camvid/val']['miou'] == result['sets'][0]['miou']
    assert not list((tmp_path / 'run').glob('*.partial'))


def test_validation_equals_evaluate(data, recipe, tmp_path):
    from lwseg_ros.datasets.dataset import open_dataset
    from lwseg_ros.evaluation.evaluate import evaluate
    from lwseg_ros.inference.segmenter import Segmenter

    train(recipe, tmp_path / 'run', data)
    result = json.loads((tmp_path / 'run' / 'result.json').read_text())
    path = tmp_path / 'run' / 'last.safetensors'
    with Segmenter.load(path, 'torch', precision='fp32') as segmenter:
        again = evaluate(
            segmenter,
            segmenter.label_space,
            open_dataset('camvid:fine', 'val', data),
        )
    assert again['miou'] == pytest.approx(result['sets'][0]['miou'], abs=1e-4)


def test_a_finished_run_is_not_overwritten(data, recipe, tmp_path):
    train(recipe, tmp_path / 'run', data)
    with pytest.raises(DataError, match='already holds a run'):
        train(recipe, tmp_path / 'run', data)
    with pytest.raises(DataError, match='another recipe'):
        train(replace(recipe, seed=9), tmp_path / 'run', data, resume=True)
    with pytest.raises(DataError, match='nothing to resume'):
        train(recipe, tmp_path / 'other', data, resume=True)
    with pytest.raises(DataError, match='is finished'):
        train(recipe, tmp_path / 'run', data, resume=True)
