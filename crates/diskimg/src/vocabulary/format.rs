//! The table of formats: the one place above floor 2 that names them.

use crate::formats::{iso, ova, qcow2, raw, vmdk};
use crate::host::source::Source;
use crate::vocabulary::error::{Error, Result};
use crate::vocabulary::image::Image;
use crate::vocabulary::inspection::Inspect;
use crate::vocabulary::layer::Layer;
use crate::vocabulary::open::OpenContext;
use crate::vocabulary::options::OptionSpec;
use crate::vocabulary::target::{CreateRequest, Measure, MeasureRequest, Target};
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

pub(crate) use crate::formats::raw::partitions;
pub(crate) use crate::formats::strangers::STRANGERS;

/// A disk image format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Format {
    /// The guest's bytes and nothing else.
    #[default]
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
    /// VMware's virtual disk.
    Vmdk,
    /// A virtual appliance: an OVF package, as one archive (OVA) or as files
    /// beside their descriptor. It holds any number of disks.
    Ova,
    /// An ISO 9660 or UDF file system: its bytes are the guest's. What is in it, [`iso`](crate::iso)
    /// tells.
    Iso,
}

/// A format's own `open`.
type Open = fn(Arc<dyn Source>, &OpenContext<'_>) -> Result<Arc<dyn Layer>>;

/// A format's own `create`, for several disks.
type CreateDisks = fn(CreateRequest<'_>, &[Range<u64>]) -> Result<Box<dyn Target>>;

/// What the table holds of one format. A new format is a folder under
/// `formats/`, a variant of [`Format`] and a row of [`Format::driver`].
pub(crate) struct Driver {
    /// The name that `-f` and `-O` take.
    pub(crate) name: &'static str,
    /// Whether these bytes look like this format. Raw never does: it is what
    /// nothing else matched.
    pub(crate) probe: fn(&Head<'_>) -> bool,
    /// The size of a new image is a multiple of this many bytes.
    pub(crate) sector: u64,
    /// Opens one layer.
    pub(crate) open: Open,
    /// For a format that holds not every disk: sees that it can hold this one.
    pub(crate) require: Option<fn(&Image) -> Result<()>>,
    /// Starts a new image.
    pub(crate) create: fn(CreateRequest<'_>) -> Result<Box<dyn Target>>,
    /// What `-o` takes, `size`, `backing_file` and `backing_fmt` included where they apply.
    pub(crate) options: &'static [OptionSpec],
    /// Predicts the size of a new image, where the format's layout allows it.
    pub(crate) measure: Option<fn(&mut MeasureRequest<'_>) -> Result<Measure>>,
    /// What makes an image of a stranger safe or unsafe to let in.
    pub(crate) inspect: Inspect,
    /// For a format whose files hold several disks: one of them is read at a
    /// time, and several sources of a conversion become a disk each.
    pub(crate) appliance: Option<Appliance>,
}

/// What sets a format apart whose files hold several disks.
pub(crate) struct Appliance {
    /// Starts a new file with a disk for each of the ranges, which are in
    /// ascending order and apart: guest bytes between them are on no disk.
    pub(crate) create: CreateDisks,
    /// Every range starts at a multiple of this many guest bytes: of all that the
    /// engine carries in one go, so that none of it belongs to two disks.
    pub(crate) alignment: u64,
}

/// The beginning of a file, for probing.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    /// At most [`Head::BYTES`] first bytes; fewer in a shorter file.
    pub(crate) bytes: &'a [u8],
    /// The file's name, where it has one: for containers whose first bytes say
    /// only how they are packed.
    pub(crate) path: Option<&'a Path>,
}

impl Head<'_> {
    /// How much of a file the probes see: as far as ISO 9660's first three descriptors.
    pub(crate) const BYTES: usize = 38 << 10;
}

impl Format {
    /// Every format, in the order in which they are probed.
    pub const ALL: &'static [Self] = &[Self::Qcow2, Self::Vmdk, Self::Ova, Self::Iso, Self::Raw];

    pub(crate) fn driver(self) -> &'static Driver {
        match self {
            Self::Raw => &raw::DRIVER,
            Self::Qcow2 => &qcow2::DRIVER,
            Self::Vmdk => &vmdk::DRIVER,
            Self::Ova => &ova::DRIVER,
            Self::Iso => &iso::DRIVER,
        }
    }

    /// The name that `-f` and `-O` take.
    pub fn name(self) -> &'static str {
        self.driver().name
    }

    /// What `-o` takes for a new image of this format.
    pub fn options(self) -> &'static [OptionSpec] {
        self.driver().options
    }

    /// The format of `source` by its first bytes; [`Format::Raw`] if nothing
    /// else fits.
    ///
    /// A guest that owns a raw disk can write any header into it. Name the
    /// format where you know it.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the first bytes cannot be read.
    pub fn probe(source: &dyn Source) -> Result<Self> {
        Self::probe_as(source, source.path(), Self::ALL)
    }

    /// As [`probe`](Self::probe), of bytes that have this name, for one of these formats.
    pub(crate) fn probe_as(
        source: &dyn Source,
        path: Option<&Path>,
        formats: &[Self],
    ) -> Result<Self> {
        let mut bytes = vec![0; source.len().min(Head::BYTES as u64) as usize];
        source
            .read_exact_at(&mut bytes, 0)
            .map_err(|e| Error::io("cannot read its beginning", e))?;
        let head = Head { bytes: &bytes, path };
        let found = formats.iter().find(|format| (format.driver().probe)(&head));
        Ok(found.copied().unwrap_or(Self::Raw))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.iter().copied().find(|f| f.name() == name).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|f| f.name()).collect();
            Error::invalid(format!("Unknown driver '{name}'"))
                .hint(format!("known formats: {}", known.join(", ")))
        })
    }
}
