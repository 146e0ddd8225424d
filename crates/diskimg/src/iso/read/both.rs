//! Numbers that are recorded twice, little-endian and big-endian.

use zerocopy::byteorder::{BE, LE, U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// 16 bits in both orders (ECMA-119, 7.2.3).
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Both16 {
    little: U16<LE>,
    big: U16<BE>,
}

/// 32 bits in both orders (ECMA-119, 7.3.3).
#[derive(Debug, Clone, Copy, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Both32 {
    little: U32<LE>,
    big: U32<BE>,
}

impl Both16 {
    /// The number: the little-endian half, which is the one that most readers see; the other
    /// one where that is empty.
    pub(crate) fn get(self) -> u16 {
        if self.little.get() == 0 { self.big.get() } else { self.little.get() }
    }

    /// True if the halves say the same.
    pub(crate) fn agrees(self) -> bool {
        self.little.get() == self.big.get()
    }
}

impl Both32 {
    /// As [`Both16::get`].
    pub(crate) fn get(self) -> u32 {
        if self.little.get() == 0 { self.big.get() } else { self.little.get() }
    }

    /// The little-endian half.
    pub(crate) fn little(self) -> u32 {
        self.little.get()
    }

    /// True if the halves say the same.
    pub(crate) fn agrees(self) -> bool {
        self.little.get() == self.big.get()
    }
}
