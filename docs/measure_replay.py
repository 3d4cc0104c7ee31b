"""How fast `lwseg bag evaluate` is against the bare engine, side by side in one run.

    python docs/measure_replay.py [--frames 60] [--rounds 5] [--threads 1]

A bag of JPEG images, 1280x720, of the generated drive. The engine alone segments the same frames,
decoded beforehand; the replay reads and decodes them from the bag, and measures and writes what
it is asked for. They take turns, each replay is compared with the engine just before and after it,
and the medians are printed: machines have moods.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rosbags.rosbag2 import StoragePlugin, Writer

from lwseg_ros import Segmenter
from lwseg_ros.bags.messages import COMPRESSED_IMAGE, IMAGE, TYPESTORE, image_message, jpeg_message
from lwseg_ros.bags.recording import Recording
from lwseg_ros.image_messages import image_from_message
from lwseg_ros.memory import keep_freed_memory
from lwseg_ros.replay.evaluation import evaluate_bag
from lwseg_ros.replay.settings import Settings
from lwseg_ros.synthetic.drive import GeneratedDrive

CAMERA, LABELS = '/camera/image_raw/compressed', '/ground_truth/labels'
KINDS = {
    'figures only': {'mcap': False, 'video': False},
    'with the overlay video': {'mcap': False, 'video': True},
    'with the MCAP and the video': {},
    'with these and truth': {'truth_topics': (LABELS,)},
}


def write_bag(path: Path, frames: int) -> None:
    """Record the generated drive and its labels."""
    drive = GeneratedDrive(1, frames=frames)
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        camera = writer.add_connection(CAMERA, COMPRESSED_IMAGE, typestore=TYPESTORE)
        labels = writer.add_connection(LABELS, IMAGE, typestore=TYPESTORE)
        for frame in (drive.frame(i) for i in range(frames)):
            at = frame.stamp_ns
            jpeg = jpeg_message(frame.image, at, 'camera')
            truth = image_message(frame.labels, 'mono8', at)
            writer.write(camera, at, TYPESTORE.serialize_cdr(jpeg, COMPRESSED_IMAGE))
            writer.write(labels, at, TYPESTORE.serialize_cdr(truth, IMAGE))


def time_engine(segmenter: Segmenter, images: list[npt.NDArray[np.uint8]]) -> tuple[float, float]:
    """Return the seconds by the clock and of processor time that the engine alone takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    for image in images:
        segmenter(image)
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Print frames a second, and the ratio to the engine's in the same round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--frames', type=int, default=60)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--model', default='road')
    parser.add_argument('--threads', type=int, help="the engine's; all cores")
    options = parser.parse_args()
    keep_freed_memory()  # as the replay does, and the node
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_bag(folder / 'drive', options.frames)
        recording = Recording(folder / 'drive')
        images = [
            image_from_message(recording.decode(message))
            for message in recording.messages([CAMERA])
        ]
        ratios: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
        with Segmenter.load(options.model, threads=options.threads) as segmenter:
            segmenter.warm_up()
            print(f'{segmenter.info.name} on {segmenter.description}, {len(images)} frames')
            for number in range(options.rounds):
                before = time_engine(segmenter, images)
                for kind, changes in KINDS.items():
                    out = folder / f'{number}' / kind
                    settings = Settings(
                        options.model, threads=options.threads, topics=(CAMERA,), **changes
                    )
                    evaluate_bag(folder / 'drive', out, settings)
                    timing = json.loads((out / 'timing.json').read_text())
                    after = time_engine(segmenter, images)
                    wall, cpu = ((a + b) / 2 for a, b in zip(before, after, strict=True))
                    ratios[kind].append((wall / timing['seconds'], cpu / timing['cpu_seconds']))
                    before = after
    print('of the speed of the engine alone (of the rounds) | the engine, of all CPU time')
    for kind, values in ratios.items():
        speed, share = (statistics.median(row) for row in zip(*values, strict=True))
        rounds = ' '.join(f'{value:.0%}' for value, _ in sorted(values))
        print(f'{kind}: {speed:.0%} ({rounds}) | {share:.0%}')


if __name__ == '__main__':
    main()
