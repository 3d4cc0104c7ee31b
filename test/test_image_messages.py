"""Every encoding of the contract against an independent reference; malformed messages refused."""

import struct
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from lwseg_ros.errors import FrameError
from lwseg_ros.image_messages import ENCODINGS, ImageDecoder, image_from_message

HEIGHT, WIDTH = 48, 64


def _scene(height=HEIGHT, width=WIDTH):
    """Return a smooth RGB picture whose three channels differ, uint8 [H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    return np.stack([200 * x + 20, 180 * y + 40, 120 * (1 - x) + 30], -1).astype(np.uint8)


def _message(pixels, encoding, height=HEIGHT, width=WIDTH, padding=0, changes=()):
    """Return an Image message of rows uint8 [rows, bytes], each followed by padding bytes."""
    rows = np.pad(pixels, ((0, 0), (0, padding)), constant_values=171)
    content = {
        'height': height,
        'width': width,
        'encoding': encoding,
        'is_bigendian': 0,
        'step': rows.shape[1],
        'data': rows.tobytes(),
    }
    return SimpleNamespace(**{**content, **dict(changes)})


def _gray(rgb):
    return np.round(rgb @ [0.299, 0.587, 0.114])


def _yuv(rgb):
    """Return Y, U, V float planes of studio-range BT.601 by its definition."""
    r, g, b = (rgb[..., i] / 255.0 for i in range(3))
    y = 0.299 * r + 0.587 * g + 0.114 * b
    return 16 + 219 * y, 128 + 224 * (b - y) / 1.772, 128 + 224 * (r - y) / 1.402


def _packed_422(rgb, order):
    y, u, v = (np.round(p).astype(np.uint8) for p in _yuv(rgb))
    planes = {'u': u[:, ::2], 'v': v[:, ::2], '0': y[:, ::2], '1': y[:, 1::2]}
    return np.stack([planes[c] for c in order], -1).reshape(len(rgb), -1)


def _semi_planar(rgb, order):
    y, u, v = (np.round(p).astype(np.uint8) for p in _yuv(rgb))
    planes = {'u': u[::2, ::2], 'v': v[::2, ::2]}
    colour = np.stack([planes[c] for c in order], -1).reshape(len(rgb) // 2, -1)
    return np.concatenate([y, colour])


def _mosaic(rgb, pattern):
    mosaic = np.empty(rgb.shape[:2], np.uint8)
    for i, colour in enumerate(pattern):
        row, column = divmod(i, 2)
        mosaic[row::2, column::2] = rgb[row::2, column::2, 'rgb'.index(colour)]
    return mosaic


def _with_alpha(rgb):
    return np.concatenate([rgb, np.full((*rgb.shape[:2], 1), 77, np.uint8)], -1)


def _flat(pixels):
    return np.ascontiguousarray(pixels).reshape(len(pixels), -1)


def _sixteen_bits(values, order='<', bits=16):
    """Return values 0..255 stretched to `bits` bits, as bytes of 16-bit numbers."""
    stretched = np.round(values.astype(float) * ((1 << bits) - 1) / 255)
    return _flat(stretched.astype(order + 'u2')).view(np.uint8)


def _grey_rgb(rgb):
    return np.repeat(_gray(rgb)[..., None], 3, -1)


BUILDERS = {
    'rgb8': _flat,
    'bgr8': lambda rgb: _flat(rgb[..., ::-1]),
    'rgba8': lambda rgb: _flat(_with_alpha(rgb)),
    'bgra8': lambda rgb: _flat(_with_alpha(rgb[..., ::-1])),
    'mono8': lambda rgb: _gray(rgb).astype(np.uint8),
    '8UC1': lambda rgb: _gray(rgb).astype(np.uint8),
    '8UC3': lambda rgb: _flat(rgb[..., ::-1]),
    '8UC4': lambda rgb: _flat(_with_alpha(rgb[..., ::-1])),
    'mono16': lambda rgb: _sixteen_bits(_gray(rgb)),
    '16UC1': lambda rgb: _sixteen_bits(_gray(rgb)),
    'yuv422': lambda rgb: _packed_422(rgb, 'u0v1'),
    'uyvy': lambda rgb: _packed_422(rgb, 'u0v1'),
    'yuv422_yuy2': lambda rgb: _packed_422(rgb, '0u1v'),
    'yuyv': lambda rgb: _packed_422(rgb, '0u1v'),
    'nv12': lambda rgb: _semi_planar(rgb, 'uv'),
    'nv21': lambda rgb: _semi_planar(rgb, 'vu'),
    'bayer_rggb8': lambda rgb: _mosaic(rgb, 'rggb'),
    'bayer_bggr8': lambda rgb: _mosaic(rgb, 'bggr'),
    'bayer_gbrg8': lambda rgb: _mosaic(rgb, 'gbrg'),
    'bayer_grbg8': lambda rgb: _mosaic(rgb, 'grbg'),
}
GREY = {'mono8', '8UC1', 'mono16', '16UC1'}
EXACT = {'rgb8', 'bgr8', 'rgba8', 'bgra8', '8UC3', '8UC4'} | GREY


def test_every_encoding_has_a_reference_here():
    assert set(BUILDERS) == set(ENCODINGS)


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('encoding', sorted(BUILDERS))
def test_encoding(encoding, padding):
    rgb = _scene()
    image = image_from_message(_message(BUILDERS[encoding](rgb), encoding, padding=padding))
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.dtype == np.uint8
    expected = _grey_rgb(rgb) if encoding in GREY else rgb.astype(float)
    difference = np.abs(image - expected)[2:-2, 2:-2]  # demosaicing guesses at the border
    assert difference.max() <= (0 if encoding in EXACT else 9)
    # The channels lie 60 and more apart somewhere, so a swapped pair cannot pass.
    assert encoding in GREY or np.abs(image[..., ::-1] - expected).max() > 60


def test_big_endian_sixteen_bits():
    rgb = _scene()
    pixels = _sixteen_bits(_gray(rgb), '>')
    message = _message(pixels, 'mono16', padding=3, changes={'is_bigendian': 1})
    assert np.array_equal(image_from_message(message), _grey_rgb(rgb))


@pytest.mark.parametrize('bits', [10, 12, 14, 16])
def test_fewer_bits_in_sixteen_are_stretched_by_their_depth(bits):
    rgb = _scene()
    message = _message(_sixteen_bits(_gray(rgb), bits=bits), 'mono16')
    assert np.array_equal(image_from_message(message), _grey_rgb(rgb))


def test_the_depth_of_a_stream_never_falls():
    """A range taken anew from each frame would flicker: a dark frame stays dark."""
    rgb = _scene()
    decoder, other = ImageDecoder(), ImageDecoder()
    bright, dark = (
        _message(_sixteen_bits(_gray(rgb) // divisor, bits=12), 'mono16') for divisor in (1, 8)
    )
    first = decoder.decode(dark)
    assert np.array_equal(decoder.decode(bright), _grey_rgb(rgb))
    assert np.array_equal(decoder.decode(dark), _grey_rgb(rgb) // 8)
    assert decoder.decode(dark).max() < first.max()
    assert np.array_equal(other.decode(dark), first)  # another camera's stream


def test_rgb8_is_not_copied():
    message = _message(_flat(_scene()), 'rgb8', padding=7)
    message.data = np.frombuffer(message.data, np.uint8)
    assert np.shares_memory(image_from_message(message), message.data)


@pytest.mark.parametrize('size', [(1, 1), (1, 2), (2, 1), (3, 5), (601, 7)])
def test_odd_sizes(size):
    image = image_from_message(_message(_flat(_scene(*size)), 'rgb8', *size))
    assert image.shape == (*size, 3)


@pytest.mark.parametrize(
    ('field', 'fields'),
    [
        ('data', {'data': bytes(3 * WIDTH * HEIGHT - 1)}),
        ('data', {'data': b''}),
        ('data', {'height': 4_000_000_000}),
        ('step', {'step': 3 * WIDTH - 1}),
        ('step', {'step': 0}),
        ('step', {'width': 4_000_000_000}),
        ('width x height', {'width': 0}),
        ('width x height', {'height': 0}),
        ('encoding', {'encoding': ''}),
        ('encoding', {'encoding': '32FC1'}),
        ('width', {'encoding': 'yuv422', 'width': 63}),
        ('height', {'encoding': 'nv12', 'height': 47}),
        ('width x height', {'encoding': 'bayer_rggb8', 'width': 2}),
    ],
)
def test_malformed_image_names_the_field(field, fields):
    with pytest.raises(FrameError, match=f'^{field} '):
        image_from_message(_message(_flat(_scene()), 'rgb8', changes=fields))


@pytest.mark.parametrize('encoding', sorted(set(BUILDERS) - {'nv12', 'nv21'}))
def test_one_row(encoding):
    message = _message(BUILDERS[encoding](_scene(2, 2))[:1], encoding, 1, 2)
    if encoding.startswith('bayer'):
        with pytest.raises(FrameError, match='^width x height is 2x1: .* 3x3'):
            image_from_message(message)
    else:
        assert image_from_message(message).shape == (1, 2, 3)


def _compressed(extension, image, *parameters):
    _, data = cv2.imencode(extension, image[..., ::-1], parameters)
    return SimpleNamespace(format=extension[1:], data=data.tobytes())


def test_png_is_exact():
    rgb = _scene()
    assert np.array_equal(image_from_message(_compressed('.png', rgb)), rgb)


def test_jpeg():
    rgb = _scene()
    image = image_from_message(_compressed('.jpg', rgb, cv2.IMWRITE_JPEG_QUALITY, 98))
    assert np.abs(image.astype(int) - rgb).max() <= 8


def _stored(format_, values, *parameters):
    """Return a compressed message of values [H, W], as image_transport makes it."""
    extension = '.jpg' if 'jpeg' in format_ else '.png'
    _, data = cv2.imencode(extension, values, parameters)
    return SimpleNamespace(format=format_, data=data.tobytes())


@pytest.mark.parametrize('compression', ['; jpeg compressed ', ';jpeg', '; png compressed bgr8'])
@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_a_compressed_mosaic_is_debayered(pattern, compression):
    rgb = _scene()
    format_ = f'bayer_{pattern}8{compression}'
    quality = (cv2.IMWRITE_JPEG_QUALITY, 100) if 'jpeg' in compression else ()
    image = image_from_message(_stored(format_, _mosaic(rgb, pattern), *quality))
    assert np.abs(image.astype(int) - rgb)[2:-2, 2:-2].max() <= 12


@pytest.mark.parametrize('original', ['bayer_rggb8', 'bayer_rggb16', 'mono8', 'rgb8', ''])
def test_what_the_publisher_has_converted_is_not_converted_again(original):
    rgb = _scene()
    grey = _gray(rgb).astype(np.uint8)
    message = _stored(f'{original}; png compressed mono8', grey)
    assert np.array_equal(image_from_message(message), _grey_rgb(rgb))
    message = _stored(f'{original}; png compressed bgr8', rgb[..., ::-1])
    assert np.array_equal(image_from_message(message), rgb)


@pytest.mark.parametrize('bits', [12, 16])
@pytest.mark.parametrize('format_', ['mono16; png compressed ', 'png', '16UC1; png compressed'])
def test_sixteen_bits_in_png_are_stretched_by_their_depth(format_, bits):
    rgb = _scene()
    values = _sixteen_bits(_gray(rgb), bits=bits).view('<u2').reshape(HEIGHT, WIDTH)
    assert np.array_equal(image_from_message(_stored(format_, values)), _grey_rgb(rgb))
    colours = _sixteen_bits(rgb[..., ::-1], bits=bits).view('<u2').reshape(HEIGHT, WIDTH, 3)
    image = image_from_message(_stored('rgb16; png compressed bgr16', colours))
    assert np.array_equal(image, rgb)
    mosaic = _sixteen_bits(_mosaic(rgb, 'grbg'), bits=bits).view('<u2').reshape(HEIGHT, WIDTH)
    image = image_from_message(_stored('bayer_grbg16; png compressed ', mosaic))
    assert np.abs(image.astype(int) - rgb)[2:-2, 2:-2].max() <= 9


def test_twelve_bits_in_a_jpeg_of_the_upper_eight_are_not_black():
    grey = _gray(_scene())
    upper = (grey * 4095 / 255).astype(np.uint16) // 256
    format_ = 'mono16; jpeg compressed mono8'
    image = image_from_message(_stored(format_, upper, cv2.IMWRITE_JPEG_QUALITY, 100))
    assert np.abs(image[..., 0] - grey).mean() < 12  # one of 16 steps


def test_progressive_jpeg_with_padding_behind_its_end():
    message = _compressed('.jpg', _scene(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    message.data += bytes(4000)
    assert image_from_message(message).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize('extension', ['.jpg', '.png'])
def test_truncated_compressed_images_are_refused(extension):
    whole = _compressed(extension, _scene()).data
    for length in range(0, len(whole) - 1, 7):
        with pytest.raises(FrameError, match='^data'):
            image_from_message(SimpleNamespace(format=extension[1:], data=whole[:length]))


def test_a_chunk_longer_than_the_file_is_refused_before_decoding():
    message = _compressed('.png', _scene())
    at = message.data.find(b'IDAT') - 4
    message.data = message.data[:at] + b'\x7f' + message.data[at + 1 :]
    with pytest.raises(FrameError, match='cut off or damaged'):
        image_from_message(message)


def test_unknown_compression_is_refused():
    with pytest.raises(FrameError, match='neither JPEG nor PNG'):
        image_from_message(SimpleNamespace(format='tiff', data=b'II*\0' + bytes(100)))


def test_a_small_file_that_tells_of_a_huge_image_is_refused_before_decoding():
    header = struct.pack('>IIBBBBB', 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b'IHDR', header), (b'IDAT', zlib.compress(b'0')), (b'IEND', b'')]
    png = b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
        for kind, body in chunks
    )
    with pytest.raises(FrameError, match='60000x60000'):
        image_from_message(SimpleNamespace(format='png', data=png))
    jpeg = bytearray(_compressed('.jpg', _scene()).data)
    at = jpeg.find(b'\xff\xc0')
    jpeg[at + 5 : at + 9] = b'\xff\xff\xff\xff'
    with pytest.raises(FrameError, match='65535x65535'):
        image_from_message(SimpleNamespace(format='jpeg', data=bytes(jpeg)))
