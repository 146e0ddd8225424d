//! The formats. Each uses the layers below (`open`, `model`, `storage`); none names another one
//! except through the format table.
//!
//! All folders have the same structure: `mod.rs` (description, layout on disk, entry of the format
//! table), `header.rs` (on-disk structures: parse, validate, encode), `layer.rs` (reading),
//! `target.rs` (writing), and further files for what only this format has.

// A cast could silently truncate a number from an image; `storage::number` has checked conversions.
#![cfg_attr(not(test), deny(clippy::as_conversions))]

#[cfg(feature = "asif")]
pub mod asif;
// What several formats share has no conditions of its own: builds without some formats do not warn
// of unused code.
#[cfg(feature = "bochs")]
pub mod bochs;
#[cfg(feature = "cloop")]
pub mod cloop;
pub(crate) mod cluster_encoder;
pub(crate) mod distinct;
#[cfg(feature = "dmg")]
pub mod dmg;
#[cfg(feature = "inspect")]
mod embedded_archives;
#[cfg(feature = "ewf")]
pub mod ewf;
pub(crate) mod findings;
pub(crate) mod holes;
#[cfg(feature = "inspect")]
pub(crate) mod inspect;
#[cfg(feature = "iso")]
pub mod iso;
pub(crate) mod metadata;
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
pub(crate) mod small_xml;
#[cfg(feature = "sparsebundle")]
pub mod sparsebundle;
#[cfg(feature = "sparseimage")]
pub mod sparseimage;
pub(crate) mod stored_bits;
pub(crate) mod table_cache;
pub(crate) mod two_level;
pub(crate) mod uuid;
pub(crate) mod uuid_search;
#[cfg(feature = "vdi")]
pub mod vdi;
#[cfg(feature = "vhd")]
pub mod vhd;
#[cfg(feature = "vhdx")]
pub mod vhdx;
#[cfg(feature = "vmdk")]
pub mod vmdk;
