//! The formats. Each uses the layers below (`open`, `model`, `storage`); none uses another.
//!
//! Every folder reads the same way: `mod.rs` (what the format is, its layout
//! on disk, its row of the table), `header.rs` (on-disk structures: parse,
//! validate, encode), `layer.rs` (read), `target.rs` (write), then its own
//! matters under their own names.

// Numbers that an image holds are never cut to fit in silence: `storage::number` says how they go.
#![cfg_attr(not(test), deny(clippy::as_conversions))]

pub(crate) mod inspect;
pub mod iso;
pub mod ova;
pub mod qcow2;
pub mod raw;
pub(crate) mod signatures;
pub mod vmdk;
