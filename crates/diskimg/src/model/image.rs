//! An image: a layer and its backing chain.

use crate::error::{Error, Result};
use crate::model::bitmap::{self, DirtyBitmap};
use crate::model::extent::{ChainExtent, Extent, HostOffset, Kind, push_chain};
use crate::model::fetch::Fetcher;
use crate::model::format::Format;
use crate::model::layer::{DiskLayout, Layer};
use crate::open::limits::Limits;
use crate::report::check::{CheckReport, Finding};
use crate::report::info;
use crate::report::printable::printable;
use crate::storage::lock;
use crate::storage::source::{HostFileId, IoHints, Source, segments};
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Default number of guest bytes to map at a time when iterating over a disk. Bounds the number of
/// extents held in memory.
pub(crate) const WINDOW: u64 = 128 << 20;

/// Largest window, used where no layer has anything allocated.
const MAX_WINDOW: u64 = 256 << 40;

/// Minimum length in bytes of a data extent for which the host file is searched for holes.
const MIN_HOLE_SEARCH: u64 = 64 << 10;

/// Number of guest bytes that [`Image::read_at`] maps at a time.
const READ_WINDOW: u64 = 1 << 20;

/// A disk image with its backing chain.
///
/// Can be shared between threads: every method takes `&self`. A clone refers to the same open files
/// and the same tables in memory.
#[derive(Debug, Clone)]
pub struct Image {
    links: Arc<[Link]>,
    /// Idle fetchers, reused by `read_at`.
    fetchers: Arc<Mutex<Vec<Fetcher>>>,
}

/// One layer of the chain and the file name it was opened with.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) layer: Arc<dyn Layer>,
    pub(crate) name: String,
    /// False if a URL, or an image that was opened by one, contains it.
    pub(crate) is_local: bool,
    /// How the file is compressed that contains the image.
    pub(crate) compression: Option<&'static str>,
    /// The limits it was opened with.
    pub(crate) limits: Arc<Limits>,
}

impl Image {
    /// Creates an image from its layers, of which there must be at least one.
    pub(crate) fn from_links(links: Vec<Link>) -> Self {
        debug_assert!(!links.is_empty());
        Self { links: links.into(), fetchers: Arc::default() }
    }

    /// Returns the image whose chain is that of this image, followed by that of `backing`.
    pub(crate) fn over(&self, backing: &Self) -> Self {
        Self::from_links(self.links.iter().chain(&*backing.links).cloned().collect())
    }

    /// Returns false if a layer was opened by a URL.
    pub(crate) fn is_local(&self) -> bool {
        self.links.iter().all(|link| link.is_local)
    }

    /// Returns false if the layer at `depth` was opened by a URL.
    pub(crate) fn is_local_at(&self, depth: usize) -> bool {
        self.links[depth].is_local
    }

    /// Returns how the file is compressed that contains the layer at `depth`.
    pub(crate) fn compression_at(&self, depth: usize) -> Option<&'static str> {
        self.links[depth].compression
    }

    /// Returns the backing chain, if there is one.
    pub(crate) fn backing(&self) -> Option<Self> {
        let links = self.links.get(1..).filter(|links| !links.is_empty())?;
        Some(Self::from_links(links.to_vec()))
    }

    /// Returns the image whose chain is the first `count` layers, at least one.
    pub(crate) fn top_layers(&self, count: usize) -> Self {
        Self::from_links(self.links[..count].to_vec())
    }

    /// Returns the image whose chain begins with the layer at `depth`.
    pub(crate) fn layers_from(&self, depth: usize) -> Self {
        Self::from_links(self.links[depth..].to_vec())
    }

    /// Returns the image whose chain is the layer at `depth` alone.
    pub(crate) fn only(&self, depth: usize) -> Self {
        Self::from_links(vec![self.links[depth].clone()])
    }

    /// Returns the limits that the layer at `depth` was opened with.
    ///
    /// # Panics
    /// Panics if the chain has no layer at `depth`.
    pub fn limits(&self, depth: usize) -> &Limits {
        &self.links[depth].limits
    }

    /// Returns the format of the top layer.
    pub fn format(&self) -> Format {
        self.top().format()
    }

    /// Returns the virtual disk size in bytes.
    pub fn size(&self) -> u64 {
        self.disk_layout().size
    }

    /// Returns the virtual disk size and cluster size of the top layer.
    pub fn disk_layout(&self) -> DiskLayout {
        self.top().disk_layout()
    }

    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if a file tells only where something is, not its
    /// bytes ([`Source::has_data`]).
    pub(crate) fn require_data(&self) -> Result<()> {
        match self.layers().flat_map(|layer| layer.files()).all(|file| file.has_data()) {
            true => Ok(()),
            false => {
                let message = "it shows which ranges of a disk are dirty, not their data";
                Err(Error::invalid(message).in_file(self.name(0)))
            }
        }
    }

    /// Returns the layers of the chain, the image itself first.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = &Arc<dyn Layer>> {
        self.links.iter().map(|link| &link.layer)
    }

    pub(crate) fn layer(&self, depth: usize) -> &dyn Layer {
        &*self.links[depth].layer
    }

    /// Returns the file name that the layer at `depth` was opened with.
    ///
    /// # Panics
    /// Panics if the chain has no layer at `depth`.
    pub fn name(&self, depth: usize) -> &str {
        &self.links[depth].name
    }

    fn top(&self) -> &dyn Layer {
        &*self.links[0].layer
    }

    pub(crate) fn file(&self, depth: usize, file: usize) -> &dyn Source {
        &*self.links[depth].layer.files()[file]
    }

    /// Adds the file name of the layer at `depth` to an error.
    pub(crate) fn in_layer(&self, error: Error, depth: usize) -> Error {
        error.in_file(&self.links[depth].name)
    }

    /// Returns the identities of all host files of the chain.
    pub(crate) fn identities(&self) -> impl Iterator<Item = HostFileId> {
        self.layers().flat_map(|layer| layer.identities())
    }

    /// Returns true if one of its host files has bytes of one of `others`.
    pub(crate) fn shares_data_with(&self, others: impl Iterator<Item = HostFileId>) -> bool {
        let others: Vec<_> = others.collect();
        self.identities().any(|own| others.iter().any(|other| own.shares_data_with(*other)))
    }

    /// Returns how the files of all layers are read efficiently.
    pub(crate) fn io(&self) -> IoHints {
        let hints = self.layers().flat_map(|layer| layer.files()).map(|file| file.io());
        hints.reduce(IoHints::combine).unwrap_or_default()
    }

    /// Asks the files' caches to load the tables that map `range`.
    pub(crate) fn prefetch_tables(&self, range: Range<u64>) {
        for layer in self.layers() {
            let size = layer.disk_layout().size;
            let inside = range.start.min(size)..range.end.min(size);
            if !inside.is_empty() {
                layer.prefetch_tables(inside);
            }
        }
    }

    /// Returns the extents of a range that is mapped at once. Their number depends on the
    /// fragmentation of the image, so the range must be short or one of
    /// [`next_window`](Self::next_window). An empty range has no extents, even beyond the end of the
    /// disk: where two disks are read side by side, that is what a window has of the shorter one.
    ///
    /// # Errors
    /// As [`extents`](Self::extents) and its iterator.
    pub(crate) fn extents_in(&self, range: Range<u64>) -> Result<Vec<ChainExtent>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        self.require_inside(&range)?;
        let mut out = Vec::new();
        self.resolve(0, range, &mut out)?;
        Ok(out)
    }

    /// Checks that `range` is within the disk.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if it is not.
    pub(crate) fn require_inside(&self, range: &Range<u64>) -> Result<()> {
        if range.start > range.end || range.end > self.size() {
            return Err(Error::invalid(format!(
                "range {}..{} is not within the disk of {} bytes",
                range.start,
                range.end,
                self.size()
            )));
        }
        Ok(())
    }

    /// Returns the end of the window that starts at `start`, for iterating over the disk up to
    /// `end` in windows of `step` bytes. Where no layer has anything allocated, the window is
    /// extended by whole steps.
    pub(crate) fn next_window(&self, start: u64, end: u64, step: u64) -> u64 {
        let default_end = start.saturating_add(step);
        let max_end = end.min(start.saturating_add(MAX_WINDOW));
        let layers = self.layers().filter(|layer| layer.disk_layout().size > start);
        let unallocated_end = layers.fold(max_end, |end, layer| {
            let end = end.min(layer.disk_layout().size);
            if end <= default_end { end } else { layer.next_allocated_hint(start..end) }
        });
        let steps = unallocated_end.saturating_sub(start) / step;
        default_end.max(start.saturating_add(steps.saturating_mul(step))).min(end)
    }

    /// Like [`extents_in`](Self::extents_in), but splits data extents at the holes of their host
    /// files and returns the holes as zeros. In a preallocated image most of a data extent may be a
    /// hole.
    ///
    /// # Errors
    /// See [`extents_in`](Self::extents_in).
    pub(crate) fn extents_and_holes(&self, range: Range<u64>) -> Result<Vec<ChainExtent>> {
        let extents = self.extents_in(range)?;
        let mut out = Vec::with_capacity(extents.len());
        for extent in extents {
            match extent.kind {
                Kind::Data(host) if extent.len() >= MIN_HOLE_SEARCH => {
                    let file = self.file(extent.depth, host.file);
                    let stored = host.offset..host.offset + extent.len();
                    let at = |offset| extent.guest.start + (offset - host.offset);
                    for (segment, hole) in segments(file, stored) {
                        let part = extent.clip(&(at(segment.start)..at(segment.end)));
                        let host = HostOffset { offset: segment.start, ..host };
                        let kind = if hole { Kind::Zero(Some(host)) } else { part.kind };
                        out.push(ChainExtent { kind, ..part });
                    }
                }
                _ => out.push(extent),
            }
        }
        Ok(out)
    }

    /// Appends the extents of `range` in the chain that starts at `depth`.
    fn resolve(&self, depth: usize, range: Range<u64>, out: &mut Vec<ChainExtent>) -> Result<()> {
        let layer = &self.links[depth].layer;
        let inside = range.start..range.end.min(layer.disk_layout().size.max(range.start));
        let mut extents: Vec<Extent> = Vec::new();
        if !inside.is_empty() {
            layer
                .map(inside.clone(), &mut extents)
                .map_err(|e| self.losing_visible(e, depth, &inside))
                .map_err(|e| self.in_layer(e, depth))?;
        }
        for Extent { guest, kind } in extents {
            if kind == Kind::Unallocated && depth + 1 < self.links.len() {
                self.resolve(depth + 1, guest, out)?;
            } else {
                push_chain(out, ChainExtent { guest, depth, kind });
            }
        }
        // Beyond the end of a backing file that is shorter than its overlay, the disk reads as
        // zeros. The extent is attributed to the overlay.
        let beyond = inside.end..range.end;
        push_chain(
            out,
            ChainExtent { guest: beyond, depth: depth.saturating_sub(1), kind: Kind::Unallocated },
        );
        Ok(())
    }

    /// Restricts what is lost by an error of mapping `range` of the layer at `depth` to what the
    /// layers above do not have. They have nothing in `range`.
    fn losing_visible(&self, error: Error, depth: usize, range: &Range<u64>) -> Error {
        let Some(lost) = error.lost() else { return error };
        let end = range.end;
        let visible = self.layers().take(depth).fold(lost.end.max(end), |until, layer| {
            let until = until.min(layer.disk_layout().size);
            if until > end { layer.next_allocated_hint(end..until) } else { end }
        });
        error.losing_within(&(range.start..visible))
    }

    /// Fills `buf` with the guest bytes at `offset`.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if the range exceeds the disk, and the errors
    /// of [`Layer::map`] and [`Fetcher::fetch`].
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|&end| end <= self.size());
        let Some(end) = end else {
            return Err(Error::invalid(format!(
                "{} bytes at offset {offset} exceed the disk of {} bytes",
                buf.len(),
                self.size()
            )));
        };
        let mut fetcher = lock(&self.fetchers).pop().unwrap_or_default();
        let mut window = offset;
        while window < end {
            let next = end.min(window + READ_WINDOW);
            for extent in self.extents_in(window..next)? {
                let at = (extent.guest.start - offset) as usize;
                let part = &mut buf[at..at + extent.len() as usize];
                fetcher.fetch(self, &extent, part)?;
            }
            window = next;
        }
        lock(&self.fetchers).push(fetcher);
        Ok(())
    }

    /// Returns the warnings of all layers so far: damage that reading tolerates but that the user
    /// should know about. Each warning names its file.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.links.iter().flat_map(|Link { layer, name, .. }| {
            let line = move |warning| printable(&format!("{name}: {warning}")).into_owned();
            layer.warnings().into_iter().map(line)
        })
    }

    /// Returns the dirty bitmaps of the top layer in the order in which they are stored, or `None` if
    /// images of its format and version have none.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the list of bitmaps is damaged.
    pub fn dirty_bitmaps(&self) -> Result<Option<Vec<info::Bitmap>>> {
        self.top().dirty_bitmaps().map_err(|e| self.in_layer(e, 0))
    }

    /// Opens the dirty bitmap of the top layer with this name for reading.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid) if there is no such bitmap;
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if it is inconsistent;
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if it is damaged;
    /// - [`Limit`](crate::ErrorKind::Limit) if its table exceeds
    ///   [`Limits::table_bytes`](crate::Limits::table_bytes);
    /// - [`Io`](crate::ErrorKind::Io) if reading fails.
    pub fn dirty_bitmap(&self, name: &str) -> Result<DirtyBitmap> {
        let bitmaps = self.dirty_bitmaps()?.unwrap_or_default();
        let index = bitmaps.iter().position(|bitmap| bitmap.name == name);
        let opened = match index {
            Some(index) => self.top().dirty_bitmap(index),
            None => Err(bitmap::not_found(name)),
        };
        opened.map_err(|e| self.in_layer(e, 0))
    }

    /// Checks the consistency of the top layer's metadata, without its backing files and without
    /// reading guest data: [`Check`](crate::Check) also verifies digests of the contents. Returns
    /// `None` if the format has no consistency check. Calls `report` for the first findings, up to
    /// [`Limits::check_findings`]; the counts include all.
    ///
    /// # Errors
    /// See [`Layer::check`].
    pub fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        self.check_and(report, |counts, _| Ok(counts))
    }

    /// As [`check`](Self::check), followed by `then`, which gets the counts so far and returns those
    /// of all.
    ///
    /// # Errors
    /// As [`check`](Self::check), and the errors of `then`.
    pub(crate) fn check_and(
        &self,
        report: &mut dyn FnMut(Finding),
        then: impl FnOnce(Option<CheckReport>, &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>>,
    ) -> Result<Option<CheckReport>> {
        // Messages may quote text of an untrusted image.
        let (mut left, mut omitted) = (self.limits(0).check_findings, 0);
        let mut escape_and_report = |finding: Finding| {
            if left == 0 {
                omitted += 1;
                return;
            }
            left -= 1;
            let message = printable(&finding.message).into_owned();
            report(Finding { message, ..finding });
        };
        let checked = self.top().check(&mut escape_and_report);
        let checked = checked.map_err(|e| self.in_layer(e, 0));
        let checked = checked.and_then(|counts| then(counts, &mut escape_and_report));
        let counts = checked.map_err(|e| match omitted {
            0 => e,
            _ => e.prepend_hint(format!("{omitted} more findings not listed")),
        })?;
        Ok(counts.map(|counts| CheckReport { omitted_findings: omitted, ..counts }))
    }
}
