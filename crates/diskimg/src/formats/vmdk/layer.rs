//! Reading VMDK: the descriptor's word on what the disk is, the extents' on
//! where its bytes are.

use super::descriptor::{Access, Descriptor, ExtentKind, NO_PARENT, looks_like_one};
use super::header::{Header, MAGIC};
use super::sparse::{SparseExtent, read_header};
use super::{COWD_MAGIC, SECTOR, SESPARSE_MAGIC, check, read};
use crate::host::source::Source;
use crate::vocabulary::check::{CheckReport, Finding};
use crate::vocabulary::error::{Error, Result};
use crate::vocabulary::extent::Extent;
use crate::vocabulary::format::{Format, Head};
use crate::vocabulary::info::{Details, Value};
use crate::vocabulary::layer::{Geometry, Layer, ParentReference};
use crate::vocabulary::open::OpenContext;
use crate::vocabulary::options::Options;
use std::ops::Range;
use std::sync::Arc;

/// `createType`s whose disk is one sparse extent in the descriptor's own file.
/// Older writers leave it empty; the descriptor's extents tell.
const SELF_CONTAINED: [&str; 5] =
    ["monolithicSparse", "streamOptimized", "streamOptimizedWithMarkers", "custom", ""];

/// A VMDK image.
#[derive(Debug)]
pub(crate) struct Vmdk {
    /// Indexed by [`Part::file`].
    files: Vec<Arc<dyn Source>>,
    descriptor: Descriptor,
    /// In guest order, without gaps, at least one.
    parts: Vec<Part>,
    parent: Option<ParentReference>,
    notes: Vec<String>,
}

/// One extent and where it is in the disk.
#[derive(Debug)]
struct Part {
    guest: Range<u64>,
    file: usize,
    layout: Layout,
}

/// How an extent is stored: one variant per layout.
#[derive(Debug)]
enum Layout {
    /// Hosted sparse: plain or compressed grains.
    Sparse(SparseExtent),
}

impl Vmdk {
    pub(super) fn open(source: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        let mut head = vec![0; source.len().min(Head::BYTES as u64) as usize];
        read(&*source, &mut head, 0, "VMDK header")?;
        if head.starts_with(&SESPARSE_MAGIC) {
            return Err(Error::unsupported("an seSparse extent, which is not implemented"));
        }
        if head.starts_with(&COWD_MAGIC) {
            return Err(Error::unsupported("a COWD (vmfsSparse) extent, which is not implemented"));
        }
        if !head.starts_with(&MAGIC) {
            if !looks_like_one(&head) {
                return Err(Error::corrupt(
                    "VMDK header",
                    "neither a sparse extent nor a descriptor",
                )
                .at(0));
            }
            let bytes = source.len().min(context.limits.descriptor_bytes);
            let descriptor = read_descriptor(&*source, 0, bytes)?;
            return Err(elsewhere(&descriptor));
        }
        let header = read_header(&*source)?;
        let descriptor = embedded_descriptor(&*source, &header, context)?;
        if header.capacity == 0 {
            return Err(elsewhere(&descriptor));
        }
        Self::self_contained(source, header, descriptor, context)
    }

    /// A disk that is one sparse extent with its descriptor inside.
    fn self_contained(
        source: Arc<dyn Source>,
        header: Header,
        descriptor: Descriptor,
        context: &OpenContext<'_>,
    ) -> Result<Self> {
        let size = disk_sectors(&descriptor, &header)? * SECTOR;
        let parent = parent_of(&descriptor)?;
        let mut notes = Vec::new();
        if header.unclean {
            notes.push(
                "the last writer did not close it properly: the tables may be incomplete".into(),
            );
        }
        let extent = SparseExtent::open(Arc::clone(&source), header, context.limits)?;
        if extent.replaced() > 0 {
            notes.push(format!(
                "{} entries of the grain directory are damaged; the redundant directory is used \
                 for them",
                extent.replaced()
            ));
        }
        let part = Part { guest: 0..size, file: 0, layout: Layout::Sparse(extent) };
        Ok(Self { files: vec![source], descriptor, parts: vec![part], parent, notes })
    }

    /// `createType` as QEMU tells it: what is compressed is a stream.
    fn create_type(&self) -> &str {
        let Layout::Sparse(extent) = &self.parts[0].layout;
        if extent.header().compressed {
            return "streamOptimized";
        }
        match self.descriptor.create_type.as_str() {
            "" => "monolithicSparse",
            other => other,
        }
    }
}

impl Layer for Vmdk {
    fn format(&self) -> Format {
        Format::Vmdk
    }

    fn geometry(&self) -> Geometry {
        let Layout::Sparse(extent) = &self.parts[0].layout;
        let size = self.parts.last().map_or(0, |part| part.guest.end);
        Geometry { size, unit: extent.header().grain_bytes() }
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        let first = self.parts.partition_point(|part| part.guest.end <= range.start);
        for part in self.parts[first..].iter().take_while(|p| p.guest.start < range.end) {
            let base = part.guest.start;
            let start = range.start.max(base) - base;
            let end = range.end.min(part.guest.end) - base;
            let Layout::Sparse(extent) = &part.layout;
            extent.map(start..end, base, part.file, out)?;
        }
        Ok(())
    }

    fn parent(&self) -> Option<&ParentReference> {
        self.parent.as_ref()
    }

    fn content_id(&self) -> Option<String> {
        Some(content_id_text(self.descriptor.cid))
    }

    fn parent_content_id(&self) -> Option<String> {
        self.parent.as_ref().map(|_| content_id_text(self.descriptor.parent_cid))
    }

    fn details(&self) -> Details {
        let extents = self.parts.iter().map(|part| {
            let Layout::Sparse(extent) = &part.layout;
            let file = self.files[part.file].path();
            let name = file.map(|p| p.display().to_string()).unwrap_or_default();
            let mut facts = Vec::new();
            if extent.header().compressed {
                facts.push(("compressed", Value::from(true)));
            }
            facts.extend([
                ("virtual-size", Value::from(part.guest.end - part.guest.start)),
                ("filename", Value::Text(name)),
                ("cluster-size", Value::from(extent.header().grain_bytes())),
                ("format", Value::from("")),
            ]);
            Value::Map(facts)
        });
        Details {
            cluster_size: Some(self.geometry().unit),
            specific: vec![
                ("cid", Value::from(u64::from(self.descriptor.cid))),
                ("parent-cid", Value::from(u64::from(self.descriptor.parent_cid))),
                ("create-type", Value::from(self.create_type())),
                ("extents", Value::List(extents.collect())),
            ],
            children: vec![("file".into(), 0)],
            notes: self.notes.clone(),
            ..Details::default()
        }
    }

    fn create_options(&self) -> Options {
        let Layout::Sparse(extent) = &self.parts[0].layout;
        let mut options = Options::default();
        let subformat =
            if extent.header().compressed { "streamOptimized" } else { "monolithicSparse" };
        options.set("subformat", subformat);
        for (name, key) in [
            ("adapter_type", "ddb.adapterType"),
            ("hwversion", "ddb.virtualHWVersion"),
            ("toolsversion", "ddb.toolsVersion"),
        ] {
            if let Some(value) = self.descriptor.ddb(key).filter(|v| !v.is_empty()) {
                options.set(name, value);
            }
        }
        if extent.header().zeroed_grains() && !extent.header().compressed {
            options.set("zeroed_grain", "on");
        }
        options
    }

    fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        let mut counts = CheckReport::default();
        for part in &self.parts {
            let Layout::Sparse(extent) = &part.layout;
            check::check(extent, report, &mut counts)?;
        }
        Ok(Some(counts))
    }
}

/// A content ID as parents and children compare it.
pub(super) fn content_id_text(cid: u32) -> String {
    format!("{cid:08x}")
}

fn embedded_descriptor(
    source: &dyn Source,
    header: &Header,
    context: &OpenContext<'_>,
) -> Result<Descriptor> {
    if header.descriptor_offset == 0 {
        return Err(Error::unsupported("an extent without descriptor: a part of a split disk")
            .hint("open the descriptor file that lists it"));
    }
    let (at, len) = (header.descriptor_offset * SECTOR, header.descriptor_sectors * SECTOR);
    let most = context.limits.descriptor_bytes;
    if len > most {
        return Err(Error::limit(format!("a descriptor of {len} bytes; at most {most}"))
            .in_structure("VMDK descriptor")
            .at(at));
    }
    if at.checked_add(len).is_none_or(|end| end > source.len()) {
        return Err(Error::corrupt(
            "VMDK descriptor",
            format!("its {len} bytes leave the file, which ends at {:#x}", source.len()),
        )
        .at(at)
        .hint("the file is probably truncated"));
    }
    read_descriptor(source, at, len)
}

fn read_descriptor(source: &dyn Source, at: u64, len: u64) -> Result<Descriptor> {
    let mut bytes = vec![0; len as usize];
    read(source, &mut bytes, at, "VMDK descriptor")?;
    Descriptor::parse(&bytes).map_err(|e| e.at(at))
}

/// Why a descriptor whose extents are other files is not opened.
fn elsewhere(descriptor: &Descriptor) -> Error {
    Error::unsupported(format!(
        "createType \"{}\" with {} extent lines: the disk is in other files; implemented are \
         monolithicSparse and streamOptimized",
        descriptor.create_type,
        descriptor.extents.len()
    ))
}

/// Sectors of the disk. The descriptor must describe the sparse extent it is
/// in, and nothing else.
fn disk_sectors(descriptor: &Descriptor, header: &Header) -> Result<u64> {
    let create_type = &descriptor.create_type;
    if !SELF_CONTAINED.iter().any(|known| known.eq_ignore_ascii_case(create_type.trim())) {
        return Err(elsewhere(descriptor));
    }
    let [extent] = descriptor.extents.as_slice() else {
        return match descriptor.extents.len() {
            0 => Err(Error::corrupt("VMDK descriptor", "it lists no extent")),
            _ => Err(elsewhere(descriptor)),
        };
    };
    let line = &extent.text;
    if extent.access == Access::None {
        return Err(Error::unsupported(format!("extent line '{line}': nobody may access it")));
    }
    if extent.kind != ExtentKind::Sparse {
        return Err(Error::unsupported(format!(
            "extent line '{line}': only SPARSE is implemented"
        )));
    }
    if extent.offset.is_some_and(|offset| offset != 0) {
        return Err(Error::unsupported(format!(
            "extent line '{line}': a sparse extent at an offset"
        )));
    }
    // The capacity "should be a multiple of the grain size": VirtualBox rounds
    // it up, and gives the disk's size in the extent line.
    let rounded = extent.sectors.next_multiple_of(header.grain_sectors);
    if ![extent.sectors, rounded].contains(&header.capacity) {
        return Err(Error::corrupt(
            "VMDK descriptor",
            format!(
                "extent line '{line}': {} sectors, but {} in the header",
                extent.sectors, header.capacity
            ),
        ));
    }
    Ok(extent.sectors)
}

fn parent_of(descriptor: &Descriptor) -> Result<Option<ParentReference>> {
    let hint = descriptor.parent_hint.as_deref();
    match (descriptor.parent_cid, hint) {
        (NO_PARENT, None) => match descriptor.virtualbox_parent() {
            None => Ok(None),
            Some(uuid) => Err(Error::unsupported(format!(
                "a VirtualBox differencing image whose parent is known by its UUID {uuid} only"
            ))
            .hint("alone it holds only what changed; convert it with VirtualBox's VBoxManage")),
        },
        (NO_PARENT, Some(hint)) => Err(Error::corrupt(
            "VMDK descriptor",
            format!("parentCID says there is no parent, parentFileNameHint says '{hint}'"),
        )),
        (cid, None) => Err(Error::corrupt(
            "VMDK descriptor",
            format!("parentCID is {}, but parentFileNameHint is missing", content_id_text(cid)),
        )),
        (_, Some(hint)) => Ok(Some(ParentReference {
            name: hint.to_owned(),
            format: Some(Format::Vmdk.name().to_owned()),
        })),
    }
}
