"""What the paths that people give for bags mean."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

pytest.importorskip('rosbags')

from bags_for_tests import ROS1, camera_rows, quick_settings, write_ros1, write_ros2

from lwseg_ros.bags.files import bags_at, is_bag
from lwseg_ros.bags.images import BagImages
from lwseg_ros.errors import DataError
from lwseg_ros.inference.segmenter import Segmenter
from lwseg_ros.replay.run import RunOptions, evaluate_bags
from lwseg_ros.segment_files import FileOptions, segment_files


@pytest.fixture
def drives(tmp_path: Path) -> Path:
    """A folder of two ROS 1 bags."""
    folder = tmp_path / 'drives'
    folder.mkdir()
    for name in 'ab':
        write_ros1(folder / f'{name}.bag', camera_rows(2, store=ROS1))
    return folder


def test_what_a_path_means(drives: Path, tmp_path: Path) -> None:
    bag = write_ros2(tmp_path / 'drive', camera_rows(2))
    assert bags_at(bag) == bags_at(bag / 'metadata.yaml') == [bag]
    assert bags_at(bag / 'drive.mcap') == [bag / 'drive.mcap']
    assert bags_at(drives) == [drives / 'a.bag', drives / 'b.bag']
    assert bags_at(tmp_path / 'nothing') == []
    assert [is_bag(Path(f'x.{end}')) for end in ('mcap.zstd', 'BAG', 'bag.active', 'txt')] == [
        *(True, True, True, False)
    ]


def test_all_commands_take_them(drives: Path, tmp_path: Path, tiny_model: Path) -> None:
    bag = write_ros2(tmp_path / 'drive', camera_rows(2))
    paths = [drives, bag / 'metadata.yaml']
    settings = replace(quick_settings(tiny_model), truth_topics=(), truth_space=None)
    console = Console(file=StringIO())
    evaluated = evaluate_bags(paths, tmp_path / 'e', settings, console, RunOptions(report=False))
    assert [entry['name'] for entry in evaluated.result['bags']] == ['a', 'b', 'drive']
    with Segmenter.load(tiny_model) as segmenter:
        options = FileOptions(overlay=False, frames=True)
        summary = segment_files(segmenter, paths, tmp_path / 's', options, console)
    assert [entry['frames'] for entry in summary['inputs']] == [2, 2, 2]
    assert (tmp_path / 's/drive/000001.png').exists()
    assert len(BagImages(bag / 'metadata.yaml')) == 2


def test_one_bag_is_wanted_where_one_is_played(drives: Path) -> None:
    with pytest.raises(DataError, match='holds 2 bags, give one: a.bag, b.bag'):
        BagImages(drives)
    (drives / 'b.bag').unlink()
    assert len(BagImages(drives)) == 2
