//! Whether an untrusted VHD is safe to accept: one file with the whole disk, whose two footers mean
//! the same to every reader.

use super::blocks::FREE;
use super::footer::{DiskType, FOOTER_BYTES, Footer, Footers};
use super::layer::Vhd;
use super::{COOKIE, SECTOR};
use crate::formats::inspect::{Inspect, Subject};
use crate::model::format::Format;
use crate::report::check::Finding;
use crate::report::inspection::{Code, Inspection, Role};
use crate::storage::number::{to_u64, to_usize};
use std::sync::Arc;

pub(super) const INSPECT: Inspect = Inspect { also_matches, examine };

/// Returns true if the cookie is where programs look for a footer, even if the rest is damaged.
fn also_matches(subject: &Subject<'_>) -> bool {
    let tail = subject.tail;
    let ends = [512, 511].map(|len| tail.len().checked_sub(len).map(|start| &tail[start..]));
    ends.into_iter().flatten().any(|end| end.starts_with(&COOKIE))
}

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    let footers = match Footers::read(&**subject.source) {
        Ok(footers) => footers,
        Err(error) => return found.unreadable(&error),
    };
    examine_footers(&footers, subject.len(), found);
    let footer = match footers.choose(true, false) {
        Ok(footer) => footer,
        Err(error) => return found.unreadable(&error),
    };
    found.virtual_size = Some(footer.current_size);
    examine_sizes(&footer, subject.len(), found);
    if footer.saved_state {
        found.add(Code::Dirty, None, "the virtual machine was suspended, not shut down");
    }
    match subject.open(Format::Vhd) {
        Ok(layer) => {
            if let Some(parent) = layer.parent() {
                found.add_reference(Role::Parent, &parent.name, Some("vpc"));
                found.add(Code::Parent, None, "a differencing disk, which needs its parent");
            }
            hidden_data(subject, found);
            let mut first = None;
            let checked = layer.check(&mut |finding: Finding| {
                first.get_or_insert(finding.message);
            });
            match (checked, first) {
                (Err(error), _) => found.unreadable(&error),
                (Ok(_), Some(message)) => found.add(Code::Unreadable, None, message),
                (Ok(_), None) => {}
            }
        }
        Err(error) => found.unreadable(&error),
    }
}

/// Maximum number of bytes that are read in sectors that are not allocated.
const MAX_HIDDEN: u64 = 256 << 20;

/// Reports data in sectors of a dynamic disk that are not allocated, which QEMU and other programs
/// read nevertheless.
fn hidden_data(subject: &Subject<'_>, found: &mut Inspection) {
    let Ok(image) = Vhd::open(Arc::clone(subject.source), &subject.context()) else { return };
    let Some(blocks) = image.blocks().filter(|blocks| !blocks.differencing) else { return };
    let (mut left, mut buf) = (MAX_HIDDEN, vec![0; to_usize(SECTOR) * 128]);
    let allocated = (0..).zip(&blocks.table).filter(|&(_, &sector)| sector != FREE);
    for (index, &sector) in allocated {
        // Damaged blocks are reported by the check.
        let Ok(ranges) = blocks.unallocated_sectors(index, sector) else { continue };
        for range in ranges {
            let mut at = range.start;
            while at < range.end {
                let hole = subject.source.segment_at(at).ok().filter(|segment| segment.hole);
                if let Some(end) = hole.map(|segment| segment.end).filter(|&end| end > at) {
                    at = end;
                    continue;
                }
                let len = (range.end - at).min(to_u64(buf.len()));
                if left < len {
                    let message = "too many sectors are not allocated: they were not all compared";
                    return found.add(Code::Subformat, at, message);
                }
                left -= len;
                let part = &mut buf[..to_usize(len)];
                let is_read = subject.source.read_exact_at(part, at).is_ok();
                if is_read && part.iter().any(|&byte| byte != 0) {
                    let message =
                        format!("block {index} has data in sectors that its bitmap does not list");
                    return found.add(Code::Subformat, at, message);
                }
                at += len;
            }
        }
    }
}

/// Compares the two copies of the footer.
fn examine_footers(footers: &Footers, len: u64, found: &mut Inspection) {
    if let (Some(Ok(head)), Some((at, Ok(tail)))) = (&footers.head, &footers.tail)
        && tail.disk_type != DiskType::Fixed
        && head != tail
    {
        let message = "the footer and its copy at the start of the file differ";
        found.add(Code::Footer, *at, message);
    }
    if let Some(damage) = footers.damage() {
        found.add(Code::Footer, len.saturating_sub(FOOTER_BYTES), damage);
    }
    if let (Some(_), Some((at, Ok(tail)))) = (&footers.head, &footers.tail)
        && tail.disk_type == DiskType::Fixed
    {
        let message = "a fixed disk whose first bytes are the footer of another disk";
        found.add(Code::Footer, *at, message);
    }
}

/// Reports sizes on which programs disagree.
fn examine_sizes(footer: &Footer, len: u64, found: &mut Inspection) {
    let size = footer.current_size;
    if footer.qemu_uses_geometry() && footer.geometry.bytes() != size {
        let message = format!(
            "the size of the disk is {} bytes by its geometry and {size} by its footer",
            footer.geometry.bytes()
        );
        found.add(Code::Subformat, 56, message);
    }
    let expected = size.saturating_add(FOOTER_BYTES);
    if footer.disk_type == DiskType::Fixed && len != expected && len + 1 != expected {
        let message = format!(
            "a fixed disk of {size} bytes in a file of {len}: expected {expected} with the footer"
        );
        found.add(Code::Unreadable, len.saturating_sub(FOOTER_BYTES), message);
    }
    if size == 0 {
        found.add(Code::Empty, None, "the disk is empty");
    }
    debug_assert!(size.is_multiple_of(SECTOR));
}
