//! Floor 2: the formats. Each knows the host and the vocabulary, none knows
//! another.
//!
//! Every folder reads the same way: `mod.rs` (what the format is, its layout
//! on disk, its row of the table), `header.rs` (on-disk structures: parse,
//! validate, encode), `layer.rs` (read), `target.rs` (write), then its own
//! matters under their own names.

// Numbers that an image holds are never cut to fit in silence: `host::number` says how they go.
#![cfg_attr(not(test), deny(clippy::as_conversions))]

pub mod iso;
pub mod ova;
pub mod qcow2;
pub mod raw;
pub(crate) mod strangers;
pub mod vmdk;
