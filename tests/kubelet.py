"""A ConfigMap or a Secret as the kubelet keeps it in a container: exchanged as a whole, in one rename."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class Volume:
    """NAME -> ..data/NAME, ..data -> the directory of what was published last. A name that is gone leads nowhere."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._generation = 0
        directory.mkdir()

    def publish(self, files: Mapping[str, str]) -> None:
        self._generation += 1
        now = self._directory / f"..generation-{self._generation}"
        now.mkdir()
        for name, text in files.items():
            (now / name).write_text(text)
        (self._directory / "..data_tmp").symlink_to(now.name)
        (self._directory / "..data_tmp").replace(self._directory / "..data")
        for name in files:
            link = self._directory / name
            if not link.is_symlink():
                link.symlink_to(Path("..data", name))

    def path(self, name: str) -> str:
        return str(self._directory / name)
