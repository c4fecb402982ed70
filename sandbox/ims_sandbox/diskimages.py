"""Writes small disk image files: qcow2, raw, vmdk and a broken one."""

import struct
from pathlib import Path
from typing import Final

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
SECTOR: Final = 512

_QCOW2_CLUSTER_BITS: Final = 16
_QCOW2_HEADER: Final = ">4sIQIIQIIQQIIQQQQII"
_QCOW2_HEADER_BYTES: Final = 104

_VMDK_HEADER: Final = "<4sIIQQQQIQQQB4sH"
_VMDK_GRAIN: Final = 128
_VMDK_ENTRIES_PER_TABLE: Final = 512
_VMDK_DESCRIPTOR_AT: Final = 1
_VMDK_DESCRIPTOR_SECTORS: Final = 20

_BROKEN: Final = b"""<!DOCTYPE html>
<html><head><title>404 Not Found</title></head>
<body><h1>Not Found</h1><p>No such file: ubuntu-24.04.qcow2</p></body></html>
"""


def write_qcow2(path: Path, *, size: int = GIB) -> Path:
    """An empty qcow2 (version 3) of `size` bytes."""
    cluster = 1 << _QCOW2_CLUSTER_BITS
    refcount_table, refcount_block, l1_table = (number * cluster for number in (1, 2, 3))
    # Each L1 entry points to an L2 cluster of 8-byte entries, each of which maps one cluster.
    l1_entries = -(-size // (cluster * (cluster // 8)))
    header = struct.pack(
        _QCOW2_HEADER,
        b"QFI\xfb", 3,          # magic, version
        0, 0,                   # no backing file
        _QCOW2_CLUSTER_BITS, size,
        0,                      # not encrypted
        l1_entries, l1_table,
        refcount_table, 1,      # one cluster of refcount table
        0, 0,                   # no snapshots
        0, 0, 0,                # no features
        4, _QCOW2_HEADER_BYTES,  # refcounts of 16 bits
    )  # fmt: skip
    with path.open("wb") as file:
        file.write(header)
        file.seek(refcount_table)
        file.write(struct.pack(">Q", refcount_block))
        file.seek(refcount_block)
        file.write(struct.pack(">4H", 1, 1, 1, 1))  # the header and three tables are in use
        file.truncate(l1_table + cluster)
    return path


def write_raw(path: Path, *, size: int = 8 * MIB) -> Path:
    """A sparse raw disk with a partition table and one empty Linux partition."""
    first = 2048
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


def write_vmdk(path: Path, *, size: int = GIB) -> Path:
    """An empty vmdk (monolithicSparse) of `size` bytes."""
    sectors = size // SECTOR
    tables = -(-sectors // (_VMDK_GRAIN * _VMDK_ENTRIES_PER_TABLE))
    directory_sectors = -(-tables * 4 // SECTOR)
    table_sectors = _VMDK_ENTRIES_PER_TABLE * 4 // SECTOR
    spare = _VMDK_DESCRIPTOR_AT + _VMDK_DESCRIPTOR_SECTORS
    copy = directory_sectors + tables * table_sectors
    overhead = -(-(spare + 2 * copy) // _VMDK_GRAIN) * _VMDK_GRAIN
    header = struct.pack(
        _VMDK_HEADER,
        b"KDMV", 1, 3,          # magic, version, flags: line-end check and redundant directory
        sectors, _VMDK_GRAIN,
        _VMDK_DESCRIPTOR_AT, _VMDK_DESCRIPTOR_SECTORS,
        _VMDK_ENTRIES_PER_TABLE, spare, spare + copy, overhead,
        0, b"\n \r\n", 0,   # clean shutdown, line-end check, not compressed
    )  # fmt: skip
    with path.open("wb") as file:
        file.write(header)
        file.seek(_VMDK_DESCRIPTOR_AT * SECTOR)
        file.write(_vmdk_descriptor(path.name, sectors))
        for directory in (spare, spare + copy):
            file.seek(directory * SECTOR)
            first = directory + directory_sectors
            entries = [first + number * table_sectors for number in range(tables)]
            file.write(struct.pack(f"<{tables}I", *entries))
        file.truncate(overhead * SECTOR)
    return path


def _vmdk_descriptor(name: str, sectors: int) -> bytes:
    return f"""# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="monolithicSparse"

# Extent description
RW {sectors} SPARSE "{name}"

# The Disk Data Base
ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "{min(sectors // (16 * 63), 16383)}"
ddb.geometry.heads = "16"
ddb.geometry.sectors = "63"
ddb.adapterType = "ide"
""".encode("ascii")


def write_broken(path: Path) -> Path:
    """An HTML error page with an image's file name, as a failed download often leaves it."""
    path.write_bytes(_BROKEN)
    return path
