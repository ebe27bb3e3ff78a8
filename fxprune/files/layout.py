"""That a zip has one reading: its directory and its members say the same, and nothing else is in it.

A member is described twice, in the directory at the end and in front of its bytes, and readers differ in which of the two they
believe, and in what they make of bytes before, between and behind. So the two have to agree, and members lie one after the
other from the first byte to the directory, which ends with the file.

    from     local header, 30 bytes: signature, version, flags, method, time, date, checksum, sizes, lengths
             name, and of a member written in one go, sizes of 64 bits (the sizes above are then all ones)
             the bytes
    ...
    at last  the directory, and 22 bytes that say where it begins
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections.abc import Collection
from typing import BinaryIO

from fxprune.errors import CheckpointError

_LOCAL = struct.Struct("<4s5H3L2H")
_SIZES = struct.Struct("<2H2Q")
_END = 22
_UTF8 = 0x800
_ELSEWHERE = 2**32 - 1
"""The size of a member whose sizes are in 64 bits behind its name."""


def sound_members(
    archive: zipfile.ZipFile, file: BinaryIO, names: Collection[str], size: int
) -> dict[str, zipfile.ZipInfo]:
    """The members by name, once all of them are known to be stored regular files that fill the zip.

    Args:
        archive: the zip, its directory read.
        file: the file that it is in.
        names: members that there may be.
        size: bytes of the file.

    Raises:
        CheckpointError: a member is not what it may be, or the zip holds anything else.
    """
    members: dict[str, zipfile.ZipInfo] = {}
    end = 0
    for member in sorted(archive.infolist(), key=lambda each: each.header_offset):
        name = member.orig_filename
        if name not in names:
            raise CheckpointError(f"it has the unexpected member {name[:80]!r}")
        if name in members:
            raise CheckpointError(f"it has the member {name} twice")
        _check_member(member)
        if member.header_offset != end:
            overlap = member.header_offset < end
            raise CheckpointError(f"its member {name} {'overlaps another' if overlap else 'comes after other bytes'}")
        end += _LOCAL.size + len(name) + member.file_size
        if end > size:
            raise CheckpointError(f"its member {name} ends beyond the file")
        end += _check_local(file, member)
        members[name] = member
    if end != archive.start_dir:
        raise CheckpointError("there is something between its members and its directory")
    file.seek(-_END, os.SEEK_END)
    if archive.comment or not file.read(_END).startswith(b"PK\x05\x06"):
        raise CheckpointError("it has a comment, or goes on after its directory")
    return members


def _check_member(member: zipfile.ZipInfo) -> None:
    """A stored regular file."""
    mode = member.external_attr >> 16
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise CheckpointError(f"its member {member.orig_filename} is compressed; fxprune stores members as they are")
    if member.flag_bits & ~_UTF8 or stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise CheckpointError(f"its member {member.orig_filename} is encrypted, or no regular file")


def _check_local(file: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Compare a member's own header with the directory; the bytes of what stands behind its name."""
    file.seek(member.header_offset)
    mark, _, flags, method, _, _, checksum, packed, size, named, more = _LOCAL.unpack(file.read(_LOCAL.size))
    name, sizes = file.read(named), file.read(more)
    wide = (packed, size) == (_ELSEWHERE, _ELSEWHERE) and len(sizes) == _SIZES.size
    if wide:
        *kind, size, packed = _SIZES.unpack(sizes)
        wide = kind == [1, 16]
    said = (mark, flags, method, checksum, packed, size, name, b"" if wide else sizes)
    bytes_ = member.file_size
    known = (b"PK\x03\x04", member.flag_bits, zipfile.ZIP_STORED, member.CRC, bytes_, bytes_)
    if said != (*known, member.orig_filename.encode(), b""):
        raise CheckpointError(f"its member {member.orig_filename} is described in two ways")
    return len(sizes)
