//! What is written into a boot image, so that its code finds the rest of itself.
//!
//! ```text
//!      8   boot info table   16(4): the primary volume descriptor's sector; own sector(4);
//!                            own bytes(4); the sum of all dwords from 64 on(4); zeros(40)
//!   2548   GRUB's address    (8): the sector of 512 bytes behind the first five
//! ```
//!
//! Source: libisofs, doc/boot_sectors.txt, "El Torito CD booting"; mkisofs(8), -boot-info-table;
//! GRUB's cdboot code.

use crate::error::{Error, Result};
use crate::storage::number::{to_u32, to_u64, to_usize};
use crate::storage::source::Source;
use std::io;
use std::sync::Arc;

/// Where the boot info table is.
const INFO_TABLE: u64 = 8;

/// Bytes before which the sum does not count: the table is among them.
const SUM_FROM: u64 = 64;

/// The primary volume descriptor's sector.
const PRIMARY_DESCRIPTOR: u32 = 16;

/// Where GRUB's boot image keeps its own address: at the end of what a BIOS loads of it first,
/// and one sector more.
const GRUB2_ADDRESS: u64 = 2548;

/// Sectors of 512 bytes in which the code is that reads the rest by that address.
const GRUB2_SKIPS: u64 = 5;

/// The largest boot image that gets a boot info table: its length has four bytes.
const MAX_IMAGE: u64 = (1 << 32) - 1;

/// Bytes that replace a file's own on the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Patch {
    /// Where in the file.
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

impl Patch {
    /// Applies the patch to a piece of the file that begins at `offset`.
    pub(crate) fn apply(&self, piece: &mut [u8], offset: u64) {
        let start = self.offset.max(offset);
        let end = (self.offset + to_u64(self.bytes.len())).min(offset + to_u64(piece.len()));
        if start < end {
            let from = &self.bytes[to_usize(start - self.offset)..to_usize(end - self.offset)];
            piece[to_usize(start - offset)..to_usize(end - offset)].copy_from_slice(from);
        }
    }
}

/// A file with some of its bytes replaced.
#[derive(Debug)]
pub(crate) struct PatchedSource {
    inner: Arc<dyn Source>,
    patches: Vec<Patch>,
}

impl PatchedSource {
    pub(crate) fn new(inner: Arc<dyn Source>, patches: Vec<Patch>) -> Self {
        Self { inner, patches }
    }
}

impl Source for PatchedSource {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_exact_at(buf, offset)?;
        self.patches.iter().for_each(|patch| patch.apply(buf, offset));
        Ok(())
    }
}

/// The boot info table for this file, which is to begin at that sector of 2048 bytes. Reads the
/// whole file.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the file is too short to hold the table,
/// or 4 GiB long; [`ErrorKind::Io`](crate::ErrorKind::Io) if reading fails.
pub(crate) fn info_table(file: &dyn Source, sector: u32) -> Result<Patch> {
    let len = file.len();
    if !(SUM_FROM..=MAX_IMAGE).contains(&len) {
        let message = format!("a boot info table does not go into a boot image of {len} bytes");
        return Err(Error::invalid(message));
    }
    let mut bytes = Vec::with_capacity(56);
    for number in [PRIMARY_DESCRIPTOR, sector, to_u32(len), sum(file)?] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.resize(to_usize(SUM_FROM - INFO_TABLE), 0);
    Ok(Patch { offset: INFO_TABLE, bytes })
}

/// The sum of the dwords behind the table; a last one that is not whole ends in zeros.
fn sum(file: &dyn Source) -> Result<u32> {
    let mut sum = 0u32;
    let mut buffer = vec![0; 64 << 10];
    let mut at = SUM_FROM;
    while at < file.len() {
        let len = to_usize((file.len() - at).min(to_u64(buffer.len())));
        file.read_exact_at(&mut buffer[..len], at)
            .map_err(|e| Error::io("cannot read the boot image", e))?;
        for dword in buffer[..len].chunks(4) {
            let mut whole = [0; 4];
            whole[..dword.len()].copy_from_slice(dword);
            sum = sum.wrapping_add(u32::from_le_bytes(whole));
        }
        at += to_u64(len);
    }
    Ok(sum)
}

/// GRUB's address for a file of that many bytes, which is to begin at that sector of 2048 bytes.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the file is too short to hold it.
pub(crate) fn grub2_address(len: u64, sector: u32) -> Result<Patch> {
    if len < GRUB2_ADDRESS + 8 {
        let message = format!("GRUB's address does not go into a boot image of {len} bytes");
        return Err(Error::invalid(message).hint("is it GRUB's?"));
    }
    let address = u64::from(sector) * 4 + GRUB2_SKIPS;
    Ok(Patch { offset: GRUB2_ADDRESS, bytes: address.to_le_bytes().to_vec() })
}

/// True if a boot image, which begins at that sector of 2048 bytes and may be followed by other
/// bytes, has a boot info table that says so.
pub(crate) fn has_info_table(image: &dyn Source, sector: u32) -> bool {
    let mut table = [0; 8];
    let read = image.read_exact_at(&mut table, INFO_TABLE);
    let [d, c, b, a, rest @ ..] = table;
    read.is_ok() && [d, c, b, a] == PRIMARY_DESCRIPTOR.to_le_bytes() && rest == sector.to_le_bytes()
}

/// True if it has GRUB's address of itself.
pub(crate) fn has_grub2_address(image: &dyn Source, sector: u32) -> bool {
    let mut address = [0; 8];
    let read = image.read_exact_at(&mut address, GRUB2_ADDRESS);
    read.is_ok() && u64::from_le_bytes(address) == u64::from(sector) * 4 + GRUB2_SKIPS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::source::MemorySource;

    #[test]
    fn the_table_has_address_length_and_sum() {
        // 64 bytes that do not count, then 1, 2, and 0x030201 that ends in a zero.
        let mut file = vec![9; 64];
        file.extend_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0, 1, 2, 3]);
        let table = info_table(&MemorySource::new(file), 0x22).expect("fits");
        assert_eq!((table.offset, table.bytes.len()), (8, 56));
        assert_eq!(table.bytes[..16], [16, 0, 0, 0, 0x22, 0, 0, 0, 75, 0, 0, 0, 4, 2, 3, 0]);
        assert!(info_table(&MemorySource::new([0; 63]), 1).is_err());
    }

    #[test]
    fn a_sum_does_not_depend_on_the_pieces_it_is_read_in() {
        let file: Vec<u8> = (0..200_003u32).map(|n| (n * 7) as u8).collect();
        let mut padded = file[64..].to_vec();
        padded.push(0);
        let expected = padded.chunks_exact(4).fold(0u32, |sum, dword| {
            sum.wrapping_add(u32::from_le_bytes(dword.try_into().expect("four")))
        });
        assert_eq!(sum(&MemorySource::new(file)).expect("reads"), expected);
    }

    #[test]
    fn grub_finds_what_lies_behind_five_sectors() {
        let patch = grub2_address(6000, 34).expect("fits");
        assert_eq!((patch.offset, &*patch.bytes), (2548, &[0x8d, 0, 0, 0, 0, 0, 0, 0][..]));
        assert!(grub2_address(2555, 34).is_err());
    }

    #[test]
    fn a_patch_reaches_every_piece_that_it_touches() {
        let patch = Patch { offset: 3, bytes: b"abcd".to_vec() };
        for size in 1..=10 {
            let mut file = *b"0123456789";
            for (index, piece) in file.chunks_mut(size).enumerate() {
                patch.apply(piece, (index * size) as u64);
            }
            assert_eq!(&file, b"012abcd789");
        }
    }
}
