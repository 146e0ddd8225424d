//! Creating a VHD: from options to a fixed or dynamic disk.
//!
//! The footer has the size of the disk in bytes and as cylinders, heads and sectors. QEMU takes the
//! latter for the size of disks whose creator is `qemu`, all other programs the former. A disk with
//! `force_size=on`, the default, has a geometry of exactly its size or the largest one, so that all
//! programs agree; with `force_size=off`, it grows to the next size that has a geometry, as with
//! qemu-img.

mod dynamic;
mod fixed;

use super::footer::{DiskType, FOOTER_BYTES, Footer};
use super::geometry::Geometry;
use super::{MAX_SIZE, SECTOR};
use crate::error::{Error, Result};
use crate::formats::uuid::Uuid;
use crate::model::backing::Backing;
use crate::model::flat::{FlatFile, Preallocation};
use crate::model::options::Options;
use crate::model::target::{CreateRequest, Measure, MeasureRequest, Target, TargetSpec};
use crate::open::external_files::plain_path;
use crate::remedy::Remedy;
use crate::storage::output::Output;
use dynamic::{BLOCK, DynamicTarget, Layout};
use fixed::FixedTarget;
use std::path::Path;

/// A new image.
#[derive(Debug, Clone)]
struct VhdSpec {
    /// Size of the disk in bytes.
    size: u64,
    geometry: Geometry,
    creator: [u8; 4],
    fixed: bool,
    uuid: Option<Uuid>,
    parent: Option<NewParent>,
    preallocation: Preallocation,
}

/// The parent of a new differencing disk.
#[derive(Debug, Clone)]
struct NewParent {
    uuid: Uuid,
    name: String,
}

/// Specifies a new image.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) or [`Unsupported`](crate::ErrorKind::Unsupported) for
/// options that the format does not support, [`Limit`](crate::ErrorKind::Limit) if the disk is too
/// large.
pub(super) fn create(request: CreateRequest<'_>) -> Result<Box<dyn TargetSpec>> {
    let CreateRequest { size, options, backing, compress } = request;
    if compress {
        return Err(Error::invalid("Compression not supported for this file format"));
    }
    if options.get("backing_fmt").is_some_and(|format| !matches!(format, "vpc" | "vhd")) {
        return Err(Error::invalid("backing_file must be a VHD image"));
    }
    if backing.is_none() && options.get("backing_file").is_some_and(|b| !b.is_empty()) {
        return Err(Error::invalid("the backing_file option was given, but no backing image"));
    }
    let fixed = is_fixed(options)?;
    if fixed && backing.is_some() {
        return Err(Error::unsupported("a fixed disk cannot have a backing file")
            .hint("use subformat=dynamic"));
    }
    let preallocation = match options.get("preallocation") {
        Some(mode) if mode != "off" && !fixed => {
            let message = format!("Unsupported preallocation mode '{mode}' for dynamic disks");
            return Err(Error::unsupported(message).hint("subformat=fixed can be preallocated"));
        }
        mode => Preallocation::parse(mode, "vpc")?,
    };
    let uuid = options.get("uuid").map(|text| {
        Uuid::parse(text).ok_or_else(|| Error::invalid(format!("'{text}' is not a UUID")))
    });
    // The parent determines what is read beyond its end, so that the size must be kept.
    let (size, geometry, creator) = size_and_geometry(size, options, backing.is_some())?;
    let parent = backing.as_ref().map(parent).transpose()?;
    let uuid = uuid.transpose()?;
    Ok(Box::new(VhdSpec { size, geometry, creator, fixed, uuid, parent, preallocation }))
}

fn is_fixed(options: &Options) -> Result<bool> {
    match options.get("subformat") {
        None | Some("dynamic") => Ok(false),
        Some("fixed") => Ok(true),
        Some(other) => Err(Error::invalid(format!("Invalid subformat '{other}'"))
            .hint("valid subformats: dynamic, fixed")),
    }
}

/// Returns the size of a disk of at least `size` bytes, its geometry, and the creator to record.
fn size_and_geometry(
    size: u64,
    options: &Options,
    has_parent: bool,
) -> Result<(u64, Geometry, [u8; 4])> {
    let sectors = size.div_ceil(SECTOR);
    let (size, geometry, creator) = match options.switch("force_size")?.unwrap_or(true)
        || has_parent
    {
        true => (sectors * SECTOR, Geometry::exact_or_max(sectors), *b"dimg"),
        false => match Geometry::covering(sectors) {
            Some(geometry) if geometry != Geometry::MAX => (geometry.bytes(), geometry, *b"qemu"),
            _ => (sectors * SECTOR, Geometry::MAX, *b"qemu"),
        },
    };
    if size > MAX_SIZE {
        return Err(Error::limit(format!("a disk of {size} bytes; a VHD has at most 2040 GiB"))
            .hint("use another format, such as qcow2"));
    }
    Ok((size, geometry, creator))
}

fn parent(backing: &Backing) -> Result<NewParent> {
    if let Some(format) = backing.format.as_deref().filter(|&format| format != "vpc") {
        let message = format!("the parent of a differencing VHD must be a VHD, not {format}");
        return Err(Error::invalid(message));
    }
    let uuid = backing.content_id.as_deref().and_then(Uuid::parse);
    let uuid = uuid.filter(|uuid| !uuid.is_nil()).ok_or_else(|| {
        Error::invalid("a differencing VHD records its parent's UUID, which is not known")
            .hint("backing_file must be a VHD image that can be opened")
            .with_remedy(Remedy::OpenBackingFile)
    })?;
    // Windows separates directories by backslashes, and has no prefix `file:`.
    let name = plain_path(&backing.name).and_then(Path::to_str);
    let Some(name) = name.filter(|name| !name.contains('\\')) else {
        let message = format!("the backing file's name {:?} cannot be recorded", backing.name);
        return Err(Error::invalid(message));
    };
    Ok(NewParent { uuid, name: name.to_owned() })
}

impl VhdSpec {
    /// Returns the footer of a disk whose guest bytes have this digest.
    fn footer(&self, digest: u64, header_at: Option<u64>) -> Footer {
        let disk_type = match (self.fixed, &self.parent) {
            (true, _) => DiskType::Fixed,
            (false, None) => DiskType::Dynamic,
            (false, Some(_)) => DiskType::Differencing,
        };
        Footer {
            disk_type,
            current_size: self.size,
            original_size: self.size,
            geometry: self.geometry,
            header_at,
            creator: self.creator,
            creator_version: super::VERSION,
            creator_os: *b"Wi2k",
            // The same input gives the same bytes.
            timestamp: 0,
            uuid: self.uuid.unwrap_or_else(|| self.new_uuid(digest)),
            saved_state: false,
        }
    }

    /// Returns the UUID of a disk: the same for the same contents and parent, but a new one for a
    /// disk that is created empty, because it will have other contents, and children refer to it by
    /// its UUID.
    fn new_uuid(&self, digest: u64) -> Uuid {
        if digest == 0 {
            return Uuid::random();
        }
        let sizes = u128::from(self.size / SECTOR) << 1 | u128::from(self.fixed);
        // A child with the contents of its parent is another disk.
        let parent = self.parent.as_ref().map_or(0, |parent| u128::from_be_bytes(parent.uuid.0));
        Uuid::of_digest((u128::from(digest) << 64 | sizes) ^ parent.rotate_left(1))
    }
}

impl TargetSpec for VhdSpec {
    fn size(&self) -> u64 {
        self.size
    }

    fn quantum(&self) -> u64 {
        FlatFile::BLOCK
    }

    fn alignment(&self) -> u64 {
        FlatFile::BLOCK
    }

    fn wants_digest(&self) -> bool {
        self.uuid.is_none()
    }

    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if a dynamic disk is written to a pipe,
    /// [`Io`](crate::ErrorKind::Io) if writing fails.
    fn start(&self, output: &mut Output) -> Result<Box<dyn Target>> {
        let sink = output.sink();
        Ok(match self.fixed {
            true => Box::new(FixedTarget::start(sink, self)?),
            false => Box::new(DynamicTarget::start(sink, self)?),
        })
    }
}

/// Computes the size of a new image.
///
/// # Errors
/// As [`create`], and the errors of the request's data.
pub(super) fn measure(request: &mut MeasureRequest<'_>) -> Result<Measure> {
    let (size, ..) = size_and_geometry(request.size, request.options, false)?;
    if is_fixed(request.options)? {
        let len = size + FOOTER_BYTES;
        return Ok(Measure { required: len, fully_allocated: len, bitmaps: None });
    }
    let layout = Layout::new(size, &[]);
    let (mut blocks, mut next) = (0, 0);
    (request.data)(&mut |range| {
        let (first, end) = ((range.start / BLOCK).max(next), range.end.div_ceil(BLOCK));
        blocks += end.saturating_sub(first);
        next = next.max(end);
    })?;
    Ok(Measure {
        required: layout.len(blocks),
        fully_allocated: layout.len(layout.entries()),
        bitmaps: None,
    })
}
