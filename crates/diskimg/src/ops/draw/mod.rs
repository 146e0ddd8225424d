//! `Draw`: the summary of a map that a page or a picture shows.
//!
//! ```text
//!   pieces of the map, in guest order ──► totals, fragmentation, partitions    exact
//!                                    └──► parts, places                        merged (coarse.rs)
//! ```

mod coarse;
mod fragmentation;
mod partitions;

use crate::error::{Error, ErrorKind, Result};
use crate::model::extent::Kind;
use crate::model::image::Image;
use crate::ops::map::{Piece, Pieces, start_of};
use crate::ops::progress::{Callback, report};
use crate::report::picture::{Checked, FilePicture, LayerPicture, Picture, Place, State, Totals};
use crate::report::printable::printable;
use crate::storage::output::{Durability, Output};
use coarse::{Parts, Places};
use fragmentation::{Runs, Stored};
use partitions::Occupied;

/// Maximum number of files that are listed. Each layer has the same share of them, but at least one.
const MAX_FILES: usize = 1024;

/// Maximum number of findings, and of warnings, that are listed.
const MAX_FINDINGS: usize = 100;

/// Maximum number of characters of a finding.
const MAX_MESSAGE: usize = 1000;

/// Number of extents after which progress is reported.
const STEP: u64 = 4096;

/// Computes a [`Picture`] of an image: where its bytes are stored, in which layer, and how
/// fragmented it is. No guest data is read, except partition tables.
///
/// Memory is bounded, however fragmented the image is; the time is that of [`map`](crate::map()),
/// for the disk and for each backing file.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let (path, page) = (dir.path().join("disk.img"), dir.path().join("disk.html"));
/// # std::fs::write(&path, [3; 4096]).unwrap();
/// let image = diskimg::Image::open(&path)?;
/// let picture = diskimg::Draw::new(&image).check(true).run()?;
/// println!("{} bytes in {} runs", picture.totals.data, picture.fragmentation.runs);
/// std::fs::write(&page, picture.to_html())?;
/// # assert_eq!((picture.totals.data, picture.fragmentation.runs), (4096, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy)]
pub struct Draw<'a> {
    image: &'a Image,
    check: bool,
    progress: Option<Callback<'a>>,
}

impl std::fmt::Debug for Draw<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Draw").field("image", &self.image).field("check", &self.check).finish()
    }
}

impl<'a> Draw<'a> {
    /// Creates the operation, without a consistency check.
    pub fn new(image: &'a Image) -> Self {
        Self { image, check: false, progress: None }
    }

    /// Also checks the consistency of the image, without its backing files: see [`Image::check`].
    /// If the check cannot be completed, that is a warning in the picture.
    pub fn check(mut self, check: bool) -> Self {
        self.check = check;
        self
    }

    /// Sets a progress callback, which can cancel the operation. Backing files count as often as
    /// their tables are read. The consistency check, which comes first, does not count.
    pub fn progress(mut self, callback: Callback<'a>) -> Self {
        self.progress = Some(callback);
        self
    }

    /// Computes the picture.
    ///
    /// # Errors
    /// Returns the errors of [`Image::extents`] and its iterator,
    /// [`Io`](crate::ErrorKind::Io) if the allocated size of a file cannot be determined, and
    /// [`Cancelled`](crate::ErrorKind::Cancelled) if the progress callback ends the operation.
    pub fn run(&self) -> Result<Picture> {
        let image = self.image;
        let (check, mut warnings) = self.checked();
        let files = HostAxis::new(image);
        let mut survey = Survey::new(image, &files, &mut warnings);
        let size = image.size();
        let total = size.saturating_mul(image.layers().len() as u64);
        let mut done = 0;
        self.each_piece(image, (done, total), |piece| survey.add(piece))?;
        done = size;
        let mut layers = survey.layers(image)?;
        for (depth, layer) in layers.iter_mut().enumerate().skip(1) {
            match self.own(depth, (done, total)) {
                Ok(own) => layer.own = Some(own),
                Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                // What layers above hide may be damaged.
                Err(error) => warnings.push(format!("the map of a backing file: {error}")),
            }
            done = done.saturating_add(size);
        }
        report(self.progress, total, total)?;
        warnings.extend(image.warnings().take(MAX_FINDINGS));
        let warnings = warnings.iter().map(|warning| shortened(&printable(warning))).collect();
        Ok(survey.finish(image, layers, check, warnings))
    }

    /// Writes the page of a picture of this image to `output`, which is committed when it is
    /// complete.
    ///
    /// # Errors
    /// Returns [`Refused`](crate::ErrorKind::Refused) if the output is one of the image's files, and
    /// [`Io`](crate::ErrorKind::Io) if writing fails.
    pub fn write_html(
        &self,
        picture: &Picture,
        mut output: Output,
        durability: Durability,
    ) -> Result<()> {
        let existing = output.existing();
        if self.image.identities().any(|own| existing.is_some_and(|id| own.shares_data_with(id))) {
            return Err(Error::refused("the page would replace a file of the image")
                .hint("write it to another name")
                .in_file(output.name()));
        }
        output.protect(self.image.identities(), "it is a file of the image");
        let name = output.name();
        let page = picture.to_html();
        let written = output.sink().write_all_at(page.as_bytes(), 0);
        written.map_err(|e| {
            Error::io("cannot write the page", e).in_file(&name).with_loss_of(&output)
        })?;
        output.commit(durability).map_err(|e| Error::output("cannot write the page", e))
    }

    /// Returns the result of the check, if it was requested, and a warning if it failed.
    fn checked(&self) -> (Option<Checked>, Vec<String>) {
        if !self.check {
            return (None, Vec::new());
        }
        let mut findings = Vec::new();
        let result = self.image.check(&mut |mut finding| {
            if findings.len() < MAX_FINDINGS {
                finding.message = shortened(&finding.message);
                findings.push(finding);
            }
        });
        match result {
            Ok(report) => (report.map(|report| Checked { report, findings }), Vec::new()),
            Err(error) => (None, vec![format!("the check could not be completed: {error}")]),
        }
    }

    /// Returns what the layer at `depth` has allocated.
    fn own(&self, depth: usize, progress: (u64, u64)) -> Result<Totals> {
        let layer = self.image.only(depth);
        let mut totals = Totals::default();
        self.each_piece(&layer, progress, |piece| totals.add(state(piece), piece.extent.len()))?;
        Ok(totals)
    }

    /// Calls `add` for each piece of a disk, and reports progress from `done` on.
    fn each_piece(
        &self,
        image: &Image,
        (done, total): (u64, u64),
        mut add: impl FnMut(&Piece),
    ) -> Result<()> {
        let mut count = 0;
        for piece in Pieces::new(image, 0..image.size()) {
            let piece = piece?;
            add(&piece);
            count += 1;
            if count % STEP == 0 {
                let done = done.saturating_add(piece.extent.guest.end).min(total);
                report(self.progress, done, total)?;
            }
        }
        Ok(())
    }
}

/// Returns the state of a piece. A hole of a preallocated image is zeros.
fn state(piece: &Piece) -> State {
    match piece.extent.kind {
        Kind::Data(_) if piece.hole => State::Zero,
        Kind::Data(_) => State::Data,
        Kind::Encoded(_) => State::Compressed,
        Kind::Zero(_) => State::Zero,
        Kind::Unallocated => State::Unallocated,
    }
}

/// Cuts a message that is very long.
fn shortened(message: &str) -> String {
    match message.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

/// The files of all layers, one after the other.
struct HostAxis {
    /// For each layer, the position of each file.
    positions: Vec<Vec<u64>>,
    end: u64,
}

impl HostAxis {
    fn new(image: &Image) -> Self {
        let mut end = 0u64;
        let positions = image.layers().map(|layer| {
            let files = layer.files().iter();
            let position = |len: u64| {
                let position = end;
                end = end.saturating_add(len);
                position
            };
            files.map(|file| file.len()).map(position).collect()
        });
        Self { positions: positions.collect(), end }
    }

    /// Describes the files of the layer at `depth`.
    fn files(&self, image: &Image, depth: usize) -> Vec<FilePicture> {
        let files = image.layer(depth).files();
        let positions = &self.positions[depth];
        let max = (MAX_FILES / self.positions.len()).max(1);
        let mut described: Vec<_> = files
            .iter()
            .zip(positions)
            .take(max)
            .map(|(file, &position)| FilePicture {
                filename: file.path().map_or_else(
                    || image.name(depth).to_owned(),
                    |path| path.display().to_string(),
                ),
                position,
                length: file.len(),
                start: start_of(&**file),
                count: 1,
            })
            .collect();
        if let (Some(last), true) = (described.last_mut(), files.len() > max) {
            let rest = files[max..].iter().map(|file| file.len());
            last.length = rest.fold(last.length, u64::saturating_add);
            last.count = files.len() - max + 1;
        }
        described
    }
}

/// What the pass over the disk collects.
struct Survey<'f> {
    files: &'f HostAxis,
    totals: Totals,
    visible: Vec<Totals>,
    /// Runs in all layers, and in each.
    runs: Runs,
    layer_runs: Vec<Runs>,
    parts: Parts,
    places: Places,
    partitions: Option<Occupied>,
}

impl<'f> Survey<'f> {
    fn new(image: &Image, files: &'f HostAxis, warnings: &mut Vec<String>) -> Self {
        let layers = image.layers().len();
        let partitions = Occupied::read(image).unwrap_or_else(|error| {
            warnings.push(format!("the partition table cannot be read: {error}"));
            None
        });
        Self {
            files,
            totals: Totals::default(),
            visible: vec![Totals::default(); layers],
            runs: Runs::default(),
            layer_runs: vec![Runs::default(); layers],
            parts: Parts::new(image.size()),
            places: Places::new(image.size(), files.end),
            partitions,
        }
    }

    fn add(&mut self, piece: &Piece) {
        let extent = &piece.extent;
        let (state, depth) = (state(piece), extent.depth);
        self.totals.add(state, extent.len());
        self.visible[depth].add(state, extent.len());
        self.parts.push(extent.guest.clone(), depth, state);
        if let Some(partitions) = &mut self.partitions {
            partitions.add(&extent.guest, state);
        }
        let (host, host_length) = match &extent.kind {
            Kind::Data(host) => (*host, extent.len()),
            Kind::Zero(Some(host)) => (*host, extent.len()),
            Kind::Encoded(encoded) => (encoded.host, encoded.stored.into()),
            Kind::Zero(None) | Kind::Unallocated => return,
        };
        if matches!(state, State::Data | State::Compressed) {
            let stored = Stored { piece: extent, host, length: host_length };
            self.runs.add(&stored);
            self.layer_runs[depth].add(&stored);
        }
        let position = self.files.positions[depth].get(host.file).copied().unwrap_or(0);
        self.places.push(Place {
            start: extent.guest.start,
            length: extent.len(),
            position: position.saturating_add(host.offset),
            host_length,
            depth,
            state,
            bytes: extent.len(),
        });
    }

    /// Describes the layers.
    fn layers(&mut self, image: &Image) -> Result<Vec<LayerPicture>> {
        let runs = std::mem::take(&mut self.layer_runs);
        let layers = image.layers().zip(runs).enumerate().map(|(depth, (layer, runs))| {
            let visible = self.visible[depth];
            let layout = layer.disk_layout();
            let own = (depth == 0).then(|| {
                let stored = visible.stored().saturating_add(visible.zero);
                Totals { unallocated: layout.size.saturating_sub(stored), ..visible }
            });
            Ok(LayerPicture {
                filename: image.name(depth).to_owned(),
                format: layer.format().name().to_owned(),
                virtual_size: layout.size,
                cluster_size: layout.cluster_size,
                actual_size: image.info(depth)?.actual_size,
                visible,
                own,
                fragmentation: runs.finish(visible.stored(), layout.cluster_size),
                files: self.files.files(image, depth),
            })
        });
        layers.collect()
    }

    fn finish(
        self,
        image: &Image,
        layers: Vec<LayerPicture>,
        check: Option<Checked>,
        warnings: Vec<String>,
    ) -> Picture {
        let units = layers.iter().map(|layer| layer.fragmentation.units);
        let mut fragmentation = self.runs.finish(0, 1);
        fragmentation.units = units.fold(0, u64::saturating_add);
        let (parts, part_size) = self.parts.finish();
        let (places, place_size) = self.places.finish();
        Picture {
            filename: image.name(0).to_owned(),
            format: image.format().name().to_owned(),
            virtual_size: image.size(),
            totals: self.totals,
            fragmentation,
            layers,
            parts,
            part_size,
            places,
            place_size,
            partition_table: self.partitions.map(Occupied::finish),
            check,
            warnings,
        }
    }
}
