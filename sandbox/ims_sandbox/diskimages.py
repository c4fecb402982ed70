"""Writes small disk image files: qcow2, raw, vmdk and a broken one."""

import struct
from pathlib import Path
from typing import Final

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
SECTOR: Final = 512

_VMDK_DESCRIPTOR: Final = """\
# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="monolithicSparse"
RW {sectors} SPARSE "{name}"
ddb.adapterType = "ide"
"""
_BROKEN: Final = b"""<!DOCTYPE html>
<html><head><title>404 Not Found</title></head>
<body><h1>Not Found</h1><p>No such file: ubuntu-24.04.qcow2</p></body></html>
"""


def write_qcow2(path: Path) -> Path:
    """An empty qcow2 (version 3) of 1 GiB."""
    cluster_bits, cluster = 16, 1 << 16
    refcount_table, refcount_block, l1_table = (number * cluster for number in (1, 2, 3))
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb", 3,          # magic, version
        0, 0,                   # no backing file
        cluster_bits, GIB,
        0,                      # not encrypted
        2, l1_table,            # each L1 entry maps 512 MiB
        refcount_table, 1,      # one cluster of refcount table
        0, 0,                   # no snapshots
        0, 0, 0,                # no features
        4, 104,                 # refcounts of 16 bits, size of the header
    )  # fmt: skip
    with path.open("wb") as file:
        file.write(header)
        file.seek(refcount_table)
        file.write(struct.pack(">Q", refcount_block))
        file.seek(refcount_block)
        file.write(struct.pack(">4H", 1, 1, 1, 1))  # the header and three tables are in use
        file.truncate(l1_table + cluster)
    return path


def write_raw(path: Path) -> Path:
    """A sparse raw disk of 8 MiB with a partition table and one empty Linux partition."""
    size, first = 8 * MIB, 2048
    partition = struct.pack(
        "<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", first, size // SECTOR - first
    )
    with path.open("wb") as file:
        file.seek(446)
        file.write(partition)
        file.seek(510)
        file.write(b"\x55\xaa")
        file.truncate(size)
    return path


def write_vmdk(path: Path) -> Path:
    """An empty vmdk (monolithicSparse) of 1 GiB: its directory of grain tables is all zeros."""
    sectors, descriptor_at, descriptor_sectors = GIB // SECTOR, 1, 20
    grain = directory = 128
    header = struct.pack(
        "<4sIIQQQQIQQQB4sH",
        b"KDMV", 1, 1,          # magic, version, flags: line-end check
        sectors, grain,
        descriptor_at, descriptor_sectors,
        512, 0, directory, 2 * grain,  # entries of a table, no second directory, overhead
        0, b"\n \r\n", 0,      # clean shutdown, line-end check, not compressed
    )  # fmt: skip
    with path.open("wb") as file:
        file.write(header)
        file.seek(descriptor_at * SECTOR)
        file.write(_VMDK_DESCRIPTOR.format(sectors=sectors, name=path.name).encode("ascii"))
        file.truncate(2 * grain * SECTOR)
    return path


def write_broken(path: Path) -> Path:
    """An HTML error page with an image's file name, as a failed download often leaves it."""
    path.write_bytes(_BROKEN)
    return path
