//! ISO images as file systems: what is in them (`image`, `entry`, `contents`), and new
//! ones (`create`, `boot`; `remaster`, out of old ones).

mod boot;
mod contents;
mod create;
mod entry;
mod image;
mod remaster;

pub(crate) use contents::IsoContents;
pub(crate) use create::{iso_bytes, iso_create};
pub(crate) use image::{Iso, IsoWalk};
pub(crate) use remaster::{iso_remaster, iso_remaster_bytes};
