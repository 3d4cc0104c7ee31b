"""The official layouts of data sets: where images and label files lie, and how labels are coded.

docs/datasets.md says the same for people. A format is tried layout by layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lwseg_ros.label_space import IGNORE_ID

Color = tuple[int, int, int]

LABEL_SPACE_FILE = 'label_space.yaml'

# RGB colours of CamVid's 32 classes, by the id they have among the usual 11 (Sturgess et al.,
# BMVC 2009, as in SegNet); only void has none.
_CAMVID_COLORS: dict[int, tuple[Color, ...]] = {
    0: ((128, 128, 128),),  # sky
    1: (
        (128, 0, 0),  # building
        (64, 192, 0),  # wall
        (0, 128, 64),  # bridge
        (64, 0, 64),  # tunnel
        (192, 0, 128),  # archway
    ),
    2: ((192, 192, 128), (0, 0, 64)),  # column or pole, traffic cone
    3: ((128, 64, 128), (128, 0, 192), (192, 0, 64)),  # road, both kinds of lane markings
    4: ((0, 0, 192), (64, 192, 128), (128, 128, 192)),  # pavement, parking block, road shoulder
    5: ((128, 128, 0), (192, 192, 0)),  # tree, other vegetation
    6: ((192, 128, 128), (128, 128, 64), (0, 64, 64)),  # sign, text, traffic light
    7: ((64, 64, 128),),  # fence
    8: (
        (64, 0, 128),  # car
        (64, 128, 192),  # SUV or pick-up truck
        (192, 128, 192),  # truck or bus
        (192, 64, 128),  # train
        (128, 64, 64),  # other moving object
    ),
    9: (
        (64, 64, 0),  # pedestrian
        (192, 128, 64),  # child
        (64, 0, 192),  # cart, luggage, pram
        (64, 128, 64),  # animal
    ),
    10: ((0, 128, 192), (192, 0, 192)),  # bicyclist, motorcycle or scooter
    IGNORE_ID: ((0, 0, 0),),  # void
}

# SegNet's split of the 701 stills: the first and last name of each run of frames.
_CAMVID_RUNS = {
    'train': (
        ('0001TP_006690', '0001TP_008520'),
        ('0006R0_f00930', '0006R0_f03930'),
        ('0016E5_00390', '0016E5_07920'),
        ('0016E5_08190', '0016E5_08640'),
    ),
    'val': (('0016E5_07959', '0016E5_08159'),),
    'test': (('0001TP_008550', '0001TP_010380'), ('Seq05VD_f00000', 'Seq05VD_f05100')),
}

# IDD's ids 0 to 39 at level 3 and level 3 at level 1 of its hierarchy.
_IDD_ID_TO_LEVEL3 = (
    *(0, 1, 1, 2, 3, 3, 4, 4, 5, 6, 7, 8, 9, 10, 11, 12, 12, 12, 12, 13, 14, 15, 16, 17, 18, 19),
    *(20, 20, 21, 22, 23, 23, 24, 25, 25),
    *(IGNORE_ID,) * 5,
)
_IDD_LEVEL3_TO_LEVEL1 = (0, 0, 1, 1, 2, 2, *(3,) * 7, *(4,) * 9, 5, 5, 5, 6)

_VOC_VOID: dict[Color, int] = {(224, 224, 192): IGNORE_ID}


@dataclass(frozen=True)
class Layout:
    """Images and label files paired by what stands for `*` in both patterns.

    `{split}` in a pattern is the data set's own name of the split.
    """

    label_space: str
    """Its name, or that of a file in the data set's folder."""
    images: str
    """Pattern of the images, without suffix."""
    labels: str
    """Pattern of the label files."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """Our name of each split and the data set's own; empty: any name, the same in both."""
    names: tuple[str, ...] = ()
    """Text files that name the images of the split, one a line, other columns aside."""
    without: tuple[str, ...] = ()
    """Text files that name images to leave out."""
    runs: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """First and last image name of each run of images in a split."""
    ninth: bool = False
    """Images whose names end in 9 are the split val, all others train."""
    some_labelled: bool = False
    """Images without a label file are left out rather than an error."""
    ids: Mapping[int, int] = field(default_factory=dict)
    """Label in the file to id; empty: the ids of the label space as they are."""
    void: tuple[int, ...] = ()
    """Labels in the file, besides 255, that mean unlabelled."""
    palette: bool = False
    """Label files may also be in the label space's colours, black unlabelled if no class is."""
    colors: Mapping[Color, int] = field(default_factory=dict)
    """Further colours of label files and their ids."""
    hint: str = ''
    """What a label that does not belong here may mean."""


def _same(*splits: str) -> dict[str, str]:
    return {split: split for split in splits}


def _idd(label_space: str, to_space: Mapping[int, int]) -> tuple[tuple[Layout, ...], ...]:
    """Return IDD's layout with the files of its label tool, in level-3 ids or in plain ids."""
    plain = {i: to_space.get(v, IGNORE_ID) for i, v in enumerate(_IDD_ID_TO_LEVEL3)}
    return tuple(
        (
            Layout(
                label_space,
                'leftImg8bit/{split}/*/*_leftImg8bit',
                f'gtFine/{{split}}/*/*_gtFine_label{kind}.png',
                _same('train', 'val'),
                ids=ids,
            ),
        )
        for kind, ids in (('level3Ids', to_space), ('ids', plain))
    )


def _nyudv2(ids: Mapping[int, int], hint: str) -> tuple[tuple[Layout, ...], ...]:
    return (
        (Layout('nyudv2', '{split}_images/*', '{split}_labels/*.png', ids=ids, hint=hint),),
        (
            Layout(
                'nyudv2', 'images/*', 'labels/*.png', names=('{split}.txt',), ids=ids, hint=hint
            ),
        ),
    )


_NYUDV2_FROM_1 = {0: IGNORE_ID} | {i + 1: i for i in range(40)}

_VOC_LISTS = 'ImageSets/Segmentation/'
_VOC = Layout(
    'voc',
    'JPEGImages/*',
    'SegmentationClass/*.png',
    _same('train', 'val', 'trainval'),
    names=(_VOC_LISTS + '{split}.txt',),
    palette=True,
    colors=_VOC_VOID,
)
_VOC_TRAIN_OF_AUG = Layout(
    'voc',
    'JPEGImages/*',
    'SegmentationClass/*.png',
    {'train_aug': 'train'},
    names=(_VOC_LISTS + '{split}.txt',),
    palette=True,
    colors=_VOC_VOID,
)
_VOC_AUG = Layout(
    'voc',
    'JPEGImages/*',
    'SegmentationClassAug/*.png',
    _same('train_aug'),
    without=(_VOC_LISTS + 'val.txt',),
    some_labelled=True,
    palette=True,
    colors=_VOC_VOID,
)


def _sbd(folder: str) -> Layout:
    return Layout(
        'voc',
        f'{folder}/img/*',
        f'{folder}/cls/*.mat',
        _same('train_aug'),
        names=(f'{folder}/train.txt', f'{folder}/val.txt'),
        without=(_VOC_LISTS + 'train.txt', _VOC_LISTS + 'val.txt'),
    )


def _person_part(names: str) -> Layout:
    return Layout(
        'person_part',
        'JPEGImages/*',
        'pascal_person_part_gt/*.png',
        _same('train', 'val'),
        names=(names,),
        palette=True,
        colors=_VOC_VOID,
    )


def _comma10k(number: str, some_labelled: bool = False) -> Layout:
    return Layout(
        'comma10k',
        f'imgs{number}/*',
        f'masks{number}/*.png',
        _same('train', 'val'),
        ninth=True,
        some_labelled=some_labelled,
        palette=True,
        colors={(255, 255, 255): IGNORE_ID},
    )


_COMMA10K, _COMMA10K_WIDE = _comma10k(''), _comma10k('2', some_labelled=True)

FORMATS: dict[str, tuple[tuple[Layout, ...], ...]] = {
    'folder': (
        (Layout(LABEL_SPACE_FILE, 'images/{split}/*', 'labels/{split}/*.png', palette=True),),
        (Layout(LABEL_SPACE_FILE, 'images/*', 'labels/*.png', {'all': ''}, palette=True),),
    ),
    'camvid': (
        (Layout('camvid', 'images/{split}/*', 'labels/{split}/*.png', void=(11,)),),
        (
            Layout(
                'camvid',
                '701_StillsRaw_full/*',
                'LabeledApproved_full/*_L.png',
                _same('train', 'val', 'test'),
                runs=_CAMVID_RUNS,
                colors={color: i for i, colors in _CAMVID_COLORS.items() for color in colors},
            ),
        ),
        (
            Layout(
                'camvid',
                '{split}/*',
                '{split}annot/*.png',
                _same('train', 'val', 'test'),
                void=(11,),
            ),
        ),
    ),
    'cityscapes': (
        (
            Layout(
                'cityscapes_label_ids',
                'leftImg8bit/{split}/*/*_leftImg8bit',
                'gtFine/{split}/*/*_gtFine_labelIds.png',
                _same('train', 'val'),
            ),
        ),
    ),
    'cityscapes_label_ids': (
        (Layout('cityscapes_label_ids', 'images/*', 'labels/*.png', {'all': ''}),),
    ),
    'bdd100k': (
        (
            Layout(
                'bdd100k',
                'images/10k/{split}/*',
                'labels/sem_seg/masks/{split}/*.png',
                _same('train', 'val'),
            ),
        ),
    ),
    'bdd100k_drivable': (
        (
            Layout(
                'bdd100k_drivable',
                'images/100k/{split}/*',
                'labels/drivable/masks/{split}/*.png',
                _same('train', 'val'),
            ),
        ),
    ),
    'comma10k': ((_COMMA10K, _COMMA10K_WIDE), (_COMMA10K,), (_COMMA10K_WIDE,)),
    'idd': _idd('idd_level3', {i: i for i in range(26)}),
    'idd_level1': _idd('idd_level1', dict(enumerate(_IDD_LEVEL3_TO_LEVEL1))),
    'idd_lite': (
        (Layout('idd_level1', 'images/{split}/*', 'labels/{split}/*.png'),),
        (
            Layout(
                'idd_level1',
                'leftImg8bit/{split}/*/*_image',
                'gtFine/{split}/*/*_label.png',
                _same('train', 'val'),
            ),
        ),
    ),
    'kitti': (
        (
            Layout(
                'cityscapes_label_ids',
                '{split}/image_2/*',
                '{split}/semantic/*.png',
                {'train': 'training'},
            ),
        ),
    ),
    'kitti_road': (
        (
            Layout(
                'kitti_road',
                '{split}/image_2/*_*',
                '{split}/gt_image_2/*_road_*.png',
                {'train': 'training'},
                palette=True,
            ),
        ),
    ),
    'voc': (
        (_VOC,),
        (_VOC_AUG,),
        (_VOC_TRAIN_OF_AUG, _sbd('benchmark_RELEASE/dataset')),
        (_VOC_TRAIN_OF_AUG, _sbd('../../benchmark_RELEASE/dataset')),
    ),
    'person_part': (
        (_person_part('pascal_person_part_trainval_list/{split}.txt'),),
        (_person_part('{split}_id.txt'),),
    ),
    'nyudv2': _nyudv2(
        {}, 'labels from 1 to 40 with 0 for unlabelled are of the format nyudv2_from_1'
    ),
    'nyudv2_from_1': (
        *_nyudv2(
            _NYUDV2_FROM_1, 'labels from 0 to 39 with 255 for unlabelled are of the format nyudv2'
        ),
        (
            Layout(
                'nyudv2',
                '{split}/rgb/*',
                '{split}/labels_40/*.png',
                _same('train', 'test'),
                ids=_NYUDV2_FROM_1,
            ),
        ),
    ),
}
"""Format name to its layouts; of several layouts in one tuple the pairs are joined."""

WITHOUT_PUBLIC_LABELS = dict.fromkeys(
    [
        'bdd100k',
        'bdd100k_drivable',
        'cityscapes',
        'idd',
        'idd_level1',
        'kitti',
        'kitti_road',
        'voc',
    ],
    ('test', 'testing'),
)
"""Splits whose labels their makers keep for a benchmark."""
