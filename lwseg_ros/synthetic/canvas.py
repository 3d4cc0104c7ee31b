"""Draw a generated street as a camera sees it, into an image and its labels alike.

The ground is textured by casting the ray of every pixel onto it, so its perspective is exact;
everything that stands on it is a camera-facing sprite, an upright textured panel or a polygon
mesh, drawn from far to near. The method is our choice.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from lwseg_ros.synthetic.camera import Camera
from lwseg_ros.synthetic.layout import LENGTH
from lwseg_ros.synthetic.painting import Image
from lwseg_ros.synthetic.road import Road
from lwseg_ros.synthetic.scene import (
    HALF_WIDTH,
    SKY,
    TEXEL,
    UNLABELLED,
    Billboard,
    Panel,
    Scene,
    Solid,
)

NEAR = 0.6
FAR = 170.0
_REACH = 6000.0
_GRAIN = 90.0


class Canvas:
    """The image and its labels while they are drawn, and with `measures` its depth.

    `depth` is metres along the camera's axis, float32 `[H, W]`, NaN in the sky and on the skyline.
    It takes as long again.
    """

    def __init__(
        self,
        camera: Camera,
        road: Road,
        fog: npt.NDArray[np.float64],
        haze: float,
        measures: bool = False,
    ) -> None:
        self.measures = measures
        self.camera, self.road, self.fog, self.haze = camera, road, fog, haze
        self.image: Image = np.zeros((camera.height, camera.width, 3), np.uint8)
        self.labels: Image = np.zeros((camera.height, camera.width), np.uint8)
        self.depth = np.full((camera.height, camera.width), np.nan, np.float32)

    def _haze(self, distance: float | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(1 - np.exp(-self.haze * np.maximum(distance, 0.0)))

    def sky(self, scene: Scene, heading: float) -> None:
        """Fill the image with the sky and, up to the horizon, a far skyline."""
        camera = self.camera
        horizon = camera.center[1] - camera.focal * np.tan(camera.pitch)
        scale = 1024 / 2.6 / camera.focal
        rise = 256 / 0.75 / camera.focal
        shift = heading * 1024 / 2.6
        affine = np.array(
            [[scale, 0, -shift - camera.center[0] * scale], [0, rise, 255 - horizon * rise]]
        )
        cv2.warpAffine(
            scene.sky,
            affine,
            (camera.width, camera.height),
            self.image,
            cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            cv2.BORDER_WRAP,
        )
        below = max(0, int(horizon) - 1)
        if below < camera.height:
            self.image[below:] = np.asarray(self.fog, np.uint8)
        self.labels[:] = SKY
        columns = np.arange(0, camera.width + 3, 2)
        azimuth = (columns - camera.center[0]) / camera.focal - heading
        height = np.interp(
            azimuth * 1024 / 2.6, np.arange(1024), scene.skyline.heights, period=1024
        )
        top = horizon - camera.focal * np.maximum(height, 0.0005)
        outline = np.concatenate(
            [np.stack([columns, top], axis=1), [[camera.width, camera.height], [0, camera.height]]]
        )
        fade = float(self._haze(260.0)) * 0.8 + 0.15
        color = np.asarray(scene.skyline.color) * (1 - fade) + self.fog * fade
        points = np.round(outline).astype(np.int32)
        cv2.fillPoly(self.image, [points], color.tolist())
        cv2.fillPoly(self.labels, [points], scene.skyline.label)

    def ground(self, textures: list[Image], labels: Image, grain: Image, place: float) -> None:
        """Texture everything below the horizon."""
        camera, road = self.camera, self.road
        first = road.first_row
        if first >= camera.height:
            return
        forward = road.row_forward[first:].astype(np.float64)
        up = road.row_up[first:].astype(np.float64)
        sin, cos = np.sin(camera.pitch), np.cos(camera.pitch)
        depth = forward * cos - (up - camera.mount_height) * sin
        lateral = (depth / camera.focal)[:, None] * (camera.center[0] - np.arange(camera.width))[
            None
        ]
        column, row = ground_texel(road, forward[:, None], lateral, place)
        rows = np.repeat(row, camera.width, axis=1)
        self.labels[first:] = cv2.remap(
            labels, column, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE
        )
        self.depth[first:] = depth[:, None]
        across = depth / camera.focal / TEXEL
        along = np.abs(np.gradient(forward)) / TEXEL if len(forward) > 1 else across
        level = np.log2(np.maximum(across**0.6 * np.minimum(along, 200) ** 0.4, 1e-3))
        mip = np.clip(np.floor(level + 0.5), 0, len(textures) - 1).astype(int)
        begin = 0
        while begin < len(mip):
            same = mip[begin:] != mip[begin]
            end = begin + int(np.argmax(same)) if same.any() else len(mip)
            texture, shrink = textures[mip[begin]], np.float32(0.5 ** int(mip[begin]))
            offset = np.float32(0.5) * shrink - np.float32(0.5)
            self.image[first + begin : first + end] = cv2.remap(
                texture,
                column[begin:end] * shrink + offset,
                rows[begin:end] * shrink + offset,
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )
            begin = end
        self._grain(grain, first, depth, forward + place, lateral)
        misty = int(np.searchsorted(-forward, -8.0))
        if misty:
            amount = self._haze(forward[:misty])[:, None, None].astype(np.float32)
            strip = self.image[first : first + misty]
            strip[:] = strip * (1 - amount) + np.asarray(self.fog, np.float32) * amount

    def _grain(
        self,
        grain: Image,
        first: int,
        depth: npt.NDArray[np.float64],
        along: npt.NDArray[np.float64],
        lateral: npt.NDArray[np.float64],
    ) -> None:
        """Roughen the near ground with a small tile of `_GRAIN` pixels a metre."""
        begin = int(np.argmax(depth < 2.5 * self.camera.focal / _GRAIN))
        if depth[begin] * _GRAIN >= 2.5 * self.camera.focal:
            return
        column = np.asarray(
            np.mod((lateral[begin:] - self.road.ego_d) * _GRAIN, grain.shape[1]), np.float32
        )
        row = np.asarray(np.mod(along[begin:] * _GRAIN, grain.shape[0]), np.float32)
        rows = np.repeat(row[:, None], column.shape[1], axis=1)
        rough = cv2.remap(grain, column, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        target = self.image[first + begin :]
        cv2.multiply(target, cv2.cvtColor(rough, cv2.COLOR_GRAY2RGB), target, scale=1 / 128)

    def objects(self, scene: Scene, time_s: float, place: float) -> None:
        """Draw what stands and moves on the ground, shadows first, then from far to near."""
        items = scene.at(time_s)
        start = np.array([item.s0 if isinstance(item, Panel) else item.s for item in items])
        ahead = np.mod(start - place + 40, LENGTH) - 40
        far = [item.s1 - item.s0 if isinstance(item, Panel) else 0.0 for item in items]
        aside = [
            abs((item.d0 + item.d1) / 2 if isinstance(item, Panel) else item.d) for item in items
        ]
        order = np.argsort(-(ahead + np.asarray(far) + 1.5 * np.asarray(aside)), kind='stable')
        seen = [i for i in order if -30 < ahead[i] < FAR]
        for i in seen:
            item = items[i]
            if isinstance(item, Solid) and item.footprint[0]:
                self._contact_shadow(item, float(ahead[i]))
        for i in seen:
            item, x = items[i], float(ahead[i])
            if isinstance(item, Billboard):
                self._billboard(item, x)
            elif isinstance(item, Panel):
                self._panel(item, x)
            else:
                self._solid(item, x)

    def _billboard(self, item: Billboard, x: float) -> None:
        if x < 1.2:
            return
        u, v, depth = self.camera.project(self.road.place([x], [item.d], [item.z]))[0]
        scale = self.camera.focal / depth
        width, height = item.width * scale, item.height * scale
        left, top = u - width / 2, v - height
        if (
            height < 1.5
            or left > self.camera.width
            or left + width < 0
            or v < 0
            or top > self.camera.height
        ):
            return
        picture = _level(item.pictures, height)
        sx, sy = width / picture.shape[1], height / picture.shape[0]
        matrix = np.array([[sx, 0, left + sx / 2 - 0.5], [0, sy, top + sy / 2 - 0.5], [0, 0, 1]])
        surface = np.array([0, 0, depth])
        self._paste(picture, matrix, (left, top, left + width, v), item.label, 1.0, x, surface)

    def _panel(self, item: Panel, x: float) -> None:
        seen = panel_ahead(self.road, item, x)
        if seen is None:
            return
        ends, begin = seen
        end = 1.0
        optical = self.camera.optical(ends)
        corners = self.camera.image_of(optical)
        if corners[:, 2].min() < 0.2:
            return
        u, v = corners[:, 0], corners[:, 1]
        box = (float(u.min()), float(v.min()), float(u.max()), float(v.max()))
        if (
            box[2] < 0
            or box[0] > self.camera.width
            or box[3] < 0
            or box[1] > self.camera.height
            or box[2] - box[0] < 0.4
        ):
            return
        picture = _level(item.pictures, float(max(v[3] - v[0], v[2] - v[1])))
        height, width = picture.shape[:2]
        if item.d0 + item.d1 < 0:
            begin, end = 1 - begin, 0.0
        a, b = begin * width - 0.5, end * width - 0.5
        source = np.array([[a, -0.5], [b, -0.5], [b, height - 0.5], [a, height - 0.5]], np.float32)
        matrix = cv2.getPerspectiveTransform(source, corners[:, :2].astype(np.float32))
        surface = nearest_of_plane(optical)
        middle = float(ends[0, 0] + ends[1, 0]) / 2
        self._paste(picture, np.asarray(matrix), box, item.label, item.gain, middle, surface)

    def _paste(
        self,
        picture: Image,
        matrix: npt.NDArray[np.float64],
        box: tuple[float, float, float, float],
        label: int,
        gain: float,
        x: float,
        surface: npt.NDArray[np.float64],
    ) -> None:
        """Warp a premultiplied picture by a homography and lay it over the image.

        Labels and depth take the pixels that are more than half opaque; `surface` is the point of
        the picture's plane that is nearest to the camera (see `nearest_of_plane`).
        """
        left, top = max(0, int(box[0]) - 1), max(0, int(box[1]) - 1)
        right = min(self.camera.width, int(box[2]) + 2)
        bottom = min(self.camera.height, int(box[3]) + 2, self.road.hidden_below(x))
        if right <= left or bottom <= top:
            return
        shift = np.array([[1.0, 0, -left], [0, 1, -top], [0, 0, 1]])
        size = (right - left, bottom - top)
        warped = cv2.warpPerspective(
            picture, shift @ matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
        )
        haze = float(self._haze(x))
        if haze > 0.01 or gain != 1.0:
            mix = np.zeros((4, 4), np.float32)
            mix[[0, 1, 2], [0, 1, 2]] = gain * (1 - haze)
            mix[:3, 3] = self.fog / 255 * haze
            mix[3, 3] = 1
            warped = cv2.transform(warped, mix)
        alpha = np.ascontiguousarray(warped[..., 3])
        keep = cv2.cvtColor(cv2.bitwise_not(alpha), cv2.COLOR_GRAY2RGB)
        target = self.image[top:bottom, left:right]
        cv2.add(
            cv2.multiply(target, keep, scale=1 / 255),
            np.ascontiguousarray(warped[..., :3]),
            target,
        )
        opaque = alpha > 127
        self.labels[top:bottom, left:right][opaque] = label
        if self.measures:
            self._set_depth(opaque, top, left, surface)

    def _set_depth(
        self, where: npt.NDArray[np.bool_], top: int, left: int, surface: npt.NDArray[np.float64]
    ) -> None:
        """Set the depth of some pixels of a part of the image to that of a plane."""
        rows, columns = np.nonzero(where)
        ahead = (surface @ surface) / (
            surface[0] * (columns + left - self.camera.center[0]) / self.camera.focal
            + surface[1] * (rows + top - self.camera.center[1]) / self.camera.focal
            + surface[2]
        )
        self.depth[rows + top, columns + left] = ahead

    def _solid(self, item: Solid, x: float) -> None:
        if not x > -12:
            return
        counts = np.array([len(p.points) for p in item.polygons])
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        local = np.concatenate([p.points for p in item.polygons])
        points = self.road.place(x + local[:, 0], item.d + local[:, 1], local[:, 2])
        eye = np.array([0, 0, self.camera.mount_height])
        first = points[starts]
        normal = np.cross(points[starts + 1] - first, points[starts + 2] - points[starts + 1])
        facing = ((eye - first) * normal).sum(axis=1) > 0
        optical = self.camera.optical(points)
        flat = self.camera.image_of(optical)
        depth = np.minimum.reduceat(flat[:, 2], starts)
        left, right = (
            np.minimum.reduceat(flat[:, 0], starts),
            np.maximum.reduceat(flat[:, 0], starts),
        )
        top, bottom = (
            np.minimum.reduceat(flat[:, 1], starts),
            np.maximum.reduceat(flat[:, 1], starts),
        )
        size = np.maximum(right - left, bottom - top)
        whole = (depth > NEAR) & (np.maximum(np.abs(left), np.abs(right)) < _REACH)
        whole &= np.maximum(np.abs(top), np.abs(bottom)) < _REACH
        inside = (
            (right > 0) & (left < self.camera.width) & (bottom > 0) & (top < self.camera.height)
        )
        drawn = facing & (~whole | (inside & (size > 0.8)))
        limit = min(self.camera.height, self.road.hidden_below(max(x, 1.0)))
        if limit <= 0 or not drawn.any():
            return
        image, labels = self.image[:limit], self.labels[:limit]
        haze = float(self._haze(x))
        for i in np.flatnonzero(drawn):
            span = slice(starts[i], starts[i] + counts[i])
            outline = flat[span, :2] if whole[i] else self._clipped(optical[span])
            if len(outline) < 3:
                continue
            fixed = np.round(outline * 16).astype(np.int32)
            color = np.asarray(item.polygons[i].color) * (1 - haze) + self.fog * haze
            cv2.fillPoly(image, [fixed], color.tolist(), cv2.LINE_AA, 4)
            cv2.fillPoly(labels, [fixed], item.label, cv2.LINE_8, 4)
            if self.measures:
                self._polygon_depth(fixed, limit, nearest_of_plane(optical[span]))

    def _polygon_depth(
        self, outline: npt.NDArray[np.int32], limit: int, surface: npt.NDArray[np.float64]
    ) -> None:
        """Set the depth of what `fillPoly` fills of an outline in sixteenths of a pixel."""
        left, top = np.maximum(outline.min(axis=0) // 16 - 1, 0)
        right, bottom = np.minimum(outline.max(axis=0) // 16 + 2, [self.camera.width, limit])
        if right <= left or bottom <= top:
            return
        filled = np.zeros((bottom - top, right - left), np.uint8)
        moved = outline - np.array([left, top], np.int32) * 16
        cv2.fillPoly(filled, [moved], 1, cv2.LINE_8, 4)
        self._set_depth(filled > 0, int(top), int(left), surface)

    def _clipped(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Cut a polygon in the optical frame to a little more than the view, and project it.

        Sutherland-Hodgman against the near plane and four planes through the camera.
        """
        wide = 1.2 * max(self.camera.width, self.camera.height) / self.camera.focal
        planes = [[0, 0, 1], [1, 0, wide], [-1, 0, wide], [0, 1, wide], [0, -1, wide]]
        for plane, offset in zip(planes, (-NEAR, 0, 0, 0, 0), strict=True):
            kept = []
            heights = points @ np.asarray(plane, np.float64) + offset
            after = np.roll(points, -1, axis=0)
            for a, b, above_a, above_b in zip(
                points, after, heights, np.roll(heights, -1), strict=True
            ):
                if above_a >= 0:
                    kept.append(a)
                if (above_a >= 0) != (above_b >= 0):
                    kept.append(a + (b - a) * above_a / (above_a - above_b))
            if len(kept) < 3:
                return np.empty((0, 2))
            points = np.array(kept)
        return self.camera.image_of(points)[:, :2]

    def _contact_shadow(self, item: Solid, x: float) -> None:
        length, width = item.footprint[0] / 2 + 0.1, item.footprint[1] / 2 + 0.12
        if x - length < 2 or x > 70:
            return
        corners = self.road.place(
            x + np.array([-length, -length, length, length]),
            item.d + np.array([-width, width, width, -width]),
            np.zeros(4),
        )
        outline = self.camera.project(corners)[:, :2]
        low, high = outline.min(axis=0) - 6, outline.max(axis=0) + 7
        left, top = int(max(0, low[0])), int(max(0, low[1]))
        right, bottom = int(min(self.camera.width, high[0])), int(min(self.camera.height, high[1]))
        if right - left < 3 or bottom - top < 3:
            return
        mask = np.full((bottom - top, right - left), 255, np.uint8)
        cv2.fillConvexPoly(mask, np.round(outline - [left, top]).astype(np.int32), 70)
        mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), max(0.6, 24 / x)), np.uint8)
        target = self.image[top:bottom, left:right]
        cv2.multiply(target, cv2.cvtColor(mask, cv2.COLOR_GRAY2RGB), target, scale=1 / 255)

    def bonnet(self, share: float, color: npt.NDArray[np.float64]) -> None:
        """Cover the lower edge with the vehicle's own bonnet, which belongs to no class."""
        height, width = self.labels.shape
        u = np.linspace(-1, 1, width)
        edge = height * (1 - share * (1 - 0.55 * u**4))
        rows = np.arange(height)[:, None]
        cover = rows > edge
        sheen = np.clip(1.5 - (rows - edge) / (share * height), 0.4, 1.5)[..., None]
        top = int(edge.min())
        self.image[top:] = np.where(
            cover[top:, :, None], np.clip(color * sheen[top:], 0, 255), self.image[top:]
        )
        self.labels[cover] = UNLABELLED
        self.depth[cover] = np.nan


def panel_ahead(road: Road, item: Panel, x: float) -> tuple[npt.NDArray[np.float64], float] | None:
    """Return the corners `[4, 3]` of what of a panel is ahead, and where in it that begins.

    In the vehicle frame: near and far above, far and near below; None if nothing is ahead. `x` is
    how far ahead the panel begins.
    """
    x0, x1, d0, d1 = x, x + item.s1 - item.s0, item.d0, item.d1
    begin = 0.0
    if x1 < NEAR:
        return None
    if x0 < NEAR:
        begin = (NEAR - x0) / (x1 - x0) if x1 > x0 else 0.0
        x0, d0 = NEAR, d0 + (d1 - d0) * begin
    heights = [item.z1, item.z1, item.z0, item.z0]
    return road.place([x0, x1, x1, x0], [d0, d1, d1, d0], heights), begin


def ground_texel(
    road: Road, forward: npt.NDArray[np.float64], lateral: npt.NDArray[np.float64], place: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the column and the row of the ground's texture at places of the vehicle frame.

    What lies wider than the texture repeats its outermost metres.
    """
    beside = np.asarray(
        (lateral - np.interp(forward, road.x, road.lateral))
        * np.interp(forward, road.x, road.cos),
        np.float32,
    )
    margin = np.float32(HALF_WIDTH - 6)
    wide = np.abs(beside)
    excess = np.mod(np.maximum(wide - margin, 0), np.float32(11))
    folded = np.minimum(wide, margin) + np.minimum(excess, 11 - excess)
    column = (np.copysign(folded, beside) + np.float32(HALF_WIDTH)) / np.float32(
        TEXEL
    ) - np.float32(0.5)
    row = (np.mod(place + forward, LENGTH) / TEXEL - 0.5).astype(np.float32)
    return column, row


def nearest_of_plane(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the point of the plane through points `[n, 3]` that is nearest to the origin.

    It stands for the plane: of a point p on it, `p @ nearest == nearest @ nearest`.
    """
    middle = points.mean(axis=0)
    normal = np.linalg.svd(points - middle)[2][-1]
    return np.asarray(normal * (normal @ middle))


def _level(pictures: list[Image], height: float) -> Image:
    """Choose the halving of a picture that is closest above the height on the screen."""
    halvings = int(np.log2(max(1.0, pictures[0].shape[0] / max(height, 1.0))))
    return pictures[min(halvings, len(pictures) - 1)]
