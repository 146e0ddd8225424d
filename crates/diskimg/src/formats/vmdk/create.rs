//! Starting a new VMDK: from options to one of the writers.

use super::new_descriptor::{
    NewDescriptor, NewParent, adapter, extent_name, hardware_version, tools_version,
};
use super::{SECTOR, stream_target, target};
use crate::vocabulary::error::{Error, Result};
use crate::vocabulary::target::{Backing, CreateRequest, Target};

/// The layouts that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subformat {
    MonolithicSparse,
    StreamOptimized,
}

impl Subformat {
    const ALL: [(&str, Self); 2] =
        [("monolithicSparse", Self::MonolithicSparse), ("streamOptimized", Self::StreamOptimized)];

    /// Only a stream is compressed, so compression asks for one. (qemu-img
    /// takes `-c` and writes a sparse image uncompressed.)
    fn choose(name: Option<&str>, compress: bool) -> Result<(&'static str, Self)> {
        let name = match name {
            None | Some("") if compress => "streamOptimized",
            None | Some("") => "monolithicSparse",
            Some(name) => name,
        };
        let Some(found) = Self::ALL.into_iter().find(|(known, _)| *known == name) else {
            return Err(Error::unsupported(format!("subformat '{name}'"))
                .hint("monolithicSparse and streamOptimized are written"));
        };
        if compress && found.1 != Self::StreamOptimized {
            return Err(Error::invalid(format!("{name} cannot be compressed"))
                .hint("subformat=streamOptimized is"));
        }
        Ok(found)
    }
}

pub(super) fn create(request: CreateRequest<'_>) -> Result<Box<dyn Target>> {
    let options = request.options;
    let (create_type, subformat) = Subformat::choose(options.get("subformat"), request.compress)?;
    if request.size == 0 {
        // A capacity of 0 means that the disk is elsewhere.
        return Err(Error::invalid("a VMDK cannot be empty"));
    }
    if request.size > i64::MAX as u64 - SECTOR {
        return Err(Error::limit(format!("a disk of {} bytes", request.size)));
    }
    if request.backing.is_none() && options.get("backing_file").is_some_and(|b| !b.is_empty()) {
        return Err(Error::invalid("backing_file was given, but no backing image is at hand"));
    }
    if options.get("backing_fmt").is_some_and(|format| format != "vmdk") {
        return Err(Error::invalid("backing_file must be a vmdk image"));
    }
    if let Some(mode) = options.get("preallocation").filter(|&mode| mode != "off") {
        return Err(Error::unsupported(format!(
            "Unsupported preallocation mode '{mode}' for vmdk: off"
        )));
    }
    let sink = request.output.sink();
    let descriptor = NewDescriptor {
        create_type,
        sectors: request.size.div_ceil(SECTOR),
        name: extent_name(request.output.path().filter(|_| !sink.is_sequential())),
        adapter: adapter(options.get("adapter_type"))?,
        hardware: hardware_version(
            options.get("hwversion"),
            options.switch("compat6")?.unwrap_or(false),
        )?,
        tools: tools_version(options.get("toolsversion"))?,
        parent: request.backing.as_ref().map(parent).transpose()?,
    };
    let zeroed_grains = options.switch("zeroed_grain")?.unwrap_or(false);
    match subformat {
        Subformat::MonolithicSparse => {
            Ok(Box::new(target::SparseTarget::start(sink, descriptor, zeroed_grains)?))
        }
        Subformat::StreamOptimized => {
            if descriptor.parent.is_some() {
                return Err(Error::unsupported("streamOptimized with a backing file")
                    .hint("use subformat=monolithicSparse"));
            }
            if zeroed_grains {
                return Err(Error::invalid("streamOptimized has no use for zeroed_grain")
                    .hint("its zeros take no space anyway"));
            }
            Ok(Box::new(stream_target::StreamTarget::start(sink, descriptor)?))
        }
    }
}

fn parent(backing: &Backing) -> Result<NewParent> {
    let no_vmdk = || Error::invalid("backing_file must be a vmdk image");
    if backing.format.as_deref().is_some_and(|format| format != "vmdk") {
        return Err(no_vmdk());
    }
    let cid = backing.content_id.as_deref().ok_or_else(no_vmdk)?;
    let cid = u32::from_str_radix(cid, 16).map_err(|_| no_vmdk())?;
    let hint = backing.name.clone();
    if hint.is_empty() || hint.contains(|c: char| c == '"' || c.is_control()) {
        return Err(Error::invalid(format!("the backing file's name {hint:?} cannot be recorded"))
            .hint("it must have no quotes and no line breaks"));
    }
    Ok(NewParent { cid, hint })
}
