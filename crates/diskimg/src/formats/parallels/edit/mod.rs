//! Writing guest data into an existing image, and changing its size.
//!
//! New clusters are appended to the file.
//!
//! ```text
//!   written                                then
//!   header: in use, no format extension    a crash leaves an image that was not closed
//!   guest data, length of the file         nothing refers to new clusters
//!   sectors of the table                   the new clusters are in use
//!   header: closed
//! ```
//!
//! The features that a format extension may have describe the old data, or are unknown. It is dropped,
//! as the specification demands, unless it has one that must be kept: then the image is not written.

mod clusters;
mod resize;

use super::bundle::Expandable;
use super::layer::Parallels;
use super::write::quantum;
use crate::error::{Error, Result};
use crate::model::flat::Preallocation;
use crate::model::layer::Layer;
use crate::model::mutable::{MutableLayer, ResizeRequest, WriteRequest};
use crate::model::target::{Allocate, Slot, Target, TargetSpec};
use crate::open::OpenContext;
use crate::storage::edit::Storage;
use crate::storage::lock;
use crate::storage::output::Output;
use crate::storage::sink::Sink;
use crate::storage::source::Source;
use clusters::ClusterWriter;
use std::sync::{Arc, Mutex};

/// An image open for modification.
#[derive(Debug)]
struct ParallelsMut {
    storage: Arc<dyn Storage>,
    image: Parallels,
    /// Maximum size of the table in bytes.
    max_table: u64,
}

/// Opens an image for modification.
pub(super) fn open(
    storage: Arc<dyn Storage>,
    context: &OpenContext<'_>,
) -> Result<Box<dyn MutableLayer>> {
    let source: Arc<dyn Source> = storage.clone();
    let image = Parallels::open(source, context)?;
    Ok(Box::new(ParallelsMut { image, storage, max_table: context.limits.table_bytes }))
}

impl ParallelsMut {
    /// Returns what changes the image.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a bundle, and for an image with unknown
    /// features that must be kept; otherwise as [`ClusterWriter::new`].
    fn writer(&self) -> Result<ClusterWriter> {
        let Some(image) = self.image.single() else {
            return Err(Error::unsupported("a bundle cannot be written in place").hint(
                "write to an image of its own, or to the .hds file of a bundle without snapshots",
            ));
        };
        require_writable(image)?;
        ClusterWriter::new(&image.clusters, Arc::clone(&self.storage))
    }
}

impl MutableLayer for ParallelsMut {
    fn resize(&mut self, request: &ResizeRequest<'_>) -> Result<()> {
        if request.preallocation != Preallocation::Off {
            return Err(Error::unsupported("Unsupported preallocation mode for parallels"));
        }
        let mut writer = self.writer()?;
        let resized = writer.resize(request.size, self.max_table);
        if resized.is_err() {
            // What is stored is consistent.
            let _ = writer.close();
        }
        resized
    }

    fn into_target(self: Box<Self>, _: &WriteRequest) -> Result<Option<Box<dyn TargetSpec>>> {
        let writer = self.writer()?;
        let size = self.image.disk_layout().size;
        let quantum = quantum(writer.header.cluster_bytes);
        let sink: Arc<dyn Sink> = self.storage.clone();
        let target = ExistingTarget { sinks: [sink], writer };
        Ok(Some(Box::new(ExistingSpec { size, quantum, target: Mutex::new(Some(target)) })))
    }
}

/// Requires that nothing is lost that the format extension forbids to lose.
pub(super) fn require_writable(image: &Expandable) -> Result<()> {
    let extension = image.extension.as_ref().ok().and_then(Option::as_ref);
    match extension.and_then(|extension| extension.needed()) {
        Some(feature) => Err(Error::unsupported(format!("the unknown feature {feature}"))
            .in_structure(super::extension::STRUCTURE)
            .hint(
                "the image must not be written by programs that do not know it: convert it to a \
                   new image",
            )),
        None => Ok(()),
    }
}

/// An existing image as the target of a conversion, before anything is written.
#[derive(Debug)]
struct ExistingSpec {
    size: u64,
    quantum: u64,
    /// Taken when writing starts.
    target: Mutex<Option<ExistingTarget>>,
}

impl TargetSpec for ExistingSpec {
    fn size(&self) -> u64 {
        self.size
    }

    fn quantum(&self) -> u64 {
        self.quantum
    }

    fn alignment(&self) -> u64 {
        super::SECTOR
    }

    fn start(&self, _: &mut Output) -> Result<Box<dyn Target>> {
        match lock(&self.target).take() {
            Some(target) => {
                let mut target = Box::new(target);
                target.writer.begin()?;
                Ok(target)
            }
            None => Err(Error::invalid("the image is being written already")),
        }
    }
}

/// An image to which guest data is written.
#[derive(Debug)]
struct ExistingTarget {
    sinks: [Arc<dyn Sink>; 1],
    writer: ClusterWriter,
}

impl Drop for ExistingTarget {
    /// Closes an image whose writing failed: nothing refers to data that is not there. It stays in
    /// use if that fails, too.
    fn drop(&mut self) {
        let _ = self.writer.close();
    }
}

impl Target for ExistingTarget {
    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.sinks
    }

    fn place(&mut self, at: u64, unit: Allocate) -> Result<Option<Slot>> {
        match unit {
            Allocate::Data { len } => {
                let (offset, len, is_zeroed) = self.writer.allocate(at, len)?;
                Ok(Some(Slot { file: 0, offset, len, is_zeroed }))
            }
            // There is no backing file.
            Allocate::Zero { len } | Allocate::Backed { len } => {
                self.writer.zero(at..at + len).map(|()| None)
            }
            Allocate::Compressed { .. } => {
                Err(Error::invalid("a Parallels image cannot store compressed units"))
            }
        }
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.writer.store()
    }
}
