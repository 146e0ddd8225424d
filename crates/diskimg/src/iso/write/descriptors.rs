//! Encoding of volume descriptors (ECMA-119, 8), which are one sector each.

use super::directory::Shift;
use super::joliet;
use super::options::CreateOptions;
use super::rock_ridge::{both_endian_16, both_endian_32};
use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::iso::time::Timestamp;
use crate::storage::number::{to_u16, to_usize};

/// Locations of the path tables and the root directory of one tree.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tables {
    /// Length of a path table in bytes.
    pub(super) path_table: u32,
    /// First sector of the type L (little-endian) path table.
    pub(super) little: u32,
    /// First sector of the type M (big-endian) path table.
    pub(super) big: u32,
    /// First sector of the root directory.
    pub(super) root: u32,
    /// Length of the root directory in bytes.
    pub(super) root_bytes: u32,
}

impl Tables {
    /// Returns the locations to be recorded in the second set of descriptors.
    pub(super) fn shifted(self, shift: Shift) -> Self {
        let Self { little, big, root, .. } = self;
        let [little, big, root] = [little, big, root].map(|lba| shift.directory(lba));
        Self { little, big, root, ..self }
    }
}

/// Fields of the volume descriptors that all trees share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Volume {
    /// Volume space size.
    pub(super) sectors: u32,
    /// Creation and modification time of the volume.
    pub(super) time: Timestamp,
    /// Time zone of that time, in units of 15 minutes east of UTC.
    pub(super) zone: i8,
    /// Recording time of the root directory.
    pub(super) root_time: Timestamp,
}

/// Returns description, offset, length and value of the text fields of a descriptor (ECMA-119,
/// 8.4).
fn texts(options: &CreateOptions) -> [(&'static str, usize, usize, &str); 9] {
    [
        ("system identifier", 8, 32, &options.system_id),
        ("volume identifier", 40, 32, &options.volume_id),
        ("volume set identifier", 190, 128, &options.volume_set_id),
        ("publisher", 318, 128, &options.publisher),
        ("data preparer", 446, 128, &options.preparer),
        ("application", 574, 128, &options.application),
        ("copyright file identifier", 702, 37, &options.copyright_file),
        ("abstract file identifier", 739, 37, &options.abstract_file),
        ("bibliographic file identifier", 776, 37, &options.bibliographic_file),
    ]
}

/// Checks the lengths of the text fields.
///
/// # Errors
/// Returns [`Invalid`](crate::ErrorKind::Invalid) if a text is too long.
pub(super) fn check(options: &CreateOptions) -> Result<()> {
    for (what, _, room, text) in texts(options) {
        if text.len() > room {
            let message = format!("the {what} has {} bytes; the maximum is {room}", text.len());
            return Err(Error::invalid(message));
        }
    }
    Ok(())
}

/// Encodes the primary volume descriptor (ECMA-119, 8.4).
pub(super) fn primary(options: &CreateOptions, tables: &Tables, volume: &Volume) -> Vec<u8> {
    let mut bytes = common(1, tables, volume);
    for (_, at, room, text) in texts(options) {
        let field = &mut bytes[at..at + room];
        field.fill(b' ');
        field[..text.len()].copy_from_slice(text.as_bytes());
    }
    bytes
}

/// Encodes the enhanced volume descriptor of ISO 9660:1999, which refers to the same tree as the
/// primary one (ISO 9660:1999, 8.5).
pub(super) fn enhanced(options: &CreateOptions, tables: &Tables, volume: &Volume) -> Vec<u8> {
    let mut bytes = primary(options, tables, volume);
    // Type, version and file structure version.
    (bytes[0], bytes[6], bytes[881]) = (2, 2, 2);
    bytes
}

/// Encodes the supplementary volume descriptor of Joliet, UCS-2 level 3 (ECMA-119, 8.5).
pub(super) fn joliet(options: &CreateOptions, tables: &Tables, volume: &Volume) -> Vec<u8> {
    let mut bytes = common(2, tables, volume);
    bytes[88..91].copy_from_slice(b"%/E");
    for (_, at, room, text) in texts(options) {
        let field = &mut bytes[at..at + room];
        match room {
            32 => field.copy_from_slice(&joliet::field::<32>(text)),
            // The field has 37 bytes; the last one is unused.
            37 => field[..36].copy_from_slice(&joliet::field::<36>(text)),
            _ => field.copy_from_slice(&joliet::field::<128>(text)),
        }
    }
    bytes
}

/// Encodes the volume descriptor set terminator (ECMA-119, 8.3).
pub(super) fn terminator() -> Vec<u8> {
    let mut bytes = vec![0; to_usize(SECTOR)];
    bytes[..7].copy_from_slice(b"\xffCD001\x01");
    bytes
}

fn common(kind: u8, tables: &Tables, volume: &Volume) -> Vec<u8> {
    let mut bytes = vec![0; to_usize(SECTOR)];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &[kind]);
    put(1, b"CD001\x01");
    put(80, &both_endian_32(volume.sectors));
    put(120, &both_endian_16(1));
    put(124, &both_endian_16(1));
    put(128, &both_endian_16(to_u16(SECTOR)));
    put(132, &both_endian_32(tables.path_table));
    put(140, &tables.little.to_le_bytes());
    put(148, &tables.big.to_be_bytes());
    put(156, &root_record(tables, volume));
    put(813, &volume.time.to_digits(volume.zone));
    put(830, &volume.time.to_digits(volume.zone));
    put(847, &Timestamp::NO_DIGITS);
    put(864, &Timestamp::NO_DIGITS);
    put(881, &[1]);
    bytes
}

fn root_record(tables: &Tables, volume: &Volume) -> [u8; 34] {
    let mut record = [0; 34];
    record[0] = 34;
    record[2..10].copy_from_slice(&both_endian_32(tables.root));
    record[10..18].copy_from_slice(&both_endian_32(tables.root_bytes));
    record[18..25].copy_from_slice(&volume.root_time.to_record());
    record[25] = 2;
    record[28..32].copy_from_slice(&both_endian_16(1));
    record[32] = 1;
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_recorded_unchanged_and_padded_with_spaces() {
        let options = CreateOptions { volume_id: "config-2".into(), ..CreateOptions::default() };
        let time = Timestamp::from_seconds(0);
        let volume = Volume { sectors: 0x0102, time, zone: 0, root_time: time };
        let primary = primary(&options, &Tables::default(), &volume);
        assert_eq!(&primary[40..72], b"config-2                        ");
        assert_eq!(&primary[80..88], b"\x02\x01\0\0\0\0\x01\x02");
        let joliet = joliet(&options, &Tables::default(), &volume);
        assert_eq!(&joliet[40..60], b"\0c\0o\0n\0f\0i\0g\0-\x002\0 \0 ");
    }

    #[test]
    fn a_text_that_is_too_long_is_an_error() {
        let mut options = CreateOptions { volume_id: "x".repeat(32), ..CreateOptions::default() };
        check(&options).expect("fits");
        options.volume_id.push('x');
        let error = check(&options).expect_err("too long");
        assert!(error.to_string().contains("volume identifier has 33 bytes"), "{error}");
    }
}
