//! UDF 1.02 in addition to ISO 9660, over the same file contents (a "bridge" image).
//!
//! ```text
//!   sector
//!   16..       ISO 9660 descriptors, volume recognition sequence
//!   32         main volume descriptor sequence, or later if other descriptors are there
//!   48         reserve volume descriptor sequence, a copy
//!   64         logical volume integrity sequence
//!   256        anchor
//!   257        partition: file set descriptor;
//!              each directory: file entry, file identifiers, file entries of its files;
//!              ISO 9660 path tables and directories, contents
//!   ..         padding; second anchor in the last sector or, if that has the backup GPT, 256
//!              sectors before it
//! ```
//!
//! All addresses in the partition are short: contents are never split, so a file has one extent for
//! each 2^30 bytes. Every file that is not a directory has one entry, independent of the number of
//! its names. Symbolic links and devices are recorded as in ECMA-167, which Linux reads. Directories
//! are never relocated, even if ISO 9660 requires that.
//!
//! References of the form "3/10.6" are to part and section of ECMA-167, 2nd edition. `udf::raw`
//! has the same structures for reading.

mod directory;
mod encode;
mod entry;
mod names;
mod volume;

use super::charset::Charset;
use super::descriptors;
use super::hierarchy::{self, Hierarchy, Relocation};
use super::plan::{Cursor, Plan, Warnings};
use super::stream::Stream;
use super::tree::{Hidden, Kind, NodeId, Tree, TreeNode};
use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::storage::number::{to_index, to_u16, to_u32, to_u64};
use entry::{Attributes, Contents, Entry};
use names::UdfNames;
use sha2::{Digest, Sha256};

/// The first sector that the main volume descriptor sequence may begin at, and its alignment in
/// sectors. The reserve sequence and the integrity sequence follow it.
const MAIN: u32 = 32;
const ALIGNMENT: u32 = 16;

/// Length of a volume descriptor sequence in sectors: the minimum (UDF, 2.2.3.1).
const SEQUENCE: u32 = 16;

/// Length of the logical volume integrity sequence in sectors.
const INTEGRITY: u32 = 4;

/// Sector of the first anchor.
const ANCHOR: u32 = 256;

/// First sector of the partition.
const PARTITION: u32 = ANCHOR + 1;

/// Unique IDs below this are reserved, except that of the root, which is 0 (UDF, 3.2.1).
const FIRST_UNIQUE_ID: u32 = 16;

/// Permissions and owner if the image has no POSIX attributes.
const UNSPECIFIED_MODE: u32 = 0o555;
const UNSPECIFIED_ID: u32 = u32::MAX;

/// The UDF tree of a new image.
#[derive(Debug)]
pub(super) struct Udf {
    naming: UdfNames,
    /// [`Directory::lba`](hierarchy::Directory::lba) is the sector of the file entry. The file
    /// identifiers follow it.
    tree: Hierarchy,
    /// File entries of all files but directories, by [`TreeNode::inode`].
    files: Vec<FileEntry>,
    /// Number of names of files.
    names: u32,
    /// First sector of the main volume descriptor sequence.
    main: u32,
    /// Sector after the last one of the partition.
    end: u32,
}

/// The file entry of a file that is not a directory.
#[derive(Debug, Clone, Copy, Default)]
struct FileEntry {
    /// First sector; 0 if the file has no name in the UDF tree.
    sector: u32,
    /// Number of names.
    links: u16,
}

/// Returns the block in the partition that sector `sector` is.
fn block(sector: u32) -> u32 {
    sector.saturating_sub(PARTITION)
}

/// Returns the unique ID of the file whose entry is in sector `sector`. The first file entry, that of
/// the root, has 0.
fn unique_id(sector: u32) -> u32 {
    match sector {
        ROOT_ENTRY => 0,
        _ => block(sector) + FIRST_UNIQUE_ID,
    }
}

/// Sector of the root directory's file entry, after file set descriptor and terminating descriptor.
const ROOT_ENTRY: u32 = PARTITION + 2;

impl Udf {
    /// Creates the tree, without the directory `left_out`. `charset` is that of the names. Adds warnings about names and links that
    /// cannot be recorded exactly.
    pub(super) fn new(
        tree: &Tree,
        charset: Charset,
        left_out: Option<NodeId>,
        warnings: &mut Warnings,
    ) -> Result<Self> {
        let naming = UdfNames { charset };
        let plan = hierarchy::Plan {
            naming: &naming,
            plain: false,
            without: Hidden::UDF,
            left_out,
            moved: &Relocation::default(),
            report: &mut |node| warnings.add(tree.name(node), "changed in the UDF tree"),
        };
        let mut files = vec![FileEntry::default(); to_index(tree.last_inode()) + 1];
        let mut names = 0;
        let hierarchy = Hierarchy::new(tree, plan)?;
        for entry in &hierarchy.entries {
            let node = tree.node(entry.node);
            if node.is_dir() {
                continue;
            }
            let links = &mut files[to_index(node.inode)].links;
            let more = links.checked_add(1);
            *links = more.ok_or_else(|| too_many_links(tree, entry.node))?;
            names += 1;
            if let Kind::Symlink(target) = &node.kind
                && let Some(why) = why_not_exact(target, naming)
            {
                warnings.add_link(tree.name(entry.node), why);
            }
        }
        Ok(Self { naming, tree: hierarchy, files, names, main: MAIN, end: 0 })
    }

    /// Assigns the addresses of all file entries and directories. `len` returns the length of a
    /// content.
    fn place(&mut self, tree: &Tree, len: &dyn Fn(u32) -> u64, at: &mut Cursor) -> Result<()> {
        at.skip_to(MAIN);
        at.align(ALIGNMENT * to_u32(SECTOR))?;
        self.main = at.take(u64::from(2 * SEQUENCE + INTEGRITY) * SECTOR)?;
        if at.take(0)? > ANCHOR {
            let message = "the descriptors of ISO 9660 leave no space for those of UDF";
            return Err(Error::invalid(message));
        }
        at.skip_to(PARTITION);
        at.take(2 * SECTOR)?;
        for index in 0..self.tree.dirs.len() {
            let bytes = directory::len(&self.tree, &self.tree.dirs[index]);
            let entry = at.take(SECTOR)?;
            at.take(bytes)?;
            let dir = &mut self.tree.dirs[index];
            // Fits in 32 bits, like all addresses.
            (dir.lba, dir.sectors) = (entry, to_u32(bytes.div_ceil(SECTOR)));
            for entry in self.tree.entries_of(&self.tree.dirs[index]) {
                let node = tree.node(entry.node);
                let file = &mut self.files[to_index(node.inode)];
                if !node.is_dir() && file.sector == 0 {
                    file.sector = at.take(entry_sectors(&node.kind, self.naming, len) * SECTOR)?;
                }
            }
        }
        Ok(())
    }
}

/// Returns a warning if the target of a symbolic link is not recorded exactly, or is not read by
/// Linux.
fn why_not_exact(target: &[u8], naming: UdfNames) -> Option<&'static str> {
    let mut changed = false;
    let len = entry::link(target, naming, &mut || changed = true).len();
    match changed {
        true => Some("changed in the UDF tree"),
        // See udf_symlink_filler in fs/udf/symlink.c.
        false if to_u64(len) > SECTOR => Some("too long for Linux in the UDF tree"),
        false => None,
    }
}

/// Returns the number of sectors of a file's entry.
fn entry_sectors(kind: &Kind, naming: UdfNames, len: &dyn Fn(u32) -> u64) -> u64 {
    match kind {
        &Kind::File(content) => entry::regular_sectors(len(content)),
        Kind::Symlink(target) => entry::link_sectors(entry::link(target, naming, &mut || {}).len()),
        _ => 1,
    }
}

fn too_many_links(tree: &Tree, node: NodeId) -> Error {
    let name = String::from_utf8_lossy(tree.name(node));
    Error::limit(format!("\"{name}\" has more than {} names in the UDF tree", u16::MAX))
}

impl Plan {
    /// Allocates the volume recognition sequence, which follows the ISO 9660 descriptors.
    pub(super) fn place_udf_recognition(&self, at: &mut Cursor) -> Result<()> {
        if self.udf.is_some() {
            at.take(to_u64(volume::recognition().len()))?;
        }
        Ok(())
    }

    /// Assigns the addresses of all other UDF structures.
    pub(super) fn place_udf(&mut self, at: &mut Cursor) -> Result<()> {
        let Some(udf) = &mut self.udf else { return Ok(()) };
        let contents = &self.contents;
        udf.place(&self.tree, &|content| contents.get(content).len, at)
    }

    /// Sets the end of the partition: the end of the contents.
    pub(super) fn end_udf_partition(&mut self, end: u32) {
        if let Some(udf) = &mut self.udf {
            udf.end = end;
        }
    }

    /// Writes the volume recognition sequence.
    pub(super) fn fill_udf_recognition(&self, stream: &mut Stream<'_>) -> Result<()> {
        match self.udf {
            Some(_) => stream.write(&volume::recognition()),
            None => Ok(()),
        }
    }

    /// Writes everything from the main volume descriptor sequence to the last file entry.
    pub(super) fn fill_udf(&self, stream: &mut Stream<'_>) -> Result<()> {
        let Some(udf) = &self.udf else { return Ok(()) };
        let volume = self.udf_volume(udf);
        for first in [udf.main, udf.main + SEQUENCE] {
            stream.zeros_to(u64::from(first) * SECTOR)?;
            stream.write(&volume.sequence(first))?;
        }
        stream.zeros_to(u64::from(volume.integrity) * SECTOR)?;
        stream.write(&volume.integrity())?;
        stream.zeros_to(u64::from(ANCHOR) * SECTOR)?;
        stream.write(&volume::anchor(ANCHOR, udf.main))?;
        stream.write(&volume.file_set())?;
        for index in 0..udf.tree.dirs.len() {
            self.fill_udf_directory(stream, udf, index)?;
        }
        Ok(())
    }

    /// Writes the anchor after the contents.
    pub(super) fn fill_last_anchor(&self, stream: &mut Stream<'_>) -> Result<()> {
        let (Some(udf), Some(sector)) = (&self.udf, self.boot.last_anchor()) else {
            return Ok(());
        };
        stream.zeros_to(sector * SECTOR)?;
        stream.write(&volume::anchor(to_u32(sector), udf.main))
    }

    /// Writes a directory and the entries of its files that have not been written before.
    fn fill_udf_directory(&self, stream: &mut Stream<'_>, udf: &Udf, index: usize) -> Result<()> {
        let dir = &udf.tree.dirs[index];
        let identifiers = udf.directory(&self.tree, index);
        // The parent refers to a directory, and each subdirectory to its parent. The root is its
        // own parent.
        let links = to_u16(dir.subdirectories + 1);
        let len = to_u64(identifiers.len());
        let contents = Contents::Extent { first: dir.lba + 1, len };
        stream.write(&self.udf_entry(dir.node, dir.lba, links, contents).encode())?;
        stream.write(&identifiers)?;
        stream.zeros_to(stream.position().next_multiple_of(SECTOR))?;
        for entry in udf.tree.entries_of(dir) {
            let node = self.tree.node(entry.node);
            let FileEntry { sector, links } = udf.files[to_index(node.inode)];
            if !node.is_dir() && u64::from(sector) * SECTOR == stream.position() {
                stream.write(&self.udf_file(udf, entry.node, sector, links))?;
            }
        }
        Ok(())
    }

    /// Encodes the entry of a file that is not a directory.
    fn udf_file(&self, udf: &Udf, id: NodeId, sector: u32, links: u16) -> Vec<u8> {
        let link;
        let contents = match &self.tree.node(id).kind {
            &Kind::File(content) => {
                let len = self.contents.get(content).len;
                Contents::Extent { first: self.content_lba[to_index(content)], len }
            }
            Kind::Symlink(target) => {
                link = entry::link(target, udf.naming, &mut || {});
                Contents::Inline(&link)
            }
            &Kind::Device { major, minor, .. } => Contents::Device { major, minor },
            Kind::Directory(_) | Kind::Fifo | Kind::Socket => Contents::Extent { first: 0, len: 0 },
        };
        self.udf_entry(id, sector, links, contents).encode()
    }

    fn udf_entry<'c>(
        &self,
        id: NodeId,
        sector: u32,
        links: u16,
        contents: Contents<'c>,
    ) -> Entry<'c> {
        let node = self.tree.node(id);
        let (uid, gid, mode) = self.udf_owner_and_mode(node);
        let attributes = Attributes { uid, gid, mode, links, times: self.times(node) };
        Entry { sector, file_type: entry::file_type(&node.kind), attributes, contents }
    }

    /// Returns the user ID, group ID and permissions to be recorded: those of Rock Ridge. Without
    /// Rock Ridge, only those that the options set are recorded, so that the image does not depend
    /// on who creates it.
    fn udf_owner_and_mode(&self, node: &TreeNode) -> (u32, u32, u32) {
        if self.options.rock_ridge.is_some() {
            return self.owner_and_mode(node);
        }
        let options = &self.options;
        let mode = if node.is_dir() { options.dir_mode } else { options.file_mode };
        let mode = mode.unwrap_or(UNSPECIFIED_MODE) & 0o7777;
        (options.uid.unwrap_or(UNSPECIFIED_ID), options.gid.unwrap_or(UNSPECIFIED_ID), mode)
    }

    fn udf_volume<'v>(&'v self, udf: &Udf) -> volume::Volume<'v> {
        let options = &self.options;
        // Different images have different primary volume descriptors.
        let primary = descriptors::primary(options, &self.primary_tables, &self.volume);
        let digest = Sha256::digest(&primary);
        let seconds = self.volume.time.seconds.rem_euclid(1 << 32);
        let hash = digest[..4].iter().fold(0u32, |hash, &byte| hash << 8 | u32::from(byte));
        volume::Volume {
            label: &options.volume_id,
            set: format!("{seconds:08X}{hash:08X}{}", options.volume_set_id),
            time: self.volume.time,
            blocks: block(udf.end),
            files: udf.names,
            directories: to_u32(udf.tree.dirs.len()),
            next_id: u64::from(block(udf.end)) + u64::from(FIRST_UNIQUE_ID),
            root: block(ROOT_ENTRY),
            integrity: udf.main + 2 * SEQUENCE,
        }
    }
}
