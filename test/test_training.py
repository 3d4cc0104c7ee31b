"""Training on small generated data sets: the samples, resuming, interrupting."""

import json
import os
import signal
from dataclasses import replace

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch')

from lwseg_ros.errors import DataError  # noqa: E402
from lwseg_ros.inference.model_file import read_model_info  # noqa: E402
from lwseg_ros.label_space import IGNORE_ID, LabelSpace  # noqa: E402
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


def test_interrupted_and_resumed_equals_uninterrupted(data, recipe, tmp_path, monkeypatch):
    train(recipe, tmp_path / 'whole', data)

    step = Trainer._step

    def interrupting(self, images, allowed):
        loss = step(self, images, allowed)
        if self.iteration == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return loss

    monkeypatch.setattr(Trainer, '_step', interrupting)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / 'parts', data)
    monkeypatch.undo()
    assert not (tmp_path / 'parts' / 'result.json').exists()
    train(recipe, tmp_path / 'parts', data, resume=True)

    from safetensors.torch import load_file

    whole, parts = (load_file(tmp_path / run / 'last.safetensors') for run in ('whole', 'parts'))
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-4, atol=1e-5)


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
    from lwseg_ros.evaluation.dataset import open_dataset
    from lwseg_ros.evaluation.evaluate import evaluate
    from lwseg_ros.inference.segmenter import Segmenter

    train(recipe, tmp_path / 'run', data)
    result = json.loads((tmp_path / 'run' / 'result.json').read_text())
    path = tmp_path / 'run' / 'last.safetensors'
    with Segmenter.load(path, 'torch', precision='fp32', input_size='source') as segmenter:
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


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (RECIPE + 'momentum: 3\n', "unknown entries \\['momentum'\\]"),
        (RECIPE.replace('label_space: camvid\n', ''), 'lacks label_space'),
        (RECIPE.replace('iterations: 4', 'iterations: many', 1), 'iterations'),
        (RECIPE.replace('[64, 64]', '[64]'), 'crop_size'),
        ('- a list', 'not a mapping'),
        ('a: [', 'not YAML'),
    ],
)
def test_wrong_recipe_is_one_sentence(text, message, tmp_path):
    path = tmp_path / 'recipe.yaml'
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        load_recipe(path)
    assert '\n' not in str(error.value)


def test_the_shipped_recipe_reads():
    from lwseg_ros.share import config_file

    recipe = load_recipe(config_file('recipes/road.yaml'))
    assert recipe.label_space == 'camvid'
    assert {s.data.split(':')[0] for s in recipe.train} >= {'camvid', 'idd_lite'}
