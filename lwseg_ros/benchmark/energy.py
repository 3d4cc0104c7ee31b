"""What the board says of its power: RAPL counters on x86, INA3221 rails on a Jetson."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType

SYS = Path('/sys')
_SAMPLE_S = 0.1


class EnergyMeter:
    """Measures the energy of what runs in its `with` block; `joules` is None where none is told.

    RAPL counts the joules of each processor package. A Jetson's sensor tells volts and amperes of
    its supply rail (VDD_IN, or the first one there is), which are sampled.
    """

    def __init__(self, sys: Path = SYS) -> None:
        self._counters = [p for p in sorted(sys.glob(_RAPL)) if _number(p) is not None]
        self._rail = None if self._counters else _supply_rail(sys)
        self.joules: float | None = None

    @property
    def source(self) -> str:
        """What is read; empty if nothing can be."""
        if self._counters:
            return 'RAPL packages'
        return f'rail {self._rail[0]}' if self._rail else ''

    def __enter__(self) -> EnergyMeter:
        self._start = [_number(path) for path in self._counters]
        self._sampled_j = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, name='energy', daemon=True)
        if self._rail:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._rail:
            self._done.set()
            self._thread.join()
            self.joules = self._sampled_j
        elif self._counters:
            self.joules = 0.0
            for path, start in zip(self._counters, self._start, strict=True):
                end = _number(path)
                if start is None or end is None:
                    self.joules = None
                    return
                wrapped = _number(path.with_name('max_energy_range_uj')) or 0
                self.joules += (end - start if end >= start else end - start + wrapped) / 1e6

    def _sample(self) -> None:
        assert self._rail is not None
        last = time.monotonic()
        while not self._done.wait(_SAMPLE_S):
            now = time.monotonic()
            millivolt, milliampere = (_number(path) or 0 for path in self._rail[1:])
            self._sampled_j += millivolt * milliampere / 1e6 * (now - last)
            last = now


_RAPL = 'class/powercap/intel-rapl:[0-9]/energy_uj'


def _supply_rail(sys: Path) -> tuple[str, Path, Path] | None:
    """Return name, voltage and current file of a Jetson's supply rail, if it can be read."""
    rails = []
    for label in sorted(sys.glob('bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_label')):
        number = label.name.removeprefix('in').removesuffix('_label')
        volts, amperes = (
            label.with_name(f'in{number}_input'),
            label.with_name(f'curr{number}_input'),
        )
        if _number(volts) is not None and _number(amperes) is not None:
            rails.append((label.read_text(encoding='ascii').strip(), volts, amperes))
    return next((rail for rail in rails if rail[0] == 'VDD_IN'), rails[0] if rails else None)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding='ascii'))
    except (OSError, ValueError):
        return None
