//! Checking the consistency of a VHDX.

use super::bat::{Entry, State};
use super::blocks::{Blocks, SHIFTED, STRUCTURE, Subject};
use super::layer::Vhdx;
use crate::error::{Error, Result};
use crate::formats::findings::Findings;
use crate::report::check::{CheckReport, Finding};

/// Checks `image` and passes its findings to `report`.
///
/// # Errors
/// None at present: what cannot be read is a finding.
pub(super) fn check(image: &Vhdx, report: &mut dyn FnMut(Finding)) -> Result<CheckReport> {
    let mut counts = CheckReport::default();
    let mut findings = Findings { report, counts: &mut counts };
    for damage in image.damage() {
        // The other copy suffices.
        findings.warning(damage.clone());
    }
    match (image.log_damage(), image.log_entries()) {
        (Some(damage), _) => findings.corruption(damage.to_owned()),
        (None, 0) => {}
        (None, entries) => findings.warning(format!(
            "VHDX log: {entries} entries have changes that are not in their places yet; everything \
             else is checked as if they were"
        )),
    }
    check_table(image.blocks(), &mut findings);
    Ok(counts)
}

/// What is reported once, with the first entry that has it.
#[derive(Debug, Default)]
struct Seen {
    count: u64,
    first: Option<String>,
}

impl Seen {
    fn add(&mut self, what: impl FnOnce() -> String) {
        self.count += 1;
        self.first.get_or_insert_with(what);
    }

    fn warn(self, findings: &mut Findings<'_>, of_what: &str) {
        if let Some(first) = self.first {
            findings
                .warning(format!("{STRUCTURE}: {} {of_what}; the first is {first}", self.count));
        }
    }
}

/// Checks the entries of the table and the places of the blocks, and counts the blocks.
fn check_table(blocks: &Blocks, findings: &mut Findings<'_>) {
    findings.counts.total_clusters = blocks.layout.blocks;
    let mut end = 0;
    let (mut stale, mut unexpected) = (Seen::default(), Seen::default());
    let outcome = blocks.for_each_entry(|index, raw| {
        match blocks.subject_of(index) {
            Subject::Block(block) => {
                check_block(blocks, block, raw, &mut end, &mut stale, findings);
            }
            Subject::Bitmap(chunk) if blocks.layout.has_parent => {
                check_bitmap(blocks, chunk, raw, findings);
            }
            Subject::Bitmap(chunk) => {
                unexpected.add(|| format!("that of chunk {chunk}, {raw:#x}"));
            }
            Subject::Nothing => unexpected.add(|| format!("entry {index}, {raw:#x}")),
        }
        Ok(())
    });
    if let Err(error) = outcome {
        findings.unreadable("the block allocation table", &error);
    }
    stale.warn(
        findings,
        "entries of blocks that are not stored have an offset, which Hyper-V refuses",
    );
    let is_shifted = unexpected.count > 0;
    unexpected
        .warn(findings, "entries that stand for no block and no bitmap of the disk are not 0");
    if is_shifted && blocks.is_of_qemu() {
        findings.warning(format!("{STRUCTURE}: blocks may be in the place of others: {SHIFTED}"));
    }
}

/// Checks the entry of a block.
fn check_block(
    blocks: &Blocks,
    block: u64,
    raw: u64,
    end: &mut u64,
    stale: &mut Seen,
    findings: &mut Findings<'_>,
) {
    let Some(entry) = Entry::parse(raw) else {
        return findings.unreadable(&format!("block {block}"), &blocks.invalid(block, raw));
    };
    match entry.state {
        State::NotPresent | State::Zero if entry.offset != 0 => {
            stale.add(|| format!("that of block {block}, {raw:#x}"));
        }
        State::NotPresent | State::Undefined | State::Zero | State::Unmapped => {}
        State::Full | State::Partial => {
            findings.counts.allocated_clusters += 1;
            findings.counts.fragmented_clusters += u64::from(*end != 0 && entry.offset != *end);
            *end = entry.offset.saturating_add(blocks.block_bytes);
            let last = findings.counts.image_end_offset.unwrap_or(0);
            findings.counts.image_end_offset = Some(last.max(*end));
            let outcome =
                blocks.require_valid(block, entry).and_then(|()| bitmap_of(blocks, block, entry));
            if let Err(error) = outcome {
                findings.unreadable(&format!("block {block}"), &error);
            }
        }
    }
}

/// Requires that the bitmap of a partial block is stored.
fn bitmap_of(blocks: &Blocks, block: u64, entry: Entry) -> std::result::Result<(), Error> {
    if entry.state == State::Partial && blocks.layout.has_parent {
        blocks.bitmap(block / blocks.layout.ratio)?;
    }
    Ok(())
}

/// Checks the entry of a bitmap, which is not 0.
fn check_bitmap(blocks: &Blocks, chunk: u64, raw: u64, findings: &mut Findings<'_>) {
    let what = format!("the bitmap of chunk {chunk}");
    match Entry::parse(raw) {
        Some(entry) if entry.is_stored() => {
            if let Err(error) = blocks.bitmap(chunk) {
                findings.unreadable(&what, &error);
            }
        }
        _ => {
            let place = blocks.place_of_entry(blocks.layout.entry_of_bitmap(chunk));
            let message = format!("the entry of {what} is {raw:#x}, which is not valid");
            findings.unreadable(&what, &Error::corrupt(STRUCTURE, message).at(place));
        }
    }
}
