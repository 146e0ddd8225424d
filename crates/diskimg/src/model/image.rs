//! An image: a layer and all that it builds on.

use crate::error::{Error, Result};
use crate::model::extent::{ChainExtent, Extent, HostOffset, Kind, push_chain};
use crate::model::fetch::Fetcher;
use crate::model::format::Format;
use crate::model::layer::{DiskLayout, Layer, ParentReference};
use crate::open::OpenOptions;
use crate::open::external_files::{ExternalFiles, Resolver};
use crate::report::check::{CheckReport, Finding};
use crate::report::info::{Child, ChildFile, FormatSpecific, Info};
use crate::report::printable::printable;
use crate::storage::lock;
use crate::storage::source::{HostFileId, Source, segments};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Guest bytes asked about at a time by whoever walks a disk: the answer stays
/// small, and a sparse disk of any size is never mapped as a whole.
pub(crate) const WINDOW: u64 = 128 << 20;

/// The widest such window, where nothing is.
const MAX_WINDOW: u64 = 256 << 40;

/// Stored runs at least this long are asked for holes of their file.
const HOLE_WORTH_ASKING: u64 = 64 << 10;

/// QEMU's unit of length.
const SECTOR: u64 = 512;

/// How many guest bytes [`Image::read_at`] plans at a time.
const READ_WINDOW: u64 = 1 << 20;

/// A disk image with its backing chain: the guest's bytes, wherever they are.
///
/// Shared freely between threads; every method takes `&self`.
#[derive(Debug)]
pub struct Image {
    links: Vec<Link>,
    /// Fetchers waiting for the next `read_at`.
    fetchers: Mutex<Vec<Fetcher>>,
}

/// One layer of the chain and the name it was opened by.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) layer: Arc<dyn Layer>,
    pub(crate) name: String,
}

impl Image {
    /// Opens an image and everything it builds on, with the defaults of
    /// [`OpenOptions`].
    ///
    /// # Errors
    /// As [`OpenOptions::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        OpenOptions::new().open(path)
    }

    /// `links` holds at least one layer.
    pub(crate) fn from_links(links: Vec<Link>) -> Self {
        debug_assert!(!links.is_empty());
        Self { links, fetchers: Mutex::default() }
    }

    /// The same over another image, which stands below all layers of this one.
    pub(crate) fn over(mut self, below: &Self) -> Self {
        self.links.extend(below.links.iter().cloned());
        self
    }

    /// Format of the top layer.
    pub fn format(&self) -> Format {
        self.top().format()
    }

    /// Guest bytes.
    pub fn size(&self) -> u64 {
        self.disk_layout().size
    }

    /// Size and unit of the top layer.
    pub fn disk_layout(&self) -> DiskLayout {
        self.top().disk_layout()
    }

    /// The layers, the image itself first.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = &Arc<dyn Layer>> {
        self.links.iter().map(|link| &link.layer)
    }

    /// The name that the layer at `depth` was opened by.
    ///
    /// # Panics
    /// If the chain is not that deep.
    pub fn name(&self, depth: usize) -> &str {
        &self.links[depth].name
    }

    fn top(&self) -> &dyn Layer {
        &*self.links[0].layer
    }

    pub(crate) fn file(&self, depth: usize, file: usize) -> &dyn Source {
        &*self.links[depth].layer.files()[file]
    }

    /// Puts the layer's name on an error.
    pub(crate) fn in_layer(&self, error: Error, depth: usize) -> Error {
        error.in_file(&self.links[depth].name)
    }

    /// The identities of all files that the chain reads.
    pub(crate) fn identities(&self) -> impl Iterator<Item = HostFileId> {
        self.layers().flat_map(|layer| layer.files()).filter_map(|file| file.identity())
    }

    /// Extents of the whole chain that cover `range` exactly, in order, none
    /// empty, adjacent ones merged.
    ///
    /// Ask for bounded ranges: the answer is as long as the range is fragmented.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the range leaves the disk;
    /// otherwise as [`Layer::map`].
    pub fn extents(&self, range: Range<u64>) -> Result<Vec<ChainExtent>> {
        self.require_inside(&range)?;
        let mut out = Vec::new();
        self.resolve(0, range, &mut out)?;
        Ok(out)
    }

    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the range leaves the disk.
    pub(crate) fn require_inside(&self, range: &Range<u64>) -> Result<()> {
        if range.start > range.end || range.end > self.size() {
            return Err(Error::invalid(format!(
                "range {}..{} leaves the disk, which ends at {}",
                range.start,
                range.end,
                self.size()
            )));
        }
        Ok(())
    }

    /// Where the next window ends for who walks the disk up to `end` in windows of `step` bytes:
    /// farther off, in whole steps, where no layer has anything.
    pub(crate) fn next_window(&self, start: u64, end: u64, step: u64) -> u64 {
        let usual = start.saturating_add(step);
        let most = end.min(start.saturating_add(MAX_WINDOW));
        let layers = self.layers().filter(|layer| layer.disk_layout().size > start);
        let quiet = layers.fold(most, |most, layer| {
            let most = most.min(layer.disk_layout().size);
            if most <= usual { most } else { layer.next_allocated_hint(start..most) }
        });
        let steps = quiet.saturating_sub(start) / step;
        usual.max(start.saturating_add(steps.saturating_mul(step))).min(end)
    }

    /// As [`extents`](Self::extents), for who wants to know of zeros: stored
    /// runs are split at the holes of their files. An image preallocated as a
    /// whole is one long run of mostly nothing.
    ///
    /// # Errors
    /// As [`extents`](Self::extents).
    pub(crate) fn extents_and_holes(&self, range: Range<u64>) -> Result<Vec<ChainExtent>> {
        let extents = self.extents(range)?;
        let mut out = Vec::with_capacity(extents.len());
        for extent in extents {
            match extent.kind {
                Kind::Data(place) if extent.len() >= HOLE_WORTH_ASKING => {
                    let file = self.file(extent.depth, place.file);
                    let stored = place.offset..place.offset + extent.len();
                    let at = |offset| extent.guest.start + (offset - place.offset);
                    for (stretch, hole) in segments(file, stored) {
                        let part = extent.clip(&(at(stretch.start)..at(stretch.end)));
                        let place = HostOffset { offset: stretch.start, ..place };
                        let kind = if hole { Kind::Zero(Some(place)) } else { part.kind };
                        out.push(ChainExtent { kind, ..part });
                    }
                }
                _ => out.push(extent),
            }
        }
        Ok(out)
    }

    /// Appends what the chain from `depth` down says about `range`.
    fn resolve(&self, depth: usize, range: Range<u64>, out: &mut Vec<ChainExtent>) -> Result<()> {
        let layer = &self.links[depth].layer;
        let inside = range.start..range.end.min(layer.disk_layout().size.max(range.start));
        let mut extents: Vec<Extent> = Vec::new();
        if !inside.is_empty() {
            layer.map(inside.clone(), &mut extents).map_err(|e| self.in_layer(e, depth))?;
        }
        for Extent { guest, kind } in extents {
            if kind == Kind::Unallocated && depth + 1 < self.links.len() {
                self.resolve(depth + 1, guest, out)?;
            } else {
                push_chain(out, ChainExtent { guest, depth, kind });
            }
        }
        // A backing file shorter than the image above it says nothing behind
        // its end: there the image above is silent, and that is the last word.
        let beyond = inside.end..range.end;
        push_chain(
            out,
            ChainExtent { guest: beyond, depth: depth.saturating_sub(1), kind: Kind::Unallocated },
        );
        Ok(())
    }

    /// Fills `buf` with guest bytes from `offset`.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the range leaves the disk;
    /// otherwise as [`Layer::map`] and [`Fetcher::fetch`].
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|&end| end <= self.size());
        let Some(end) = end else {
            return Err(Error::invalid(format!(
                "{} bytes at {offset} leave the disk, which ends at {}",
                buf.len(),
                self.size()
            )));
        };
        let mut fetcher = lock(&self.fetchers).pop().unwrap_or_default();
        let mut window = offset;
        while window < end {
            let next = end.min(window + READ_WINDOW);
            for extent in self.extents(window..next)? {
                let at = (extent.guest.start - offset) as usize;
                let part = &mut buf[at..at + extent.len() as usize];
                fetcher.fetch(self, &extent, part)?;
            }
            window = next;
        }
        lock(&self.fetchers).push(fetcher);
        Ok(())
    }

    /// The guest's bytes as a stream with a position.
    pub fn reader(&self) -> Reader<'_> {
        Reader { image: self, position: 0 }
    }

    /// What was found damaged so far, in any layer, and is made up for: an
    /// error was avoided, but the user should know. Each names its file.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.links.iter().flat_map(|Link { layer, name }| {
            let line = move |warning| printable(&format!("{name}: {warning}")).into_owned();
            layer.warnings().into_iter().map(line)
        })
    }

    /// What `info` shows of the layer at `depth`.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the system does not tell a file's size.
    ///
    /// # Panics
    /// If the chain is not that deep.
    pub fn info(&self, depth: usize) -> Result<Info> {
        let Link { layer, name } = &self.links[depth];
        let details = layer.details();
        let files = layer.files();
        let mut actual_size = None;
        for file in files {
            if let Some(bytes) = self.allocated_bytes(depth, &**file)? {
                *actual_size.get_or_insert(0) += bytes;
            }
        }
        let children = details
            .children
            .into_iter()
            .map(|(role, index)| {
                Ok(Child { name: role, info: self.child_file(depth, &*files[index])? })
            })
            .collect::<Result<_>>()?;
        let parent = layer.parent();
        let full_name = |parent: &ParentReference| {
            let resolver = Resolver::new(files[0].path(), ExternalFiles::Any);
            let path = match parent.locator.path() {
                Some(path) => Ok(path.to_owned()),
                None => resolver.resolve("backing file", &parent.name),
            };
            path.map_or_else(|_| parent.name.clone(), |p| p.display().to_string())
        };
        Ok(Info {
            children,
            snapshots: details.snapshots,
            backing_filename: parent.map(|p| p.name.clone()),
            full_backing_filename: parent.map(full_name),
            backing_filename_format: parent.and_then(|p| p.format.clone()),
            virtual_size: layer.disk_layout().size,
            filename: name.clone(),
            cluster_size: details.cluster_size,
            format: layer.format().name().to_owned(),
            actual_size,
            encrypted: details.encrypted,
            compressed: details.compressed,
            format_specific: (!details.specific.is_empty()).then(|| FormatSpecific {
                kind: layer.format().name().to_owned(),
                data: details.specific,
            }),
            dirty_flag: details.dirty,
            notes: details.notes.iter().map(|note| printable(note).into_owned()).collect(),
        })
    }

    fn allocated_bytes(&self, depth: usize, file: &dyn Source) -> Result<Option<u64>> {
        file.allocated_bytes()
            .map_err(|e| self.in_layer(Error::io("cannot tell the space it takes", e), depth))
    }

    /// What `info` shows of a file of the layer at `depth`.
    fn child_file(&self, depth: usize, file: &dyn Source) -> Result<ChildFile> {
        let name = || self.name(depth).to_owned();
        Ok(ChildFile {
            children: Vec::new(),
            virtual_size: file.len().next_multiple_of(SECTOR),
            filename: file.path().map_or_else(name, |p| p.display().to_string()),
            format: if file.is_device() { "host_device" } else { "file" },
            actual_size: self.allocated_bytes(depth, file)?,
            format_specific: FormatSpecific { kind: "file".into(), data: Vec::new() },
            dirty_flag: false,
        })
    }

    /// Verifies the top layer's own consistency; its backing files are not
    /// looked at. `None` for a format that has nothing to check.
    ///
    /// # Errors
    /// As [`Layer::check`].
    pub fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        // What it quotes of the image is the author's of that.
        let mut line = |finding: Finding| {
            let message = printable(&finding.message).into_owned();
            report(Finding { message, ..finding });
        };
        self.top().check(&mut line).map_err(|e| self.in_layer(e, 0))
    }
}

/// A [`Read`](io::Read) + [`Seek`](io::Seek) face of an [`Image`].
#[derive(Debug)]
pub struct Reader<'a> {
    image: &'a Image,
    position: u64,
}

impl io::Read for Reader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.image.size().saturating_sub(self.position);
        let n = left.min(buf.len() as u64) as usize;
        self.image.read_at(&mut buf[..n], self.position).map_err(io::Error::other)?;
        self.position += n as u64;
        Ok(n)
    }
}

impl io::Seek for Reader<'_> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let position = match to {
            io::SeekFrom::Start(n) => Some(n),
            io::SeekFrom::End(n) => self.image.size().checked_add_signed(n),
            io::SeekFrom::Current(n) => self.position.checked_add_signed(n),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
