//! What makes a qcow2 image of a stranger safe to let in: it names no other file, says nothing
//! that only some readers understand, and its tables are where they can be.

use super::header::{Autoclear, Compatible, Header, Incompatible, RawHeader};
use super::snapshot::Snapshots;
use super::tables::{OFFSET_MASK, read_words};
use crate::formats::inspect::{Inspect, Subject};
use crate::report::inspection::{Code, Inspection, Role};

pub(super) const INSPECT: Inspect = Inspect { also_matches: |_| false, examine };

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    // Also of a header that is cut short: what it has counts.
    let mut bytes = [0; RawHeader::BYTES];
    let there = subject.head.len().min(bytes.len());
    bytes[..there].copy_from_slice(&subject.head[..there]);
    let raw: RawHeader = zerocopy::transmute!(bytes);
    found.virtual_size = Some(raw.size.get());
    header_says(&raw, found);
    match Header::read(&**subject.source, subject.limits, false) {
        Ok(header) => {
            found.virtual_size = Some(header.size);
            if let Some(name) = &header.backing {
                let format = header.extensions.backing_format.as_deref();
                found.name(Role::BackingFile, name, format);
            }
            if let Some(name) = &header.extensions.data_file {
                found.name(Role::DataFile, name, None);
                if !header.external_data() {
                    let message = "it names a data file, and has no feature bit that says so";
                    found.add(Code::DataFile, None, message);
                }
            }
            if let Err(error) = Snapshots::read(&**subject.source, &header, subject.limits) {
                found.unreadable(&error);
            }
            tables(subject, &header, found);
        }
        // These have a finding of their own.
        Err(_) if found.finding(Code::UnknownVersion).is_some() => {}
        Err(_) if found.finding(Code::UnknownFeatures).is_some() => {}
        Err(error) => found.unreadable(&error),
    }
}

/// What the header says, whatever the rest of the image is like.
fn header_says(raw: &RawHeader, found: &mut Inspection) {
    let version = raw.version.get();
    if !matches!(version, 2 | 3) {
        found.add(Code::UnknownVersion, 4, format!("version {version}; 2 and 3 are known"));
    }
    if raw.backing_file_offset.get() != 0 {
        found.add(Code::BackingFile, 8, "it builds on a backing file");
    }
    if raw.crypt_method.get() != 0 {
        found.encrypted = true;
        let method = raw.crypt_method.get();
        found.add(Code::Encrypted, 32, format!("it is encrypted (method {method})"));
    }
    match raw.nb_snapshots.get() {
        0 => {}
        count => found.add(Code::Snapshots, 60, format!("it has {count} internal snapshots")),
    }
    let bits = raw.incompatible_features.get();
    let has = |bit: Incompatible| bits & bit.bits() != 0;
    // In version 2 there are extensions in that place. Not everybody looks at the version.
    if has(Incompatible::DATA_FILE) {
        let message = match version {
            2 => "a header of version 2 with what is the data file's bit in version 3",
            _ => "its guest's bytes are in an external data file",
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
        found.add(Code::ExtendedL2, 72, "it has extended L2 entries, which few programs know");
    }
    if has(Incompatible::CORRUPT) {
        found.add(Code::MarkedCorrupt, 72, "it is marked as corrupt");
    }
    if has(Incompatible::DIRTY) {
        found.add(Code::Dirty, 72, "it was not closed: its refcounts may be wrong");
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

/// The tables are inside of the file and apart, none of them in the header's cluster, and every L2
/// table speaks for one place of the disk.
fn tables(subject: &Subject<'_>, header: &Header, found: &mut Inspection) {
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
        let message = "the refcount table leaves the file";
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
    let wrong = |offset: u64| {
        !offset.is_multiple_of(cluster) || offset < cluster || offset.saturating_add(cluster) > end
    };
    if let Some(offset) = l2.iter().copied().find(|&offset| wrong(offset)) {
        let message = format!("an L2 table at {offset:#x} cannot be there");
        found.add(Code::TableOutside, offset, message);
    }
    let others = [header.l1, header.refcount_table];
    let in_another = |offset: u64| {
        others.iter().any(|table| {
            let end = table.offset.saturating_add(table.bytes());
            table.entries > 0 && offset < end && offset.saturating_add(cluster) > table.offset
        })
    };
    if let Some(offset) = l2.iter().copied().find(|&offset| in_another(offset)) {
        let message = "an L2 table is where another table is";
        found.add(Code::TablesOverlap, offset, message);
    }
    if let Some(pair) = l2.windows(2).find(|pair| pair[0] == pair[1]) {
        let message = "one L2 table speaks for several places of the disk";
        found.add(Code::TablesOverlap, pair[0], message);
    }
}
