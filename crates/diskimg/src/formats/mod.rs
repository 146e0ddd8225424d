//! The formats. Each uses the layers below (`open`, `model`, `storage`); none names another one
//! except through the format table.
//!
//! All folders have the same structure: `mod.rs` (description, layout on disk, entry of the format
//! table), `header.rs` (on-disk structures: parse, validate, encode), `layer.rs` (reading),
//! `target.rs` (writing), and further files for what only this format has.

// A cast could silently truncate a number from an image; `storage::number` has checked conversions.
#![cfg_attr(not(test), deny(clippy::as_conversions))]

#[cfg(any(feature = "qcow2", feature = "vmdk", feature = "vhd", feature = "parallels"))]
pub(crate) mod distinct;
#[cfg(feature = "inspect")]
mod embedded_archives;
#[cfg(any(feature = "vmdk", feature = "vhd", feature = "parallels"))]
pub(crate) mod findings;
pub(crate) mod holes;
#[cfg(feature = "inspect")]
pub(crate) mod inspect;
#[cfg(feature = "iso")]
pub mod iso;
#[cfg(feature = "ova")]
pub mod ova;
#[cfg(feature = "parallels")]
pub mod parallels;
#[cfg(feature = "inspect")]
mod plain_disk;
#[cfg(feature = "qcow2")]
pub mod qcow2;
pub mod raw;
pub(crate) mod signatures;
#[cfg(any(feature = "vmdk", feature = "vhd"))]
pub(crate) mod table_cache;
#[cfg(feature = "vhd")]
pub mod vhd;
#[cfg(feature = "vmdk")]
pub mod vmdk;
