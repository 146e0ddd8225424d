//! Bounds what a pass over a disk reads by the bytes that are stored.
//!
//! ```text
//!   guest   │ cluster 0 │ cluster 1 │ cluster 2 │ …
//!                └───────────┼───────────┘
//!   file             one stored cluster               valid formats, but a small file
//!                                                     would take hours to read
//! ```
//!
//! In the images that programs write, no two clusters of a disk share stored bytes. What the
//! extents of a pass must take in a file, therefore, cannot exceed its length
//! ([`Limits::data_sharing`]). Compressed data takes at least the length that the image states,
//! without padding, and what its codec needs for the best case; how far data expands has a limit of
//! its own ([`Limits::expansion`]).
//!
//! [`Limits::data_sharing`]: crate::Limits::data_sharing
//! [`Limits::expansion`]: crate::Limits::expansion

use crate::error::{Error, Result};
use crate::model::extent::{ChainExtent, Kind};
use crate::model::image::Image;
use crate::storage::source::stored_in;

/// Guest bytes of a layer that may always be read, however small its files are.
const ALWAYS: u64 = 1 << 30;

/// What the extents of one pass over a disk, in guest order, have referred to so far.
#[derive(Debug)]
pub(crate) struct Budget {
    layers: Vec<Spent>,
}

/// What the extents have referred to in one layer.
#[derive(Debug)]
struct Spent {
    /// For each file: stored bytes at least, and the maximum.
    files: Vec<(u64, u64)>,
    /// Guest bytes, and the maximum.
    guest: (u64, u64),
    /// Start of the compressed unit that was counted last. Windows, and the layers above, may split
    /// a unit.
    unit: Option<u64>,
}

impl Budget {
    /// Creates the budget for a pass over the disk of `image`.
    pub(crate) fn new(image: &Image) -> Self {
        let layers = image.layers().enumerate().map(|(depth, layer)| {
            let limits = image.limits(depth);
            let lens = layer.files().iter().map(|file| file.stored_len());
            let stored = lens.clone().fold(0, u64::saturating_add);
            Spent {
                files: lens.map(|len| (0, len.saturating_mul(limits.data_sharing))).collect(),
                guest: (0, stored.saturating_mul(limits.expansion).max(ALWAYS)),
                unit: None,
            }
        });
        Self { layers: layers.collect() }
    }

    /// Adds the extents that follow those before.
    ///
    /// # Errors
    /// Returns [`Limit`](crate::ErrorKind::Limit) if they refer to more than the files can store,
    /// or expand to more than is allowed.
    pub(crate) fn spend(&mut self, image: &Image, extents: &[ChainExtent]) -> Result<()> {
        extents.iter().try_for_each(|extent| self.spend_one(image, extent))
    }

    fn spend_one(&mut self, image: &Image, extent: &ChainExtent) -> Result<()> {
        let layer = &mut self.layers[extent.depth];
        let (file, stored, guest) = match &extent.kind {
            Kind::Data(host) => {
                let range = host.offset..host.offset.saturating_add(extent.len());
                let file = image.layer(extent.depth).files().get(host.file);
                let stored = file.map_or(extent.len(), |file| stored_in(&**file, range));
                (host.file, stored, stored)
            }
            Kind::Encoded(encoded) if layer.unit == Some(encoded.unit.start) => {
                (encoded.host.file, 0, extent.len())
            }
            Kind::Encoded(encoded) => {
                layer.unit = Some(encoded.unit.start);
                let least = encoded.codec.min_encoded_len(encoded.unit.end - encoded.unit.start);
                (encoded.host.file, least.max(encoded.least_stored.into()), extent.len())
            }
            Kind::Zero(_) | Kind::Unallocated => return Ok(()),
        };
        if let Some((spent, max)) = layer.files.get_mut(file) {
            *spent = spent.saturating_add(stored);
            if *spent > *max {
                return Err(overlap(image, extent, file));
            }
        }
        let (spent, max) = &mut layer.guest;
        *spent = spent.saturating_add(guest);
        if *spent > *max {
            return Err(expansion(image, extent, *spent));
        }
        Ok(())
    }
}

fn overlap(image: &Image, extent: &ChainExtent, file: usize) -> Error {
    let len = image.file(extent.depth, file).stored_len();
    let found = format!(
        "the guest data up to offset {:#x} takes more than the {len} bytes of its file: clusters \
         share stored bytes",
        extent.guest.end
    );
    let max = image.limits(extent.depth).data_sharing;
    image.in_layer(Error::over_limit("data_sharing", found, max), extent.depth)
}

fn expansion(image: &Image, extent: &ChainExtent, guest: u64) -> Error {
    let lens = image.layer(extent.depth).files().iter().map(|file| file.stored_len());
    let len = lens.fold(0, u64::saturating_add);
    let found = format!("{len} stored bytes expand to {guest} guest bytes or more");
    let max = image.limits(extent.depth).expansion;
    image.in_layer(Error::over_limit("expansion", found, max), extent.depth)
}

/// The budgets of a pass over several images. They are created before anything is mapped, because
/// a file may be truncated meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Budgets(Vec<Budget>);

impl Budgets {
    /// Creates the budgets of these images, which are numbered in this order.
    pub(crate) fn new<'a>(images: impl IntoIterator<Item = &'a Image>) -> Self {
        Self(images.into_iter().map(Budget::new).collect())
    }

    /// As [`Budget::spend`], for image number `index`.
    ///
    /// # Errors
    /// As [`Budget::spend`].
    pub(crate) fn spend(
        &mut self,
        index: usize,
        image: &Image,
        extents: &[ChainExtent],
    ) -> Result<()> {
        self.0[index].spend(image, extents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;
    use crate::model::extent::{Encoded, HostOffset};
    use crate::open::OpenOptions;
    use crate::storage::codec::Codec;
    use crate::storage::source::MemorySource;
    use std::sync::Arc;

    /// An image of one file of this length. Its extents are invented.
    fn image(len: usize, limits: Limits) -> Image {
        let source = Arc::new(MemorySource::new(vec![0; len]));
        OpenOptions::new()
            .format(crate::Format::Raw)
            .limits(limits)
            .open_source(source, "a")
            .expect("opens")
    }

    fn extent(start: u64, end: u64, kind: Kind) -> ChainExtent {
        ChainExtent { guest: start..end, depth: 0, kind }
    }

    fn data(start: u64, end: u64) -> ChainExtent {
        extent(start, end, Kind::Data(HostOffset { file: 0, offset: 0 }))
    }

    fn unit(start: u64, end: u64, codec: Codec) -> ChainExtent {
        let host = HostOffset { file: 0, offset: 0 };
        let unit = start..end;
        let (stored, least_stored) = (512, 1);
        extent(start, end, Kind::Encoded(Encoded { host, stored, least_stored, unit, codec }))
    }

    #[test]
    fn data_cannot_take_more_than_the_file_has() {
        let image = image(1000, Limits::default());
        let mut budget = Budget::new(&image);
        budget
            .spend(&image, &[data(0, 600), extent(600, 1 << 50, Kind::Zero(None))])
            .expect("fits");
        budget.spend(&image, &[data(1 << 50, (1 << 50) + 400)]).expect("fits exactly");
        let error = budget.spend(&image, &[data(1 << 51, (1 << 51) + 1)]).expect_err("too much");
        assert_eq!(error.exceeded(), Some("data_sharing"));
        assert!(error.to_string().starts_with("a: the guest data up to"), "{error}");
        let limits = Limits { data_sharing: 2, ..Limits::default() };
        let image = self::image(1000, limits);
        let mut budget = Budget::new(&image);
        budget.spend(&image, &[data(0, 2000)]).expect("allowed");
        budget.spend(&image, &[data(2000, 2001)]).expect_err("too much");
    }

    #[test]
    fn compressed_units_take_at_least_what_their_codec_needs() {
        let image = image(1000, Limits::default());
        for (codec, fits) in
            [(Codec::Deflate, 1000 / 64), (Codec::Zlib, 1000 / 64), (Codec::Zstd, 100)]
        {
            let mut budget = Budget::new(&image);
            for n in 0..fits {
                budget.spend(&image, &[unit(n << 16, (n + 1) << 16, codec)]).expect("fits");
            }
            let error = budget.spend(&image, &[unit(fits << 16, (fits + 1) << 16, codec)]);
            assert_eq!(error.expect_err("too much").exceeded(), Some("data_sharing"), "{codec:?}");
        }
    }

    #[test]
    fn a_unit_that_windows_split_is_counted_once() {
        let image = image(64, Limits::default());
        let mut budget = Budget::new(&image);
        let whole = unit(0, 1 << 16, Codec::Deflate);
        for start in (0..1 << 16).step_by(4096) {
            budget.spend(&image, &[whole.clip(&(start..start + 4096))]).expect("fits");
        }
    }

    #[test]
    fn compressed_units_take_what_the_image_states() {
        let image = image(1000, Limits::default());
        let mut budget = Budget::new(&image);
        let stated = |n: u64, least: u32| {
            let mut extent = unit(n << 16, (n + 1) << 16, Codec::Deflate);
            if let Kind::Encoded(encoded) = &mut extent.kind {
                encoded.least_stored = least;
            }
            extent
        };
        budget.spend(&image, &[stated(0, 400), stated(1, 600)]).expect("fits exactly");
        let error = budget.spend(&image, &[stated(2, 1)]).expect_err("too much");
        assert_eq!(error.exceeded(), Some("data_sharing"));
        // The first part may be covered by another layer.
        let mut budget = Budget::new(&image);
        let second_half = |n: u64| stated(n, 600).clip(&((n << 16) + 32768..(n + 1) << 16));
        budget.spend(&image, &[second_half(0), second_half(0)]).expect("is counted once");
        budget.spend(&image, &[second_half(1)]).expect_err("too much");
    }

    #[test]
    fn expansion_has_a_limit_above_a_gibibyte() {
        let limits = Limits { data_sharing: u64::MAX, expansion: 2 << 20, ..Limits::default() };
        let image = image(1000, limits);
        let mut budget = Budget::new(&image);
        budget.spend(&image, &[unit(0, ALWAYS, Codec::Zstd)]).expect("always allowed");
        let max = 1000 * (2 << 20);
        budget.spend(&image, &[unit(ALWAYS, max, Codec::Zstd)]).expect("allowed");
        let error = budget.spend(&image, &[unit(max, max + 1, Codec::Zstd)]).expect_err("too much");
        assert_eq!(error.exceeded(), Some("expansion"));
    }
}
