"""The image files of the demo are what they claim to be, for OpenStack's own inspector."""

from collections.abc import Callable
from pathlib import Path

import pytest
from oslo_utils.imageutils import format_inspector

from ims_sandbox.diskimages import GIB, MIB, write_broken, write_qcow2, write_raw, write_vmdk


@pytest.mark.parametrize(
    ("write", "expected"),
    [(write_qcow2, "qcow2"), (write_vmdk, "vmdk"), (write_raw, "gpt")],
)
def test_an_image_is_recognised_and_safe(
    tmp_path: Path, write: Callable[[Path], Path], expected: str
) -> None:
    seen = format_inspector.detect_file_format(write(tmp_path / "disk.img"))

    assert str(seen) == expected
    seen.safety_check()


@pytest.mark.parametrize("write", [write_qcow2, write_vmdk, write_raw])
def test_an_image_takes_little_space(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    image = write(tmp_path / "disk.img")

    assert image.stat().st_blocks * 512 < MIB


@pytest.mark.parametrize("write", [write_qcow2, write_vmdk])
def test_the_virtual_size_is_a_gibibyte(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    seen = format_inspector.detect_file_format(write(tmp_path / "disk.img"))

    assert seen.virtual_size == GIB


def test_the_broken_one_is_no_qcow2(tmp_path: Path) -> None:
    seen = format_inspector.detect_file_format(write_broken(tmp_path / "disk.qcow2"))

    assert str(seen) == "raw"
