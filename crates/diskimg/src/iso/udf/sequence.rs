//! The volume descriptor sequence (3/8.4.2): identifiers and partitions of the volume.
//!
//! Of several descriptors of the same kind, the one with the highest sequence number prevails
//! (3/8.4.3).

use super::raw::{self, id};
use super::tag::{self, Notes};
use crate::error::{Error, Result};
use crate::storage::number::{to_index, to_u16};
use crate::storage::source::Source;

/// Maximum number of descriptors that are read. The minimum length of a sequence in UDF is 16
/// sectors.
const MAX_DESCRIPTORS: usize = 1024;

/// Maximum length of a descriptor in bytes. In sectors that are longer, nothing follows it.
const MAX_DESCRIPTOR: u32 = 4096;

/// Maximum number of volume descriptor pointers that are followed.
const MAX_POINTERS: usize = 64;

/// The prevailing descriptors of a sequence.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    /// The primary volume descriptor.
    pub(super) primary: Option<Recorded>,
    /// The logical volume descriptor.
    pub(super) logical: Option<Recorded>,
    /// The partition descriptor for each partition number.
    pub(super) partitions: Vec<(u16, Recorded)>,
}

/// A descriptor.
#[derive(Debug)]
pub(super) struct Recorded {
    sequence: u32,
    /// Byte offset in the image.
    pub(super) offset: u64,
    /// Contents of the sector.
    pub(super) bytes: Vec<u8>,
}

impl Sequence {
    /// Reads the sequence of `length` bytes at byte offset `start`.
    pub(super) fn read(
        source: &dyn Source,
        (start, length): (u64, u64),
        sector: u32,
        notes: &Notes,
    ) -> Result<Self> {
        let mut sequence = Self::default();
        let mut next = Some((start, length));
        let mut descriptors = 0;
        for _ in 0..MAX_POINTERS {
            let Some((mut at, mut left)) = next.take() else { return Ok(sequence) };
            while left >= u64::from(sector) && at + u64::from(sector) <= source.len() {
                descriptors += 1;
                if descriptors > MAX_DESCRIPTORS {
                    let what = format!("it has more than {MAX_DESCRIPTORS} descriptors");
                    return Err(limit(what).at(at));
                }
                let mut bytes = vec![0; to_index(sector.min(MAX_DESCRIPTOR))];
                let cannot_read = |e| Error::io("cannot read", e).at(at);
                source.read_exact_at(&mut bytes, at).map_err(cannot_read)?;
                // A sector without a valid tag is unrecorded and ends the sequence, like a
                // terminating descriptor.
                let Some(found) = tag::tag(&bytes) else { break };
                match found.id.get() {
                    id::TERMINATING => break,
                    id::VOLUME_POINTER => {
                        if let Some((pointer, _)) = raw::read::<raw::VolumePointer>(&bytes) {
                            let location = u64::from(pointer.next.location.get());
                            let length = pointer.next.length.get();
                            next = Some((location * u64::from(sector), length.into()));
                        }
                        // No descriptor follows a pointer (3/8.4.2).
                        break;
                    }
                    kind => sequence.keep(kind, at, bytes, notes),
                }
                at += u64::from(sector);
                left -= u64::from(sector);
            }
        }
        match next {
            Some(_) => {
                let what = format!("it has more than {MAX_POINTERS} volume descriptor pointers");
                Err(limit(what).at(start))
            }
            None => Ok(sequence),
        }
    }

    fn keep(&mut self, kind: u16, offset: u64, bytes: Vec<u8>, notes: &Notes) {
        let name = match kind {
            id::PRIMARY_VOLUME => "primary volume descriptor",
            id::LOGICAL_VOLUME => "logical volume descriptor",
            id::PARTITION => "partition descriptor",
            _ => return,
        };
        // Cannot fail, because the tag is known to be valid. Called to note a wrong CRC.
        let _ = tag::check(name, &bytes, &[kind], offset, None, notes);
        let new = Recorded { sequence: le(&bytes[16..20]), offset, bytes };
        let slot = match kind {
            id::PRIMARY_VOLUME => &mut self.primary,
            id::LOGICAL_VOLUME => &mut self.logical,
            _ => {
                let partition = to_u16(le(&new.bytes[22..24]));
                match self.partitions.iter_mut().find(|(number, _)| *number == partition) {
                    Some((_, old)) if new.sequence < old.sequence => {}
                    Some((_, old)) => *old = new,
                    None => self.partitions.push((partition, new)),
                }
                return;
            }
        };
        if slot.as_ref().is_none_or(|old| new.sequence >= old.sequence) {
            *slot = Some(new);
        }
    }
}

fn limit(what: String) -> Error {
    Error::limit(what).in_structure("volume descriptor sequence")
}

fn le(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |n, &b| n << 8 | u32::from(b))
}

#[cfg(test)]
mod tests {
    use super::super::tag::seal;
    use super::*;
    use crate::storage::source::MemorySource;

    /// Returns sectors of 512 bytes with one descriptor each: tag identifier, sequence number, and
    /// a number that is recorded in the eight bytes after that.
    fn sectors(descriptors: &[(u16, u32, u32)]) -> MemorySource {
        let mut bytes = vec![0; descriptors.len() * 512];
        for (sector, &(kind, sequence, number)) in bytes.chunks_mut(512).zip(descriptors) {
            sector[16..20].copy_from_slice(&sequence.to_le_bytes());
            sector[20..24].copy_from_slice(&number.to_le_bytes());
            sector[24..28].copy_from_slice(&number.to_le_bytes());
            if kind != 0 {
                seal(sector, kind, 0);
            }
        }
        MemorySource::new(bytes)
    }

    fn read(source: &MemorySource) -> Result<Sequence> {
        Sequence::read(source, (0, source.len()), 512, &Notes::default())
    }

    #[test]
    fn the_highest_sequence_number_prevails_and_a_terminator_ends_the_sequence() {
        let source = sectors(&[
            (id::LOGICAL_VOLUME, 5, 0),
            (id::LOGICAL_VOLUME, 4, 0),
            (id::PARTITION, 1, 7 << 16),
            (id::PARTITION, 2, 7 << 16),
            (id::PARTITION, 0, 8 << 16),
            (id::TERMINATING, 0, 0),
            (id::LOGICAL_VOLUME, 9, 0),
        ]);
        let sequence = read(&source).expect("readable");
        assert_eq!(sequence.logical.as_ref().map(|l| l.offset), Some(0));
        let partitions = sequence.partitions.iter().map(|(n, p)| (*n, p.offset));
        assert_eq!(partitions.collect::<Vec<_>>(), [(7, 3 * 512), (8, 4 * 512)]);
    }

    #[test]
    fn a_pointer_is_followed_and_a_loop_of_pointers_is_refused() {
        // The extent of the next sequence: 512 bytes at sector 2.
        let mut bytes = vec![0; 3 * 512];
        bytes[20..24].copy_from_slice(&512u32.to_le_bytes());
        bytes[24..28].copy_from_slice(&2u32.to_le_bytes());
        seal(&mut bytes[..512], id::VOLUME_POINTER, 0);
        seal(&mut bytes[1024..], id::LOGICAL_VOLUME, 0);
        let sequence = read(&MemorySource::new(bytes.clone())).expect("readable");
        assert_eq!(sequence.logical.map(|l| l.offset), Some(1024));
        bytes[24..28].fill(0);
        seal(&mut bytes[..512], id::VOLUME_POINTER, 0);
        read(&MemorySource::new(bytes)).expect_err("a loop");
    }

    #[test]
    fn a_sequence_with_too_many_descriptors_is_refused() {
        let source = sectors(&vec![(id::LOGICAL_VOLUME, 0, 0); 1025]);
        read(&source).expect_err("too many");
    }
}
