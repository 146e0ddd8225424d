//! Whether an untrusted VMDK is safe to accept: a single file that contains the whole disk, and
//! whose descriptor and footer mean the same to every reader.
//!
//! Everything that OpenStack's `format_inspector` rejects is refused here, too.

use super::descriptor::{Descriptor, NO_PARENT};
use super::header::{Flags, GD_AT_END, Header, MAGIC};
use super::qemu_rules::{Searched, WINDOW};
use super::stream::MARKER_FOOTER;
use super::{COWD_MAGIC, SECTOR, SESPARSE_MAGIC};
use super::{descriptor_rules as rules, table_copies};
use crate::error::{Error, ErrorKind};
use crate::formats::inspect::{Inspect, Subject};
use crate::model::format::Format;
use crate::open::probe::ProbeBuffer;
use crate::report::finding::Severity;
use crate::report::inspection::{Code, Inspection, Role};
use crate::storage::number::{to_u64, to_usize};

pub(super) const INSPECT: Inspect = Inspect { also_matches: is_descriptor_to_others, examine };

/// Maximum length of a descriptor in bytes: as much of it as QEMU reads.
const MAX_DESCRIPTOR: u64 = (1 << 20) - 1;

/// The titles of descriptors, at the start of the file, by which VirtualBox recognizes them.
const TITLES: [&[u8]; 4] = [
    b"# disk descriptorfile",
    b"# disk descriptor file",
    b"#disk descriptorfile",
    b"#disk descriptor file",
];

/// Returns true if other programs take the file for a descriptor: because of its title or, as
/// oslo.utils does, because it is text in which `createType` occurs.
fn is_descriptor_to_others(subject: &Subject<'_>) -> bool {
    const KEY: &[u8] = b"createtype";
    let head = subject.head;
    let start = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let has =
        |title: &[u8]| start.get(..title.len()).is_some_and(|s| s.eq_ignore_ascii_case(title));
    if TITLES.iter().any(|title| has(title)) {
        return true;
    }
    // Python's `isspace` includes the separators 1C to 1F.
    let is_text = |&b: &u8| b.is_ascii_graphic() || matches!(b, b' ' | 9..=13 | 0x1c..=0x1f);
    if !head[..head.len().min(512)].iter().all(is_text) {
        return false;
    }
    // Whatever the limit for descriptors is. What cannot be read is not inspected at all.
    let mut text = vec![0; to_usize(subject.len().min(MAX_DESCRIPTOR))];
    if super::read(&**subject.source, &mut text, 0, "VMDK descriptor").is_err() {
        return true;
    }
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    text.windows(KEY.len()).any(|word| word.eq_ignore_ascii_case(KEY))
}

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    let head = subject.head;
    if head.starts_with(&MAGIC) {
        sparse(subject, found);
    } else if head.starts_with(&COWD_MAGIC) || head.starts_with(&SESPARSE_MAGIC) {
        found.add(Code::Subformat, 0, "an extent of an ESX snapshot, or a disk of VMware 2 or 3");
    } else {
        descriptor_file(subject, found);
    }
}

/// Examines a descriptor that is a separate file.
fn descriptor_file(subject: &Subject<'_>, found: &mut Inspection) {
    found.add(Code::Extents, None, "a descriptor whose extents are other files");
    match rules::text_at(subject, 0, subject.len()) {
        Ok(text) => rules::apply(&text, 0, false, found),
        Err(error) => found.unreadable(&error),
    }
    opens(subject, found);
}

/// Examines a sparse extent with an embedded descriptor.
fn sparse(subject: &Subject<'_>, found: &mut Inspection) {
    let Some(sector) = subject.head.first_chunk::<512>() else {
        return found.add(Code::Unreadable, None, "the file ends within the header");
    };
    let header = match Header::parse(sector, 0) {
        Ok(header) => header,
        Err(error) => return found.unreadable(&error),
    };
    found.virtual_size = header.capacity.checked_mul(SECTOR);
    if header.unclean {
        found.add(Code::Dirty, 72, "the image was not closed properly");
    }
    if header.capacity == 0 {
        let message = "the header has capacity 0: the extents are other files";
        found.add(Code::Extents, 12, message);
    }
    if header.compressed != header.flags.contains(Flags::COMPRESSED) {
        let message = "the header's flags and its compression algorithm contradict each other";
        found.add(Code::Subformat, 8, message);
    }
    if header.version == 2 && !header.flags.contains(Flags::ZEROED_GRAIN) {
        let message = "version 2 without the flag for zeroed grains, which some readers require";
        found.add(Code::Subformat, 8, message);
    }
    let text = descriptor(subject, &header, found);
    searched(subject, text.as_deref(), found);
    if header.gd_offset == GD_AT_END {
        footer(subject, sector, found);
    }
    if opens(subject, found) {
        copies(subject, &header, found);
    }
}

/// Reports what QEMU finds in the sectors after the header and other readers, which go by the lines
/// of the descriptor's `text`, do not.
fn searched(subject: &Subject<'_>, text: Option<&[u8]>, found: &mut Inspection) {
    let len = subject.len().saturating_sub(SECTOR).min(to_u64(WINDOW));
    let mut window = vec![0; to_usize(len)];
    if let Err(error) = super::read(&**subject.source, &mut window, SECTOR, "VMDK descriptor") {
        return found.unreadable(&error);
    }
    let searched = Searched::new(&window);
    let is_known = |name: &str| {
        found.references.iter().any(|known| known.role == Role::Parent && known.name == name)
    };
    let name = searched.parent().filter(|name| !is_known(name));
    let cid = searched.parent_cids().find(|&cid| cid != NO_PARENT);
    if let Some(name) = name {
        found.add_reference(Role::Parent, &name, Some("vmdk"));
        let message = "some readers find a parent in the descriptor, outside of its line";
        found.add(Code::Parent, SECTOR, message);
    } else if let Some(cid) = cid.filter(|_| found.finding(Code::Parent).is_none()) {
        let message = format!("some readers find a parent with CID {cid:08x}");
        found.add(Code::Parent, SECTOR, message);
    }
    let stated = text.and_then(|text| Descriptor::parse(text).ok()).map(|text| text.cid);
    let found_cid = searched.cid();
    if let Some(stated) = stated.filter(|&stated| stated != found_cid) {
        let cid = |cid: Option<u32>| cid.map_or("missing".into(), |cid| format!("{cid:08x}"));
        let (stated, other) = (cid(stated), cid(found_cid));
        let message = format!("the CID is {stated} for some readers, {other} for others");
        found.add(Code::Descriptor, SECTOR, message);
    }
}

/// Compares the copies of the tables.
fn copies(subject: &Subject<'_>, header: &Header, found: &mut Inspection) {
    if header.gd_offset != GD_AT_END {
        return table_copies::compare(subject, header, found);
    }
    let footer = subject.tail.last_chunk::<1024>().and_then(|end| end.first_chunk::<512>());
    let at = subject.len().saturating_sub(1024);
    if let Some(Ok(footer)) = footer.map(|footer| Header::parse(footer, at)) {
        table_copies::compare(subject, &footer, found);
    }
}

/// Examines the descriptor and returns its text.
fn descriptor(subject: &Subject<'_>, header: &Header, found: &mut Inspection) -> Option<Vec<u8>> {
    let (sector, sectors) = (header.descriptor_offset, header.descriptor_sectors);
    if sector == 0 {
        found.add(Code::Extents, 28, "no descriptor: one of several extents of a disk");
        return None;
    }
    if sector != 1 {
        let message =
            format!("the descriptor is at sector {sector}; some readers expect it at sector 1");
        found.add(Code::Descriptor, 28, message);
    }
    let (at, len) = (sector * SECTOR, sectors * SECTOR);
    if len == 0 || len > MAX_DESCRIPTOR {
        let message = format!("a descriptor of {len} bytes; accepted are 1 to {MAX_DESCRIPTOR}");
        found.add(Code::Descriptor, 36, message);
        return None;
    }
    if at.checked_add(len).is_none_or(|end| end > subject.len()) {
        let message = "the descriptor extends beyond the end of the file";
        found.add(Code::TableOutside, at, message);
        return None;
    }
    match rules::text_at(subject, at, len) {
        Ok(text) => {
            rules::apply(&text, at, true, found);
            Some(text)
        }
        Err(error) => {
            found.unreadable(&error);
            None
        }
    }
}

/// Verifies the footer, which overrides the header. It must be exactly at the end of the file,
/// between its markers, and differ from the header only in the location of the tables.
fn footer(subject: &Subject<'_>, header: &[u8; 512], found: &mut Inspection) {
    let start = subject.len().saturating_sub(to_u64(ProbeBuffer::TAIL));
    let Some(&tail) = subject.tail.first_chunk::<{ ProbeBuffer::TAIL }>() else {
        return found.add(
            Code::Footer,
            None,
            "the header refers to a footer, but the file is too short for one",
        );
    };
    let (marker, rest) = tail.split_at(512);
    let (footer, end) = rest.split_at(512);
    let mut expected = [0; 512];
    // Writers disagree on the number of sectors that follow. The size in the marker is 0.
    expected[..8].copy_from_slice(&marker[..8]);
    expected[12..16].copy_from_slice(&MARKER_FOOTER.to_le_bytes());
    let mut add = |at: u64, message: &'static str| found.add(Code::Footer, start + at, message);
    if marker != expected {
        add(0, "expected a footer marker in the third sector from the end");
    }
    if end.iter().any(|&byte| byte != 0) {
        add(1024, "the file does not end with an end-of-stream marker");
    }
    // Everything except rgdOffset, gdOffset, overHead and uncleanShutdown. The flag for the
    // redundant directory may be set in only one of the two.
    let common = |header: &[u8]| {
        let mut common = [0; 512];
        common.copy_from_slice(header);
        common[8] &= !2;
        common[48..73].fill(0);
        common
    };
    if common(footer) != common(header) {
        add(512, "header and footer differ");
    }
    if footer[56..64] == GD_AT_END.to_le_bytes() {
        add(512 + 56, "the footer refers to another footer");
    }
}

/// Opens the image as a reader would, and reports why that fails. Returns whether it succeeds.
fn opens(subject: &Subject<'_>, found: &mut Inspection) -> bool {
    let known = |error: &Error| {
        error.kind() == ErrorKind::Refused || error.to_string().contains("is encrypted")
    };
    let refused = found.findings.iter().any(|finding| finding.severity == Severity::Error);
    match subject.open(Format::Vmdk) {
        Ok(layer) => {
            found.virtual_size = Some(layer.disk_layout().size);
            return true;
        }
        Err(error) if known(&error) && refused => {}
        Err(error) => found.unreadable(&error),
    }
    false
}
