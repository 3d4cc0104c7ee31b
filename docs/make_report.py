"""Make docs/images/report.png, the report of a generated drive: needs Chromium.

`python docs/make_report.py FOLDER` keeps the drive and its evaluation there.
"""

import subprocess
import sys
from pathlib import Path

from PIL import Image
from rich.console import Console
from rosbags.rosbag2 import StoragePlugin, Writer

from lwseg_ros.bags.messages import COMPRESSED_IMAGE, IMAGE, TYPESTORE, image_message, jpeg_message
from lwseg_ros.replay.run import RunOptions, evaluate_bags
from lwseg_ros.replay.settings import Settings
from lwseg_ros.synthetic.drive import GeneratedDrive

PICTURE = Path(__file__).parent / 'images' / 'report.png'
SEED, WIDTH, HEIGHT, FRAMES, RATE_HZ = 1, 768, 432, 300, 15.0
WINDOW = (1160, 4200)
SHOWN_HEIGHT, SHOWN_WIDTH = 1590, 1500
FRAMES_TOP = 2045
"""Where the frames to look at begin on the page: they are shown beside its beginning."""


def main() -> None:
    """Write the drive, evaluate it, take a picture of the report."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    bag, out = folder / 'city_drive', folder / 'out'
    if not bag.exists():
        write_drive(bag)
    settings = Settings(truth_topics=('/ground_truth/labels',), truth_space='camvid')
    options = RunOptions(fail_if=('drivable_iou<0.95', 'false_drivable_rate>0.02'))
    evaluate_bags([bag], out, settings, Console(), options)
    shot = folder / 'shot.png'
    command = ['chromium', '--headless=new', '--no-sandbox', '--hide-scrollbars']
    command += [f'--window-size={WINDOW[0]},{WINDOW[1]}', f'--screenshot={shot.resolve()}']
    page = (out / 'report.html').resolve().as_uri()
    subprocess.run([*command, page], check=True, stderr=subprocess.DEVNULL)
    tall = Image.open(shot).convert('RGB')
    picture = Image.new('RGB', (2 * WINDOW[0], SHOWN_HEIGHT))
    for number, top in enumerate((0, FRAMES_TOP)):
        part = tall.crop((0, top, WINDOW[0], top + SHOWN_HEIGHT))
        picture.paste(part, (number * WINDOW[0], 0))
    size = SHOWN_WIDTH, round(SHOWN_HEIGHT * SHOWN_WIDTH / picture.width)
    # Few colours make a small file.
    small = picture.resize(size, Image.Resampling.LANCZOS)
    small.quantize(256, Image.Quantize.MEDIANCUT, kmeans=4).save(PICTURE, optimize=True)


def write_drive(bag: Path) -> None:
    """Write camera images and their truth, class ids of the label space 'camvid'."""
    drive = GeneratedDrive(SEED, WIDTH, HEIGHT, FRAMES, RATE_HZ, kind='city')
    with Writer(bag, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        camera, truth = (
            writer.add_connection(topic, kind, typestore=TYPESTORE)
            for topic, kind in (
                ('/camera/image_raw/compressed', COMPRESSED_IMAGE),
                ('/ground_truth/labels', IMAGE),
            )
        )
        for number in range(FRAMES):
            frame = drive.frame(number)
            jpeg = jpeg_message(frame.image, frame.stamp_ns, 'camera')
            labels = image_message(frame.labels, 'mono8', frame.stamp_ns)
            for connection, message in ((camera, jpeg), (truth, labels)):
                data = TYPESTORE.serialize_cdr(message, connection.msgtype)
                writer.write(connection, frame.stamp_ns, data)


if __name__ == '__main__':
    main()
