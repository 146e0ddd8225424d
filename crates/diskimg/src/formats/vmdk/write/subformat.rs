//! The layouts that are written, by the names that a descriptor gives them
//! (`createType`).

use crate::error::{Error, Result};

/// A layout of descriptor and extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subformat {
    MonolithicSparse,
    MonolithicFlat,
    TwoGbMaxExtentSparse,
    TwoGbMaxExtentFlat,
    StreamOptimized,
    /// ESXi's own pair of files.
    Vmfs,
}

/// In the order in which `qemu-img create` tells them; it does not write the last.
const ALL: [Subformat; 6] = [
    Subformat::MonolithicSparse,
    Subformat::MonolithicFlat,
    Subformat::TwoGbMaxExtentSparse,
    Subformat::TwoGbMaxExtentFlat,
    Subformat::StreamOptimized,
    Subformat::Vmfs,
];

/// Names that are read and not written, and what is written instead.
const OTHER_NAMES: [(&str, Subformat); 7] = [
    ("2GbMaxExtentSparse", Subformat::TwoGbMaxExtentSparse),
    ("2GbMaxExtentFlat", Subformat::TwoGbMaxExtentFlat),
    ("vmfsThin", Subformat::Vmfs),
    ("vmfsPreallocated", Subformat::Vmfs),
    ("vmfsEagerZeroedThick", Subformat::Vmfs),
    ("vmfsSparse", Subformat::MonolithicSparse),
    ("seSparse", Subformat::MonolithicSparse),
];

impl Subformat {
    /// The layout of this name. Only a stream is compressed, so compression
    /// asks for one. (qemu-img takes `-c` and writes a sparse image
    /// uncompressed.)
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for another name,
    /// [`Invalid`](crate::ErrorKind::Invalid) if it cannot be compressed.
    pub(super) fn choose(name: Option<&str>, compress: bool) -> Result<Self> {
        let chosen = match name {
            None | Some("") if compress => Self::StreamOptimized,
            None | Some("") => Self::MonolithicSparse,
            Some(name) => ALL.into_iter().find(|known| known.name() == name).ok_or_else(|| {
                let known = ALL.map(Self::name).join(", ");
                Error::unsupported(format!("subformat '{name}'"))
                    .hint(format!("written are {known}"))
            })?,
        };
        if compress && chosen != Self::StreamOptimized {
            return Err(Error::invalid(format!("{} cannot be compressed", chosen.name()))
                .hint("subformat=streamOptimized is"));
        }
        Ok(chosen)
    }

    /// The layout that comes closest to what a descriptor says, in any case and
    /// spelling: older products wrote `2Gb…`, ESXi tells how a flat file was
    /// allocated, and its deltas are sparse. `None` for what has no like here: a
    /// device, or `custom`.
    pub(super) fn closest(create_type: &str) -> Option<Self> {
        let same = |name: &str| name.eq_ignore_ascii_case(create_type);
        let known = ALL.into_iter().find(|known| same(known.name()));
        let like = || OTHER_NAMES.into_iter().find(|(name, _)| same(name)).map(|(_, like)| like);
        known.or_else(like)
    }

    /// `createType`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::MonolithicSparse => "monolithicSparse",
            Self::MonolithicFlat => "monolithicFlat",
            Self::TwoGbMaxExtentSparse => "twoGbMaxExtentSparse",
            Self::TwoGbMaxExtentFlat => "twoGbMaxExtentFlat",
            Self::StreamOptimized => "streamOptimized",
            Self::Vmfs => "vmfs",
        }
    }

    /// The extents hold the guest's bytes and nothing else.
    pub(super) fn is_flat(self) -> bool {
        matches!(self, Self::MonolithicFlat | Self::TwoGbMaxExtentFlat | Self::Vmfs)
    }

    /// The disk is cut into extents of less than 2 GiB.
    pub(super) fn is_split(self) -> bool {
        matches!(self, Self::TwoGbMaxExtentSparse | Self::TwoGbMaxExtentFlat)
    }

    /// The descriptor is a file of its own, beside those of the extents.
    pub(super) fn is_several_files(self) -> bool {
        self.is_flat() || self.is_split()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_that_is_read_has_its_like_or_none() {
        for known in ALL {
            assert_eq!(Subformat::closest(known.name()), Some(known));
            assert_eq!(Subformat::closest(&known.name().to_uppercase()), Some(known));
        }
        for (create_type, like) in [
            ("2GbMaxExtentSparse", Some("twoGbMaxExtentSparse")),
            ("2gbmaxextentflat", Some("twoGbMaxExtentFlat")),
            ("vmfsThin", Some("vmfs")),
            ("vmfsEagerZeroedThick", Some("vmfs")),
            ("seSparse", Some("monolithicSparse")),
            ("fullDevice", None),
            ("vmfsRawDeviceMap", None),
            ("custom", None),
            ("", None),
        ] {
            let closest = Subformat::closest(create_type).map(Subformat::name);
            assert_eq!(closest, like, "{create_type}");
        }
    }
}
