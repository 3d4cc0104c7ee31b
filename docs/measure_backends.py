"""Print the README's performance table: `python docs/measure_backends.py`, on a quiet machine."""

import time
from statistics import median

from rich.console import Console
from rich.table import Table

from lwseg_ros import Segmenter
from lwseg_ros.demo.drive import GeneratedDrive

ENGINES = (('openvino', 'bf16'), ('openvino', 'fp32'), ('onnxruntime', 'fp32'), ('torch', 'fp32'))
ROUNDS, RUNS = 5, 8


def main() -> None:
    """Time every engine in turn, several rounds, so that all meet the same machine."""
    image = GeneratedDrive(1, 1280, 720).frame(5).image
    segmenters = [Segmenter.load('road', name, precision=p) for name, p in ENGINES]
    bare: list[list[float]] = [[] for _ in segmenters]
    whole: list[list[float]] = [[] for _ in segmenters]
    for segmenter in segmenters:
        segmenter.warm_up(3)
    for _ in range(ROUNDS):
        for index, segmenter in enumerate(segmenters):
            for _ in range(RUNS):
                start = time.perf_counter()
                segmenter.warm_up(1)
                middle = time.perf_counter()
                segmenter(image)
                bare[index].append(1e3 * (middle - start))
                whole[index].append(1e3 * (time.perf_counter() - middle))
    table = Table('engine', 'network alone, ms', 'with everything around it, ms', 'times faster')
    slowest = median(whole[-1])
    for index, segmenter in enumerate(segmenters):
        total = median(whole[index])
        values = (median(bare[index]), total, slowest / total)
        table.add_row(segmenter.description, *(f'{value:.1f}' for value in values))
    Console().print(table)


if __name__ == '__main__':
    main()
