//! What `info` says about an image.

use super::bitmaps::Bitmap;
use super::encryption::{Encryption, LuksHeader};
use super::header::{Autoclear, Compatible, Incompatible};
use super::layer::Qcow2;
use crate::error::Result;
use crate::report::info::Value;
use crate::storage::codec::Codec;

impl Qcow2 {
    /// Returns the format-specific information that `info` shows.
    pub(super) fn specific(&self) -> Vec<(&'static str, Value)> {
        let header = &self.header;
        let v3 = header.version >= 3;
        let flag = |feature| header.incompatible.contains(feature).into();
        let lazy = header.compatible.contains(Compatible::LAZY_REFCOUNTS);
        let bitmaps = self.bitmaps.as_deref().unwrap_or_default();
        let mut facts: Vec<(&'static str, Value)> =
            vec![("compat", self.compat().into()), ("compression-type", self.compression().into())];
        if v3 {
            facts.push(("lazy-refcounts", lazy.into()));
        }
        if !bitmaps.is_empty() {
            facts.push(("bitmaps", Value::List(bitmaps.iter().map(Bitmap::to_value).collect())));
        }
        facts.push(("refcount-bits", header.refcount_bits().into()));
        if let Some(encryption) = header.encryption {
            let parameters = match self.luks() {
                Some(Ok(luks)) => luks.facts(),
                _ => vec![("format", encryption.name().into())],
            };
            facts.push(("encrypt", Value::Map(parameters)));
        }
        if header.external_data() {
            if let Some(name) = &header.extensions.data_file {
                facts.push(("data-file", name.as_str().into()));
            }
            facts.push(("data-file-raw", header.data_file_raw().into()));
        }
        if v3 {
            facts.push(("corrupt", flag(Incompatible::CORRUPT)));
            facts.push(("extended-l2", flag(Incompatible::EXTENDED_L2)));
        }
        facts
    }

    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let header = &self.header;
        if header.incompatible.contains(Incompatible::DIRTY) {
            notes.push(
                "the image was not closed properly: its refcounts may be wrong; the guest data is \
                 not affected"
                    .into(),
            );
        }
        if header.incompatible.contains(Incompatible::CORRUPT) {
            notes.push("the image is marked as corrupt: any of its structures may be wrong".into());
        }
        if header.extensions.bitmaps.is_some() && !header.autoclear.contains(Autoclear::BITMAPS) {
            notes.push(
                "the bitmaps are out of date: a program without support for them modified the \
                 image"
                    .into(),
            );
        }
        let missing = self.require_l1().err().into_iter().chain(self.require_refcounts().err());
        notes.extend(missing.map(|error| error.without_remedy()));
        notes.extend(self.luks().and_then(Result::err).map(|error| error.without_remedy()));
        notes.extend(self.snapshots.as_ref().err().map(ToString::to_string));
        notes.extend(self.bitmaps.as_ref().err().map(ToString::to_string));
        notes
    }

    /// Reads the LUKS header, if the image has one.
    fn luks(&self) -> Option<Result<LuksHeader>> {
        let is_luks = self.header.encryption == Some(Encryption::Luks);
        is_luks.then(|| LuksHeader::read(self.file(), self.header.extensions.encryption))
    }

    pub(super) fn compat(&self) -> &'static str {
        if self.header.version >= 3 { "1.1" } else { "0.10" }
    }

    pub(super) fn compression(&self) -> &'static str {
        match self.header.codec {
            Codec::Zstd => "zstd",
            _ => "zlib",
        }
    }
}
