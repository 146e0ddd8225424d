//! Limits on the resources that an image may use.

use crate::error::{Error, Result};
use crate::remedy::Remedy;
use std::fmt;

/// Name, value and description of one of the [`Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limit {
    /// Name of the field, of the command-line setting and of the Python attribute.
    pub name: &'static str,
    /// Value, in the unit with which [`help`](Self::help) starts.
    pub value: u64,
    /// One-line description: the unit, and what is limited.
    pub help: &'static str,
}

/// Declares the limits: fields, default values, descriptions and further documentation.
macro_rules! limits {
    ($($name:ident = $default:expr, $help:literal $(, $more:literal)?;)+) => {
        /// Limits on the resources that an image may use.
        ///
        /// An image that exceeds a limit is rejected with
        /// [`ErrorKind::Limit`](crate::ErrorKind::Limit). The error contains the value found, the
        /// limit, and the name of the field to raise.
        ///
        /// The defaults accept everything that QEMU accepts. Limits of a format's specification
        /// (such as the size of a cluster, a grain table or a backing file's name) are separate and
        /// cannot be raised.
        ///
        /// The limits bound the peak memory usage. It is at most 16 MiB plus, where applicable,
        ///
        /// * for each layer, twice `table_bytes` and 4 MiB; for a VMDK, four times `table_bytes` and
        ///   20 MiB;
        /// * for a qcow2, five times `snapshot_table_bytes` and four times
        ///   `bitmap_directory_bytes`;
        /// * for the check of a qcow2, `check_bytes` and 32 MiB;
        /// * 100 times `descriptor_bytes` and seven times `ovf_bytes`;
        /// * for an image in a compressed file, 144 MiB for each thread and, if it is read in place,
        ///   64 MiB or three times the longest block (at most `unit_bytes`), and twice
        ///   `table_bytes`;
        /// * for each thread, six times the largest compressed unit (at most `unit_bytes`) and
        ///   3 MiB;
        /// * for each open directory of an ISO image, 17 times `directory_bytes`, and of another file
        ///   system 30 times, with 16 MiB for its cache.
        ///
        /// The length of the file is a further bound, because memory is allocated only for tables
        /// that are within the file. `SECURITY.md` contains measurements.
        ///
        /// ```
        /// let mut limits = diskimg::Limits::default();
        /// limits.table_bytes = 64 << 20;
        /// limits.set("chain_depth", 1)?;
        /// # Ok::<(), diskimg::Error>(())
        /// ```
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Limits {
            $(
                #[doc = concat!($help, ".")]
                $(#[doc = $more])?
                ///
                #[doc = concat!("Default: `", stringify!($default), "`.")]
                pub $name: u64,
            )+
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        impl Limits {
            /// Returns the names of all limits.
            pub fn names() -> &'static [&'static str] {
                &[$(stringify!($name),)+]
            }

            /// Returns all limits with their current values, grouped by format.
            pub fn iter(&self) -> impl Iterator<Item = Limit> + use<> {
                [$(Limit { name: stringify!($name), value: self.$name, help: $help },)+].into_iter()
            }

            /// Sets a limit by its name.
            ///
            /// # Errors
            /// Returns [`Invalid`](crate::ErrorKind::Invalid) if there is no limit of this name.
            pub fn set(&mut self, name: &str, value: u64) -> Result<()> {
                match name {
                    $(stringify!($name) => self.$name = value,)+
                    _ => {
                        let names = Self::names().join(", ");
                        return Err(Error::invalid(format!("unknown limit '{name}'"))
                            .hint(format!("known limits: {names}")));
                    }
                }
                Ok(())
            }
        }
    };
}

limits! {
    chain_depth = 200,
        "Images in a backing chain, including the top image";
    table_bytes = 32 << 20,
        "Bytes of a table that is read into memory as a whole",
        "A qcow2 L1 table (of the disk or of a snapshot), a qcow2 refcount table, the tables of
        qcow2 bitmaps that are read together, the L2 tables that resizing a qcow2 image changes
        together, the grain directories of all extents of a VMDK together, the list of the chunks
        of a DMG, that of the bands of a sparse image or a sparse bundle, or an ASIF directory.";
    unit_bytes = 64 << 20,
        "Bytes that a compressed grain, chunk or block unpacks to",
        "A grain of a VMDK, a chunk of a DMG or an EWF image, a block of a cloop image or of a
        compressed file. A compressed file with longer blocks is decompressed to a temporary file.
        (qcow2 clusters have at most 2 MiB.)";
    data_sharing = 1,
        "Times that a disk may refer to each stored byte, on average over a file",
        "In the images that programs write, no two clusters of a disk share stored bytes. Raise the
        limit for an image whose equal clusters were merged.";
    expansion = 4096,
        "Guest bytes for each byte of the files of a layer, if data is compressed",
        "Applies to layers that expand to more than 1 GiB, and to files compressed by xz, bzip2 or
        zstd that are decompressed to a temporary file. Deflate cannot exceed 1032. Zstandard
        exceeds the default only if nearly all of a disk repeats one byte other than zero, in
        clusters of 256 KiB or more.";
    output_bytes = i64::MAX as u64,
        "Bytes that a conversion may write to its output files, holes not counted",
        "[`Convert::max_size`](crate::Convert::max_size) describes what is counted.";
    check_findings = 1000,
        "Findings of a check that are reported one by one",
        "Further findings are only counted.";
    check_bytes = 1 << 30,
        "Bytes of memory that a check uses to count references",
        "For qcow2, two bytes for each host cluster in use and some for each L2 table; for VMDK, one
        bit for each grain. Writing into an existing image counts in the same way before it begins.";
    shared_table_bytes = 16 << 30,
        "Bytes of snapshot and bitmap tables that the check of a qcow2 image reads",
        "The tables may all share the same bytes of the file, so its length does not bound them.";
    snapshots = 65_536,
        "Internal snapshots of a qcow2 image";
    snapshot_table_bytes = 64 << 20,
        "Bytes of the snapshot table of a qcow2 image";
    snapshot_extra_bytes = 1024,
        "Bytes of extra data of one snapshot of a qcow2 image";
    bitmaps = 65_535,
        "Bitmaps of a qcow2 image";
    bitmap_directory_bytes = 65_535 * 1047,
        "Bytes of the bitmap directory of a qcow2 image",
        "The default allows the maximum number of bitmaps with names of the maximum length.";
    descriptor_bytes = 1 << 20,
        "Bytes of a text file that lists files: a VMDK descriptor, a cue sheet";
    extent_files = 32_768,
        "Files of a VMDK, a Parallels bundle or an EWF image, which are all open";
    sibling_files = 4096,
        "Files of a directory that are searched for a parent by UUID",
        "Further files are ignored. If no parent is found, the error says so.";
    ovf_bytes = 8 << 20,
        "Bytes of an appliance's descriptor (OVF), and of its manifest";
    ovf_nodes = 500_000,
        "Elements, attributes and text nodes of an appliance's descriptor";
    ovf_attributes = 256,
        "Attributes, and namespace declarations, of an element of the descriptor",
        "The time that the XML parser takes may be quadratic in either number.";
    ovf_disks = 1024,
        "Disks of an appliance";
    file_chunks = 10_000,
        "Chunks of one file of an appliance";
    archive_members = 65_536,
        "Members of an archive (OVA, zip)";
    archive_name_bytes = 16 << 20,
        "Bytes of the names of all members of an archive";
    archive_header_bytes = 64 << 10,
        "Bytes of an extended tar header: a member's name or attributes";
    unpacked_bytes = 256 << 30,
        "Bytes that a compressed file, or one in an appliance, unpacks to",
        "They are written to a temporary file, unless a file is read in place.";
    unpacked_ratio = 1032,
        "Maximum compression ratio in gzip, zip and zisofs",
        "Deflate cannot exceed the default. (Compressed clusters and grains are bounded by
        `unit_bytes` instead.)";
    directory_depth = 256,
        "Nested directories of a file system";
    tree_entries = 5_000_000,
        "Files and directories of a file system that are visited";
    directory_bytes = 64 << 20,
        "Bytes of one directory, or of one path table or UDF table of an ISO image";
    file_sections = 65_536,
        "Sections (extents) of one file of an ISO image";
    link_bytes = 4096,
        "Bytes of a symbolic link's target in a file system";
    continuations = 32,
        "Continuation areas of one directory record's system use field";
}

impl Error {
    /// Creates an [`ErrorKind::Limit`](crate::ErrorKind::Limit) for `found` ("a grain directory of
    /// 40 bytes"), which exceeds `max`, the value of the field `name` of [`Limits`].
    pub(crate) fn over_limit(name: &'static str, found: impl fmt::Display, max: u64) -> Self {
        debug_assert!(Limits::names().contains(&name), "{name} is not a limit");
        Self::limit(format!("{found}; the limit {name} is {max}"))
            .with_remedy(Remedy::RaiseLimit(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn every_limit_can_be_set_by_its_listed_name() {
        let mut limits = Limits::default();
        for (index, name) in Limits::names().iter().enumerate() {
            limits.set(name, index as u64).expect("sets");
        }
        let all: Vec<_> = limits.iter().map(|limit| (limit.name, limit.value)).collect();
        let wanted: Vec<_> = Limits::names().iter().copied().zip(0..).collect();
        assert_eq!(all, wanted);
        assert_eq!((limits.chain_depth, limits.table_bytes), (0, 1));
    }

    #[test]
    fn the_error_for_an_unknown_limit_lists_the_known_limits() {
        let error = Limits::default().set("tables", 1).expect_err("unknown");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let text = error.to_string();
        assert!(Limits::names().iter().all(|name| text.contains(name)), "{text}");
    }
}
