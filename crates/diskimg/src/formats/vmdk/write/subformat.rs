//! The layouts that can be written, by their names in a descriptor (`createType`).

use crate::error::{Error, Result};

/// The layout of a new image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subformat {
    MonolithicSparse,
    MonolithicFlat,
    TwoGbMaxExtentSparse,
    TwoGbMaxExtentFlat,
    StreamOptimized,
    /// ESXi's layout: a descriptor and one flat file.
    Vmfs,
}

/// All layouts, in the order in which `qemu-img` lists them. qemu-img does not have the last one.
const ALL: [Subformat; 6] = [
    Subformat::MonolithicSparse,
    Subformat::MonolithicFlat,
    Subformat::TwoGbMaxExtentSparse,
    Subformat::TwoGbMaxExtentFlat,
    Subformat::StreamOptimized,
    Subformat::Vmfs,
];

/// Names that are read but not written, and the layout that replaces them.
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
    /// Returns the layout of this name. The default is monolithicSparse or, with compression,
    /// streamOptimized, which is the only compressed layout. (qemu-img accepts `-c` and writes an
    /// uncompressed sparse image.)
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for an unknown name,
    /// [`Invalid`](crate::ErrorKind::Invalid) if the layout cannot be compressed.
    pub(super) fn choose(name: Option<&str>, compress: bool) -> Result<Self> {
        let chosen = match name {
            None | Some("") if compress => Self::StreamOptimized,
            None | Some("") => Self::MonolithicSparse,
            Some(name) => ALL.into_iter().find(|known| known.name() == name).ok_or_else(|| {
                let known = ALL.map(Self::name).join(", ");
                Error::unsupported(format!("unknown subformat '{name}'"))
                    .hint(format!("one of {known}"))
            })?,
        };
        if compress && chosen != Self::StreamOptimized {
            return Err(Error::invalid(format!("{} cannot be compressed", chosen.name()))
                .hint("subformat=streamOptimized can"));
        }
        Ok(chosen)
    }

    /// Returns the layout that is closest to a descriptor's `createType`, ignoring case. Older
    /// products write `2Gb…`, ESXi distinguishes how a flat file was allocated, and its snapshots
    /// are sparse. `None` if there is no equivalent, such as for a device or `custom`.
    pub(super) fn closest(create_type: &str) -> Option<Self> {
        let matches = |name: &str| name.eq_ignore_ascii_case(create_type);
        let known = ALL.into_iter().find(|known| matches(known.name()));
        let other = || OTHER_NAMES.into_iter().find(|(name, _)| matches(name));
        known.or_else(|| other().map(|(_, layout)| layout))
    }

    /// Returns the `createType`.
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

    /// True if the extents store the guest bytes verbatim.
    pub(super) fn is_flat(self) -> bool {
        matches!(self, Self::MonolithicFlat | Self::TwoGbMaxExtentFlat | Self::Vmfs)
    }

    /// True if the disk is split into extents of less than 2 GiB.
    pub(super) fn is_split(self) -> bool {
        matches!(self, Self::TwoGbMaxExtentSparse | Self::TwoGbMaxExtentFlat)
    }

    /// True if the descriptor and the extents are separate files.
    pub(super) fn is_several_files(self) -> bool {
        self.is_flat() || self.is_split()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_create_types_map_to_the_closest_layout() {
        for known in ALL {
            assert_eq!(Subformat::closest(known.name()), Some(known));
            assert_eq!(Subformat::closest(&known.name().to_uppercase()), Some(known));
        }
        for (create_type, expected) in [
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
            assert_eq!(closest, expected, "{create_type}");
        }
    }
}
