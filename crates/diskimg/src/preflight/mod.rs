//! What a cloud or hypervisor would reject of an image, and why, before it is uploaded.
//!
//! ```text
//!   Image ──► container: format, variant, files, features   ──┐
//!     │   ──► size: multiple, range                           ├──► findings ──► accepted or not
//!     └─────► disk: partition tables, boot loaders, drivers ──┘
//!                     ▲
//!   Consumer ──► Requirements
//! ```
//!
//! ```no_run
//! use diskimg::Image;
//! use diskimg::preflight::{Consumer, preflight};
//!
//! let found = preflight(&Image::open("disk.vhd")?, Consumer::Azure)?;
//! for finding in &found.findings {
//!     println!("{}: {}", finding.code, diskimg::printable(&finding.message));
//! }
//! # Ok::<(), diskimg::Error>(())
//! ```
//!
//! Nothing is mounted or executed. Data of the disk is read where a partition table, a boot loader
//! or the modules of a kernel are expected. An image that passes can still fail: what is not on the
//! disk, such as quotas and permissions, is not known, nor is what is in file systems that are not
//! read (see [`files`](crate::files)), in encrypted volumes and in LVM.

// Numbers read from a disk are converted with `storage::number`, not with `as`, which truncates.
#![cfg_attr(not(test), deny(clippy::as_conversions))]

mod consumer;
mod container;
mod disk;
mod drivers;
mod loaders;

pub use crate::report::preflight::{Boot, Code, Finding, Preflight};
pub use consumer::Consumer;

use crate::error::Result;
use crate::model::image::Image;
use crate::report::printable::printable;

/// Checks what `consumer` would reject of `image`. The image should have been opened with its
/// backing files, if it has any.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io), [`Transient`](crate::ErrorKind::Transient) or
/// [`Cancelled`](crate::ErrorKind::Cancelled) if the image cannot be read. Damage of the partition table or
/// of file systems is a finding.
pub fn preflight(image: &Image, consumer: Consumer) -> Result<Preflight> {
    let mut found = Preflight {
        filename: image.name(0).to_owned(),
        consumer,
        accepted: false,
        format: image.format().name(),
        virtual_size: image.size(),
        boot: Boot::default(),
        findings: Vec::new(),
    };
    container::check(image, &mut found)?;
    if image.format().name() != "iso" {
        disk::check(image, &mut found)?;
    }
    for finding in &mut found.findings {
        // Messages may quote the image, which is untrusted.
        finding.message = printable(&finding.message).into_owned();
    }
    found.finish();
    Ok(found)
}
