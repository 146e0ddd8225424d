//! Checking the consistency of a DMG. The checksums of the contents are verified by the operation
//! [`Check`](crate::Check).

use super::SECTOR;
use super::chunks::{Chunks, codec_of};
use super::layer::Dmg;
use super::table::{TABLE, chunk_type};
use super::trailer::TRAILER;
use crate::error::Result;
use crate::formats::findings::Findings;
use crate::report::check::{CheckReport, Code, DigestValue, Finding};
use crate::storage::number::to_u64;

/// Checks `image` and passes its findings to `report`.
///
/// # Errors
/// None at present: what cannot be read is a finding.
pub(super) fn check(image: &Dmg, report: &mut dyn FnMut(Finding)) -> Result<CheckReport> {
    let mut counts = CheckReport::default();
    let mut findings = Findings { report, counts: &mut counts };
    check_chunks(image.chunks(), &mut findings);
    check_tables(image.chunks(), &mut findings);
    check_size(image, &mut findings);
    check_master_checksum(image, &mut findings);
    check_checksum_kinds(image, &mut findings);
    check_copies(image, &mut findings);
    Ok(counts)
}

fn check_chunks(chunks: &Chunks, findings: &mut Findings<'_>) {
    findings.counts.total_clusters = to_u64(chunks.chunks.len());
    let mut next = None;
    for chunk in &chunks.chunks {
        if let Err(error) = chunks.kind(chunk) {
            match error.kind() {
                crate::ErrorKind::Corrupt => findings.corruption(error.without_remedy()),
                _ => findings.found(Code::CheckError, error.without_remedy()),
            }
            continue;
        }
        if matches!(chunk.chunk_type, chunk_type::ZERO | chunk_type::IGNORE) {
            continue;
        }
        let counts = &mut *findings.counts;
        counts.allocated_clusters += 1;
        counts.compressed_clusters += u64::from(codec_of(chunk.chunk_type).is_some());
        counts.fragmented_clusters += u64::from(next.is_some_and(|next| next != chunk.offset));
        let end = chunk.offset.saturating_add(chunk.stored);
        next = Some(end);
        counts.image_end_offset = Some(counts.image_end_offset.unwrap_or(0).max(end));
    }
    for overlap in &chunks.overlaps {
        findings.corruption(format!(
            "{TABLE}: several chunks have guest bytes in {:#x}..{:#x}",
            overlap.start, overlap.end
        ));
    }
}

/// Compares the chunks of each table with the sectors of its partition.
fn check_tables(chunks: &Chunks, findings: &mut Findings<'_>) {
    let mut covered = vec![0_u64; chunks.tables.len()];
    let mut outside = vec![None; chunks.tables.len()];
    for chunk in &chunks.chunks {
        let number = Chunks::table_of(chunk);
        let Some(table) = chunks.tables.get(number) else { continue };
        covered[number] += chunk.end - chunk.start;
        let (first, end) = (table.sectors.0 * SECTOR, table.sectors.1 * SECTOR);
        if chunk.start < first || chunk.end > end {
            outside[number].get_or_insert(chunk.start);
        }
    }
    for (number, table) in chunks.tables.iter().enumerate() {
        let label = table.label(number);
        if let Some(at) = outside[number] {
            findings.corruption(format!(
                "{TABLE}: {label} has a chunk at guest offset {at:#x}, outside its partition"
            ));
        }
        let len = (table.sectors.1 - table.sectors.0) * SECTOR;
        if covered[number] < len {
            findings.warning(format!(
                "{TABLE}: {label} has chunks for {} of {len} bytes: the others are zeros",
                covered[number]
            ));
        }
        if !table.has_end {
            findings.warning(format!("{TABLE}: {label} has no end"));
        }
    }
}

fn check_size(image: &Dmg, findings: &mut Findings<'_>) {
    let (recorded, size) = (image.trailer().sectors * SECTOR, image.chunks().size);
    if recorded != size {
        findings.warning(format!(
            "{TRAILER}: the size of the disk is {recorded} bytes, but the tables have {size} bytes"
        ));
    }
}

/// Verifies the checksum of the tables' checksums.
fn check_master_checksum(image: &Dmg, findings: &mut Findings<'_>) {
    let Some(DigestValue::Crc32(recorded)) = image.trailer().master_checksum.value() else {
        return;
    };
    let mut crc = crc32fast::Hasher::new();
    image.chunks().tables.iter().for_each(|table| crc.update(table.checksum.bytes()));
    let computed = crc.finalize();
    if computed != recorded {
        findings.found(
            Code::DigestMismatch,
            format!(
                "{TRAILER}: the CRC-32 of the tables' checksums is {computed:08x}, but \
                 {recorded:08x} is recorded"
            ),
        );
    }
}

/// Reports checksums that cannot be verified.
fn check_checksum_kinds(image: &Dmg, findings: &mut Findings<'_>) {
    let trailer = image.trailer();
    let own = [("data fork", trailer.data_checksum), ("tables", trailer.master_checksum)];
    let own = own.map(|(of, checksum)| (format!("{TRAILER}: {of}"), checksum));
    let tables = image.chunks().tables.iter().enumerate();
    let tables = tables.map(|(n, table)| (format!("{TABLE}: {}", table.label(n)), table.checksum));
    for (of, checksum) in own.into_iter().chain(tables) {
        if let Some((kind, bits)) = checksum.unknown() {
            let message = format!(
                "{of}: the checksum of kind {kind} with {bits} bits is not known: not verified"
            );
            findings.found(Code::DigestNotVerified, message);
        }
    }
}

/// Compares the tables of a resource fork with those of the property list.
fn check_copies(image: &Dmg, findings: &mut Findings<'_>) {
    match image.other_tables() {
        None => {}
        Some(Err(error)) => findings.unreadable("the copy of the tables", &error),
        Some(Ok(tables)) => {
            let mut chunks = tables.chunks;
            chunks.sort_unstable_by_key(|chunk| (chunk.start, chunk.end));
            let known = &image.chunks().chunks;
            let place = |chunk: &super::table::Chunk| {
                (chunk.start, chunk.end, chunk.offset, chunk.stored, chunk.chunk_type)
            };
            if !chunks.iter().map(place).eq(known.iter().map(place)) {
                findings.corruption(format!(
                    "{}: its chunks differ from those of the property list, and QEMU reads these",
                    super::resource_fork::FORK
                ));
            }
        }
    }
}
