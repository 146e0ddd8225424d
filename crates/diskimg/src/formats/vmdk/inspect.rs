//! What makes a VMDK of a stranger safe to let in: one file that is all of the disk, whose
//! descriptor and footer all readers read alike.
//!
//! OpenStack's `format_inspector` asks the same, and nothing that it refuses is let in here.

use super::descriptor_rules as rules;
use super::header::{GD_AT_END, Header, MAGIC};
use super::stream::MARKER_FOOTER;
use super::{COWD_MAGIC, SECTOR, SESPARSE_MAGIC};
use crate::error::{Error, ErrorKind};
use crate::formats::inspect::{Inspect, Subject};
use crate::model::format::Format;
use crate::report::inspection::{Code, Inspection, Severity};
use crate::storage::number::to_u64;

pub(super) const INSPECT: Inspect = Inspect { also_matches: has_create_type, examine };

/// Bytes of a descriptor, at the most: as much of it as QEMU reads.
const MAX_DESCRIPTOR: u64 = (1 << 20) - 1;

/// Text with a `createType` anywhere in it is a descriptor to some readers, title or not.
fn has_create_type(subject: &Subject<'_>) -> bool {
    const KEY: &[u8] = b"createtype";
    let head = subject.head;
    let start = &head[..head.len().min(512)];
    let is_text = start.iter().all(|&b| b == b' ' || b.is_ascii_graphic() || (9..=13).contains(&b));
    let end = head.iter().position(|&b| b == 0).unwrap_or(head.len());
    is_text && head[..end].windows(KEY.len()).any(|word| word.eq_ignore_ascii_case(KEY))
}

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    let head = subject.head;
    if head.starts_with(&MAGIC) {
        sparse(subject, found);
    } else if head.starts_with(&COWD_MAGIC) || head.starts_with(&SESPARSE_MAGIC) {
        found.add(Code::Subformat, 0, "an extent of an ESX snapshot, or of VMware 2 or 3");
    } else {
        descriptor_file(subject, found);
    }
}

/// A descriptor alone: the disk is elsewhere.
fn descriptor_file(subject: &Subject<'_>, found: &mut Inspection) {
    found.add(Code::Extents, None, "a descriptor alone, whose disk is in other files");
    match rules::text_at(subject, 0, subject.len()) {
        Ok(text) => rules::apply(&text, 0, false, found),
        Err(error) => found.unreadable(&error),
    }
    opens(subject, found);
}

/// A sparse extent with its descriptor.
fn sparse(subject: &Subject<'_>, found: &mut Inspection) {
    let Some(sector) = subject.head.first_chunk::<512>() else {
        return found.add(Code::Unreadable, None, "the file ends within its header");
    };
    let header = match Header::parse(sector, 0) {
        Ok(header) => header,
        Err(error) => return found.unreadable(&error),
    };
    found.virtual_size = header.capacity.checked_mul(SECTOR);
    if header.unclean {
        found.add(Code::Dirty, 72, "it was not closed");
    }
    if header.capacity == 0 {
        let message = "a header without capacity is an envelope: the disk is in other files";
        found.add(Code::Extents, 12, message);
    }
    descriptor(subject, &header, found);
    if header.gd_offset == GD_AT_END {
        footer(subject, sector, found);
    }
    opens(subject, found);
}

fn descriptor(subject: &Subject<'_>, header: &Header, found: &mut Inspection) {
    let (sector, sectors) = (header.descriptor_offset, header.descriptor_sectors);
    if sector == 0 {
        return found.add(Code::Extents, 28, "no descriptor: a part of a disk");
    }
    if sector != 1 {
        let message = format!("the descriptor is at sector {sector}; everybody looks at sector 1");
        found.add(Code::Descriptor, 28, message);
    }
    let (at, len) = (sector * SECTOR, sectors * SECTOR);
    if len == 0 || len > MAX_DESCRIPTOR {
        let message = format!("{len} bytes of descriptor; 1 to {MAX_DESCRIPTOR} are let in");
        return found.add(Code::Descriptor, 36, message);
    }
    if at.checked_add(len).is_none_or(|end| end > subject.len()) {
        return found.add(Code::TableOutside, at, "the descriptor leaves the file");
    }
    match rules::text_at(subject, at, len) {
        Ok(text) => rules::apply(&text, at, true, found),
        Err(error) => found.unreadable(&error),
    }
}

/// The footer, which counts instead of the header, ends the file to the byte, with its markers
/// about it, and says the same but for where the grain directory is.
fn footer(subject: &Subject<'_>, header: &[u8; 512], found: &mut Inspection) {
    let start = subject.len().saturating_sub(to_u64(Subject::TAIL));
    let Some(&tail) = subject.tail.first_chunk::<{ Subject::TAIL }>() else {
        return found.add(
            Code::Footer,
            None,
            "the header speaks of a footer; the file is too short",
        );
    };
    let (marker, rest) = tail.split_at(512);
    let (footer, end) = rest.split_at(512);
    let mut expected = [0; 512];
    // How many sectors follow is told in any way; the size of a marker is 0.
    expected[..8].copy_from_slice(&marker[..8]);
    expected[12..16].copy_from_slice(&MARKER_FOOTER.to_le_bytes());
    let mut add = |at: u64, message: &'static str| found.add(Code::Footer, start + at, message);
    if marker != expected {
        add(0, "there is no footer marker where the last three sectors begin");
    }
    if end.iter().any(|&byte| byte != 0) {
        add(1024, "the file does not end with an end-of-stream marker");
    }
    // All but the tables' places, the overhead and whether it was closed. One of the tables may
    // be flagged as not there in one of the two.
    let kept = |header: &[u8]| {
        let mut kept = [0; 512];
        kept.copy_from_slice(header);
        kept[8] &= !2;
        kept[48..73].fill(0);
        kept
    };
    if kept(footer) != kept(header) {
        add(512, "header and footer differ");
    }
    if footer[56..64] == GD_AT_END.to_le_bytes() {
        add(512 + 56, "the footer speaks of another footer");
    }
}

/// The reader's own view.
fn opens(subject: &Subject<'_>, found: &mut Inspection) {
    let known = |error: &Error| {
        error.kind() == ErrorKind::Refused || error.to_string().contains("is encrypted")
    };
    let refused = found.findings.iter().any(|finding| finding.severity == Severity::Refuse);
    match subject.open(Format::Vmdk) {
        Ok(layer) => found.virtual_size = Some(layer.disk_layout().size),
        Err(error) if known(&error) && refused => {}
        Err(error) => found.unreadable(&error),
    }
}
