//! Tables that are patched into a boot image, so that its code finds the rest of the image.
//!
//! ```text
//!      8   boot info table   sector of the primary volume descriptor(4): 16; sector of the boot
//!                            image(4); its length in bytes(4); sum of its 32-bit words from
//!                            offset 64(4); zeros(40)
//!   2548   GRUB address(8)   sector of the boot image in 512-byte sectors, plus 5
//! ```
//!
//! Source: libisofs, doc/boot_sectors.txt, "El Torito CD booting"; mkisofs(8), -boot-info-table;
//! GRUB's cdboot code.

use crate::error::{Error, Result};
use crate::storage::number::{to_u32, to_u64, to_usize};
use crate::storage::source::{HostFileId, Source, SourceError, read_if_inside};
use std::sync::Arc;

/// Offset of the boot info table.
const INFO_TABLE: u64 = 8;

/// Offset of the first byte included in the sum; the end of the table.
const SUM_FROM: u64 = 64;

/// Sector of the primary volume descriptor.
const PRIMARY_DESCRIPTOR: u32 = 16;

/// Offset of the address in GRUB's boot image: in the fifth 512-byte sector.
const GRUB2_ADDRESS: u64 = 2548;

/// Number of 512-byte sectors of GRUB's boot image before the part that the address refers to.
const GRUB2_SKIPS: u64 = 5;

/// Maximum length in bytes of a boot image with a boot info table, whose length field has 32 bits.
const MAX_IMAGE: u64 = (1 << 32) - 1;

/// Bytes that replace those of a file when it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Patch {
    /// Offset in the file.
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

impl Patch {
    /// Applies the patch to `chunk`, the bytes of the file at `offset`.
    pub(crate) fn apply(&self, chunk: &mut [u8], offset: u64) {
        let start = self.offset.max(offset);
        let end = (self.offset + to_u64(self.bytes.len())).min(offset + to_u64(chunk.len()));
        if start < end {
            let from = &self.bytes[to_usize(start - self.offset)..to_usize(end - self.offset)];
            chunk[to_usize(start - offset)..to_usize(end - offset)].copy_from_slice(from);
        }
    }
}

/// A file with patches applied.
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

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        self.inner.read_exact_at(buf, offset)?;
        self.patches.iter().for_each(|patch| patch.apply(buf, offset));
        Ok(())
    }

    fn identities(&self) -> Vec<HostFileId> {
        self.inner.identities()
    }
}

/// Returns the boot info table for `file`, which is to start at `sector` (in sectors of 2048
/// bytes). Reads the whole file.
///
/// # Errors
/// Returns [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the file is too short for the table
/// or has 4 GiB or more, [`ErrorKind::Io`](crate::ErrorKind::Io) if reading fails.
pub(crate) fn info_table(file: &dyn Source, sector: u32) -> Result<Patch> {
    let len = file.len();
    if !(SUM_FROM..=MAX_IMAGE).contains(&len) {
        let message = format!(
            "a boot info table requires a boot image of {SUM_FROM} to {MAX_IMAGE} bytes; this one \
             has {len}"
        );
        return Err(Error::invalid(message));
    }
    let mut bytes = Vec::with_capacity(56);
    for number in [PRIMARY_DESCRIPTOR, sector, to_u32(len), sum(file)?] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.resize(to_usize(SUM_FROM - INFO_TABLE), 0);
    Ok(Patch { offset: INFO_TABLE, bytes })
}

/// Returns the sum of the 32-bit words after the table. An incomplete last word is padded with
/// zeros.
fn sum(file: &dyn Source) -> Result<u32> {
    let mut sum = 0u32;
    let mut buffer = vec![0; 64 << 10];
    let mut at = SUM_FROM;
    while at < file.len() {
        let len = to_usize(file.len().saturating_sub(at).min(to_u64(buffer.len())));
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

/// Returns the GRUB address for a file of `len` bytes, which is to start at `sector` (in sectors of
/// 2048 bytes).
///
/// # Errors
/// Returns [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the file is too short for it.
pub(crate) fn grub2_address(len: u64, sector: u32) -> Result<Patch> {
    if len < GRUB2_ADDRESS + 8 {
        let message = format!(
            "the address for GRUB requires a boot image of at least {} bytes; this one has {len}",
            GRUB2_ADDRESS + 8
        );
        return Err(Error::invalid(message).hint("check that it is a GRUB boot image"));
    }
    let address = u64::from(sector) * 4 + GRUB2_SKIPS;
    Ok(Patch { offset: GRUB2_ADDRESS, bytes: address.to_le_bytes().to_vec() })
}

/// Returns true if `image`, the bytes from the first sector of a boot image, has a boot info table
/// with that sector (in sectors of 2048 bytes).
pub(crate) fn has_info_table(image: &dyn Source, sector: u32) -> Result<bool, SourceError> {
    let mut table = [0; 8];
    let inside = read_if_inside(image, &mut table, INFO_TABLE)?;
    let [d, c, b, a, rest @ ..] = table;
    let [descriptor, start] = [[d, c, b, a], rest];
    Ok(inside && descriptor == PRIMARY_DESCRIPTOR.to_le_bytes() && start == sector.to_le_bytes())
}

/// Returns true if `image` has a GRUB address for that sector.
pub(crate) fn has_grub2_address(image: &dyn Source, sector: u32) -> Result<bool, SourceError> {
    let mut address = [0; 8];
    let inside = read_if_inside(image, &mut address, GRUB2_ADDRESS)?;
    Ok(inside && u64::from_le_bytes(address) == u64::from(sector) * 4 + GRUB2_SKIPS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::source::MemorySource;

    #[test]
    fn the_table_has_address_length_and_sum() {
        // 64 bytes that are not summed, then the words 1, 2, and 0x030201 without its last byte.
        let mut file = vec![9; 64];
        file.extend_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0, 1, 2, 3]);
        let table = info_table(&MemorySource::new(file), 0x22).expect("fits");
        assert_eq!((table.offset, table.bytes.len()), (8, 56));
        assert_eq!(table.bytes[..16], [16, 0, 0, 0, 0x22, 0, 0, 0, 75, 0, 0, 0, 4, 2, 3, 0]);
        assert!(info_table(&MemorySource::new([0; 63]), 1).is_err());
    }

    #[test]
    fn the_sum_of_a_file_longer_than_the_buffer_is_correct() {
        let file: Vec<u8> = (0..200_003u32).map(|n| (n * 7) as u8).collect();
        let mut padded = file[64..].to_vec();
        padded.push(0);
        let expected = padded.chunks_exact(4).fold(0u32, |sum, dword| {
            sum.wrapping_add(u32::from_le_bytes(dword.try_into().expect("four")))
        });
        assert_eq!(sum(&MemorySource::new(file)).expect("reads"), expected);
    }

    #[test]
    fn the_grub_address_is_that_of_the_sixth_sector() {
        let patch = grub2_address(6000, 34).expect("fits");
        assert_eq!((patch.offset, &*patch.bytes), (2548, &[0x8d, 0, 0, 0, 0, 0, 0, 0][..]));
        assert!(grub2_address(2555, 34).is_err());
    }

    #[test]
    fn a_patch_is_applied_to_every_chunk_that_it_overlaps() {
        let patch = Patch { offset: 3, bytes: b"abcd".to_vec() };
        for size in 1..=10 {
            let mut file = *b"0123456789";
            for (index, chunk) in file.chunks_mut(size).enumerate() {
                patch.apply(chunk, (index * size) as u64);
            }
            assert_eq!(&file, b"012abcd789");
        }
    }
}
