//! Both-endian numbers: recorded twice, little-endian and big-endian.

use zerocopy::byteorder::{BE, LE, U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// 16-bit number in both byte orders (ECMA-119, 7.2.3).
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Both16 {
    little: U16<LE>,
    big: U16<BE>,
}

/// 32-bit number in both byte orders (ECMA-119, 7.3.3).
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Both32 {
    little: U32<LE>,
    big: U32<BE>,
}

impl Both16 {
    /// Returns the little-endian half, which most readers use, or the big-endian half if the
    /// little-endian one is zero.
    pub(crate) fn get(self) -> u16 {
        if self.little.get() == 0 { self.big.get() } else { self.little.get() }
    }

    /// Returns true if both halves have the same value.
    pub(crate) fn agrees(self) -> bool {
        self.little.get() == self.big.get()
    }
}

impl Both32 {
    /// Like [`Both16::get`].
    pub(crate) fn get(self) -> u32 {
        if self.little.get() == 0 { self.big.get() } else { self.little.get() }
    }

    /// Returns the little-endian half.
    pub(crate) fn little(self) -> u32 {
        self.little.get()
    }

    /// Returns true if both halves have the same value.
    pub(crate) fn agrees(self) -> bool {
        self.little.get() == self.big.get()
    }
}
