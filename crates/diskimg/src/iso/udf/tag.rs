//! The sixteen bytes that every descriptor begins with (3/7.2), and what they vouch for.

use super::raw::{self, Tag};
use crate::error::{Error, Result};
use crate::storage::number::to_u8;
use std::sync::{Mutex, PoisonError};

/// Notes that are kept; further ones only repeat what the first say.
const MAX_NOTES: usize = 100;

/// Something that is wrong and was read all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    /// Where, in bytes of the image.
    pub(super) offset: u64,
    /// What.
    pub(super) text: String,
}

/// The notes on a volume, as far as it has been read.
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

    /// Gives the notes, and has none any more.
    pub(super) fn take(&self) -> Vec<Note> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the notes.
    pub(super) fn put(&self, notes: Vec<Note>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = notes;
    }
}

/// The tag of `bytes`, if it is one: its checksum is right, and it is not all zeros.
pub(super) fn tag(bytes: &[u8]) -> Option<&Tag> {
    let (tag, _) = raw::read::<Tag>(bytes)?;
    let sum = bytes[..16].iter().fold(0u8, |sum, &b| sum.wrapping_add(b));
    let right = sum.wrapping_sub(tag.checksum) == tag.checksum;
    (right && tag.id.get() != 0).then_some(tag)
}

/// Checks the descriptor in `bytes`, which were found at `offset` of the image and should
/// have one of the identifiers `ids`. `block` is where it should say that it is.
///
/// # Errors
/// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if the tag's checksum is wrong, or it is of
/// another kind. A wrong CRC or place is only noted: writers get them wrong.
pub(super) fn check(
    structure: &'static str,
    bytes: &[u8],
    ids: &[u16],
    offset: u64,
    block: Option<u32>,
    notes: &Notes,
) -> Result<u16> {
    let corrupt = |what: String| Error::corrupt(structure, what).at(offset);
    let tag = tag(bytes).ok_or_else(|| corrupt("its tag has no valid checksum".into()))?;
    let id = tag.id.get();
    if !ids.contains(&id) {
        return Err(corrupt(format!("its tag is {id}; {ids:?} would be right")));
    }
    let length = usize::from(tag.crc_length.get());
    match bytes[16..].get(..length) {
        Some(body) if crc(body) != tag.crc.get() => {
            notes.add(offset, format!("{structure}: the CRC is wrong"));
        }
        _ => {}
    }
    if block.is_some_and(|block| block != tag.location.get()) {
        notes.add(offset, format!("{structure}: it says that it is at {}", tag.location));
    }
    Ok(id)
}

/// CRC-16 with polynomial 0x1021, beginning with 0 (3/7.2.6; UDF, 6.5).
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
pub(super) mod tests {
    use super::*;

    /// Gives `bytes` a right tag.
    pub(in super::super) fn seal(bytes: &mut [u8], id: u16, block: u32) {
        let crc_length = bytes.len() - 16;
        let sum = crc(&bytes[16..]);
        bytes[..16].fill(0);
        bytes[..2].copy_from_slice(&id.to_le_bytes());
        bytes[2] = 3;
        bytes[8..10].copy_from_slice(&sum.to_le_bytes());
        bytes[10..12].copy_from_slice(&(crc_length as u16).to_le_bytes());
        bytes[12..16].copy_from_slice(&block.to_le_bytes());
        bytes[4] = bytes[..16].iter().fold(0, |sum, &b| sum.wrapping_add(b));
    }

    #[test]
    fn the_crc_of_the_standards_example() {
        // UDF 2.60, 6.5.
        assert_eq!(crc(&[0x70, 0x6a, 0x77]), 0x3299);
    }

    #[test]
    fn a_wrong_checksum_or_kind_is_an_error_and_a_wrong_crc_or_place_is_noted() {
        let notes = Notes::default();
        let mut bytes = [7; 64];
        seal(&mut bytes, 261, 9);
        let checked = |bytes: &[u8], block| check("x", bytes, &[261], 0, Some(block), &notes);
        assert_eq!(checked(&bytes, 9).expect("right"), 261);
        assert_eq!(notes.take(), []);
        checked(&bytes, 8).expect("elsewhere");
        bytes[20] = 1;
        checked(&bytes, 9).expect("another body");
        checked(&bytes, 9).expect("noted once");
        assert_eq!(notes.take().len(), 2);
        bytes[12] ^= 1;
        checked(&bytes, 9).expect_err("another tag");
        check("x", &[0; 64], &[261], 0, None, &notes).expect_err("no tag");
        check("x", &[0; 8], &[261], 0, None, &notes).expect_err("too short");
        seal(&mut bytes, 266, 9);
        checked(&bytes, 9).expect_err("another kind");
    }
}
