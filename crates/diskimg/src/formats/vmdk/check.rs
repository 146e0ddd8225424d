//! Checking the consistency of a sparse extent.
//!
//! ```text
//!   directory ──► tables ──► grains        every pointer stays in the file,
//!   redundant directory ──► tables         no two point to the same place,
//!                                          both copies are equal
//!   stream: marker, marker, … EOS          every grain is referenced by its table
//! ```
//!
//! As with qemu-img, the report of a VMDK counts problems only. Memory use depends on the file's
//! length: one bit per grain, or per sector if grains are not aligned to their size.

use super::SECTOR;
use super::header::Flags;
use super::scan::Scan;
use super::sparse::{GTE_ZEROED, SparseExtent, grain_start};
use super::stream::{GrainMarker, MARKER_EOS, MARKER_FOOTER, MARKER_PROGRESS, MetaDataMarker};
use crate::error::{Error, Result};
use crate::formats::findings::Findings;
use crate::model::extent::Kind;
use crate::report::check::{CheckReport, Code, Finding};
use crate::storage::number::{to_index, to_u32, to_u64, to_usize};
use zerocopy::FromBytes;

/// Maximum number of ranges of missing grains that a finding lists.
const MAX_LOST: usize = 8;

/// Checks `extent`, reports the findings and adds them to `counts`.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) if the markers of a stream cannot be read.
pub(super) fn check(
    extent: &SparseExtent,
    report: &mut dyn FnMut(Finding),
    counts: &mut CheckReport,
) -> Result<()> {
    let mut check = Check { extent, findings: Findings { report, counts } };
    let shared = check.shared_tables();
    check.tables(&shared);
    check.redundant_tables();
    check.missing_tables()?;
    if extent.header().flags.contains(Flags::MARKERS) {
        check.stream()?;
    }
    Ok(())
}

struct Check<'a> {
    extent: &'a SparseExtent,
    findings: Findings<'a>,
}

/// A bitmap of the occupied sectors of a file, with one bit per `1 << shift` sectors.
#[derive(Debug)]
pub(super) struct Occupied {
    bits: Vec<u64>,
    shift: u32,
}

impl Occupied {
    /// Creates an empty bitmap for a file of `len` bytes.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if the bitmap would exceed `max_bytes`.
    pub(super) fn new(len: u64, shift: u32, max_bytes: u64) -> Result<Self> {
        let words = (((len / SECTOR) >> shift) + 1).div_ceil(64);
        if words * 8 > max_bytes {
            let found = format!("the search for overlapping grains takes {} bytes", words * 8);
            return Err(Error::over_limit("check_bytes", found, max_bytes));
        }
        Ok(Self { bits: vec![0; to_usize(words)], shift })
    }

    /// Marks the sectors as occupied, whether some are already or not.
    pub(super) fn mark_all(&mut self, start: u64, sectors: u64) {
        for index in start >> self.shift..(start + sectors).div_ceil(1 << self.shift) {
            self.mark(index << self.shift, 1);
        }
    }

    /// Marks the sectors as occupied. Returns false at the first one that is already marked, so
    /// that the total work is bounded by the number of sectors.
    pub(super) fn mark(&mut self, start: u64, sectors: u64) -> bool {
        for index in start >> self.shift..(start + sectors).div_ceil(1 << self.shift) {
            // The end of a grain may be beyond the end of the file.
            let Some(word) = self.bits.get_mut(to_usize(index / 64)) else { break };
            let bit = 1 << (index % 64);
            if *word & bit != 0 {
                return false;
            }
            *word |= bit;
        }
        true
    }
}

impl Check<'_> {
    /// Reports tables that several directory entries point to, and returns their sectors, sorted.
    fn shared_tables(&mut self) -> Vec<u32> {
        let mut sectors: Vec<u32> =
            self.extent.directory().iter().copied().filter(|&sector| sector != 0).collect();
        sectors.sort_unstable();
        let mut shared: Vec<u32> =
            sectors.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        shared.dedup();
        for sector in &shared {
            let at = u64::from(*sector) * SECTOR;
            self.findings.corruption(format!(
                "the grain table at offset {at:#x} is used by several directory entries"
            ));
        }
        shared
    }

    /// Calls `visit` with guest grain number and sector of every allocated grain in every table
    /// that is not shared, and `unreadable` for every table that cannot be read.
    fn each_grain(
        &mut self,
        shared: &[u32],
        mut unreadable: impl FnMut(&mut Self, &str, &Error),
        mut visit: impl FnMut(&mut Self, u64, u32),
    ) {
        let extent = self.extent;
        let header = extent.header();
        let grains = extent.size().div_ceil(header.grain_bytes());
        for (index, &sector) in extent.directory().iter().enumerate() {
            if sector == 0 || shared.binary_search(&sector).is_ok() {
                continue;
            }
            let first = to_u64(index) * u64::from(header.gtes);
            match extent.read_table(sector) {
                Err(error) => unreadable(self, &format!("grain table {index}"), &error),
                Ok(table) => {
                    for (grain, &entry) in (first..grains).zip(&table) {
                        if entry != 0 && !(entry == GTE_ZEROED && header.zeroed_grains()) {
                            visit(self, grain, entry);
                        }
                    }
                }
            }
        }
    }

    /// Checks every entry of every table.
    fn tables(&mut self, shared: &[u32]) {
        let header = self.extent.header();
        let Some(mut occupied) = self.occupied(shared) else { return };
        let end = self.extent.source().len();
        let unreadable = |check: &mut Self, what: &str, error: &Error| {
            check.findings.unreadable(what, error);
        };
        self.each_grain(shared, unreadable, |check, grain, entry| {
            let (guest, offset) = (grain * header.grain_bytes(), u64::from(entry) * SECTOR);
            if u64::from(entry) < header.over_head {
                check.findings.corruption(format!(
                    "guest offset {guest:#x}: its grain at offset {offset:#x} is within the \
                     extent's metadata, which ends at {:#x}",
                    header.over_head * SECTOR
                ));
                return;
            }
            // A grain that cannot be read is a corruption, with the same message.
            let range = guest..(guest + header.grain_bytes()).min(check.extent.size());
            let kind = match check.extent.grain(entry, &range, 0, 0) {
                Ok(kind) => kind,
                Err(error) => {
                    check.findings.unreadable(&format!("guest offset {guest:#x}"), &error);
                    return;
                }
            };
            let sectors = match kind {
                Kind::Encoded(e) => {
                    let stored = e.host.offset - offset + u64::from(e.stored);
                    // Without a size before the data, the end of the grain is not known.
                    if e.host.offset == offset { 1 } else { stored.div_ceil(SECTOR) }
                }
                _ => header.grain_sectors,
            };
            if offset >= end || !occupied.mark(entry.into(), sectors) {
                check.findings.corruption(format!(
                    "guest offset {guest:#x}: its grain at offset {offset:#x} overlaps another"
                ));
            }
        });
    }

    /// Creates a bitmap that is fine enough to distinguish any two grains; `None` if it would
    /// exceed the limit.
    fn occupied(&mut self, shared: &[u32]) -> Option<Occupied> {
        let header = self.extent.header();
        let mut shift = 0;
        if !header.compressed {
            let mut bits = to_u32(header.grain_sectors);
            self.each_grain(shared, |_, _, _| (), |_, _, entry| bits |= entry);
            shift = bits.trailing_zeros();
        }
        let extent = self.extent;
        let occupied = Occupied::new(extent.source().len(), shift, extent.check_bytes());
        self.findings.within_limits(occupied)
    }

    /// Reports redundant tables that differ from the primary ones.
    fn redundant_tables(&mut self) {
        let extent = self.extent;
        let header = extent.header();
        let Some(sector) = header.redundant() else { return };
        let other = match extent.read_entries(sector, header.tables(), "redundant directory") {
            Ok(other) => other,
            Err(error) => {
                self.findings.unreadable("redundant directory", &error);
                return;
            }
        };
        if extent.replaced() > 0 {
            self.findings.corruption(format!(
                "entries of the grain directory that are missing or point beyond the end of the \
                 file: {}",
                extent.replaced()
            ));
        }
        for (index, (&a, &b)) in extent.directory().iter().zip(&other).enumerate() {
            if a == b {
                continue;
            }
            let tables = self.entries(a).and_then(|primary| Ok((primary, self.entries(b)?)));
            let (primary, redundant) = match tables {
                Ok(tables) => tables,
                Err(error) => {
                    self.findings.unreadable(&format!("redundant grain table {index}"), &error);
                    continue;
                }
            };
            if primary != redundant {
                let [a, b] = [a, b].map(|sector| u64::from(sector) * SECTOR);
                let both =
                    format!("grain table {index} at offset {a:#x} and the redundant one at {b:#x}");
                // The primary one is written first, and is the one that is read.
                match header.unclean {
                    true => self.findings.found(
                        Code::Leak,
                        format!("{both} differ: the extent was not closed properly"),
                    ),
                    false => self.findings.corruption(format!("{both} differ")),
                }
            }
        }
    }

    /// Reads the table at `sector`; sector 0 stands for a table of unallocated grains.
    fn entries(&self, sector: u32) -> Result<Vec<u32>> {
        match sector {
            0 => Ok(vec![0; to_index(self.extent.header().gtes)]),
            sector => self.extent.read_table(sector),
        }
    }

    /// Reports that the tables cannot be read, and which grains may be missing in addition.
    fn missing_tables(&mut self) -> Result<()> {
        let extent = self.extent;
        let (header, Some(why)) = (extent.header(), extent.missing()) else { return Ok(()) };
        self.findings.corruption(why.to_owned());
        if !header.compressed || !header.flags.contains(Flags::MARKERS) {
            return Ok(());
        }
        let scan = Scan::of(extent.source(), header, extent.check_bytes())?;
        let grain = header.grain_bytes();
        let size = scan.len();
        let lost: Vec<_> = scan
            .lost()
            .iter()
            .take(MAX_LOST)
            .map(|lost| {
                format!("{:#x} to {:#x}", lost.start * grain, (lost.end * grain).min(extent.size()))
            })
            .collect();
        let lost = match (lost.is_empty(), scan.lost().len() > MAX_LOST) {
            (true, _) => "no others are missing".to_owned(),
            (false, more) => format!(
                "others may be missing at guest offsets {}{}",
                lost.join(", "),
                if more { ", …" } else { "" }
            ),
        };
        self.findings.corruption(format!("{size} grains can be found by their markers; {lost}"));
        Ok(())
    }

    /// Follows the markers, starting at the first grain, and reports grains that no table
    /// references. A missing end-of-stream marker is not reported: such streams are common.
    fn stream(&mut self) -> Result<()> {
        let extent = self.extent;
        // The padding of the last grain may be missing.
        let end = extent.source().len().next_multiple_of(SECTOR);
        let mut at = extent.header().over_head * SECTOR;
        while at + SECTOR <= extent.source().len() {
            let sector = super::read_sector(extent.source(), at, "marker")?;
            let Ok((marker, _)) = MetaDataMarker::read_from_prefix(&sector[..]) else { break };
            let (value, size) = (marker.value.get(), u64::from(marker.size.get()));
            let len = match (size, marker.kind.get()) {
                (0, MARKER_EOS) => break,
                (0, MARKER_PROGRESS) => Some(SECTOR),
                (0, kind) if kind <= MARKER_FOOTER => {
                    value.checked_mul(SECTOR).and_then(|len| len.checked_add(SECTOR))
                }
                (0, kind) => {
                    self.findings
                        .corruption(format!("unknown marker type {kind} at offset {at:#x}"));
                    break;
                }
                _ => {
                    self.stream_grain(value, at);
                    Some((GrainMarker::BYTES + size).next_multiple_of(SECTOR))
                }
            };
            let Some(next) = len.and_then(|len| at.checked_add(len)).filter(|&next| next <= end)
            else {
                self.findings.corruption(format!(
                    "the marker at offset {at:#x} points beyond the end of the file"
                ));
                break;
            };
            at = next;
        }
        if extent.footer_at().is_some_and(|footer| at != footer + SECTOR) {
            self.findings.corruption(format!(
                "the stream's markers end at offset {at:#x} instead of after its footer"
            ));
        }
        Ok(())
    }

    fn stream_grain(&mut self, lba: u64, at: u64) {
        let Some(guest) = grain_start(lba, self.extent.header()) else {
            self.findings.corruption(format!(
                "the marker at offset {at:#x} says sector {lba}, where no grain starts"
            ));
            return;
        };
        if self.extent.entry(guest).is_ok_and(|entry| u64::from(entry) * SECTOR != at) {
            self.findings.found(
                Code::Leak,
                format!(
                    "no table references the grain at offset {at:#x} (guest offset {guest:#x})"
                ),
            );
        }
    }
}
