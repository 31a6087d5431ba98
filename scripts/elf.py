"""Read the requirements of a Linux shared library from its dynamic section."""

import re
import struct

#: The libraries that manylinux guarantees.
ALLOWED = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "libpthread.so.0", "libdl.so.2", "librt.so.1"}
ALLOWED_LOADER = re.compile(r"ld-linux.*\.so\.\d")
#: e_machine of each processor, by its names in wheels and in npm packages.
MACHINES = {"x86_64": 0x3E, "x64": 0x3E, "aarch64": 0xB7, "arm64": 0xB7}


def is_for(binary: bytes, processor: str) -> bool:
    """Return whether a binary is an ELF file for the processor."""
    return binary[:4] == b"\x7fELF" and int.from_bytes(binary[18:20], "little") == MACHINES[processor]


def dynamic(binary: bytes) -> tuple[set[str], set[str]]:
    """Return the libraries and the symbol versions that a 64-bit ELF library needs."""
    needed, versions = set(), set()
    sections = sections_of(binary)
    for section in sections:
        kind, offset, length, link, entries = section[1], section[4], section[5], section[6], section[7]
        if kind == 6:  # SHT_DYNAMIC
            for at in range(offset, offset + length, 16):
                tag, value = struct.unpack_from("<QQ", binary, at)
                if tag == 1:  # DT_NEEDED
                    needed.add(text(binary, sections[link], value))
        if kind == 0x6FFFFFFE:  # SHT_GNU_verneed
            at = offset
            for _ in range(entries):
                _, auxiliaries, _, first, following = struct.unpack_from("<HHIII", binary, at)
                inner = at + first
                for _ in range(auxiliaries):
                    _, _, _, name, onward = struct.unpack_from("<IHHII", binary, inner)
                    versions.add(text(binary, sections[link], name))
                    inner += onward
                at += following
    return needed, versions


def is_stripped(binary: bytes) -> bool:
    """Return whether a 64-bit ELF file is without debug information and local symbols."""
    sections = sections_of(binary)
    (names,) = struct.unpack_from("<H", binary, 62)
    found = {text(binary, sections[names], section[0]) for section in sections}
    return not any(name == ".symtab" or name.startswith(".debug_") for name in found)


def sections_of(binary: bytes) -> list[tuple]:
    """Return the section headers of a 64-bit ELF file."""
    assert binary[:6] == b"\x7fELF\x02\x01", "not a 64-bit little-endian ELF library"
    (table,) = struct.unpack_from("<Q", binary, 40)
    size, count = struct.unpack_from("<HH", binary, 58)
    return [struct.unpack_from("<IIQQQQIIQQ", binary, table + at * size) for at in range(count)]


def text(binary: bytes, strings: tuple, at: int) -> str:
    """Return the text at an offset of a section of strings."""
    start = strings[4] + at
    return binary[start : binary.index(b"\0", start)].decode()


def newest_glibc(versions: set[str]) -> int:
    """Return N of the newest `GLIBC_2.N` among symbol versions."""
    return max((int(version.split(".")[1]) for version in versions if version.startswith("GLIBC_2.")), default=0)


def unexpected(needed: set[str]) -> set[str]:
    """Return the libraries that manylinux does not guarantee."""
    return {name for name in needed - ALLOWED if not ALLOWED_LOADER.fullmatch(name)}
