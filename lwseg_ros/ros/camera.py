"""One camera of the node: its frames in, its masks out, and what is remembered of them."""

from __future__ import annotations

from rclpy.lifecycle import LifecycleNode

from lwseg_ros.drivable.mask import DrivableArea
from lwseg_ros.drivable.suspect import SameAnswer
from lwseg_ros.image_messages import ImageDecoder
from lwseg_ros.label_space import LabelSpace
from lwseg_ros.ros.camera_input import CameraInput, Frame, FrameCounts
from lwseg_ros.ros.frame_age import FrameAges
from lwseg_ros.ros.frame_slot import FrameSlots
from lwseg_ros.ros.outputs import Outputs
from lwseg_ros.ros.transform_listener import TransformListener

LOG_PERIOD_S = 5.0


class Camera:
    """What belongs to one camera; `name` is empty for the only one of a node that names none.

    `input` is there while the node is active, `outputs` while it is configured. `counts` say what
    became of every frame, `times_ms` how long each stage of the last answered one took, in
    milliseconds by name, and `trouble` why the last frame has no answer. `class_names` are the
    model's, by id. `logger` has its name.
    """

    def __init__(self, node: LifecycleNode, name: str) -> None:
        self.name = name
        self.prefix = f'{name}/' if name else ''
        self.input: CameraInput | None = None
        self.outputs: Outputs | None = None
        self.decoder = ImageDecoder()
        self.drivable_area = DrivableArea()
        self.same_answer = SameAnswer()
        self.ages = FrameAges(node.get_clock())
        self.counts = FrameCounts()
        self.times_ms: dict[str, float] = {}
        self.trouble = ''
        self.class_names: list[str] = []
        self._node = node
        self.logger = node.get_logger().get_child(name) if name else node.get_logger()

    def configure(
        self,
        model_space: LabelSpace,
        space: LabelSpace,
        publish_classes: list[str],
        transforms: TransformListener,
        has_depth: bool,
    ) -> None:
        """Offer the outputs (see `Outputs`)."""
        self.class_names = model_space.names
        prefix = f'~/{self.prefix}'
        self.outputs = Outputs(
            self._node, model_space, space, publish_classes, prefix, transforms, has_depth
        )

    def activate(self, slots: FrameSlots[Frame]) -> None:
        """Let frames into `slots`; `configure` comes before."""
        assert self.outputs is not None
        self.drivable_area.forget()
        self.same_answer.forget()
        self.trouble = ''
        self.outputs.announce()
        self.input = CameraInput(self._node, self.name, self.prefix, self.counts, slots)

    def deactivate(self) -> None:
        """Let no more frames in, nor results out."""
        if self.input is not None:
            self.input.close()
            self.input = None
        if self.outputs is not None:
            self.outputs.spatial.stop()

    def match_publishers(self) -> None:
        """Follow what is published for this camera, and what is wanted of it; call it often."""
        if self.input is not None and self.input.is_open:
            self.input.match_publisher()
            if self.outputs is not None:
                self.outputs.spatial.match()

    def withdraw(self) -> None:
        """Take back what late subscribers would still get, before nothing more can be said."""
        if self.outputs is not None:
            self.outputs.withdraw()

    def cleanup(self) -> None:
        """Take the topics from the graph, and back what their subscribers would keep."""
        self.deactivate()
        if self.outputs is not None:
            self.outputs.withdraw()
            self.outputs.destroy()
            self.outputs = None

    def enable(self, enabled: bool) -> None:
        """Subscribe as soon as there is a publisher, or unsubscribe; the node must be active."""
        if self.input is not None:
            self.input.resume() if enabled else self.input.pause()
            if self.outputs is not None and not enabled:
                self.outputs.spatial.stop()

    def complain(self, sentence: str) -> None:
        """Log why a frame has no answer, not too often, and let the diagnostics say it."""
        self.trouble = sentence
        self.logger.error(sentence, throttle_duration_sec=LOG_PERIOD_S)
