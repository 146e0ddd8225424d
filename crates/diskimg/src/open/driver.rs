//! The table of formats: the one place outside `formats/` that names their modules.
//!
//! It refers to `formats/`, and `formats/` refers to it: the only dependency between the layers
//! that points upwards.

use crate::error::Result;
use crate::formats::inspect::Inspect;
use crate::formats::{iso, ova, qcow2, raw, vmdk};
use crate::model::format::Format;
use crate::model::image::Image;
use crate::model::layer::Layer;
use crate::model::options::OptionSpec;
use crate::model::target::{CreateRequest, Measure, MeasureRequest, Target};
use crate::open::OpenContext;
use crate::open::probe::ProbeBuffer;
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::Arc;

/// A format's own `open`.
type Open = fn(Arc<dyn Source>, &OpenContext<'_>) -> Result<Arc<dyn Layer>>;

/// A format's own `create`, for several disks.
type CreateDisks = fn(CreateRequest<'_>, &[Range<u64>]) -> Result<Box<dyn Target>>;

/// What the table holds of one format. A new format is a folder under
/// `formats/`, a variant of [`Format`] and a row of [`Format::driver`].
pub(crate) struct Driver {
    /// Whether these bytes look like this format. Raw never does: it is what
    /// nothing else matched.
    pub(crate) probe: fn(&ProbeBuffer<'_>) -> bool,
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

impl Format {
    /// The format's row of the table.
    pub(crate) fn driver(self) -> &'static Driver {
        match self {
            Self::Raw => &raw::DRIVER,
            Self::Qcow2 => &qcow2::DRIVER,
            Self::Vmdk => &vmdk::DRIVER,
            Self::Ova => &ova::DRIVER,
            Self::Iso => &iso::DRIVER,
        }
    }

    /// The options that [`Create`](crate::Create) and [`Convert`](crate::Convert) take for a new
    /// image of this format.
    pub fn options(self) -> &'static [OptionSpec] {
        self.driver().options
    }
}
