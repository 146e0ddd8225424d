//! Creating a VMDK: from options to the files of one of its layouts.
//!
//! ```text
//!   streamOptimized        x.vmdk: everything, written in order        stream.rs
//!     without data         x.vmdk: as monolithicSparse                 sparse.rs
//!   monolithicSparse       x.vmdk: descriptor and extent               sparse.rs
//!   twoGbMaxExtentSparse   x.vmdk: descriptor   x-s001.vmdk …          sparse.rs
//!   twoGbMaxExtentFlat     x.vmdk: descriptor   x-f001.vmdk …          flat.rs
//!   monolithicFlat, vmfs   x.vmdk: descriptor   x-flat.vmdk            flat.rs
//! ```
//!
//! The extent files are [companions](Output::companion) of the main file: they appear under their
//! names before it does.

mod added;
mod descriptor;
mod extents;
mod flat;
mod geometry;
mod sparse;
mod sparse_extent;
mod stream;
mod subformat;
#[cfg(test)]
mod tests;

pub(super) use added::SplitLayout;
pub(super) use descriptor::is_version;
pub(super) use extents::is_split_extent;
pub(super) use geometry::DiskGeometry;

use super::SECTOR;
use super::header::Header;
use crate::error::{Error, Result};
use crate::model::backing::Backing;
use crate::model::flat::{FlatFile, Preallocation};
use crate::model::options::Options;
use crate::model::target::{CreateRequest, Target, TargetSpec, UnitEncoder};
use crate::open::limits::Limits;
use crate::remedy::Remedy;
use crate::storage::output::Output;
use crate::storage::sink::Sink;
use descriptor::{
    IN_ONE_FILE, NewDescriptor, NewExtent, NewParent, adapter, hardware_version, own_name,
    tools_version,
};
use extents::{ExtentNames, ExtentSplit};
use std::io;
use std::path::Path;
use std::sync::Arc;
use subformat::Subformat;

/// Sectors per grain and entries per grain table, as all writers use them.
const GRAIN_SECTORS: u64 = 128;
const GTES: u32 = 512;

/// A new image.
#[derive(Debug)]
struct VmdkSpec {
    subformat: Subformat,
    split: ExtentSplit,
    adapter: &'static str,
    hardware: String,
    tools: String,
    parent: Option<NewParent>,
    level: Option<u32>,
    zeroed_grains: bool,
    preallocation: Preallocation,
}

/// Specifies a new image.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) or [`Unsupported`](crate::ErrorKind::Unsupported) for
/// options that the layout does not support, [`Limit`](crate::ErrorKind::Limit) if the disk is too
/// large for it.
pub(super) fn create(request: CreateRequest<'_>) -> Result<Box<dyn TargetSpec>> {
    let CreateRequest { size, options, backing, compress } = request;
    let subformat = Subformat::choose(options.get("subformat"), compress)?;
    check_size(size)?;
    if options.get("backing_fmt").is_some_and(|format| format != "vmdk") {
        return Err(Error::invalid("backing_file must be a vmdk image"));
    }
    if backing.is_none() && options.get("backing_file").is_some_and(|b| !b.is_empty()) {
        return Err(Error::invalid("the backing_file option was given, but no backing image"));
    }
    let level = options.compression_level(9, subformat == Subformat::StreamOptimized)?;
    let zeroed_grains = options.switch("zeroed_grain")?.unwrap_or(false);
    let preallocation = preallocation(options, subformat)?;
    check_features(subformat, backing.is_some(), zeroed_grains)?;
    let compat6 = options.switch("compat6")?.unwrap_or(false);
    Ok(Box::new(VmdkSpec {
        subformat,
        split: ExtentSplit::new(size.div_ceil(SECTOR), subformat),
        adapter: adapter(options.get("adapter_type"), subformat)?,
        hardware: hardware_version(options.get("hwversion"), compat6)?,
        tools: tools_version(options.get("toolsversion"))?,
        parent: backing.as_ref().map(parent).transpose()?,
        level,
        zeroed_grains,
        preallocation,
    }))
}

impl VmdkSpec {
    fn descriptor(&self, output: &Output) -> Result<NewDescriptor> {
        let Self { subformat, preallocation, .. } = *self;
        let descriptor = NewDescriptor {
            subformat,
            extents: name_extents(output, subformat, self.split)?,
            adapter: self.adapter,
            hardware: self.hardware.clone(),
            tools: self.tools.clone(),
            parent: self.parent.clone(),
            thin: subformat == Subformat::Vmfs && preallocation == Preallocation::Off,
        };
        descriptor.require_fit()?;
        Ok(descriptor)
    }
}

impl TargetSpec for VmdkSpec {
    fn size(&self) -> u64 {
        self.split.size()
    }

    fn quantum(&self) -> u64 {
        if self.subformat.is_flat() { FlatFile::BLOCK } else { GRAIN_SECTORS * SECTOR }
    }

    fn sequential(&self) -> bool {
        self.subformat == Subformat::StreamOptimized
    }

    fn alignment(&self) -> u64 {
        self.quantum()
    }

    fn encoder(&self) -> Option<Box<dyn UnitEncoder>> {
        let stream = self.subformat == Subformat::StreamOptimized;
        stream.then(|| -> Box<dyn UnitEncoder> { Box::new(stream::GrainEncoder::new(self.level)) })
    }

    fn wants_digest(&self) -> bool {
        // The descriptor of a stream is written before the data.
        self.subformat != Subformat::StreamOptimized
    }

    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the layout cannot be written to `output`,
    /// [`Limit`](crate::ErrorKind::Limit) if the descriptor is too long,
    /// [`Io`](crate::ErrorKind::Io) if the files cannot be created or written.
    fn start(&self, output: &mut Output) -> Result<Box<dyn Target>> {
        if self.subformat != Subformat::StreamOptimized {
            return self.start_extents(output);
        }
        if self.parent.is_some() {
            return Err(Error::unsupported("streamOptimized image can't have backing file")
                .hint("use subformat=monolithicSparse"));
        }
        let descriptor = self.descriptor(output)?;
        Ok(Box::new(stream::StreamTarget::start(output.sink(), descriptor)?))
    }

    /// An empty streamOptimized image has all tables, at the offsets that its header states, as
    /// qemu-img creates it: when QEMU writes to an image without a table, it destroys the header.
    fn start_empty(&self, output: &mut Output) -> Result<Box<dyn Target>> {
        match output.sink().is_sequential() {
            true => self.start(output),
            false => self.start_extents(output),
        }
    }
}

impl VmdkSpec {
    /// Starts an image that consists of extents with all their tables, or of flat extents.
    fn start_extents(&self, output: &mut Output) -> Result<Box<dyn Target>> {
        let Self { subformat, split, zeroed_grains, preallocation, .. } = *self;
        check_output(subformat, output)?;
        let descriptor = self.descriptor(output)?;
        let main = output.sink();
        let (main, files) = match subformat.is_several_files() {
            true => (Some(main), open_extents(output, &descriptor.extents)?),
            false => (None, vec![main]),
        };
        Ok(match main {
            Some(main) if subformat.is_flat() => {
                Box::new(flat::FlatTarget::start(main, files, split, descriptor, preallocation)?)
            }
            main => Box::new(sparse::SparseTarget::start(
                main,
                files,
                split,
                descriptor,
                zeroed_grains,
            )?),
        })
    }
}

/// Returns the name of the layout to write in place of an existing image's `create_type`; `None` if
/// there is no equivalent. An image that is `in_one_file` stays in one file.
pub(super) fn closest_layout(create_type: &str, in_one_file: bool) -> Option<&'static str> {
    let fits = |layout: &Subformat| !(in_one_file && layout.is_several_files());
    Subformat::closest(create_type).filter(fits).map(Subformat::name)
}

fn check_size(size: u64) -> Result<()> {
    if size == 0 {
        // A header with capacity 0 means that the extents are other files.
        return Err(Error::invalid("a VMDK cannot be empty"));
    }
    if size > i64::MAX.cast_unsigned() - SECTOR {
        return Err(Error::limit(format!("a disk of {size} bytes")));
    }
    Ok(())
}

/// Parses the preallocation mode. Only flat extents can be preallocated; sparse ones grow.
fn preallocation(options: &Options, subformat: Subformat) -> Result<Preallocation> {
    let mode = options.get("preallocation");
    if let Some(mode) = mode.filter(|&mode| mode != "off" && !subformat.is_flat()) {
        return Err(Error::unsupported(format!(
            "Unsupported preallocation mode '{mode}' for {}: off",
            subformat.name()
        ))
        .hint("flat layouts can be preallocated"));
    }
    Preallocation::parse(mode, subformat.name())
}

fn check_features(subformat: Subformat, backing: bool, zeroed_grains: bool) -> Result<()> {
    if backing && subformat.is_flat() {
        return Err(Error::unsupported("Flat image can't have backing file")
            .hint("use subformat=monolithicSparse"));
    }
    if zeroed_grains && subformat.is_flat() {
        return Err(Error::unsupported("Flat image can't enable zeroed grain"));
    }
    Ok(())
}

fn check_output(subformat: Subformat, output: &Output) -> Result<()> {
    let name = subformat.name();
    let problem = if subformat.is_several_files() && !output.supports_companions() {
        format!("{name} consists of several files and cannot be written to a pipe or a device")
    } else if output.sink().is_sequential() && subformat != Subformat::StreamOptimized {
        format!("{name} cannot be written to a pipe")
    } else {
        return Ok(());
    };
    Err(Error::unsupported(problem).hint("subformat=streamOptimized can be written there"))
}

/// Returns the extents with their names in the descriptor.
///
/// # Errors
/// [`Limit`](crate::ErrorKind::Limit) for more extents than may be opened again. This bounds the
/// memory for their names, before [`NewDescriptor::require_fit`] checks the length of the text.
fn name_extents(
    output: &Output,
    subformat: Subformat,
    split: ExtentSplit,
) -> Result<Vec<NewExtent>> {
    if subformat.is_several_files() {
        let max = Limits::default().extent_files;
        if split.count() > max {
            let message =
                format!("a disk of {} extents; at most {max} are supported", split.count());
            return Err(Error::limit(message).hint(IN_ONE_FILE));
        }
        let names = ExtentNames::of(output.path().unwrap_or(Path::new("")))?;
        let extent = |(index, sectors)| NewExtent { sectors, name: names.extent(subformat, index) };
        return Ok(split.extents().enumerate().map(extent).collect());
    }
    let name = own_name(output.path().filter(|_| !output.sink().is_sequential()));
    Ok(split.extents().map(|sectors| NewExtent { sectors, name: name.clone() }).collect())
}

/// Creates the extent files in the directory of the main file.
fn open_extents(output: &mut Output, extents: &[NewExtent]) -> Result<Vec<Arc<dyn Sink>>> {
    let open = |extent: &NewExtent| {
        output.companion(Path::new(&extent.name)).map_err(|e| {
            let out_of_files = crate::storage::os::is_out_of_files(&e.error);
            let error = Error::output("cannot create the extent", e);
            if !out_of_files {
                return error;
            }
            error.hint(format!(
                "all {} extents are open at the same time: raise the limit on open files \
                 (ulimit -n), or use a layout in one file",
                extents.len()
            ))
        })
    };
    extents.iter().map(open).collect()
}

fn parent(backing: &Backing) -> Result<NewParent> {
    let not_vmdk = || Error::invalid("backing_file must be a vmdk image");
    if backing.format.as_deref().is_some_and(|format| format != "vmdk") {
        return Err(not_vmdk());
    }
    let cid = backing.content_id.as_deref().ok_or_else(|| {
        Error::invalid("a VMDK child needs its parent's content ID, which is not known")
            .hint("backing_file must be a VMDK image that can be opened")
            .with_remedy(Remedy::OpenBackingFile)
    })?;
    let cid = u32::from_str_radix(cid, 16).map_err(|_| not_vmdk())?;
    let hint = backing.name.clone();
    if hint.is_empty() || hint.contains(|c: char| c == '"' || c.is_control()) {
        return Err(Error::invalid(format!("the backing file's name {hint:?} cannot be recorded"))
            .hint(
                "it must not contain quotes or control characters (such as tabs or line breaks)",
            ));
    }
    Ok(NewParent { cid, hint })
}

/// Verifies that the image can be opened again with the default limits. This also bounds the size
/// of the tables before the first grain.
fn require_readable(header: &Header) -> Result<()> {
    let max = Limits::default().table_bytes;
    if header.tables() * 4 > max {
        return Err(Error::limit(format!(
            "a disk of {} sectors: its grain directory would exceed {max} bytes",
            header.capacity
        )));
    }
    Ok(())
}

/// Truncates the descriptor's file, so that an unfinished image has no descriptor.
fn truncate(main: &dyn Sink) -> Result<()> {
    main.set_len(0).map_err(|e| Error::io("cannot truncate the descriptor's file", e))
}

/// Writes a descriptor that is a separate file.
fn write_descriptor(main: &dyn Sink, text: &str) -> Result<()> {
    main.write_all_at(text.as_bytes(), 0).map_err(|e| cannot_write(e, "the descriptor", 0))
}

fn cannot_write(error: io::Error, what: &'static str, at: u64) -> Error {
    Error::io(format!("cannot write {what}"), error).at(at)
}
