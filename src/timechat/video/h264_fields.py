"""Packets of H.264 that hold the second field of a frame: they are no frames of their own (ITU-T H.264, 7.3)."""

from __future__ import annotations

from dataclasses import dataclass

_HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
_SLICE, _IDR_SLICE, _SPS, _PPS = 1, 5, 7, 8
_HEAD_BYTES = 4096  # bytes of a packet in which its first slice begins


class _Bits:
    """Reads the bits of a NAL unit, without its emulation prevention bytes."""

    def __init__(self, data: bytes) -> None:
        clean = data.replace(b"\0\0\3", b"\0\0")
        self._value, self._left = int.from_bytes(clean, "big"), 8 * len(clean)

    def read(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("the unit is cut short")
        return (self._value >> self._left) & ((1 << count) - 1)

    def read_ue(self) -> int:
        """Read an unsigned Exp-Golomb number."""
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > 32:
                raise ValueError("the unit is damaged")
        return (1 << zeros) - 1 + self.read(zeros)

    def read_se(self) -> int:
        """Read a signed Exp-Golomb number."""
        value = self.read_ue()
        return (value + 1) // 2 if value % 2 else -(value // 2)


@dataclass(frozen=True)
class _SequenceFormat:
    frame_num_bits: int
    has_separate_planes: bool
    may_have_fields: bool


class FieldParser:
    """Finds second fields in the packets of one stream.

    Attributes:
        may_have_fields: Whether a packet can be a field; for other streams no packet needs to be parsed.
    """

    def __init__(self, extradata: bytes | None) -> None:
        """Read the parameter sets of a stream: in `avcC` form (MP4, Matroska) or with start codes (MPEG-TS)."""
        data = bytes(extradata or b"")
        self._sequences: dict[int, _SequenceFormat] = {}
        self._pictures: dict[int, int] = {}
        self._first_field: tuple[int, bool] | None = None
        self._length_bytes = data[4] % 4 + 1 if data[:1] == b"\1" and len(data) > 6 else 0
        for unit in _avcc_units(data) if self._length_bytes else _units_after_start_codes(data):
            self._read_parameters(unit)
        self.may_have_fields = any(s.may_have_fields for s in self._sequences.values())

    def is_second_field(self, packet: memoryview) -> bool:
        """Return whether a packet, in decode order, is the second field of the frame before it."""
        try:
            field = self._first_slice(bytes(packet[:_HEAD_BYTES]))
        except (ValueError, KeyError, IndexError):
            field = None
        first = self._first_field
        if field is not None and first is not None and field[0] == first[0] and field[1] != first[1]:
            self._first_field = None
            return True
        self._first_field = field
        return False

    def _first_slice(self, head: bytes) -> tuple[int, bool] | None:
        """Return `(frame_num, is_bottom)` if the first slice is a field; None for a frame."""
        units = _units_after_lengths(head, self._length_bytes) if self._length_bytes else _units_after_start_codes(head)
        for unit in units:
            kind = unit[0] & 31
            if kind in (_SPS, _PPS):
                self._read_parameters(unit)
            if kind not in (_SLICE, _IDR_SLICE):
                continue
            bits = _Bits(unit[1:24])
            bits.read_ue()  # first_mb_in_slice
            bits.read_ue()  # slice_type
            sequence = self._sequences[self._pictures[bits.read_ue()]]
            if not sequence.may_have_fields:
                return None
            if sequence.has_separate_planes:
                bits.read(2)
            frame_num = bits.read(sequence.frame_num_bits)
            return (frame_num, bool(bits.read(1))) if bits.read(1) else None
        return None

    def _read_parameters(self, unit: bytes) -> None:
        try:
            if unit[0] & 31 == _SPS:
                number, sequence = _read_sequence(unit)
                self._sequences[number] = sequence
            elif unit[0] & 31 == _PPS:
                bits = _Bits(unit[1:32])
                number = bits.read_ue()
                self._pictures[number] = bits.read_ue()
        except (ValueError, IndexError):
            return


def _read_sequence(unit: bytes) -> tuple[int, _SequenceFormat]:
    """Read a sequence parameter set up to `frame_mbs_only_flag`."""
    bits = _Bits(unit[1:])
    profile = bits.read(8)
    bits.read(16)  # constraint flags and level
    number = bits.read_ue()
    has_separate_planes = False
    if profile in _HIGH_PROFILES:
        chroma = bits.read_ue()
        if chroma == 3:
            has_separate_planes = bool(bits.read(1))
        bits.read_ue()  # bit_depth_luma_minus8
        bits.read_ue()  # bit_depth_chroma_minus8
        bits.read(1)
        if bits.read(1):
            for index in range(12 if chroma == 3 else 8):
                if bits.read(1):
                    _skip_scaling_list(bits, 16 if index < 6 else 64)
    frame_num_bits = bits.read_ue() + 4
    order = bits.read_ue()
    if order == 0:
        bits.read_ue()
    elif order == 1:
        bits.read(1)
        bits.read_se()
        bits.read_se()
        for _ in range(bits.read_ue()):
            bits.read_se()
    bits.read_ue()  # max_num_ref_frames
    bits.read(1)
    bits.read_ue()  # width
    bits.read_ue()  # height
    return number, _SequenceFormat(frame_num_bits, has_separate_planes, not bits.read(1))


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.read_se()) % 256
        last = following or last


def _avcc_units(data: bytes) -> list[bytes]:
    """Return the parameter sets of an `avcC` box."""
    units, at = [], 5
    for mask in (31, 255):
        if at >= len(data):
            break
        count, at = data[at] & mask, at + 1
        for _ in range(count):
            size = int.from_bytes(data[at : at + 2], "big")
            units.append(data[at + 2 : at + 2 + size])
            at += 2 + size
    return [unit for unit in units if unit]


def _units_after_lengths(data: bytes, length_bytes: int) -> list[bytes]:
    units, at = [], 0
    while at + length_bytes < len(data):
        size = int.from_bytes(data[at : at + length_bytes], "big")
        at += length_bytes
        units.append(data[at : at + size])
        at += size
    return [unit for unit in units if unit]


def _units_after_start_codes(data: bytes) -> list[bytes]:
    return [unit for unit in data.split(b"\0\0\1")[1:] if unit]
