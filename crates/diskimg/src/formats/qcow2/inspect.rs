//! Inspection of qcow2 images. A safe image is neither encrypted nor marked as corrupt, refers to
//! no other file, uses no feature that only some programs support, and has its tables within the
//! file and disjoint.

use super::header::{Autoclear, Compatible, Header, Incompatible, RawHeader};
use super::snapshot::Snapshots;
use super::tables::{OFFSET_MASK, read_words};
use crate::formats::inspect::{Inspect, Subject};
use crate::report::inspection::{Code, Inspection, Role};

pub(super) const INSPECT: Inspect = Inspect { also_matches: |_| false, examine };

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    // A truncated header is examined too: missing fields are zero.
    let mut bytes = [0; RawHeader::BYTES];
    let len = subject.head.len().min(bytes.len());
    bytes[..len].copy_from_slice(&subject.head[..len]);
    let raw: RawHeader = zerocopy::transmute!(bytes);
    found.virtual_size = Some(raw.size.get());
    examine_header(&raw, found);
    match Header::read(&**subject.source, subject.limits, false) {
        Ok(header) => {
            found.virtual_size = Some(header.size);
            if let Some(name) = &header.backing {
                let format = header.extensions.backing_format.as_deref();
                found.add_reference(Role::BackingFile, name, format);
            }
            if let Some(name) = &header.extensions.data_file {
                found.add_reference(Role::DataFile, name, None);
                if !header.external_data() {
                    let message =
                        "the image names a data file, but the external data file bit is not set";
                    found.add(Code::DataFile, None, message);
                }
            }
            if let Err(error) = Snapshots::read(&**subject.source, &header, subject.limits) {
                found.unreadable(&error);
            }
            examine_tables(subject, &header, found);
        }
        // An unknown version or unknown features already have a finding.
        Err(_) if found.finding(Code::UnknownVersion).is_some() => {}
        Err(_) if found.finding(Code::UnknownFeatures).is_some() => {}
        Err(error) => found.unreadable(&error),
    }
}

/// Examines the fields of the header, whether or not the rest of the image is valid.
fn examine_header(raw: &RawHeader, found: &mut Inspection) {
    let version = raw.version.get();
    if !matches!(version, 2 | 3) {
        found.add(
            Code::UnknownVersion,
            4,
            format!("version {version} is unknown; known versions: 2 and 3"),
        );
    }
    if raw.backing_file_offset.get() != 0 {
        found.add(Code::BackingFile, 8, "the image has a backing file");
    }
    if raw.crypt_method.get() != 0 {
        found.encrypted = true;
        let method = raw.crypt_method.get();
        found.add(Code::Encrypted, 32, format!("the image is encrypted (method {method})"));
    }
    match raw.nb_snapshots.get() {
        0 => {}
        count => {
            found.add(Code::Snapshots, 60, format!("the image has {count} internal snapshots"))
        }
    }
    let bits = raw.incompatible_features.get();
    let has = |bit: Incompatible| bits & bit.bits() != 0;
    // In version 2 these bytes are header extensions, but some programs do not check the version.
    if has(Incompatible::DATA_FILE) {
        let message = match version {
            2 => "the version 2 header has the external data file bit of version 3 set",
            _ => "the guest's bytes are in an external data file",
        };
        found.add(Code::DataFile, 72, message);
    }
    if version < 3 {
        return;
    }
    let unknown = bits & !Incompatible::all().bits();
    if unknown != 0 {
        let message = format!("unknown incompatible features {unknown:#x}");
        found.add(Code::UnknownFeatures, 72, message);
    }
    if has(Incompatible::EXTENDED_L2) {
        found.add(
            Code::ExtendedL2,
            72,
            "the image has extended L2 entries, which few programs support",
        );
    }
    if has(Incompatible::CORRUPT) {
        found.add(Code::MarkedCorrupt, 72, "the image is marked as corrupt");
    }
    if has(Incompatible::DIRTY) {
        found.add(Code::Dirty, 72, "the image was not closed properly: its refcounts may be wrong");
    }
    for (kind, at, bits, known) in [
        ("compatible", 80, raw.compatible_features.get(), Compatible::all().bits()),
        ("autoclear", 88, raw.autoclear_features.get(), Autoclear::all().bits()),
    ] {
        if bits & !known != 0 {
            let message = format!("unknown {kind} features {:#x}", bits & !known);
            found.add(Code::UnknownCompatibleFeatures, at, message);
        }
    }
}

/// Verifies that the tables are within the file and outside of the header's cluster, that each L2
/// table is used by one L1 entry, and that L2 tables overlap neither each other nor the L1 and
/// refcount tables.
fn examine_tables(subject: &Subject<'_>, header: &Header, found: &mut Inspection) {
    let cluster = header.cluster_size();
    for (name, table) in [("active L1 table", header.l1), ("refcount table", header.refcount_table)]
    {
        if table.entries > 0 && table.offset < cluster {
            let message = format!("the {name} is in the header's cluster");
            found.add(Code::TablesOverlap, table.offset, message);
        }
    }
    let end = header.padded(subject.len());
    let refcounts = header.refcount_table;
    if refcounts.offset.checked_add(refcounts.bytes()).is_none_or(|table_end| table_end > end) {
        let message = "the refcount table extends beyond the end of the file";
        found.add(Code::TableOutside, refcounts.offset, message);
    }
    let mut l2 =
        match read_words(&**subject.source, "L1 table", header.l1.offset, header.l1.entries) {
            Ok(entries) => entries,
            Err(error) => return found.unreadable(&error),
        };
    l2.retain_mut(|entry| {
        *entry &= OFFSET_MASK;
        *entry != 0
    });
    l2.sort_unstable();
    let is_invalid = |offset: u64| {
        !offset.is_multiple_of(cluster) || offset < cluster || offset.saturating_add(cluster) > end
    };
    if let Some(offset) = l2.iter().copied().find(|&offset| is_invalid(offset)) {
        let message = format!(
            "L2 table offset {offset:#x} is unaligned, in the header's cluster or beyond the end \
             of the file"
        );
        found.add(Code::TableOutside, offset, message);
    }
    let others = [header.l1, header.refcount_table];
    let overlaps = |offset: u64| {
        others.iter().any(|table| {
            let end = table.offset.saturating_add(table.bytes());
            table.entries > 0 && offset < end && offset.saturating_add(cluster) > table.offset
        })
    };
    if let Some(offset) = l2.iter().copied().find(|&offset| overlaps(offset)) {
        let message = "an L2 table overlaps another table";
        found.add(Code::TablesOverlap, offset, message);
    }
    if let Some(pair) = l2.windows(2).find(|pair| pair[0] == pair[1]) {
        let message = "several L1 entries point to one L2 table";
        found.add(Code::TablesOverlap, pair[0], message);
    }
}
