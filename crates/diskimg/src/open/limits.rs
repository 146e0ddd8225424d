//! How much an image may ask of us.

use crate::error::{Error, Result};

/// One of the [`Limits`], as a list of them shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limit {
    /// The field, the word for it on a command line and in Python.
    pub name: &'static str,
    /// What is allowed, in the unit that [`help`](Self::help) begins with.
    pub value: u64,
    /// What is counted, and of what, in a line.
    pub help: &'static str,
}

/// The one table: fields, defaults, and what is said of them wherever they are shown.
macro_rules! limits {
    ($($name:ident = $default:expr, $help:literal $(, $more:literal)?;)+) => {
        /// Bounds on what an image may demand before it is refused with
        /// [`ErrorKind::Limit`](crate::ErrorKind::Limit), which says what was found, what is
        /// allowed and which of these fields allows more.
        ///
        /// The defaults admit everything that QEMU admits. What a format's specification bounds
        /// (the size of a cluster, of a grain table, of a backing file's name) is no limit in this
        /// sense, and cannot be raised.
        ///
        /// Memory at its peak is bounded by these and by constants: 16 MiB, and what applies of
        ///
        /// * for each layer that is opened, `table_bytes` and 4 MiB; three times that and 20 MiB
        ///   for a VMDK;
        /// * five times `snapshot_table_bytes` and four times `bitmap_directory_bytes` (a qcow2
        ///   that has so much);
        /// * `check_bytes` and 32 MiB, while a qcow2 is checked;
        /// * a hundred times `descriptor_bytes`, seven times `ovf_bytes`;
        /// * for each thread, six times the largest compressed unit (`unit_bytes` at most), and
        ///   3 MiB;
        /// * seventeen times `directory_bytes` for each directory of an ISO image that is open.
        ///
        /// All of it is bounded by the length of the file, too: tables that are not there are not
        /// held. `SECURITY.md` has figures.
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
            /// The names of all limits.
            pub fn names() -> &'static [&'static str] {
                &[$(stringify!($name),)+]
            }

            /// All limits as they are now, those of one kind of image together.
            pub fn iter(&self) -> impl Iterator<Item = Limit> + use<> {
                [$(Limit { name: stringify!($name), value: self.$name, help: $help },)+].into_iter()
            }

            /// Sets a limit by its name.
            ///
            /// # Errors
            /// [`Invalid`](crate::ErrorKind::Invalid) if there is none of this name.
            pub fn set(&mut self, name: &str, value: u64) -> Result<()> {
                match name {
                    $(stringify!($name) => self.$name = value,)+
                    _ => {
                        let names = Self::names().join(", ");
                        return Err(Error::invalid(format!("there is no limit '{name}'"))
                            .hint(format!("limits are {names}")));
                    }
                }
                Ok(())
            }
        }
    };
}

limits! {
    chain_depth = 200,
        "Images in a backing chain, the top one included";
    table_bytes = 32 << 20,
        "Bytes of a table that is held in memory as a whole",
        "A qcow2 L1 table (of the disk, or of a snapshot), a refcount table; the grain directories
        of all extents of a VMDK together.";
    unit_bytes = 64 << 20,
        "Bytes that a compressed unit unpacks to, which it does as a whole",
        "A grain of a VMDK; the clusters of a qcow2 have 2 MiB at most.";
    check_bytes = 1 << 30,
        "Bytes of memory in which a check counts what is used how often",
        "Two for each host cluster of a qcow2 that is in use, and some for each of its L2 tables;
        a bit for each grain of a VMDK.";
    shared_table_bytes = 16 << 30,
        "Bytes of snapshots' and bitmaps' tables that a check of a qcow2 reads",
        "All of them may be the same few bytes of the file, so that its length is no bound.";
    snapshots = 65_536,
        "Internal snapshots of a qcow2 image";
    snapshot_table_bytes = 64 << 20,
        "Bytes of a qcow2's table of snapshots";
    snapshot_extra_bytes = 1024,
        "Bytes of extra data that one of these snapshots has";
    bitmaps = 65_535,
        "Bitmaps of a qcow2 image";
    bitmap_directory_bytes = 65_535 * 1047,
        "Bytes of a qcow2's directory of bitmaps",
        "By default as many bitmaps as may be, with names as long as may be.";
    descriptor_bytes = 1 << 20,
        "Bytes of a text that lists files: a VMDK descriptor, a cue sheet";
    extent_files = 32_768,
        "Files that a VMDK's extents are in; each is held open";
    sibling_files = 4096,
        "Files of a directory that are looked at for a VMDK's parent, by its UUID",
        "What is beyond is not looked at, which the error says if no parent is found.";
    ovf_bytes = 8 << 20,
        "Bytes of an appliance's descriptor (OVF), and of its manifest";
    ovf_nodes = 500_000,
        "Elements, attributes and texts of an appliance's descriptor";
    ovf_attributes = 256,
        "Attributes of one of its tags, and declarations of namespaces",
        "An XML parser may take the square of either.";
    ovf_disks = 1024,
        "Disks of an appliance";
    file_chunks = 10_000,
        "Chunks that one file of an appliance is cut into";
    archive_members = 65_536,
        "Members of an archive (OVA, zip)";
    archive_name_bytes = 16 << 20,
        "Bytes of the names of all members of an archive";
    archive_header_bytes = 64 << 10,
        "Bytes of a member's name or attributes that a tar header announces";
    unpacked_bytes = 256 << 30,
        "Bytes that a packed appliance, or a packed file of one, unpacks to",
        "In a temporary file, where a disk is read.";
    unpacked_ratio = 1032,
        "Bytes that one packed byte unpacks to: of a zisofs file, gzip or zip",
        "Deflate does no more than the default. (Compressed clusters and grains have a size of
        their own, which `unit_bytes` bounds.)";
    directory_depth = 256,
        "Directories inside each other, in an ISO image";
    tree_entries = 5_000_000,
        "Files and directories of an ISO image that are walked through";
    directory_bytes = 64 << 20,
        "Bytes of one directory, and of one embedded table, of an ISO image";
    file_sections = 65_536,
        "Sections (extents) of one file of an ISO image";
    link_bytes = 4096,
        "Bytes of a symbolic link's target, in an ISO image";
    continuations = 32,
        "Continuation areas that one record's system use field runs through";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn every_limit_can_be_set_by_the_name_that_it_is_listed_under() {
        let mut limits = Limits::default();
        for (index, name) in Limits::names().iter().enumerate() {
            limits.set(name, index as u64).expect("is one");
        }
        let all: Vec<_> = limits.iter().map(|limit| (limit.name, limit.value)).collect();
        let wanted: Vec<_> = Limits::names().iter().copied().zip(0..).collect();
        assert_eq!(all, wanted);
        assert_eq!((limits.chain_depth, limits.table_bytes), (0, 1));
    }

    #[test]
    fn an_unknown_limit_is_answered_with_the_known_ones() {
        let error = Limits::default().set("tables", 1).expect_err("unknown");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let text = error.to_string();
        assert!(Limits::names().iter().all(|name| text.contains(name)), "{text}");
    }
}
