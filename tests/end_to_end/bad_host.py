"""A kernel on a host whose clock is set and whose disk fails, as the test wants it (`bad_host.c`)."""

from __future__ import annotations

import subprocess
from pathlib import Path

from deadline import until
from house import House

SOURCE = Path(__file__).with_suffix(".c")


class BadHost:
    """`clove serve` in the foreground, with the host's clock and disk in the test's hands."""

    def __init__(self, house: House, *args: str) -> None:
        self.house = house
        library = house.folder / "bad_host.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
        self._clock = house.folder / "clock"
        self._disk = house.folder / "disk-is-bad"
        self.kernel = house.start(
            "serve", *args,
            env={"LD_PRELOAD": str(library), "CLOVE_TEST_CLOCK": str(self._clock), "CLOVE_TEST_BAD_DISK": str(self._disk)},
        )  # fmt: skip
        until(lambda: house.clove("kernel", "info").code == 0, "the kernel")

    def set_clock(self, seconds: int) -> None:
        """The time of day is wrong by so much."""
        new = self._clock.with_suffix(".new")
        new.write_text(str(seconds))
        new.rename(self._clock)

    def break_disk(self, broken: bool = True) -> None:
        if broken:
            self._disk.touch()
        else:
            self._disk.unlink()

    def ended(self) -> int:
        """Its exit code, once it has left."""
        return self.kernel.wait(60)
