"""Data sets in their official layouts: pairs, ids, label space, and words on what is missing."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from paths_for_tests import ROOT
from pictures_for_tests import with_orientation

from lwseg_ros.datasets.dataset import open_dataset, read_labels, read_pair
from lwseg_ros.datasets.layouts import FORMATS
from lwseg_ros.errors import DataError

DOCS = ROOT / 'docs' / 'datasets.md'

MINE = """
name: yard
classes:
  - {id: 0, name: path, color: [10, 20, 30], drivable: true}
  - {id: 5, name: plant, color: [0, 200, 0]}
"""


def write_image(path, size=(2, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), (30, 20, 10), np.uint8))


def write_labels(path, labels):
    """Write ids `[H, W]` as one channel, RGB colours `[H, W, 3]` as colours, .mat as SBD does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.asarray(labels)
    labels = labels if labels.dtype == np.uint16 else labels.astype(np.uint8)
    if path.suffix == '.mat':
        loadmat = pytest.importorskip('scipy.io')
        loadmat.savemat(str(path), {'GTcls': {'Segmentation': labels, 'Boundaries': np.eye(2)}})
    else:
        cv2.imwrite(str(path), labels[..., ::-1] if labels.ndim == 3 else labels)


class Case(NamedTuple):
    """A data set on disk: `files` are images and their label files, all with the same labels."""

    format: str
    split: str
    files: dict[str, str]
    stored: list
    ids: list
    label_space: str
    others: tuple[str, ...] = ()
    """Images and label files (as their suffix and name tell) that are not of the split."""
    texts: dict[str, str] = {}


CASES = {
    'folder with splits': Case(
        'folder',
        'train',
        {
            'images/train/a.jpg': 'labels/train/a.png',
            'images/train/b.1.png': 'labels/train/b.1.png',
        },
        [[0, 5, 255]] * 2,
        [[0, 5, 255]] * 2,
        'yard',
        texts={'label_space.yaml': MINE},
    ),
    'folder in colours': Case(
        'folder',
        'all',
        {'images/a.jpg': 'labels/a.png', 'images/b.jpg': 'labels/b.png'},
        [[(10, 20, 30), (0, 200, 0), (0, 0, 0)]] * 2,
        [[0, 5, 255]] * 2,
        'yard',
        texts={'label_space.yaml': MINE},
    ),
    'camvid': Case(
        'camvid',
        'val',
        {'images/val/a.jpg': 'labels/val/a.png', 'images/val/b.jpg': 'labels/val/b.png'},
        [[0, 10, 11]] * 2,
        [[0, 10, 255]] * 2,
        'camvid',
        others=('images/train/c.jpg', 'labels/train/c.png'),
    ),
    'camvid in 32 colours': Case(
        'camvid',
        'train',
        {
            f'701_StillsRaw_full/{name}.png': f'LabeledApproved_full/{name}_L.png'
            for name in ('0001TP_008520', '0006R0_f00930', '0016E5_08190')
        },
        [[(128, 0, 192), (64, 192, 0), (0, 0, 0)], [(0, 64, 64), (192, 0, 192), (64, 128, 64)]],
        [[3, 1, 255], [6, 10, 9]],
        'camvid',
        others=tuple(
            file
            for name in ('0001TP_008550', '0016E5_07959', '0016E5_08159', 'Seq05VD_f00000')
            for file in (f'701_StillsRaw_full/{name}.png', f'LabeledApproved_full/{name}_L.png')
        ),
    ),
    'camvid of SegNet': Case(
        'camvid',
        'test',
        {'test/a.png': 'testannot/a.png', 'test/b.png': 'testannot/b.png'},
        [[3, 4, 11]] * 2,
        [[3, 4, 255]] * 2,
        'camvid',
    ),
    'cityscapes': Case(
        'cityscapes',
        'train',
        {
            f'leftImg8bit/train/{city}/{city}_000_019_leftImg8bit.png': (
                f'gtFine/train/{city}/{city}_000_019_gtFine_labelIds.png'
            )
            for city in ('aachen', 'ulm')
        },
        [[7, 33, 0]] * 2,
        [[7, 33, 0]] * 2,
        'cityscapes_label_ids',
        others=('gtFine/train/ulm/ulm_000_019_gtFine_instanceIds.png',),
    ),
    'cityscapes_label_ids': Case(
        'cityscapes_label_ids',
        'all',
        {'images/a.jpg': 'labels/a.png', 'images/b.jpg': 'labels/b.png'},
        [[7, 8, 255]] * 2,
        [[7, 8, 255]] * 2,
        'cityscapes_label_ids',
    ),
    'bdd100k': Case(
        'bdd100k',
        'val',
        {
            'images/10k/val/7d-1.jpg': 'labels/sem_seg/masks/val/7d-1.png',
            'images/10k/val/7d-2.jpg': 'labels/sem_seg/masks/val/7d-2.png',
        },
        [[0, 18, 255]] * 2,
        [[0, 18, 255]] * 2,
        'bdd100k',
    ),
    'bdd100k_drivable': Case(
        'bdd100k_drivable',
        'train',
        {
            'images/100k/train/a.jpg': 'labels/drivable/masks/train/a.png',
            'images/100k/train/b.jpg': 'labels/drivable/masks/train/b.png',
        },
        [[0, 1, 2]] * 2,
        [[0, 1, 2]] * 2,
        'bdd100k_drivable',
    ),
    'comma10k': Case(
        'comma10k',
        'train',
        {
            'imgs/0000_a_11_860.png': 'masks/0000_a_11_860.png',
            'imgs/0009_b_11_861.png': 'masks/0009_b_11_861.png',
            'imgs2/00000_e_c_7_649_x.png': 'masks2/00000_e_c_7_649_x.png',
        },
        [
            [(64, 32, 32), (255, 0, 0), (128, 128, 96)],
            [(0, 255, 102), (204, 0, 255), (0, 204, 255)],
        ],
        [[0, 1, 2], [3, 4, 5]],
        'comma10k',
        others=('imgs/0002_c_11_879.png', 'masks/0002_c_11_879.png', 'imgs2/00001_f_c_7_650.png'),
    ),
    'comma10k, validation with none of the wide cameras': Case(
        'comma10k',
        'val',
        {'imgs/1_9.png': 'masks/1_9.png', 'imgs/2_19.png': 'masks/2_19.png'},
        [[(64, 32, 32), (255, 255, 255), (0, 0, 0)]] * 2,
        [[0, 255, 255]] * 2,
        'comma10k',
        others=('imgs/9_1.png', 'masks/9_1.png', 'imgs2/9_2.png', 'masks2/9_2.png'),
    ),
    'idd at level 3': Case(
        'idd',
        'train',
        {
            f'leftImg8bit/train/{seq}_leftImg8bit.{suffix}': (
                f'gtFine/train/{seq}_gtFine_labellevel3Ids.png'
            )
            for seq, suffix in (('0/frame1', 'png'), ('201/frame1', 'jpg'))
        },
        [[0, 25, 255]] * 2,
        [[0, 25, 255]] * 2,
        'idd_level3',
        others=('gtFine/train/0/frame1_gtFine_labelColors.png',),
    ),
    'idd in plain ids': Case(
        'idd',
        'val',
        {
            'leftImg8bit/val/0/a_leftImg8bit.png': 'gtFine/val/0/a_gtFine_labelids.png',
            'leftImg8bit/val/1/a_leftImg8bit.png': 'gtFine/val/1/a_gtFine_labelids.png',
        },
        [[0, 2, 4], [33, 34, 36]],  # road, drivable fallback, rail; sky, background, ego vehicle
        [[0, 1, 3], [25, 25, 255]],
        'idd_level3',
    ),
    'idd at level 1': Case(
        'idd_level1',
        'val',
        {
            'leftImg8bit/val/0/a_leftImg8bit.png': 'gtFine/val/0/a_gtFine_labellevel3Ids.png',
            'leftImg8bit/val/0/b_leftImg8bit.png': 'gtFine/val/0/b_gtFine_labellevel3Ids.png',
        },
        [[1, 3, 5], [12, 21, 24]],
        [[0, 1, 2], [3, 4, 5]],
        'idd_level1',
    ),
    'idd_lite': Case(
        'idd_lite',
        'train',
        {
            'leftImg8bit/train/0/024541_image.jpg': 'gtFine/train/0/024541_label.png',
            'leftImg8bit/train/9/024541_image.jpg': 'gtFine/train/9/024541_label.png',
        },
        [[0, 6, 255]] * 2,
        [[0, 6, 255]] * 2,
        'idd_level1',
        others=('gtFine/train/0/024541_inst_label.png',),
    ),
    'kitti': Case(
        'kitti',
        'train',
        {
            'training/image_2/000000_10.png': 'training/semantic/000000_10.png',
            'training/image_2/000001_10.png': 'training/semantic/000001_10.png',
        },
        [[7, 21, 0]] * 2,
        [[7, 21, 0]] * 2,
        'cityscapes_label_ids',
    ),
    'kitti_road': Case(
        'kitti_road',
        'train',
        {
            f'training/image_2/{road}_000000.png': f'training/gt_image_2/{road}_road_000000.png'
            for road in ('um', 'umm', 'uu')
        },
        [[(255, 0, 255), (255, 0, 0), (0, 0, 0)]] * 2,
        [[0, 1, 255]] * 2,
        'kitti_road',
        others=('training/gt_image_2/um_lane_000000.png',),
    ),
    'voc': Case(
        'voc',
        'val',
        {
            'JPEGImages/2007_1.jpg': 'SegmentationClass/2007_1.png',
            'JPEGImages/2007_2.jpg': 'SegmentationClass/2007_2.png',
        },
        [[(0, 0, 0), (192, 128, 128), (224, 224, 192)]] * 2,
        [[0, 15, 255]] * 2,
        'voc',
        others=('JPEGImages/2007_3.jpg', 'SegmentationClass/2007_3.png', 'JPEGImages/2007_4.jpg'),
        texts={'ImageSets/Segmentation/val.txt': '2007_1\n2007_2\n'},
    ),
    'voc with SegmentationClassAug': Case(
        'voc',
        'train_aug',
        {
            'JPEGImages/2007_1.jpg': 'SegmentationClassAug/2007_1.png',
            'JPEGImages/2007_2.jpg': 'SegmentationClassAug/2007_2.png',
        },
        [[0, 15, 255]] * 2,
        [[0, 15, 255]] * 2,
        'voc',
        others=('JPEGImages/2007_3.jpg', 'SegmentationClassAug/2007_3.png', 'JPEGImages/9.jpg'),
        texts={'ImageSets/Segmentation/val.txt': '2007_3\n'},
    ),
    'person_part': Case(
        'person_part',
        'train',
        {
            'JPEGImages/2008_1.jpg': 'pascal_person_part_gt/2008_1.png',
            'JPEGImages/2008_2.jpg': 'pascal_person_part_gt/2008_2.png',
        },
        [[0, 6, 255]] * 2,
        [[0, 6, 255]] * 2,
        'person_part',
        others=('JPEGImages/2008_3.jpg', 'pascal_person_part_gt/2008_3.png'),
        texts={
            'pascal_person_part_trainval_list/train.txt': (
                '/JPEGImages/2008_1.jpg /gt/2008_1.png\n/JPEGImages/2008_2.jpg /gt/2008_2.png\n'
            )
        },
    ),
    'nyudv2': Case(
        'nyudv2',
        'val',
        {
            'val_images/000001.png': 'val_labels/000001.png',
            'val_images/000002.png': 'val_labels/000002.png',
        },
        [[0, 39, 255]] * 2,
        [[0, 39, 255]] * 2,
        'nyudv2',
    ),
    'nyudv2 with lists': Case(
        'nyudv2_from_1',
        'test',
        {'images/1.png': 'labels/1.png', 'images/2.png': 'labels/2.png'},
        [[0, 1, 40]] * 2,
        [[255, 0, 39]] * 2,
        'nyudv2',
        others=('images/3.png', 'labels/3.png'),
        texts={'test.txt': '1\n2\n'},
    ),
    'nyudv2 in labels_40': Case(
        'nyudv2_from_1',
        'train',
        {'train/rgb/1.png': 'train/labels_40/1.png', 'train/rgb/2.png': 'train/labels_40/2.png'},
        [[0, 1, 40]] * 2,
        [[255, 0, 39]] * 2,
        'nyudv2',
    ),
}


def write(case, root):
    for image, labels in case.files.items():
        write_image(root / image)
        write_labels(root / labels, case.stored)
    for other in case.others:
        write_image(root / other)
    for name, text in case.texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize('name', CASES)
def test_layout_gives_its_pairs_and_ids(name, tmp_path):
    case = CASES[name]
    write(case, tmp_path / 'set')
    data = open_dataset(f'{case.format}:set', case.split, tmp_path)
    assert [p.image.relative_to(tmp_path / 'set').as_posix() for p in data.pairs] == sorted(
        case.files
    )
    assert data.label_space.name == case.label_space
    for pair in data.pairs:
        assert pair.labels.relative_to(tmp_path / 'set').as_posix() in case.files.values()
        image, labels = read_pair(pair)
        np.testing.assert_array_equal(labels, np.array(case.ids, np.uint8))
        np.testing.assert_allclose(image[0, 0], (10, 20, 30), atol=3)


@pytest.mark.parametrize('name', sorted({*CASES} - {'voc with SegmentationClassAug', 'comma10k'}))
def test_image_without_its_label_file_is_named(name, tmp_path):
    case = CASES[name]
    write(case, tmp_path)
    image, labels = max(case.files.items())
    (tmp_path / labels).unlink()
    with pytest.raises(DataError, match='has no label file') as error:
        open_dataset(f'{case.format}:.', case.split, tmp_path)
    assert Path(image).name in str(error.value)
    assert Path(labels).name in str(error.value)


def test_every_format_has_a_case():
    assert {case.format for case in CASES.values()} == set(FORMATS)


@pytest.mark.parametrize('name', FORMATS)
def test_wrong_root_says_what_was_looked_for_and_what_is_there(name, tmp_path):
    split = next(case.split for case in CASES.values() if case.format == name)
    (tmp_path / 'other').mkdir()
    with pytest.raises(DataError) as error:
        open_dataset(f'{name}:.', split, tmp_path)
    assert f'there is no folder {tmp_path}' in str(error.value) or (
        f'there is no list {tmp_path}' in str(error.value)
    )
    assert str(error.value).endswith("is ['other']")
    assert '\n' not in str(error.value)
    with pytest.raises(DataError, match='is nothing'):
        open_dataset(f'{name}:nowhere', split, tmp_path)


@pytest.mark.parametrize(
    ('format_', 'split', 'message'),
    [
        ('cityscapes', 'test', 'not public: take one of train, val'),
        ('voc', 'test', 'not public: take one of train, val, trainval, train_aug'),
        ('kitti_road', 'testing', 'not public: take one of train'),
        ('kitti', 'val', 'one split, "train"'),
        ('bdd100k', 'valid', 'the splits train, val, not'),
    ],
)
def test_splits_that_are_not_there_are_explained(format_, split, message, tmp_path):
    with pytest.raises(DataError, match=message):
        open_dataset(f'{format_}:.', split, tmp_path)


def test_voc_train_with_sbd_takes_vocs_own_labels_first_and_nothing_of_val(tmp_path):
    pytest.importorskip('scipy')
    voc, sbd = tmp_path / 'VOCdevkit' / 'VOC2012', tmp_path / 'benchmark_RELEASE' / 'dataset'
    lists = voc / 'ImageSets' / 'Segmentation'
    lists.mkdir(parents=True)
    for name in ('voc', 'both', 'val'):
        write_image(voc / 'JPEGImages' / f'{name}.jpg')
        write_labels(voc / 'SegmentationClass' / f'{name}.png', [[1, 1, 1]] * 2)
    for name in ('both', 'val', 'more', 'extra'):
        write_image(sbd / 'img' / f'{name}.jpg')
        write_labels(sbd / 'cls' / f'{name}.mat', [[0, 20, 2]] * 2)
    (lists / 'train.txt').write_text('voc\nboth\n')
    (lists / 'val.txt').write_text('val\n')
    (sbd / 'train.txt').write_text('both\nmore\n')
    (sbd / 'val.txt').write_text('val\nextra\n')
    pairs = open_dataset('voc:VOCdevkit/VOC2012', 'train_aug', tmp_path).pairs
    labels = {pair.image.stem: read_pair(pair)[1] for pair in pairs}
    assert sorted(labels) == ['both', 'extra', 'more', 'voc']
    np.testing.assert_array_equal(labels['both'], [[1, 1, 1]] * 2)
    np.testing.assert_array_equal(labels['more'], [[0, 20, 2]] * 2)
    (sbd / 'cls' / 'more.mat').write_bytes(b'not MATLAB')
    with pytest.raises(DataError, match=r'more\.mat is not a class file of SBD'):
        read_labels(sbd / 'cls' / 'more.mat')


def test_palette_files_are_read_by_their_colours(tmp_path):
    image = pytest.importorskip('PIL.Image')
    write(CASES['voc'], tmp_path)
    palette = np.zeros((256, 3), np.uint8)
    palette[15], palette[255] = (192, 128, 128), (224, 224, 192)
    picture = image.fromarray(np.array([[0, 15, 255]] * 2, np.uint8), 'P')
    picture.putpalette(palette.tobytes())
    picture.save(tmp_path / 'SegmentationClass' / '2007_1.png')
    pair = open_dataset('voc:.', 'val', tmp_path).pairs[0]
    np.testing.assert_array_equal(read_pair(pair)[1], [[0, 15, 255]] * 2)


def folder(root, labels):
    """Write a `folder` data set of one image and return its pair."""
    write_image(root / 'images' / 'a.png')
    write_labels(root / 'labels' / 'a.png', labels)
    (root / 'label_space.yaml').write_text(MINE)
    return open_dataset('folder:.', 'all', root).pairs[0]


@pytest.mark.parametrize(
    ('labels', 'message'),
    [
        ([[0, 5, 7]] * 2, r'labels \[7\] that stand for no class; those that do are 0, 5'),
        ([[0, 5, 0]], r'is \(1, 3\), its image is \(2, 3\)'),
        (np.full((2, 3), 7005, np.uint16), '7005, above 255'),
        ([[(10, 20, 30), (1, 2, 3), (1, 2, 3)]] * 2, r'67% of .* such as RGB \(1, 2, 3\)'),
    ],
)
def test_label_file_of_the_wrong_kind_is_one_sentence(labels, message, tmp_path):
    pair = folder(tmp_path, labels)
    with pytest.raises(DataError, match=message) as error:
        read_pair(pair)
    assert 'a.png' in str(error.value)
    assert '\n' not in str(error.value)


def test_sixteen_bit_labels_and_stray_colours_are_read(tmp_path):
    pair = folder(tmp_path, np.full((2, 3), 5, np.uint16))
    np.testing.assert_array_equal(read_pair(pair)[1], np.full((2, 3), 5))
    colours = np.full((20, 20, 3), (0, 200, 0), np.uint8)
    colours[3, 4] = (9, 9, 9)
    write_labels(pair.labels, colours)
    ids = read_labels(pair.labels, pair.coding)
    assert ids[3, 4] == 255
    assert (ids == 5).sum() == 399


def test_colours_where_ids_are_wanted_are_refused(tmp_path):
    write(CASES['bdd100k'], tmp_path)
    pair = open_dataset('bdd100k:.', 'val', tmp_path).pairs[0]
    write_image(pair.labels)
    with pytest.raises(DataError, match='is a colour image: wanted one channel'):
        read_pair(pair)


def test_the_other_way_to_count_nyudv2_is_named(tmp_path):
    write(CASES['nyudv2'], tmp_path)
    pair = open_dataset('nyudv2:.', 'val', tmp_path).pairs[0]
    write_labels(pair.labels, [[0, 1, 40]] * 2)
    with pytest.raises(DataError, match='of the format nyudv2_from_1'):
        read_pair(pair)


def test_folder_without_label_space_or_with_other_splits_is_explained(tmp_path):
    folder(tmp_path, [[0, 0, 0]] * 2)
    with pytest.raises(DataError, match='only the split all'):
        open_dataset('folder:.', 'train', tmp_path)
    (tmp_path / 'label_space.yaml').unlink()
    with pytest.raises(DataError, match=r'label_space\.yaml is missing'):
        open_dataset('folder:.', 'all', tmp_path)


def test_listed_name_without_image_is_named(tmp_path):
    write(CASES['voc'], tmp_path)
    (tmp_path / 'ImageSets/Segmentation/val.txt').write_text('2007_1\n2007_9\n')
    with pytest.raises(DataError, match='2007_9 of .* has no image'):
        open_dataset('voc:.', 'val', tmp_path)


def test_the_table_of_the_documentation_names_every_format():
    lines = DOCS.read_text(encoding='utf-8').splitlines()
    rows = [line.split('`')[1] for line in lines if line.startswith('| `')]
    assert sorted(rows) == sorted(FORMATS)


def numbered(root, images, labels):
    """Write a `folder` data set of files named as given; labels are those of `MINE`."""
    for part, names in (('images', images), ('labels', labels)):
        for name in names:
            write_image(root / part / 'none.png')
            path = root / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = np.full((2, 3, 3), 90, np.uint8) if part == 'images' else [[0, 5, 255]] * 2
            _, data = cv2.imencode(path.suffix.lower(), np.array(picture, np.uint8))
            path.write_bytes(data.tobytes())
        (root / part / 'none.png').unlink()
    (root / 'label_space.yaml').write_text(MINE)
    return open_dataset('folder:.', 'all', root).pairs


def test_files_of_every_kind_are_pairs_whatever_the_case_of_their_ending(tmp_path):
    images = ['a.tif', 'b.webp', 'c.JPG', 'd.TIFF', 'e.ppm', 'f.Bmp', 'g.jpeg']
    labels = ['a.PNG', 'b.tif', 'c.bmp', 'd.png', 'e.Tiff', 'f.pgm', 'g.png']
    pairs = numbered(tmp_path, images, labels)
    assert [(pair.image.name, pair.labels.name) for pair in pairs] == list(
        zip(images, labels, strict=True)
    )
    for pair in pairs:
        image, ids = read_pair(pair)
        assert np.abs(image.astype(int) - 90).max() <= 3
        np.testing.assert_array_equal(ids, [[0, 5, 255]] * 2)


def test_what_systems_leave_behind_is_passed_over(tmp_path):
    numbered(tmp_path, ['a.png', 'b.png'], ['a.png', 'b.png'])
    for part in ('images', 'labels'):
        for name in ('._a.png', '.DS_Store', '.ipynb_checkpoints/a-checkpoint.png', 'Thumbs.db'):
            path = tmp_path / part / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b'\0\5\26\7')
    pairs = open_dataset('folder:.', 'all', tmp_path).pairs
    assert [pair.image.name for pair in pairs] == ['a.png', 'b.png']


@pytest.mark.parametrize('part', ['images', 'labels'])
def test_two_files_of_one_name_are_refused_naming_both(part, tmp_path):
    names = {'images': ['a.png'], 'labels': ['a.png']}
    names[part] = ['a.png', 'a.tif']
    with pytest.raises(DataError, match=rf'{part}/a\.png and .*{part}/a\.tif are two files'):
        numbered(tmp_path, **names)


def test_labels_that_are_jpegs_are_told_so(tmp_path):
    with pytest.raises(DataError, match=r'no files \*\.png in .*labels; JPEG does not keep ids'):
        numbered(tmp_path, ['a.jpg'], ['a.jpg'])


@pytest.mark.parametrize('file', ['image', 'labels'])
@pytest.mark.parametrize('part', [0.4, 0.9])
def test_cut_off_files_are_named(file, part, tmp_path):
    (pair,) = numbered(tmp_path, ['a.jpg'], ['a.png'])
    path = getattr(pair, file)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(DataError, match=f'^{path} is cut off or damaged'):
        read_pair(pair)


@pytest.mark.parametrize('orientation', [3, 6])
def test_pixels_are_as_stored_and_labels_of_a_turned_image_are_told_so(orientation, tmp_path):
    (pair,) = numbered(tmp_path, ['a.jpg'], ['a.png'])
    image, _ = read_pair(pair)
    pair.image.write_bytes(with_orientation(pair.image.read_bytes(), orientation))
    np.testing.assert_array_equal(read_pair(pair)[0], image)
    write_labels(pair.labels, [[0, 5]] * 3)
    with pytest.raises(DataError, match=r'a\.png is \(3, 2\), its image is \(2, 3\)') as error:
        read_pair(pair)
    assert ('EXIF' in str(error.value)) == (orientation == 6)


def test_images_of_twelve_bits_are_stretched_alike(tmp_path):
    """A dark one stays dark, whichever is read first."""
    numbered(tmp_path, ['a.png', 'b.png'], ['a.png', 'b.png'])
    for name, eight in (('a', 20), ('b', 240)):
        values = np.full((2, 3, 3), round(eight * 4095 / 255), np.uint16)
        cv2.imwrite(str(tmp_path / 'images' / f'{name}.png'), values)
    for pair, eight in zip(
        open_dataset('folder:.', 'all', tmp_path).pairs, (20, 240), strict=True
    ):
        assert (read_pair(pair)[0] == eight).all()
