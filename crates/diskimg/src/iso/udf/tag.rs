//! Descriptor tags: the sixteen bytes at the start of every descriptor (3/7.2).

use super::raw::{self, Tag};
use crate::error::{Error, Result};
use crate::storage::number::{to_u8, to_u16};
use std::sync::{Mutex, PoisonError};

/// Version of the descriptors that [`seal`] writes: the 2nd edition of ECMA-167, on which UDF 1.02
/// is based.
const VERSION: u8 = 2;

/// Maximum number of notes that are kept.
const MAX_NOTES: usize = 100;

/// Damage that was tolerated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    /// Byte offset in the image.
    pub(super) offset: u64,
    /// Description.
    pub(super) text: String,
}

/// The notes made so far while a volume is read.
#[derive(Debug, Default)]
pub(super) struct Notes(Mutex<Vec<Note>>);

impl Notes {
    pub(super) fn add(&self, offset: u64, text: impl Into<String>) {
        let note = Note { offset, text: text.into() };
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.len() < MAX_NOTES && !notes.contains(&note) {
            notes.push(note);
        }
    }

    /// Removes and returns all notes.
    pub(super) fn take(&self) -> Vec<Note> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the notes.
    pub(super) fn put(&self, notes: Vec<Note>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = notes;
    }
}

/// Returns the tag at the start of `bytes` if its checksum is correct and its identifier is not 0.
pub(super) fn tag(bytes: &[u8]) -> Option<&Tag> {
    let (tag, _) = raw::read::<Tag>(bytes)?;
    let sum = bytes[..16].iter().fold(0u8, |sum, &b| sum.wrapping_add(b));
    let is_valid = sum.wrapping_sub(tag.checksum) == tag.checksum;
    (is_valid && tag.id.get() != 0).then_some(tag)
}

/// Checks the tag of the descriptor in `bytes`, read from byte offset `offset` of the image. The
/// tag identifier must be one of `ids`, and the tag location must be `block`. Returns the
/// identifier.
///
/// # Errors
/// Returns [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if the tag checksum is wrong or the
/// identifier is not one of `ids`. A wrong CRC or location only adds a note, because some writers
/// record wrong ones.
pub(super) fn check(
    structure: &'static str,
    bytes: &[u8],
    ids: &[u16],
    offset: u64,
    block: Option<u32>,
    notes: &Notes,
) -> Result<u16> {
    let corrupt = |what: String| Error::corrupt(structure, what).at(offset);
    let tag = tag(bytes).ok_or_else(|| corrupt("the checksum of its tag is wrong".into()))?;
    let id = tag.id.get();
    if !ids.contains(&id) {
        return Err(corrupt(format!("its tag identifier is {id}; expected one of {ids:?}")));
    }
    let length = usize::from(tag.crc_length.get());
    match bytes[16..].get(..length) {
        Some(body) if crc(body) != tag.crc.get() => {
            notes.add(offset, format!("{structure}: the CRC is wrong"));
        }
        _ => {}
    }
    if let Some(block) = block.filter(|&block| block != tag.location.get()) {
        let text = format!("{structure}: its tag location is {}; expected {block}", tag.location);
        notes.add(offset, text);
    }
    Ok(id)
}

/// Writes the tag of a descriptor, which begins with sixteen bytes for it, in block `block`. The CRC
/// is that of all bytes of the descriptor.
pub(in crate::iso) fn seal(descriptor: &mut [u8], id: u16, block: u32) {
    let (tag, body) = descriptor.split_at_mut(size_of::<Tag>());
    tag.fill(0);
    tag[..2].copy_from_slice(&id.to_le_bytes());
    tag[2] = VERSION;
    tag[8..10].copy_from_slice(&crc(body).to_le_bytes());
    tag[10..12].copy_from_slice(&to_u16(body.len()).to_le_bytes());
    tag[12..].copy_from_slice(&block.to_le_bytes());
    tag[4] = tag.iter().fold(0, |sum, &byte| sum.wrapping_add(byte));
}

/// Computes the CRC-16 with polynomial 0x1021 and initial value 0 (3/7.2.6; UDF, 6.5).
pub(super) fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| (crc << 8) ^ TABLE[usize::from(to_u8(crc >> 8) ^ byte)])
}

const TABLE: [u16; 256] = {
    let mut table = [0u16; 256];
    let (mut byte, mut high) = (0, 0u16);
    while byte < 256 {
        let mut crc = high;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
        high = high.wrapping_add(0x100);
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_of_the_example_in_the_standard_is_correct() {
        // UDF 2.60, 6.5.
        assert_eq!(crc(&[0x70, 0x6a, 0x77]), 0x3299);
    }

    #[test]
    fn a_wrong_checksum_or_identifier_is_an_error_and_a_wrong_crc_or_location_is_noted() {
        let notes = Notes::default();
        let mut bytes = [7; 64];
        seal(&mut bytes, 261, 9);
        let checked = |bytes: &[u8], block| check("x", bytes, &[261], 0, Some(block), &notes);
        assert_eq!(checked(&bytes, 9).expect("valid"), 261);
        assert_eq!(notes.take(), []);
        checked(&bytes, 8).expect("wrong location");
        bytes[20] = 1;
        checked(&bytes, 9).expect("wrong CRC");
        checked(&bytes, 9).expect("the same note is added once");
        assert_eq!(notes.take().len(), 2);
        bytes[12] ^= 1;
        checked(&bytes, 9).expect_err("wrong checksum");
        check("x", &[0; 64], &[261], 0, None, &notes).expect_err("no tag");
        check("x", &[0; 8], &[261], 0, None, &notes).expect_err("too short");
        seal(&mut bytes, 266, 9);
        checked(&bytes, 9).expect_err("wrong identifier");
    }
}
