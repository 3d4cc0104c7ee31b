"""Recipes: what they may say, their mistakes in one sentence, lengths and learning rates."""

from pathlib import Path

import pytest

from lwseg_ros.errors import DataError
from lwseg_ros.label_space import LabelSpace
from lwseg_ros.share import config_file
from lwseg_ros.training.recipe import in_iterations, learning_rates, load_recipe

RECIPE = """
name: small
network: lw_refinenet_mobilenet_v2_torchvision
label_space: camvid
train:
  - {data: 'camvid:fine', share: 0.5}
validate: []
crop_size: [64, 64]
batch_size: 6
"""
STAGE = '{learning_rate_encoder: 5.0e-4, learning_rate_decoder: 5.0e-3'


def read(tmp_path: Path, text: str):
    path = tmp_path / 'recipe.yaml'
    path.write_text(text)
    return load_recipe(path)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (RECIPE + 'moment: 3\n', "unknown entries \\['moment'\\]"),
        (RECIPE.replace('label_space: camvid\n', ''), 'lacks label_space'),
        (RECIPE + 'iterations: many\n', 'iterations'),
        (RECIPE + 'iterations: 0\n', 'iterations and epochs must be positive'),
        (RECIPE + 'iterations: 3\nepochs: 2\n', 'epochs and iterations: give one of them'),
        (RECIPE + f'stages: [{STAGE}}}]\n', 'either iterations or epochs'),
        (RECIPE + 'stages: [{iterations: 3}]\n', 'stages lacks learning_rate_encoder'),
        (RECIPE + 'optimizer: lion\n', 'wanted one of adamw, sgd'),
        (RECIPE + 'precision: int8\n', 'wanted one of auto, bf16-mixed, fp32, fp16-mixed'),
        (RECIPE + 'frozen_batch_norm: 1\n', 'frozen_batch_norm is 1, wanted bool'),
        (RECIPE + 'frozen_batch_norm: "false"\n', "frozen_batch_norm is 'false', wanted bool"),
        (RECIPE + 'iterations: yes\n', 'iterations is True, wanted int'),
        (RECIPE + 'weight_decay: yes\n', 'weight_decay is True, wanted float'),
        (RECIPE + 'ohem_threshold: 7\n', 'ohem_threshold'),
        (RECIPE + 'blend_initial: 0.5\n', 'give one'),
        (RECIPE + 'initial_model: road\nblend_initial: 2\n', 'blend_initial must be in 0..1'),
        (RECIPE + 'teacher_network: fpn_van_b0\n', 'go together'),
        (RECIPE + 'teacher_scale: 0.5\n', 'teacher_scale must be in 1..4'),
        (RECIPE.replace('[64, 64]', '[64]'), 'crop_size'),
        ('- a list', 'not a mapping'),
        ('a: [', 'not YAML'),
    ],
)
def test_wrong_recipe_is_one_sentence(text, message, tmp_path):
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, text)
    assert '\n' not in str(error.value)


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path):
    recipe = read(tmp_path, RECIPE + 'weight_decay: 1e-4\nfrozen_batch_norm: yes\n')
    assert (recipe.weight_decay, recipe.frozen_batch_norm) == (1e-4, True)


def test_warm_up_then_poly(tmp_path):
    recipe = read(tmp_path, RECIPE + 'iterations: 100\nwarmup_iterations: 10\n')
    assert learning_rates(recipe, 0) == pytest.approx((3e-5, 1.5e-4))
    assert learning_rates(recipe, 4) == pytest.approx(
        (0.5 * 3e-4 * 0.96**0.9, 0.5 * 1.5e-3 * 0.96**0.9)
    )
    assert learning_rates(recipe, 60) == pytest.approx((3e-4 * 0.4**0.9, 1.5e-3 * 0.4**0.9))
    assert 0 < learning_rates(recipe, 99)[0] < 1e-5


def test_stages_in_epochs_become_iterations_with_their_own_rates(tmp_path):
    stages = f'stages: [{STAGE}, epochs: 2}}, {STAGE.replace("5.0", "1.0")}, iterations: 7}}]\n'
    text = RECIPE + stages + 'poly_power: 0\nwarmup_iterations: 0\n'
    recipe = in_iterations(read(tmp_path, text), images=20)
    assert [stage.iterations for stage in recipe.stages] == [7, 7]  # 40 samples in batches of 6
    assert recipe.iterations == 14
    rates = [learning_rates(recipe, iteration) for iteration in range(14)]
    assert rates == [(5e-4, 5e-3)] * 7 + [(1e-4, 1e-3)] * 7
    assert in_iterations(recipe, images=0) == recipe


RECIPES = sorted(config_file('recipes/road.yaml').parent.glob('*.yaml'))


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_name_what_exists(path):
    torch = pytest.importorskip('torch')

    from lwseg_ros.datasets.dataset import FORMATS
    from lwseg_ros.networks import list_networks
    from lwseg_ros.training.samples import GENERATED_DRIVE

    recipe = load_recipe(path)
    assert torch
    assert recipe.network in list_networks()
    space = LabelSpace.load(recipe.label_space)
    assert all(space.class_id(name) >= 0 for name in recipe.class_weights)
    formats = {s.data.split(':')[0] for s in (*recipe.train, *recipe.validate)}
    assert formats <= {*FORMATS, GENERATED_DRIVE}
