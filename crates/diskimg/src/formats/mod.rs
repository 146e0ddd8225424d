//! The formats. Each uses the layers below (`open`, `model`, `storage`); none names another one
//! except through the format table.
//!
//! All folders have the same structure: `mod.rs` (description, layout on disk, entry of the format
//! table), `header.rs` (on-disk structures: parse, validate, encode), `layer.rs` (reading),
//! `target.rs` (writing), and further files for what only this format has.

// A cast could silently truncate a number from an image; `storage::number` has checked conversions.
#![cfg_attr(not(test), deny(clippy::as_conversions))]

#[cfg(any(feature = "qcow2", feature = "vmdk", feature = "vhd", feature = "vdi"))]
pub(crate) mod distinct;
#[cfg(feature = "inspect")]
mod embedded_archives;
#[cfg(any(feature = "vmdk", feature = "vhd", feature = "vhdx"))]
#[cfg(any(feature = "vmdk", feature = "vhd", feature = "vdi"))]
#[cfg(any(feature = "qcow2", feature = "qed", feature = "qcow"))]
pub(crate) mod cluster_encoder;
#[cfg(any(
    feature = "qcow2",
    feature = "vmdk",
    feature = "vhd",
    feature = "qed",
    feature = "qcow"
))]
pub(crate) mod distinct;
#[cfg(feature = "inspect")]
mod embedded_archives;
#[cfg(any(feature = "vmdk", feature = "vhd", feature = "qed", feature = "qcow"))]
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
#[cfg(any(feature = "vhd", feature = "vhdx"))]
pub(crate) mod named_parent;
#[cfg(feature = "ova")]
pub mod ova;
#[cfg(feature = "parallels")]
pub mod parallels;
#[cfg(feature = "inspect")]
mod plain_disk;
#[cfg(feature = "qcow")]
pub mod qcow;
#[cfg(feature = "qcow2")]
pub mod qcow2;
#[cfg(feature = "qed")]
pub mod qed;
pub mod raw;
pub(crate) mod signatures;
#[cfg(any(feature = "vmdk", feature = "vhd", feature = "vhdx"))]
pub(crate) mod table_cache;
#[cfg(any(feature = "vhd", feature = "vdi"))]
pub(crate) mod uuid;
#[cfg(any(feature = "vmdk", feature = "vdi"))]
pub(crate) mod uuid_search;
#[cfg(feature = "vdi")]
pub mod vdi;
#[cfg(any(feature = "vmdk", feature = "vhd", feature = "qed", feature = "qcow"))]
pub(crate) mod table_cache;
#[cfg(any(feature = "qed", feature = "qcow"))]
pub(crate) mod two_level;
#[cfg(feature = "vhd")]
pub mod vhd;
#[cfg(feature = "vhdx")]
pub mod vhdx;
#[cfg(feature = "vmdk")]
pub mod vmdk;
