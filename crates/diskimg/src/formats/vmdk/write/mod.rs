//! Writing a new VMDK: from options to the files of one of its layouts.
//!
//! ```text
//!   streamOptimized        x.vmdk: all of it, in order                 stream.rs
//!   monolithicSparse       x.vmdk: descriptor and extent               sparse.rs
//!   twoGbMaxExtentSparse   x.vmdk: descriptor   x-s001.vmdk …          sparse.rs
//!   twoGbMaxExtentFlat     x.vmdk: descriptor   x-f001.vmdk …          flat.rs
//!   monolithicFlat, vmfs   x.vmdk: descriptor   x-flat.vmdk            flat.rs
//! ```
//!
//! The files beside the main one are its [companions](Output::companion): they
//! appear under their names before it does.

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

pub(super) use descriptor::is_version;

use super::SECTOR;
use super::header::Header;
use crate::error::{Error, Result};
use crate::model::flat::Preallocation;
use crate::model::options::Options;
use crate::model::target::{Backing, CreateRequest, Target};
use crate::open::limits::Limits;
use crate::storage::output::Output;
use crate::storage::sink::Sink;
use descriptor::{
    IN_ONE_PIECE, NewDescriptor, NewExtent, NewParent, adapter, hardware_version, own_name,
    tools_version,
};
use extents::{Cut, Names};
use std::io;
use std::path::Path;
use std::sync::Arc;
use subformat::Subformat;

/// Sectors of a grain and entries of a grain table: what every writer uses.
const GRAIN_SECTORS: u64 = 128;
const GTES: u32 = 512;

/// Starts a new image.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) and
/// [`Unsupported`](crate::ErrorKind::Unsupported) for what the layout cannot
/// do, and what creating and writing the files said.
pub(super) fn create(request: CreateRequest<'_>) -> Result<Box<dyn Target>> {
    let CreateRequest { output, size, options, backing, compress } = request;
    let subformat = Subformat::choose(options.get("subformat"), compress)?;
    check_size(size)?;
    if options.get("backing_fmt").is_some_and(|format| format != "vmdk") {
        return Err(Error::invalid("backing_file must be a vmdk image"));
    }
    if backing.is_none() && options.get("backing_file").is_some_and(|b| !b.is_empty()) {
        return Err(Error::invalid("backing_file was given, but no backing image is at hand"));
    }
    let level = options.compression_level(9, subformat == Subformat::StreamOptimized)?;
    let zeroed_grains = options.switch("zeroed_grain")?.unwrap_or(false);
    let preallocation = preallocation(options, subformat)?;
    check_abilities(subformat, backing.is_some(), zeroed_grains)?;
    check_output(subformat, output)?;

    let sectors = size.div_ceil(SECTOR);
    let cut = Cut::new(sectors, subformat);
    let main = output.sink();
    let descriptor = NewDescriptor {
        subformat,
        extents: name_extents(output, subformat, cut)?,
        adapter: adapter(options.get("adapter_type"), subformat)?,
        hardware: hardware_version(
            options.get("hwversion"),
            options.switch("compat6")?.unwrap_or(false),
        )?,
        tools: tools_version(options.get("toolsversion"))?,
        parent: backing.as_ref().map(parent).transpose()?,
        thin: subformat == Subformat::Vmfs && preallocation == Preallocation::Off,
    };
    descriptor.require_room()?;
    if subformat == Subformat::StreamOptimized {
        return Ok(Box::new(stream::StreamTarget::start(main, descriptor, level)?));
    }
    if !subformat.is_several_files() {
        let target = sparse::SparseTarget::start(None, vec![main], cut, descriptor, zeroed_grains)?;
        return Ok(Box::new(target));
    }
    let files = open_extents(output, &descriptor.extents)?;
    if subformat.is_flat() {
        let target = flat::FlatTarget::start(main, files, cut, descriptor, preallocation)?;
        return Ok(Box::new(target));
    }
    let target = sparse::SparseTarget::start(Some(main), files, cut, descriptor, zeroed_grains)?;
    Ok(Box::new(target))
}

/// The name of the layout to write in place of one that a descriptor calls
/// `create_type`; `None` if there is none like it. What is `in_one_file` stays so.
pub(super) fn closest_layout(create_type: &str, in_one_file: bool) -> Option<&'static str> {
    let fits = |layout: &Subformat| !(in_one_file && layout.is_several_files());
    Subformat::closest(create_type).filter(fits).map(Subformat::name)
}

fn check_size(size: u64) -> Result<()> {
    if size == 0 {
        // A capacity of 0 means that the disk is elsewhere.
        return Err(Error::invalid("a VMDK cannot be empty"));
    }
    if size > i64::MAX.cast_unsigned() - SECTOR {
        return Err(Error::limit(format!("a disk of {size} bytes")));
    }
    Ok(())
}

/// Only flat files have space to be reserved: what a sparse one holds grows.
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

fn check_abilities(subformat: Subformat, backing: bool, zeroed_grains: bool) -> Result<()> {
    let stream = subformat == Subformat::StreamOptimized;
    if backing && subformat.is_flat() {
        return Err(Error::unsupported("Flat image can't have backing file")
            .hint("use subformat=monolithicSparse"));
    }
    if backing && stream {
        return Err(Error::unsupported("streamOptimized with a backing file")
            .hint("use subformat=monolithicSparse"));
    }
    if zeroed_grains && subformat.is_flat() {
        return Err(Error::unsupported("Flat image can't enable zeroed grain"));
    }
    if zeroed_grains && stream {
        return Err(Error::invalid("streamOptimized has no use for zeroed_grain")
            .hint("its zeros take no space anyway"));
    }
    Ok(())
}

fn check_output(subformat: Subformat, output: &Output) -> Result<()> {
    let name = subformat.name();
    let problem = if subformat.is_several_files() && !output.has_beside() {
        format!("{name} is several files, and nothing stands beside a pipe or a device")
    } else if output.sink().is_sequential() && subformat != Subformat::StreamOptimized {
        format!("{name} cannot go through a pipe")
    } else {
        return Ok(());
    };
    Err(Error::unsupported(problem).hint("subformat=streamOptimized can be written there"))
}

/// The extents with the names that the descriptor tells.
///
/// # Errors
/// [`Limit`](crate::ErrorKind::Limit) for more than any descriptor can list: the
/// names are made before it is known how long the lines get
/// ([`NewDescriptor::require_room`]).
fn name_extents(output: &Output, subformat: Subformat, cut: Cut) -> Result<Vec<NewExtent>> {
    if subformat.is_several_files() {
        let most = Limits::default().extent_files;
        if cut.count() > most {
            let message = format!("a disk of {} extents, more than {most}", cut.count());
            return Err(Error::limit(message).hint(IN_ONE_PIECE));
        }
        let names = Names::of(output.path().unwrap_or(Path::new("")))?;
        let extent = |(index, sectors)| NewExtent { sectors, name: names.extent(subformat, index) };
        return Ok(cut.extents().enumerate().map(extent).collect());
    }
    let name = own_name(output.path().filter(|_| !output.sink().is_sequential()));
    Ok(cut.extents().map(|sectors| NewExtent { sectors, name: name.clone() }).collect())
}

/// Creates the extents' files beside the main one.
fn open_extents(output: &mut Output, extents: &[NewExtent]) -> Result<Vec<Arc<dyn Sink>>> {
    let open = |extent: &NewExtent| {
        output.companion(Path::new(&extent.name)).map_err(|e| {
            let exhausted = crate::storage::os::is_out_of_files(&e.error);
            let error = Error::output("cannot create the extent", e);
            if !exhausted {
                return error;
            }
            error.hint(format!(
                "all {} extents are written at the same time: raise the limit on open files \
                 (ulimit -n), or use a layout in one piece",
                extents.len()
            ))
        })
    };
    extents.iter().map(open).collect()
}

fn parent(backing: &Backing) -> Result<NewParent> {
    let no_vmdk = || Error::invalid("backing_file must be a vmdk image");
    if backing.format.as_deref().is_some_and(|format| format != "vmdk") {
        return Err(no_vmdk());
    }
    let cid = backing.content_id.as_deref().ok_or_else(|| {
        Error::invalid("a VMDK child needs its parent's content ID, which is not known").hint(
            "backing_file must be a vmdk image that is looked at: leave out -u, unsafe_backing",
        )
    })?;
    let cid = u32::from_str_radix(cid, 16).map_err(|_| no_vmdk())?;
    let hint = backing.name.clone();
    if hint.is_empty() || hint.contains(|c: char| c == '"' || c.is_control()) {
        return Err(Error::invalid(format!("the backing file's name {hint:?} cannot be recorded"))
            .hint("it must have no quotes and no control characters (a tab, a line break)"));
    }
    Ok(NewParent { cid, hint })
}

/// What is written must not be refused when it is read again. This bounds the
/// tables in front of the grains, too.
fn require_readable(header: &Header) -> Result<()> {
    let most = Limits::default().table_bytes;
    if header.tables() * 4 > most {
        return Err(Error::limit(format!(
            "a disk of {} sectors: its grain directory would exceed {most} bytes",
            header.capacity
        )));
    }
    Ok(())
}

/// Empties the file of a descriptor: an image that was not finished has none.
fn empty(main: &dyn Sink) -> Result<()> {
    main.set_len(0).map_err(|e| Error::io("cannot empty the descriptor's file", e))
}

/// Writes a descriptor that is a file of its own.
fn write_descriptor(main: &dyn Sink, text: &str) -> Result<()> {
    main.write_all_at(text.as_bytes(), 0).map_err(|e| cannot_write(e, "the descriptor", 0))
}

fn cannot_write(error: io::Error, what: &'static str, at: u64) -> Error {
    Error::io(format!("cannot write {what}"), error).at(at)
}
