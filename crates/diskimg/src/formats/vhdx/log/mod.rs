//! The log: changes to metadata that may not be in their places yet.
//!
//! ```text
//!   log      ┌───────┬─────────────┬───────┬───────┬───────┬──────────────┐
//!            │ entry │ (old)       │ entry │ entry │ entry │ entry …      │  a ring
//!            └───────┴─────────────┴───────┴───────┴───────┴──────────────┘
//!              head                  tail
//!   entry    header │ descriptors │ data sectors        (sectors of 4 KiB)
//! ```
//!
//! A program writes an entry, flushes, then changes the places themselves. Reading finds the
//! sequence of valid entries with the highest sequence number, and applies what its entries from the
//! tail to the head say: in memory, the file is not changed. An entry whose write was interrupted is
//! not valid, so that the sequence ends before it.
//!
//! MS-VHDX 2.3. QEMU follows other rules: it accepts the second entry of a sequence whatever its
//! number, compares sequences by their first entries, replays entries before the tail as well, does
//! not verify the signatures of data sectors, lets entries change headers and the log itself, and
//! opens a file whose log has no valid entry as if it were empty.

mod entry;
mod overlay;
mod sequence;

pub(super) use overlay::Overlay;
pub(super) use sequence::replay;

/// Length in bytes of a sector of the log, and of a page that an entry changes.
const SECTOR: usize = 4096;

/// How messages call the log.
const STRUCTURE: &str = "VHDX log";
