"""Training samples: in memory or not, in workers or not, of several label spaces together."""

import pickle
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from paths_for_tests import ROOT, shared

torch = pytest.importorskip('torch')

from torch.utils.data import DataLoader  # noqa: E402

from lwseg_ros.datasets.dataset import open_dataset  # noqa: E402
from lwseg_ros.errors import DataError  # noqa: E402
from lwseg_ros.label_space import LabelSpace, list_label_spaces  # noqa: E402
from lwseg_ros.training.losses import label_set_loss  # noqa: E402
from lwseg_ros.training.recipe import Source, load_recipe  # noqa: E402
from lwseg_ros.training.samples import (  # noqa: E402
    Samples,
    check_classes,
    load_source,
    plainly,
    start_worker,
)

DOCS = ROOT / 'docs' / 'datasets.md'

RECIPE = """
name: several
network: lw_refinenet_mobilenet_v2_torchvision
label_space: camvid
train:
  - {data: 'cityscapes:fine', share: 0.4, scale: [0.8, 1.2]}
  - {data: 'idd:india', share: 0.3}
  - {data: 'kitti_road:road', share: 0.3}
validate: []
crop_size: [32, 32]
batch_size: 3
iterations: 5
seed: 3
"""
SKY, ROAD, CAR, BICYCLIST = 0, 3, 8, 10
COLORS = {SKY: (40, 90, 200), ROAD: (90, 80, 90), CAR: (220, 30, 30)}
STORED = {
    'fine/leftImg8bit/train/a/{}_leftImg8bit.png': (
        'fine/gtFine/train/a/{}_gtFine_labelIds.png',
        {SKY: 23, ROAD: 7, CAR: 26},
    ),
    'india/leftImg8bit/train/0/{}_leftImg8bit.png': (
        'india/gtFine/train/0/{}_gtFine_labellevel3Ids.png',
        {SKY: 25, ROAD: 1, CAR: 8},
    ),
    'road/training/image_2/um_{}.png': (
        'road/training/gt_image_2/um_road_{}.png',
        {SKY: (255, 0, 0), ROAD: (255, 0, 255), CAR: (255, 0, 0)},
    ),
}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Three data sets, in ids and in colours, of images whose colours tell the class."""
    root = tmp_path_factory.mktemp('data')
    rng = np.random.default_rng(0)
    for image, (labels, stored) in STORED.items():
        for number in range(3):
            truth = np.repeat(rng.choice(list(COLORS), (6, 6)), 8, 0).repeat(8, 1)
            for pattern, table in ((image, COLORS), (labels, stored)):
                path = root / pattern.format(number)
                path.parent.mkdir(parents=True, exist_ok=True)
                width = np.size(table[SKY])
                values = np.zeros((256, width), np.uint8)
                for class_, value in table.items():
                    values[class_] = value
                cv2.imwrite(str(path), np.squeeze(values[truth][..., ::-1]))
    return root


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / 'several.yaml'
    path.write_text(RECIPE)
    return load_recipe(path)


def samples(recipe, root, **keywords):
    space = LabelSpace.load(recipe.label_space)
    return Samples(recipe, [load_source(s, space, root, **keywords) for s in recipe.train])


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize('keep_bytes', [0, 48 * 48 * 4 * 2])
def test_what_is_in_memory_does_not_change_the_samples(recipe, root, keep_bytes):
    whole, lazy = samples(recipe, root), samples(recipe, root, keep_bytes=keep_bytes)
    assert [len(s.kept) for s in whole.sources] == [3, 3, 3]
    assert [len(s.kept) for s in lazy.sources] == [keep_bytes // (48 * 48 * 4)] * 3
    assert len(whole) == len(lazy) == 15
    assert all(same(whole[k], lazy[k]) for k in range(15))


def test_workers_do_not_change_the_samples(recipe, root):
    lazy = samples(recipe, root, keep_bytes=0)
    alone, workers = (
        list(
            DataLoader(
                lazy,
                batch_size=3,
                num_workers=n,
                multiprocessing_context='spawn' if n else None,
                worker_init_fn=start_worker,
            )
        )
        for n in (0, 2)
    )
    assert len(alone) == len(workers) == 5
    assert all(same(a, b) for a, b in zip(alone, workers, strict=True))
    assert same(pickle.loads(pickle.dumps(lazy))[4], lazy[4])


def test_a_file_lost_since_is_named(recipe, root):
    lazy = samples(recipe, root, keep_bytes=0)
    lost = lazy.sources[0].unread[0].image
    content = lost.read_bytes()
    lost.unlink()
    try:
        with pytest.raises(DataError, match=f'{lost.name} cannot be read'):
            lazy.sources[0].pair(0)
    finally:
        lost.write_bytes(content)


def test_fine_and_coarse_sets_are_learned_together(recipe, root):
    """Of a colour that coarse labels leave open, the fine labels decide."""
    space = LabelSpace.load('camvid')
    mixed = samples(recipe, root)
    anything_but_road = sum(1 << i for i in range(space.num_classes) if i != ROAD)
    sets = {int(v) for k in range(15) for v in mixed[k][1].unique()}
    assert sets == {0, 1 << SKY, 1 << ROAD, 1 << CAR, anything_but_road}

    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 1), torch.nn.ReLU(), torch.nn.Conv2d(16, space.num_classes, 1)
    )
    optimizer = torch.optim.Adam(network.parameters(), 0.05)
    images, allowed = next(iter(DataLoader(mixed, batch_size=15)))
    images, allowed = images[:, ::4, ::4].permute(0, 3, 1, 2) / 255, allowed[:, ::4, ::4]
    for _ in range(60):
        loss = label_set_loss(network(images), allowed)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    colors = torch.tensor(list(COLORS.values()), dtype=torch.float32).T[None, :, None] / 255
    assert network(colors).argmax(1).flatten().tolist() == list(COLORS)


def test_rare_are_labels_that_stand_for_rare_classes_alone(recipe, root):
    weights = dict.fromkeys(('car', 'bicyclist'), 1.5)
    recipe = replace(recipe, class_weights=weights, train=recipe.train[:1])
    allowed = np.zeros(256, np.int64)
    allowed[1:5] = 1 << CAR, 1 << CAR | 1 << BICYCLIST, 1 << CAR | 1 << SKY, 1 << SKY
    (loaded,) = samples(recipe, root).sources
    (rare,) = Samples(recipe, [replace(loaded, allowed=allowed)]).rare
    assert np.flatnonzero(rare).tolist() == [1, 2]


@pytest.mark.parametrize('target', ['camvid', 'cityscapes'])
@pytest.mark.parametrize(
    ('name', 'never_road'),
    [('cityscapes_512x256', {0}), ('bdd_drivable', {2, 3}), ('comma10k', {4, 5})],
)
def test_labels_that_are_anything_but_road_allow_all_else(name, never_road, target):
    shipped = name in list_label_spaces()
    source = LabelSpace.load(name if shipped else shared(f'data/{name}/label_space.yaml'))
    space = LabelSpace.load(target)
    sets = source.label_sets(space)
    road = space.class_id('road')
    others = {c.id for c in space.classes} - {road}
    beside = {'camvid': {'pavement'}, 'cityscapes': {'sidewalk'}}[target]
    for label in never_road:
        left_out = {space.class_id(n) for n in beside} if source.names[label] == 'above' else set()
        assert set(sets[label]) == others - left_out
    assert {label for label, ids in sets.items() if ids == (road,)} == {
        c.id for c in source.classes if c.drivable
    }


def test_the_documented_folder_and_recipe_work(tmp_path):
    blocks = re.findall(r'```yaml\n(.*?)```', DOCS.read_text(encoding='utf-8'), re.DOTALL)
    label_space, recipe_text = blocks
    for folder, name in (('my_yard', '0001'), ('camvid', 'a')):
        for split in ('train', 'val'):
            for part, content in (('images', (9, 9, 9)), ('labels', 1)):
                path = tmp_path / folder / part / split / f'{name}.png'
                path.parent.mkdir(parents=True)
                shape = (40, 40, 3) if part == 'images' else (40, 40)
                cv2.imwrite(str(path), np.full(shape, content, np.uint8))
    (tmp_path / 'my_yard' / 'label_space.yaml').write_text(label_space)
    (tmp_path / 'recipe.yaml').write_text(recipe_text)

    recipe = load_recipe(tmp_path / 'recipe.yaml')
    space = LabelSpace.load(recipe.label_space)
    mixed = samples(recipe, tmp_path)
    tree, building = 1 << space.class_id('tree'), 1 << space.class_id('building')
    assert {int(v) for k in range(8) for v in mixed[k][1].unique()} - {0} == {tree, building}

    yard = open_dataset(recipe.validate[0].data, recipe.validate[0].split, tmp_path)
    assert yard.name == 'my_yard/val'
    table = space.lookup_table(yard.label_space)
    assert table[space.class_id('car')] == yard.label_space.class_id('obstacle')


def sources_of(root, *labels):
    """Write one data set for each of some labels, and open them as a recipe does."""
    space = (
        'name: lane\nclasses:\n  - {id: 0, name: elsewhere, color: [0, 0, 0]}\n'
        '  - {id: 1, name: drivable, color: [0, 0, 9]}\n'
        'mappings: {camvid: {drivable: road, elsewhere: ANY}}\n'
    ).replace('ANY', f'[{", ".join(LabelSpace.load("camvid").names)}]')
    sources = []
    for number, values in enumerate(labels):
        for part, content in (('images', 9), ('labels', 0)):
            (root / str(number) / part).mkdir(parents=True)
            picture = np.full((1, len(values)), content, np.uint8)
            picture[:] = values if part == 'labels' else content
            cv2.imwrite(str(root / str(number) / part / 'a.png'), picture)
        (root / str(number) / 'label_space.yaml').write_text(space)
        source = Source(data=f'folder:{number}', share=1, split='all')
        sources.append(load_source(source, LabelSpace.load('camvid'), root))
    return sources


@pytest.mark.parametrize(
    ('labels', 'message'),
    [
        ([(1, 255)], '255 alone'),
        ([(0, 1), (1, 255)], '255 alone'),
        ([(1, 1)], 'nothing but one class'),
        ([(255, 255)], 'nothing but one class'),
        ([(0, 1)], ''),
        ([(0, 0)], ''),  # elsewhere may be anything: it says nothing
        ([(0, 255)], ''),
        ([(1, 1), (0, 255)], ''),
    ],
)
def test_a_training_stops_where_one_class_alone_is_labelled(labels, message, tmp_path):
    sources, space = sources_of(tmp_path, *labels), LabelSpace.load('camvid')
    if not message:
        check_classes(sources, space)
        return
    with pytest.raises(DataError, match=message):
        check_classes(sources, space)


def test_a_workers_error_is_one_sentence():
    """PyTorch raises it again with the traceback of the worker around it."""

    def batches():
        yield 1
        raise DataError('Caught DataError in worker 0.\nTraceback:\n  x.DataError: a.png is cut\n')

    given = plainly(batches())
    assert next(given) == 1
    with pytest.raises(DataError, match='^a.png is cut$'):
        next(given)
