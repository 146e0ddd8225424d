//! Internal snapshots: the snapshot table.
//!
//! ```text
//!    0 l1_table_offset   8 l1_size  12 id_size  14 name_size
//!   16 date_sec  20 date_nsec  24 vm_clock_nsec
//!   32 vm_state_size  36 extra_size
//!   40 extra: vm_state_size (64 bits) │ disk size │ icount │ …
//!      id │ name │ padding to a multiple of 8 │ the next entry …
//! ```
//!
//! Specification: "Snapshots". Each snapshot has its own L1 table and its own disk size.

use super::check::MIN_V3_SNAPSHOT_EXTRA;
use super::header::{Header, Table};
use crate::error::{Error, Result};
use crate::open::SnapshotSelector;
use crate::open::limits::Limits;
use crate::report::info;
use crate::storage::number::{to_index, to_u16, to_u32, to_u64};
use crate::storage::source::Source;
use std::time::Duration;
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Stored value for "no instruction count".
const NO_ICOUNT: u64 = u64::MAX;

const NANOSECONDS: u64 = 1_000_000_000;

/// The fixed part of an entry.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSnapshot {
    l1_table_offset: U64,
    l1_size: U32,
    id_size: U16,
    name_size: U16,
    date_sec: U32,
    date_nsec: U32,
    vm_clock_nsec: U64,
    vm_state_size: U32,
    extra_size: U32,
}

/// An internal snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    /// The properties that `info` shows.
    pub(crate) info: info::Snapshot,
    /// L1 table, not yet validated.
    pub(crate) l1: Table,
    /// Size of the disk in bytes.
    pub(crate) disk_size: u64,
    /// Length of the extra data in bytes; version 3 requires at least 16.
    pub(crate) extra_bytes: u32,
    /// Host offset of the entry.
    pub(crate) at: u64,
    /// Length of the entry in bytes, without padding.
    pub(crate) len: u64,
}

/// The snapshot table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshots {
    /// The snapshots, in the order of the table.
    pub(crate) entries: Vec<Snapshot>,
    /// Length of the table in bytes.
    pub(crate) bytes: u64,
}

/// Maximum number of snapshots of an image (QEMU's limit).
pub(super) const MAX_SNAPSHOTS: u64 = 65_536;

/// Maximum length of a snapshot table in bytes (QEMU's limit).
pub(super) const MAX_TABLE_BYTES: u64 = 64 << 20;

/// Maximum length in bytes of the extra data of an entry (QEMU's limit).
const MAX_EXTRA_BYTES: u32 = 1024;

/// Maximum length in bytes of the name of a new snapshot (QEMU's limit).
pub(super) const MAX_NEW_NAME: usize = 255;

/// The entry of a new snapshot, without VM state.
#[derive(Debug)]
pub(super) struct NewSnapshot<'a> {
    pub(super) id: &'a str,
    pub(super) name: &'a str,
    /// Time since 1970.
    pub(super) date: Duration,
    pub(super) l1: Table,
    /// Size of the disk in bytes.
    pub(super) disk_size: u64,
}

impl NewSnapshot<'_> {
    /// Returns the bytes to store.
    pub(super) fn encode(&self) -> Vec<u8> {
        let extra = [0, self.disk_size, 0].map(U64::new);
        let raw = RawSnapshot {
            l1_table_offset: self.l1.offset.into(),
            l1_size: to_u32(self.l1.entries).into(),
            id_size: to_u16(self.id.len()).into(),
            name_size: to_u16(self.name.len()).into(),
            date_sec: to_u32(self.date.as_secs()).into(),
            date_nsec: self.date.subsec_nanos().into(),
            vm_clock_nsec: U64::ZERO,
            vm_state_size: U32::ZERO,
            extra_size: to_u32(size_of_val(&extra)).into(),
        };
        [raw.as_bytes(), extra.as_bytes(), self.id.as_bytes(), self.name.as_bytes()].concat()
    }
}

impl Snapshots {
    /// Reads the snapshot table.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the table is not aligned or not within the
    /// file, and [`Limit`](crate::ErrorKind::Limit) if it exceeds the limits.
    pub(crate) fn read(file: &dyn Source, header: &Header, limits: &Limits) -> Result<Self> {
        let mut snapshots = Self::default();
        let start = header.snapshots_offset;
        // Required of an empty table too: QEMU refuses to open the image otherwise.
        if !start.is_multiple_of(header.cluster_size()) {
            return Err(Error::corrupt(
                "snapshot table",
                "it does not start at a multiple of the cluster size",
            )
            .at(start));
        }
        if header.snapshot_count == 0 {
            return Ok(snapshots);
        }
        let over_limit = |name, found: String, max| {
            Err(Error::over_limit(name, found, max).in_structure("snapshot table").at(start))
        };
        let count = u64::from(header.snapshot_count);
        if count > limits.snapshots {
            return over_limit("snapshots", format!("{count} snapshots"), limits.snapshots);
        }
        let mut at = 0u64;
        for _ in 0..header.snapshot_count {
            at = at.next_multiple_of(8);
            let offset = start.saturating_add(at);
            let entry = Snapshot::read(file, offset, header.size, limits.snapshot_extra_bytes);
            let (entry, len) = entry.map_err(|e| e.at(offset))?;
            at += len;
            if at > limits.snapshot_table_bytes {
                let found = format!("{at} bytes or more");
                return over_limit("snapshot_table_bytes", found, limits.snapshot_table_bytes);
            }
            snapshots.entries.push(entry);
        }
        snapshots.bytes = at;
        Ok(snapshots)
    }

    /// Returns the ID of the next snapshot: the highest one and 1.
    pub(super) fn next_id(&self) -> String {
        let number = |snapshot: &Snapshot| {
            let id = snapshot.info.id.trim_start();
            let digits = id.find(|c: char| !c.is_ascii_digit()).unwrap_or(id.len());
            id[..digits].parse::<u64>().unwrap_or(0)
        };
        let highest = self.entries.iter().map(number).max().unwrap_or(0);
        highest.saturating_add(1).to_string()
    }

    /// Returns the selected snapshot.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) with a list of the existing snapshots if
    /// there is no such snapshot.
    pub(crate) fn select(&self, wanted: &SnapshotSelector) -> Result<&Snapshot> {
        let find = |matches: &dyn Fn(&info::Snapshot) -> bool| {
            self.entries.iter().find(|snapshot| matches(&snapshot.info))
        };
        let found = match wanted {
            SnapshotSelector::IdOrName(text) => {
                find(&|s| s.id == *text).or_else(|| find(&|s| s.name == *text))
            }
            SnapshotSelector::Exactly { id, name } => find(&|s| {
                id.as_ref().is_none_or(|id| s.id == *id)
                    && name.as_ref().is_none_or(|name| s.name == *name)
            }),
        };
        found.ok_or_else(|| self.not_found(wanted))
    }

    fn not_found(&self, wanted: &SnapshotSelector) -> Error {
        /// Maximum number of snapshots in the hint.
        const MAX_LISTED: usize = 20;
        let wanted = match wanted {
            SnapshotSelector::IdOrName(text) => format!("'{text}'"),
            SnapshotSelector::Exactly { id, name } => {
                let part = |what, value: &Option<String>| {
                    value.as_ref().map(|value| format!("{what} '{value}'"))
                };
                let parts: Vec<_> =
                    [part("id", id), part("name", name)].into_iter().flatten().collect();
                parts.join(" and ")
            }
        };
        let mut known: Vec<_> = self
            .entries
            .iter()
            .take(MAX_LISTED)
            .map(|s| format!("{} ('{}')", s.info.id, s.info.name))
            .collect();
        if self.entries.len() > MAX_LISTED {
            known.push("…".into());
        }
        let error = Error::invalid(format!("there is no snapshot {wanted}"));
        if known.is_empty() {
            error.hint("the image has no snapshots")
        } else {
            error.hint(format!("its snapshots: {}", known.join(", ")))
        }
    }
}

/// A snapshot table that QEMU's limits allow.
#[derive(Debug)]
pub(super) struct ShortTable {
    /// Number of its entries.
    pub(super) count: u32,
    /// The entries.
    pub(super) bytes: Vec<u8>,
}

impl ShortTable {
    /// Reads the snapshot table, without the end of extra data that is too long, and without the
    /// snapshots beyond the maximum number or length. Returns `None` if nothing is left out.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the table is not within the file, and
    /// [`Io`](crate::ErrorKind::Io) if it cannot be read.
    pub(super) fn read(file: &dyn Source, header: &Header) -> Result<Option<Self>> {
        let count = u64::from(header.snapshot_count);
        let mut short = Self { count: 0, bytes: Vec::new() };
        let mut is_shorter = count > MAX_SNAPSHOTS;
        let mut at = header.snapshots_offset;
        for _ in 0..count.min(MAX_SNAPSHOTS) {
            let (mut entry, len, is_cut) = Self::read_entry(file, at)?;
            short.bytes.resize(short.bytes.len().next_multiple_of(8), 0);
            if to_u64(short.bytes.len() + entry.len()) > MAX_TABLE_BYTES {
                is_shorter = true;
                break;
            }
            short.bytes.append(&mut entry);
            short.count += 1;
            is_shorter |= is_cut;
            at = at.saturating_add(len.next_multiple_of(8));
        }
        Ok(is_shorter.then_some(short))
    }

    /// Returns the entry at a host offset, its length in the file in bytes, and whether extra data
    /// was left out.
    fn read_entry(file: &dyn Source, at: u64) -> Result<(Vec<u8>, u64, bool)> {
        let read = |buf: &mut [u8], at| {
            let outcome = file.read_exact_at(buf, at);
            outcome.map_err(|e| Error::io("cannot read", e).in_structure("snapshot table").at(at))
        };
        let mut raw = [0; size_of::<RawSnapshot>()];
        read(&mut raw, at)?;
        let mut raw: RawSnapshot = zerocopy::transmute!(raw);
        let stored = raw.extra_size.get();
        let kept = stored.min(MAX_EXTRA_BYTES);
        let names = to_index(u32::from(raw.id_size.get()) + u32::from(raw.name_size.get()));
        raw.extra_size = kept.into();
        let mut entry = raw.as_bytes().to_vec();
        let (fixed, kept) = (entry.len(), to_index(kept));
        entry.resize(fixed + kept + names, 0);
        let start = at.saturating_add(to_u64(fixed));
        read(&mut entry[fixed..fixed + kept], start)?;
        read(&mut entry[fixed + kept..], start.saturating_add(stored.into()))?;
        let len = to_u64(fixed + names) + u64::from(stored);
        Ok((entry, len, stored > MAX_EXTRA_BYTES))
    }
}

impl Snapshot {
    /// Reads the entry at host offset `at`, which may have at most `max_extra` bytes of extra data.
    /// Returns its length in bytes too.
    fn read(file: &dyn Source, at: u64, active_size: u64, max_extra: u64) -> Result<(Self, u64)> {
        let cannot_read = |e| Error::io("cannot read", e).in_structure("snapshot table");
        let mut raw = [0; size_of::<RawSnapshot>()];
        file.read_exact_at(&mut raw, at).map_err(cannot_read)?;
        let raw: RawSnapshot = zerocopy::transmute!(raw);
        let extra_bytes = raw.extra_size.get();
        if u64::from(extra_bytes) > max_extra {
            let found = format!("an entry with {extra_bytes} bytes of extra data");
            return Err(Error::over_limit("snapshot_extra_bytes", found, max_extra)
                .in_structure("snapshot table"));
        }
        let [extra_size, id_size, name_size] =
            [to_index(extra_bytes), raw.id_size.get().into(), raw.name_size.get().into()];
        let mut rest = vec![0; extra_size + id_size + name_size];
        // Reading the fixed part at `at` succeeded, so this cannot overflow.
        file.read_exact_at(&mut rest, at + to_u64(size_of::<RawSnapshot>()))
            .map_err(cannot_read)?;
        let (extra, names) = rest.split_at(extra_size);
        let (id, name) = names.split_at(id_size);
        let field = |index: usize| {
            let bytes = extra.get(index * 8..index * 8 + 8)?;
            U64::read_from_bytes(bytes).ok().map(U64::get)
        };
        let clock = raw.vm_clock_nsec.get();
        let snapshot = Self {
            info: info::Snapshot {
                id: super::header::text(id),
                name: super::header::text(name),
                vm_state_size: field(0).unwrap_or(raw.vm_state_size.get().into()),
                date_sec: raw.date_sec.get().into(),
                date_nsec: raw.date_nsec.get().into(),
                vm_clock_sec: clock / NANOSECONDS,
                vm_clock_nsec: clock % NANOSECONDS,
                icount: field(2).filter(|&count| count != NO_ICOUNT),
            },
            l1: Table { offset: raw.l1_table_offset.get(), entries: raw.l1_size.get().into() },
            disk_size: field(1).unwrap_or(active_size) / 512 * 512,
            extra_bytes,
            at,
            len: to_u64(size_of::<RawSnapshot>() + rest.len()),
        };
        let len = snapshot.len;
        Ok((snapshot, len))
    }

    /// Appends the entry that is stored as `bytes`. If it lacks the extra data that version 3 requires,
    /// it gets what QEMU writes: the size of the VM state and that of the disk, which it has already
    /// or which follow from its absence, and no instruction count.
    pub(crate) fn encode_with_extra(&self, bytes: &[u8], out: &mut Vec<u8>) {
        let Ok((mut raw, rest)) = RawSnapshot::read_from_prefix(bytes) else { return };
        let (old, names) = rest.split_at(to_index(self.extra_bytes).min(rest.len()));
        let mut extra = [self.info.vm_state_size, self.disk_size, NO_ICOUNT].map(U64::new);
        let known = if old.len() < to_index(MIN_V3_SNAPSHOT_EXTRA) { 0 } else { old.len().min(24) };
        extra.as_mut_bytes()[..known].copy_from_slice(&old[..known]);
        let later = old.get(size_of_val(&extra)..).unwrap_or_default();
        raw.extra_size = to_u32(size_of_val(&extra) + later.len()).into();
        for part in [raw.as_bytes(), extra.as_bytes(), later, names] {
            out.extend_from_slice(part);
        }
    }
}

/// Replaces the offset of the L1 table in an entry.
pub(super) fn set_l1_offset(entry: &mut [u8], offset: u64) {
    if let Some(field) = entry.first_chunk_mut::<8>() {
        *field = offset.to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::source::MemorySource;

    fn entry(extra: &[u64], id: &str, name: &str) -> Vec<u8> {
        let raw = RawSnapshot {
            l1_table_offset: 0x30000.into(),
            l1_size: 1.into(),
            id_size: (id.len() as u16).into(),
            name_size: (name.len() as u16).into(),
            date_sec: 7.into(),
            date_nsec: 8.into(),
            vm_clock_nsec: 3_000_000_004.into(),
            vm_state_size: 9.into(),
            extra_size: (extra.len() as u32 * 8).into(),
        };
        let mut bytes = raw.as_bytes().to_vec();
        extra.iter().for_each(|word| bytes.extend(word.to_be_bytes()));
        bytes.extend(id.bytes().chain(name.bytes()));
        bytes
    }

    #[test]
    fn extra_data_takes_precedence_over_the_fixed_part() {
        let file = MemorySource::new(entry(&[1 << 40, 2048, u64::MAX], "1", "first"));
        let (snapshot, len) = Snapshot::read(&file, 0, 512, 1024).expect("reads");
        assert_eq!(len, file.len());
        assert_eq!(snapshot.disk_size, 2048);
        assert_eq!(snapshot.info.vm_state_size, 1 << 40);
        assert_eq!(snapshot.info.icount, None);
        assert_eq!((snapshot.info.vm_clock_sec, snapshot.info.vm_clock_nsec), (3, 4));
        assert_eq!((snapshot.info.id.as_str(), snapshot.info.name.as_str()), ("1", "first"));
        let file = MemorySource::new(entry(&[], "1", "first"));
        let (snapshot, _) = Snapshot::read(&file, 0, 512, 1024).expect("reads");
        assert_eq!((snapshot.disk_size, snapshot.info.vm_state_size), (512, 9));
    }

    #[test]
    fn a_truncated_entry_is_corrupt() {
        let bytes = entry(&[0, 512], "1", "first");
        for len in [0, 39, 50, bytes.len() - 1] {
            let file = MemorySource::new(&bytes[..len]);
            let error = Snapshot::read(&file, 0, 512, 1024).expect_err("cut");
            assert_eq!(error.kind(), crate::ErrorKind::Corrupt, "{len}");
        }
    }

    #[test]
    fn the_error_for_a_missing_snapshot_lists_the_existing_ones() {
        let file = MemorySource::new(entry(&[], "1", "first"));
        let (snapshot, _) = Snapshot::read(&file, 0, 512, 1024).expect("reads");
        let snapshots = Snapshots { entries: vec![snapshot], bytes: 0 };
        for text in ["1", "first"] {
            snapshots.select(&SnapshotSelector::IdOrName(text.into())).expect("there");
        }
        let wanted = SnapshotSelector::Exactly { id: Some("1".into()), name: Some("2".into()) };
        let error = snapshots.select(&wanted).expect_err("not there").to_string();
        assert_eq!(error, "there is no snapshot id '1' and name '2' (its snapshots: 1 ('first'))");
    }
}
