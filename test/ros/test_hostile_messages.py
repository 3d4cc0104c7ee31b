"""Malformed camera messages: each is refused with a sentence, or is the image that it says.

`check_raw`, `check_png` and `check_jpeg` hold that for one message. Tens of thousands go through
them in a process of their own whose memory is limited, some hundreds through the real node.
"""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import types
import zlib
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from paths_for_tests import ROOT

from lwseg_ros.errors import FrameError
from lwseg_ros.image_messages import ENCODINGS, image_from_message

UINT32 = 2**32 - 1
EDGES = (0, 1, 2, 3, 255, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 2, UINT32)

# Bytes of a pixel in the first plane, by the definitions of sensor_msgs/image_encodings.
PIXEL_BYTES = {
    **dict.fromkeys(('rgb8', 'bgr8', '8UC3'), 3),
    **dict.fromkeys(('rgba8', 'bgra8', '8UC4'), 4),
    **dict.fromkeys(('mono8', '8UC1', 'nv12', 'nv21'), 1),
    **dict.fromkeys(('mono16', '16UC1', 'yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv'), 2),
    **{f'bayer_{pattern}8': 1 for pattern in ('rggb', 'bggr', 'gbrg', 'grbg')},
}
NO_ENCODINGS = (
    '',
    'RGB8',
    'rgb8\0',
    'rgb16',
    'bayer_rggb16',
    '32FC1',
    '8UC',
    'jpeg',
    '\u00e9' * 300,
)
FIELD = re.compile('^(data|step|width|height|width x height|encoding) ')
COMPRESSED_SENTENCES = re.compile(
    r'^data (\(\d+ bytes, format .*\) (is neither JPEG nor PNG|is cut off or damaged|'
    r'cannot be decoded)|tells of \d+x\d+ pixels in \d+ bytes: not a camera image)$'
)


def rows_of(message: Any) -> int:
    return message.height * 3 // 2 if message.encoding in ('nv12', 'nv21') else message.height


def is_valid(message: Any) -> bool:
    """Tell whether an Image message holds what it says, by the definitions of its encodings."""
    encoding, width, height = message.encoding, message.width, message.height
    if encoding not in PIXEL_BYTES or width == 0 or height == 0:
        return False
    if encoding.startswith('bayer') and min(width, height) < 3:
        return False
    if encoding in ('yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv', 'nv12', 'nv21') and width % 2:
        return False
    if encoding in ('nv12', 'nv21') and height % 2:
        return False
    row_bytes = width * PIXEL_BYTES[encoding]
    return message.step >= row_bytes and len(message.data) >= message.step * rows_of(message)


def attempt(message: Any) -> tuple[Any, str]:
    """Return the image and '', or None and the sentence of the refusal."""
    try:
        return image_from_message(message), ''
    except FrameError as error:
        return None, str(error)


def check_raw(message: Any) -> bool:
    """Assert that an Image message is refused or right; return whether it was refused."""
    before = bytes(message.data)
    image, refusal = attempt(message)
    assert bytes(message.data) == before, 'the message was written into'
    if image is None:
        assert FIELD.match(refusal), refusal
        assert not is_valid(message), f'refused though valid: {refusal}'
        return True
    assert is_valid(message), 'taken though invalid'
    assert image.shape == (message.height, message.width, 3)
    assert image.dtype == np.uint8
    # What lies between and behind the rows has no influence.
    row_bytes = message.width * PIXEL_BYTES[message.encoding]
    rows = [before[row * message.step :][:row_bytes] for row in range(rows_of(message))]
    tight = SimpleNamespace(**{**vars(message), 'step': row_bytes, 'data': b''.join(rows)})
    assert np.array_equal(image, image_from_message(tight))
    return False


def raw_messages(random: Random) -> Iterator[SimpleNamespace]:
    """Yield Image messages that were valid before up to three of their fields were changed."""
    while True:
        encoding = random.choice(sorted(PIXEL_BYTES))
        width, height = 2 * random.randint(1, 8), 2 * random.randint(1, 6)
        message = SimpleNamespace(encoding=encoding, width=width, height=height, is_bigendian=0)
        message.step = width * PIXEL_BYTES[encoding] + random.choice((0, 0, 1, 13))
        message.data = random.randbytes(message.step * rows_of(message))
        for _ in range(random.randint(1, 3)):
            field = random.choice(('width', 'height', 'step', 'data', 'encoding', 'is_bigendian'))
            value = getattr(message, field)
            if field == 'data':
                cut = random.choice((0, 1, len(value) // 2, len(value) - 1))
                value = random.choice((value[: max(cut, 0)], value + b'more', value[:-1]))
            elif field == 'encoding':
                value = random.choice((*sorted(PIXEL_BYTES), *NO_ENCODINGS))
            elif field == 'is_bigendian':
                value = random.choice((1, 255))
            else:
                near = min(max(value + random.choice((-2, -1, 1, 2)), 0), UINT32)
                value = random.choice((near, near, random.choice(EDGES)))
            setattr(message, field, value)
        yield message


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', checksum)


def png(
    width: int,
    height: int,
    rows: Any,
    depth: int = 8,
    color: int = 2,
    extra: tuple[bytes, ...] = (),
) -> bytes:
    """Return a PNG of these rows of packed samples, after the PNG specification."""
    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, depth, color, 0, 0, 0))
    pixels = chunk(b'IDAT', zlib.compress(b''.join(b'\0' + bytes(row) for row in rows)))
    return b''.join((b'\x89PNG\r\n\x1a\n', header, *extra, pixels, chunk(b'IEND', b'')))


def with_true_checksums(data: bytes) -> bytes:
    """Return a PNG whose chunks, as far as they can be found, have the right checksum."""
    parts, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], 'big')
        parts += [data[at:end], struct.pack('>I', zlib.crc32(data[at + 4 : end]))]
        at = end + 4
    return b''.join(parts)


def compressed(data: bytes, format: str = 'jpeg') -> SimpleNamespace:
    return SimpleNamespace(format=format, data=data)


def check_compressed(data: bytes) -> Any:
    """Assert that a CompressedImage is refused with a sentence or an image; return that."""
    image, refusal = attempt(compressed(data))
    if image is None:
        assert COMPRESSED_SENTENCES.match(refusal), refusal
        return None
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.nbytes <= 3 * 1032 * len(data), 'more pixels than the data can hold'
    return image


def damaged(data: bytes, random: Random) -> bytes:
    """Return a changed copy: bits turned, a piece cut out, doubled, overwritten, the end lost."""
    content = bytearray(data)
    for _ in range(random.randint(1, 3)):
        start = random.randrange(len(content))
        piece = slice(start, start + random.randint(1, 40))
        match random.randrange(5):
            case 0:
                content[start] ^= 1 << random.randrange(8)
            case 1:
                del content[piece]
            case 2:
                content[start:start] = content[piece]
            case 3:
                content[piece] = random.choice((b'\0', b'\xff')) * len(content[piece])
            case 4:
                del content[start + 1 :]
        content = content or bytearray(data[:1])
    return bytes(content)


def picture() -> Any:
    """Return a picture of smooth and rough parts, uint8 [12, 16, 3]."""
    random = np.random.default_rng(1)
    coarse = cv2.resize(random.integers(0, 256, (3, 4, 3), np.uint8), (16, 12))
    coarse[:, 8:] ^= random.integers(0, 32, (12, 8, 3), np.uint8)
    return coarse


def jpegs() -> list[bytes]:
    options = ((), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 1))
    return [cv2.imencode('.jpg', picture(), given)[1].tobytes() for given in options]


def thousands_of_malformed_messages() -> int:
    """Check them all; return how many were refused."""
    random = Random(7)
    refused = 0
    for _, message in zip(range(9000), raw_messages(random), strict=False):
        try:
            refused += check_raw(message)
        except BaseException:
            print('failed at', message)
            raise
    rgb = picture()
    whole = png(16, 12, [row.tobytes() for row in rgb])
    for number in range(7000):
        if number % 7 < 2:
            # Turned bits that the checksums do not tell of are what they are there for.
            data = damaged(whole, random)
            image = check_compressed(data)
            assert image is None or np.array_equal(image, rgb), f'failed at {data!r}'
        elif number % 7 < 4:
            image = check_compressed(with_true_checksums(damaged(whole, random)))
        else:
            image = check_compressed(damaged(random.choice(jpeg_files), random))
        refused += image is None
    return refused


jpeg_files = jpegs()


def bombs() -> Iterator[tuple[str, Any]]:
    """Yield messages that tell of far more than they hold, by name."""
    huge = dict.fromkeys(('width', 'height', 'step'), UINT32)
    huge.update(is_bigendian=0, data=bytes(100))
    for encoding in sorted(PIXEL_BYTES):
        yield encoding, SimpleNamespace(**huge, encoding=encoding)
        # 65536 x 65536 is 0 in 32 bits.
        wrapped = {**huge, 'width': 65536, 'height': 65536, 'step': 65536, 'encoding': encoding}
        yield f'{encoding} product of 0', SimpleNamespace(**wrapped)
    for width, height in ((60_000, 60_000), (UINT32, 1), (2**31 - 1, 2**31 - 1), (20_000, 5_000)):
        for depth, color in ((1, 0), (8, 2), (16, 6)):
            data = png(width, height, [b'0'], depth, color)
            name = f'png {width}x{height} {depth} {color}'
            yield name, compressed(data)
            yield f'{name}, padded', compressed(data + bytes(20_000))
    at = jpeg_files[0].find(b'\xff\xc0') + 5
    for size in (b'\xff\xff\xff\xff', b'\x7f\xff\x7f\xff', b'\x00\x00\xff\xff'):
        data = jpeg_files[0][:at] + size + jpeg_files[0][at + 4 :]
        yield f'jpeg {size!r}', compressed(data)
    # A second frame header, a chunk and a frame of an animation behind an honest first one.
    frame = jpeg_files[0][at - 5 : at - 3 + int.from_bytes(jpeg_files[0][at - 3 : at - 1], 'big')]
    large = frame[:5] + b'\x7f\xff\x7f\xff' + frame[9:]
    whole = jpeg_files[0]
    yield 'jpeg, small frame first', compressed(whole[: at - 5] + frame + large + whole[at - 5 :])
    yield 'jpeg, large frame first', compressed(whole[: at - 5] + large + whole[at - 5 :])
    rows = [row.tobytes() for row in picture()]
    whole = png(16, 12, rows)
    header = chunk(b'IHDR', struct.pack('>IIBBBBB', 60_000, 60_000, 8, 2, 0, 0, 0))
    yield 'png, small header first', compressed(whole[:33] + header + whole[33:])
    yield 'png, large header first', compressed(whole[:8] + header + whole[8:])
    yield 'png, a long chunk', compressed(whole[:33] + b'\x7f\xff\xff\xffIDAT' + whole[33:])
    control = chunk(b'fcTL', struct.pack('>IIIIIHHBB', 0, 60_000, 60_000, 0, 0, 1, 9, 0, 0))
    animation = (chunk(b'acTL', struct.pack('>II', 2**31 - 1, 0)), control)
    yield 'png, a large animation', compressed(png(16, 12, rows, extra=animation))


def all_bombs() -> int:
    """Check that each is refused, and says so of a field; return their number."""
    messages = dict(bombs())
    for name, message in messages.items():
        image, refusal = attempt(message)
        assert image is None, name
        assert FIELD.match(refusal), refusal
    return len(messages)


def in_little_memory(function: str, megabytes: int) -> int:
    """Return what a function of this module returns in a process of so much more memory."""
    program = (
        'import resource, sys\n'
        'import cv2\n'
        f'sys.path[:0] = {[str(ROOT), str(ROOT / "test"), str(Path(__file__).parent)]}\n'
        'import test_hostile_messages as tests\n'
        'cv2.setNumThreads(1)\n'
        'pages = int(open("/proc/self/statm").read().split()[0])\n'
        f'limit = pages * resource.getpagesize() + ({megabytes} << 20)\n'
        'resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n'
        f'print(tests.{function}())\n'
    )
    command = [sys.executable, '-c', program]
    done = subprocess.run(command, capture_output=True, text=True, errors='replace', timeout=600)
    assert done.returncode == 0, f'status {done.returncode}: {done.stdout}{done.stderr[-3000:]}'
    return int(done.stdout)


def test_every_encoding_has_a_definition_here() -> None:
    assert set(PIXEL_BYTES) == set(ENCODINGS)


def test_ten_thousand_malformed_messages_are_refused() -> None:
    assert in_little_memory('thousands_of_malformed_messages', 64) >= 10_000


def test_bombs_are_refused_without_the_memory_they_tell_of() -> None:
    assert in_little_memory('all_bombs', 32) > 60


def test_any_fields_whatever() -> None:
    hypothesis = pytest.importorskip('hypothesis')
    st = hypothesis.strategies
    number = st.integers(0, 20) | st.sampled_from(EDGES) | st.integers(0, UINT32)

    @hypothesis.settings(max_examples=1000, derandomize=True, deadline=None, database=None)
    @hypothesis.given(
        encoding=st.sampled_from(sorted(PIXEL_BYTES)) | st.text('rgb8_\0\u00e9', max_size=8),
        width=number,
        height=number,
        step=number,
        is_bigendian=st.integers(0, 255),
        data=st.binary(max_size=800),
    )
    def check(**fields: Any) -> None:
        check_raw(SimpleNamespace(**fields))

    check()


def test_any_bytes_behind_a_picture_s_signature() -> None:
    hypothesis = pytest.importorskip('hypothesis')
    st = hypothesis.strategies
    signature = st.sampled_from([b'', b'\xff\xd8', b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n'])

    @hypothesis.settings(max_examples=500, derandomize=True, deadline=None, database=None)
    @hypothesis.given(signature=signature, rest=st.binary(max_size=300))
    def check(signature: bytes, rest: bytes) -> None:
        check_compressed(signature + rest)

    check()


@pytest.mark.parametrize('data', [png(16, 12, [bytes(48)] * 12), *jpeg_files])
def test_every_place_to_cut_a_picture_off(data: bytes) -> None:
    assert check_compressed(data) is not None
    for length in range(len(data) - 1):
        assert check_compressed(data[:length]) is None, length


def test_every_bit_of_a_png() -> None:
    rgb = picture()
    whole = png(16, 12, [row.tobytes() for row in rgb], extra=(chunk(b'tEXt', b'a\0b'),))
    assert np.array_equal(check_compressed(whole), rgb)
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        assert check_compressed(bytes(data)) is None, bit


def test_a_jpeg_of_a_thousand_scans_is_refused() -> None:
    progressive = jpeg_files[1]
    scan = progressive[progressive.rfind(b'\xff\xda') : -2]
    assert check_compressed(progressive[:-2] + scan + b'\xff\xd9') is not None
    assert check_compressed(progressive[:-2] + 1000 * scan + b'\xff\xd9') is None


@pytest.mark.parametrize(
    ('depth', 'color', 'samples', 'rgb'),
    [
        (16, 2, [0x0102, 0x8081, 0xFEFF], (1, 128, 254)),
        (16, 6, [0x0102, 0x8081, 0xFEFF, 0], (1, 128, 254)),
        (16, 0, [0x8081], (128, 128, 128)),
        (16, 4, [0x8081, 0], (128, 128, 128)),
        (8, 0, [77], (77, 77, 77)),
        (8, 4, [77, 3], (77, 77, 77)),
        (8, 6, [10, 20, 30, 0], (10, 20, 30)),
        (8, 3, [1], (40, 50, 60)),
        (4, 3, [0x11], (40, 50, 60)),
        (4, 0, [0x33], (51, 51, 51)),
        (1, 0, [0xFF], (255, 255, 255)),
    ],
)
def test_every_kind_of_png(depth: int, color: int, samples: list[int], rgb: tuple) -> None:
    pixel = np.array(samples, '>u2' if depth == 16 else 'u1').tobytes()
    row = pixel * (16 if depth >= 8 else 16 * depth // 8)
    palette = chunk(b'PLTE', bytes([7, 8, 9, 40, 50, 60])), chunk(b'tRNS', b'\0')
    data = png(16, 12, [row] * 12, depth, color, palette if color == 3 else ())
    image = check_compressed(data)
    assert image is not None
    assert image.shape == (12, 16, 3)
    assert np.abs(image.astype(int) - rgb).max() <= (1 if depth == 16 else 0)


def test_grey_jpeg() -> None:
    grey = cv2.imencode('.jpg', np.full((12, 16), 90, np.uint8))[1].tobytes()
    assert np.abs(check_compressed(grey).astype(int) - 90).max() <= 2


@pytest.fixture
def cv_bridge(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a stand-in for cv_bridge, installed: a module whose `answer` is what it gives."""
    module = types.ModuleType('cv_bridge')

    class CvBridge:
        def imgmsg_to_cv2(self, message: Any, desired_encoding: str) -> Any:
            assert desired_encoding == 'rgb8'
            return module.answer(message)

    module.CvBridge = CvBridge
    monkeypatch.setitem(sys.modules, 'cv_bridge', module)
    return module


def deep_bayer(**changes: Any) -> SimpleNamespace:
    message = SimpleNamespace(encoding='bayer_rggb16', width=8, height=6, step=16)
    vars(message).update(is_bigendian=0, data=bytes(96), **changes)
    return message


def test_other_encodings_go_through_cv_bridge(cv_bridge: Any) -> None:
    rgb = np.full((6, 8, 3), 9, np.uint8)
    cv_bridge.answer = lambda message: rgb
    assert image_from_message(deep_bayer()) is rgb
    cv_bridge.answer = lambda message: rgb[:, :4]  # what it does where the step is too short
    with pytest.raises(FrameError, match='^step is 8: .*8x6 bayer_rggb16'):
        image_from_message(deep_bayer(step=8))
    cv_bridge.answer = lambda message: np.empty(message.missing)
    with pytest.raises(FrameError, match="^encoding is 'bayer_rggb16': cv_bridge refuses it"):
        image_from_message(deep_bayer())
    with pytest.raises(FrameError, match='^width x height is 0x6'):
        image_from_message(deep_bayer(width=0))


def test_without_cv_bridge_other_encodings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'cv_bridge', None)
    with pytest.raises(FrameError, match="^encoding is 'bayer_rggb16': send one of rgb8, .*cv_br"):
        image_from_message(deep_bayer())


# Through the real node


@pytest.fixture
def start(driver: Any, tiny_model: Path, tmp_path: Path) -> Iterator[Any]:
    """Return a function that starts a node with a transport, and gives what is needed to use it.

    `ask` sends a message that is to be refused and waits for that; `answer` one to be answered.
    """
    from ros_for_tests import NodeProcess, node_command
    from sensor_msgs.msg import Image

    nodes = []

    def start_node(message_type: Any, transport: str, topic: str) -> SimpleNamespace:
        parameters = {
            'model.path': tiny_model,
            'input.transport': transport,
            'diagnostics.period_s': 0.1,
        }
        node = NodeProcess(tmp_path / 'node.log', node_command(parameters))
        nodes.append(node)
        masks = driver.collect(Image, 'mask')
        drivable_masks = driver.collect(Image, 'drivable_mask')
        camera = driver.camera(message_type, topic)
        refused = 0

        def refuse(message: Any) -> None:
            nonlocal refused
            refused += 1
            camera.publish(message)
            driver.spin_until(
                lambda: driver.diagnostics.get('frames refused') == str(refused),
                f'refusal {refused}',
            )

        def answer(message: Any) -> Any:
            masks.clear()
            drivable_masks.clear()
            camera.publish(message)
            driver.spin_until(lambda: masks and drivable_masks, 'the answer to a good frame')
            assert masks[0].header == drivable_masks[0].header == message.header
            return np.frombuffer(masks[0].data, np.uint8).reshape(masks[0].height, -1)

        return SimpleNamespace(refuse=refuse, answer=answer, node=node, masks=masks)

    yield start_node
    for node in nodes:
        node.close()


def painted() -> tuple[Any, Any]:
    """Return 16x16 blocks in the colours of labels, [96, 128, 3], and the labels of the blocks."""
    from lwseg_ros.label_space import LabelSpace

    space = LabelSpace.load('camvid')
    blocks = np.random.default_rng(5).integers(0, space.num_classes, (6, 8))
    return space.palette[np.kron(blocks, np.ones((16, 16), int))], blocks


def test_the_node_refuses_malformed_images_and_answers_the_good_ones(
    driver: Any, start: Any
) -> None:
    from array import array

    from ros_for_tests import image_message, with_header
    from sensor_msgs.msg import Image

    tools = start(Image, 'raw', 'image')
    rgb, blocks = painted()
    messages = (m for m in raw_messages(Random(11)) if not is_valid(m))
    for number in range(50):
        fields = vars(next(messages))
        broken = Image(**{**fields, 'data': array('B', fields['data'])})
        tools.refuse(with_header(broken, 1000 + number))
        if number % 10 == 0:
            # Resolution and encoding change from one good frame to the next.
            scale = 1 + number // 10 % 2
            large = np.kron(rgb, np.ones((scale, scale, 1), np.uint8))
            encoding = ('rgb8', 'bgr8')[number // 20 % 2]
            mask = tools.answer(image_message(large, encoding, padding=number % 3, number=number))
            assert np.array_equal(mask[8 * scale :: 16 * scale, 8 * scale :: 16 * scale], blocks)
    assert driver.counts()['received'] == 50 + 5
    assert driver.counts()['processed'] == 5
    refusals = [line for line in tools.node.log.splitlines() if 'frame refused: ' in line]
    assert all(FIELD.match(line.split('frame refused: ')[1]) for line in refusals)
    assert 1 <= len(refusals) < 50 / 2, 'throttled'
    assert 'Traceback' not in tools.node.log
    tools.node.stop()
    assert tools.node.process.returncode == 0


def test_the_node_refuses_malformed_pictures_and_answers_the_good_ones(
    driver: Any, start: Any
) -> None:
    from array import array

    from ros_for_tests import compressed_message, with_header
    from sensor_msgs.msg import CompressedImage

    tools = start(CompressedImage, 'compressed', 'image/compressed')
    rgb, blocks = painted()
    random = Random(13)
    whole = [*jpeg_files, png(16, 12, [row.tobytes() for row in picture()])]
    pictures = (damaged(random.choice(whole), random) for _ in iter(int, 1))
    refused = (data for data in pictures if check_compressed(data) is None)
    broken = [message.data for _, message in bombs() if hasattr(message, 'format')]
    broken += [next(refused) for _ in range(30)]
    for number, data in enumerate(broken):
        message = CompressedImage(format='jpeg', data=array('B', data))
        tools.refuse(with_header(message, 1000 + number))
        if number % 10 == 0:
            extension = ('.png', '.jpg')[number // 10 % 2]
            mask = tools.answer(compressed_message(rgb, extension, number))
            assert np.array_equal(mask[8::16, 8::16], blocks)
    assert driver.counts()['refused'] == len(broken)
    assert 'Traceback' not in tools.node.log
    peak = re.search(r'VmHWM:\s+(\d+)', Path(f'/proc/{tools.node.process.pid}/status').read_text())
    assert int(peak[1]) < 1 << 20, 'KiB: none of the bombs went off'
    tools.node.stop()
    assert tools.node.process.returncode == 0
