//! ISO images as file systems: reading (`image`, `entry`, `contents`), creation (`create`, `boot`)
//! and modified copies (`remaster`).

mod boot;
mod contents;
mod create;
mod entry;
mod image;
mod remaster;

pub(crate) use contents::IsoContents;
pub(crate) use create::{iso_bytes, iso_create};
pub(crate) use entry::{Fields, fields};
pub(crate) use image::{Iso, IsoWalk};
pub(crate) use remaster::{iso_remaster, iso_remaster_bytes};
