//! The layout of a new image: all addresses are assigned before anything is written.
//!
//! ```text
//!   0    system area
//!   16   primary descriptor [boot record] [Joliet descriptor] [enhanced descriptor] terminator
//!        [the same descriptors for the partition that contains the volume, at its sector 16]
//!        [UDF structures up to the last file entry: see `udf`]
//!        path tables: primary L, M [, Joliet L, M]
//!        directories of the primary tree, each with its continuation areas
//!        directories of the Joliet tree
//!        [path tables and directories for the partition]
//!        a sector of zeros, which the records of empty files refer to
//!        contents: boot catalog, boot images, then files by weight, and in the order of the
//!        primary tree; all aligned
//!        appended partitions, padding, backup GPT: see `boot::hybrid`
//! ```

use super::boot::Boot;
use super::builder::Builder;
use super::contents::Contents;
use super::descriptors::{self, Tables, Volume};
use super::directory::{Shift, Space};
use super::hierarchy::{self, Directory, Hierarchy, Relocation, Role};
use super::host::HostDirs;
use super::joliet::JolietNames;
use super::names::PrimaryNames;
use super::options::{CreateOptions, Level, RockRidge};
use super::path_table;
use super::translation::Translation;
use super::tree::{Hidden, Kind, NodeId, ROOT, Times, Tree, TreeNode};
use super::udf::Udf;
use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::iso::time::Timestamp;
use crate::remedy::Remedy;
use crate::report::printable::printable;
use crate::storage::number::{to_index, to_u32, to_u64};
use std::cmp::Reverse;
use std::collections::HashMap;

/// First sector after the system area.
const DESCRIPTORS: u32 = 16;

/// Maximum number of warnings that are kept.
const MAX_WARNINGS: usize = 100;

/// Maximum length in bytes of a Rock Ridge name that Linux does not truncate (fs/isofs/rock.c,
/// get_rock_ridge_filename).
const LINUX_NAME: usize = 253;

/// Address of a content that no file has.
pub(super) const UNPLACED: u32 = u32::MAX;

/// The layout of a new image, with all addresses assigned. [`emit`](Self::emit) and
/// [`write`](Self::write) write the image.
#[derive(Debug)]
pub struct Plan {
    pub(super) options: CreateOptions,
    pub(super) tree: Tree,
    pub(super) contents: Contents,
    pub(super) dirs: HostDirs,
    pub(super) primary: Hierarchy,
    pub(super) joliet: Option<Hierarchy>,
    pub(super) udf: Option<Udf>,
    /// First sector of each content; [`UNPLACED`] if no file has it.
    pub(super) content_lba: Vec<u32>,
    /// The contents to be written, in order.
    pub(super) order: Vec<u32>,
    /// The sector that the records of empty files refer to, if there are any.
    pub(super) empty: Option<u32>,
    /// Link count and serial number, by [`TreeNode::inode`].
    pub(super) files: Vec<FileNumbers>,
    pub(super) volume: Volume,
    pub(super) boot: Boot,
    pub(super) primary_tables: Tables,
    pub(super) joliet_tables: Tables,
    /// The second set of descriptors, path tables and directories, for the partition that contains
    /// the volume.
    pub(super) second: Option<SecondSet>,
    warnings: Vec<String>,
}

/// A second set of descriptors, path tables and directories. Addresses in it are counted from the
/// start of the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SecondSet {
    /// First sector of the partition.
    pub(super) partition: u32,
    pub(super) shift: Shift,
}

/// Link count and serial number of a file, for Rock Ridge.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FileNumbers {
    pub(super) links: u32,
    pub(super) serial: u32,
}

impl Plan {
    pub(super) fn new(mut builder: Builder) -> Result<Self> {
        check_options(&builder.options)?;
        let boot = Boot::new(&mut builder)?;
        let translation = Translation::new(&mut builder)?;
        let Builder {
            options,
            mut tree,
            mut contents,
            dirs,
            mut open,
            replaced,
            warnings: known,
            ..
        } = builder;
        let moved = match options.deep_directories || options.names.level == Level::Four {
            true => Relocation::default(),
            false => Relocation::find(&mut tree, &options.relocation_directory)?,
        };
        if !moved.is_empty() && options.rock_ridge.is_none() {
            let message =
                "directories below the eighth level can only be relocated with Rock Ridge";
            return Err(Error::invalid(message).with_remedy(Remedy::KeepDeepDirectories));
        }
        let mut warnings = replaced;
        if options.rock_ridge.is_some() {
            warnings.long_names(&tree);
        }
        let plan = hierarchy::Plan {
            naming: &PrimaryNames::new(&options),
            plain: false,
            without: Hidden::PRIMARY,
            left_out: None,
            moved: &moved,
            report: &mut |_| {},
        };
        let primary = Hierarchy::new(&tree, plan)?;
        translation.fill(&tree, &primary, &mut contents);
        let left_out = moved.created();
        let joliet = options.joliet.map(|joliet| {
            let plan = hierarchy::Plan {
                naming: &JolietNames { length: joliet, charset: options.charsets.host },
                plain: true,
                without: Hidden::JOLIET,
                left_out,
                moved: &Relocation::default(),
                report: &mut |node| warnings.add(tree.name(node), "changed in the Joliet tree"),
            };
            Hierarchy::new(&tree, plan)
        });
        let joliet = joliet.transpose()?;
        let charset = options.charsets.host;
        let udf = options.udf.then(|| Udf::new(&tree, charset, left_out, &mut warnings));
        let udf = udf.transpose()?;
        let patched: Vec<_> = boot.first().collect();
        let replacements = contents.find_same(&tree, &dirs, &mut open, &patched);
        tree.replace_contents(&replacements);
        let root_time = Timestamp::default();
        let mut plan = Self {
            content_lba: vec![UNPLACED; contents.len()],
            order: Vec::new(),
            empty: None,
            files: vec![FileNumbers::default(); to_index(tree.last_inode()) + 1],
            volume: Volume { sectors: 0, time: root_time, zone: options.volume_zone, root_time },
            boot,
            primary_tables: Tables::default(),
            joliet_tables: Tables::default(),
            second: None,
            warnings: known
                .iter()
                .chain(&warnings.finish())
                .map(|line| printable(line).into_owned())
                .collect(),
            options,
            tree,
            contents,
            dirs,
            primary,
            joliet,
            udf,
        };
        plan.order_boot_files();
        plan.number_files()?;
        plan.find_times();
        plan.assign_addresses()?;
        Ok(plan)
    }

    /// Returns the exact length of the image in bytes.
    pub fn size(&self) -> u64 {
        self.boot.total() * SECTOR
    }

    /// Returns warnings about what an image that is rebuilt no longer has, about names that some
    /// readers will show differently (names that Joliet or UDF cannot represent, and names and
    /// targets of links that are too long for Linux) and, with [`Duplicates::Report`], about files
    /// that replaced an earlier one.
    ///
    /// [`Duplicates::Report`]: super::Duplicates::Report
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Places boot catalog and boot images before all other contents.
    fn order_boot_files(&mut self) {
        for content in self.boot.first() {
            let lba = &mut self.content_lba[to_index(content)];
            if *lba == UNPLACED {
                *lba = 0;
                self.order.push(content);
            }
        }
    }

    /// Assigns serial numbers, counts links, and determines the order of contents. Checks that all
    /// files can be recorded.
    fn number_files(&mut self) -> Result<()> {
        let first = self.order.len();
        self.number_primary_files()?;
        self.order_hidden_files()?;
        self.sort_contents(first);
        Ok(())
    }

    fn number_primary_files(&mut self) -> Result<()> {
        self.files[0] = FileNumbers { links: 1, serial: 1 };
        let mut serial = 1;
        let mut needs_empty = false;
        for dir in &self.primary.dirs {
            for entry in self.primary.entries_of(dir) {
                if entry.role == Role::Placeholder {
                    needs_empty = true;
                    continue;
                }
                let node = self.tree.node(entry.node);
                let numbers = &mut self.files[to_index(node.inode)];
                numbers.links += 1;
                if numbers.serial == 0 {
                    serial += 1;
                    numbers.serial = serial;
                }
                match node.kind {
                    Kind::Directory(_) => {}
                    Kind::File(content) => {
                        let len = self.contents.get(content).len;
                        if self.is_too_large(len) {
                            return Err(too_large(&self.path(dir, entry.node), len));
                        }
                        needs_empty |= len == 0;
                        let lba = &mut self.content_lba[to_index(content)];
                        if len > 0 && *lba == UNPLACED {
                            *lba = 0;
                            self.order.push(content);
                        }
                    }
                    _ if self.options.rock_ridge.is_none() => {
                        return Err(self.not_recorded(dir, entry.node));
                    }
                    _ => needs_empty = true,
                }
            }
        }
        // The address is assigned later.
        self.empty = needs_empty.then_some(0);
        Ok(())
    }

    /// Adds the files that are hidden from the primary tree to the order of contents: they may be
    /// in the Joliet tree, and those that are in no tree are still written.
    fn order_hidden_files(&mut self) -> Result<()> {
        let mut found = Vec::new();
        for id in self.tree.all() {
            let Kind::File(content) = self.tree.node(id).kind else { continue };
            match self.contents.get(content).len {
                0 => self.empty = Some(0),
                _ if self.content_lba[to_index(content)] != UNPLACED => {}
                len if self.is_too_large(len) => {
                    return Err(too_large(&String::from_utf8_lossy(self.tree.name(id)), len));
                }
                _ => {
                    self.content_lba[to_index(content)] = 0;
                    found.push(content);
                }
            }
        }
        // The last name of a directory is found first.
        self.order.extend(found.into_iter().rev());
        Ok(())
    }

    /// Sorts the contents from the index `first` by weight.
    fn sort_contents(&mut self, first: usize) {
        if self.tree.all().all(|id| self.tree.node(id).weight == 0) {
            return;
        }
        let mut weights: HashMap<u32, i32> = HashMap::new();
        for id in self.tree.all() {
            let node = self.tree.node(id);
            if let Kind::File(content) = node.kind {
                let weight = weights.entry(content).or_insert(node.weight);
                *weight = node.weight.max(*weight);
            }
        }
        self.order[first..].sort_by_key(|content| Reverse(weights.get(content).copied()));
    }

    fn is_too_large(&self, len: u64) -> bool {
        let CreateOptions { names, limited_sizes, .. } = &self.options;
        len > u64::from(u32::MAX) && !names.level.has_file_sections() && !limited_sizes
    }

    fn not_recorded(&self, dir: &Directory, node: NodeId) -> Error {
        let what = match self.tree.node(node).kind {
            Kind::Symlink(_) => "symbolic link",
            Kind::Device { .. } => "device",
            Kind::Fifo => "named pipe",
            _ => "socket",
        };
        let path = self.path(dir, node);
        let message = format!("\"{path}\" is a {what}, which only Rock Ridge can record");
        Error::invalid(message)
            .hint("follow symbolic links, or exclude the file")
            .with_remedy(Remedy::EnableRockRidge)
    }

    /// Returns a path in the image for error messages.
    fn path(&self, dir: &Directory, node: NodeId) -> String {
        let mut names = vec![self.tree.name(node)];
        let mut dir = dir;
        while dir.node != ROOT {
            names.push(self.tree.name(dir.node));
            dir = &self.primary.dirs[to_index(dir.moved_from.unwrap_or(dir.parent))];
        }
        names.reverse();
        String::from_utf8_lossy(&names.join(&b"/"[..])).into_owned()
    }

    /// Sets the time of the volume: that in the options, or the modification time of the newest
    /// file.
    fn find_times(&mut self) {
        let root = std::iter::once(ROOT);
        let nodes = root.chain(self.primary.entries.iter().map(|entry| entry.node));
        let times = nodes.filter_map(|node| self.tree.node(node).times.modified);
        let newest = self.options.file_time.or_else(|| times.max());
        let clamped = newest.map(|time| self.clamp(time));
        let time = clamped.or(self.options.latest).unwrap_or_default();
        // In whole seconds like the file times in Rock Ridge, so that an image built from the
        // contents of this image has the same volume time.
        let time = Timestamp::from_seconds(time.seconds);
        self.volume.time = self.options.volume_time.unwrap_or(time);
        self.volume.root_time = self.times(self.tree.node(ROOT))[0];
    }

    fn clamp(&self, time: Timestamp) -> Timestamp {
        self.options.latest.map_or(time, |latest| time.min(latest))
    }

    /// Returns the times of modification, access and attribute change to be recorded. A node
    /// without a modification time gets that of the volume.
    pub(super) fn times(&self, node: &TreeNode) -> [Timestamp; 3] {
        let Times { modified, accessed, changed } = node.times;
        if let Some(time) = self.options.file_time {
            return [self.clamp(time); 3];
        }
        let modified = modified.unwrap_or(self.volume.time);
        let times = [modified, accessed.unwrap_or(modified), changed.unwrap_or(modified)];
        times.map(|time| self.clamp(time))
    }

    /// Returns the user ID, group ID and permissions to be recorded.
    pub(super) fn owner_and_mode(&self, node: &TreeNode) -> (u32, u32, u32) {
        let rationalized = self.options.rock_ridge == Some(RockRidge::Rationalized);
        let (mut uid, mut gid, mut mode) = (node.uid, node.gid, node.mode);
        if rationalized {
            (uid, gid) = (0, 0);
            mode = mode & 0o555 | 0o444;
            if mode & 0o111 != 0 {
                mode |= 0o111;
            }
        }
        mode = match node.kind {
            Kind::Symlink(_) => 0o777,
            Kind::Directory(_) => self.options.dir_mode.unwrap_or(mode),
            _ => self.options.file_mode.unwrap_or(mode),
        };
        (self.options.uid.unwrap_or(uid), self.options.gid.unwrap_or(gid), mode & 0o7777)
    }

    /// Assigns all addresses.
    fn assign_addresses(&mut self) -> Result<()> {
        let optional =
            [self.boot.has_catalog(), self.joliet.is_some(), self.has_enhanced_descriptor()];
        let descriptors = 2 + optional.map(u32::from).iter().sum::<u32>();
        let partition = self.options.hybrid.partition_offset;
        if partition > 0 && self.udf.is_some() {
            // The descriptors of UDF follow the first set, where the second one is.
            return Err(Error::invalid("an image with a partition offset cannot have UDF"));
        }
        let too_large = || Error::limit("the partition offset exceeds 2^32 sectors");
        let first = DESCRIPTORS.checked_add(partition).and_then(|at| at.checked_add(descriptors));
        let mut at = Cursor(first.ok_or_else(too_large)?);
        self.place_udf_recognition(&mut at)?;
        self.place_udf(&mut at)?;
        let trees = at.0;
        self.primary_tables = at.path_tables(&self.primary)?;
        if let Some(joliet) = &self.joliet {
            self.joliet_tables = at.path_tables(joliet)?;
        }
        for space in [Space::Primary, Space::Joliet] {
            self.place_directories(space, &mut at)?;
        }
        if partition > 0 {
            let len = at.0 - trees;
            at.take(u64::from(len) * SECTOR)?;
            let contents = partition.wrapping_neg();
            let directories = len.wrapping_add(contents);
            self.second = Some(SecondSet { partition, shift: Shift { directories, contents } });
        }
        if self.empty.is_some() {
            self.empty = Some(at.take(SECTOR)?);
        }
        for &content in &self.order {
            at.align(self.options.alignment)?;
            let len = self.contents.get(content).len;
            self.content_lba[to_index(content)] = at.take(len)?;
        }
        self.end_udf_partition(at.0);
        self.place_disk(at.0)
    }

    /// Returns whether the image has the enhanced volume descriptor of ISO 9660:1999.
    pub(super) fn has_enhanced_descriptor(&self) -> bool {
        self.options.names.level == Level::Four
    }

    fn place_directories(&mut self, space: Space, at: &mut Cursor) -> Result<()> {
        let count = self.hierarchy(space).map_or(0, |hierarchy| hierarchy.dirs.len());
        let (mut records, mut areas) = (Vec::new(), Vec::new());
        for index in 0..count {
            self.directory(space, index, Shift::default(), &mut records, &mut areas);
            let sectors = to_u64(records.len()).div_ceil(SECTOR);
            let continued = to_u64(areas.len()).div_ceil(SECTOR);
            let lba = at.take((sectors + continued) * SECTOR)?;
            let Some(dir) = self.hierarchy_mut(space).map(|hierarchy| &mut hierarchy.dirs[index])
            else {
                continue;
            };
            // Both are less than the number of sectors of the volume, which fits in 32 bits.
            (dir.lba, dir.sectors, dir.continued) = (lba, to_u32(sectors), to_u32(continued));
            if u64::from(dir.sectors) * SECTOR > u64::from(u32::MAX) {
                return Err(Error::limit("the records of a directory exceed 4 GiB"));
            }
        }
        let root = self.hierarchy(space).and_then(|hierarchy| hierarchy.dirs.first());
        if let Some(&Directory { lba, sectors, .. }) = root {
            let tables = match space {
                Space::Primary => &mut self.primary_tables,
                Space::Joliet => &mut self.joliet_tables,
            };
            (tables.root, tables.root_bytes) = (lba, sectors * to_u32(SECTOR));
        }
        Ok(())
    }

    pub(super) fn hierarchy(&self, space: Space) -> Option<&Hierarchy> {
        match space {
            Space::Primary => Some(&self.primary),
            Space::Joliet => self.joliet.as_ref(),
        }
    }

    fn hierarchy_mut(&mut self, space: Space) -> Option<&mut Hierarchy> {
        match space {
            Space::Primary => Some(&mut self.primary),
            Space::Joliet => self.joliet.as_mut(),
        }
    }
}

/// The next free sector.
pub(super) struct Cursor(u32);

impl Cursor {
    /// Allocates whole sectors for `len` bytes. Returns the first one.
    pub(super) fn take(&mut self, len: u64) -> Result<u32> {
        let start = self.0;
        let end = u64::from(start).checked_add(len.div_ceil(SECTOR));
        let end = end.and_then(|end| u32::try_from(end).ok());
        let message = "the image would exceed 2^32 sectors (8 TiB)";
        self.0 = end.ok_or_else(|| Error::limit(message))?;
        Ok(start)
    }

    /// Continues with sector `sector`, which is not before the next free one.
    pub(super) fn skip_to(&mut self, sector: u32) {
        self.0 = self.0.max(sector);
    }

    pub(super) fn align(&mut self, alignment: u32) -> Result<()> {
        let unit = u64::from(alignment);
        let offset = u64::from(self.0) * SECTOR;
        self.take(offset.next_multiple_of(unit) - offset).map(|_| ())
    }

    fn path_tables(&mut self, hierarchy: &Hierarchy) -> Result<Tables> {
        // Fits in 32 bits: at most 65535 directories with names of at most 255 bytes.
        let len = path_table::len(hierarchy);
        let [little, big] = [self.take(len)?, self.take(len)?];
        Ok(Tables { path_table: to_u32(len), little, big, ..Tables::default() })
    }
}

/// Warnings, of which only the first are kept.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    kept: Vec<String>,
    more: u64,
}

impl Warnings {
    /// Adds a warning about a name.
    pub(super) fn add(&mut self, name: &[u8], why: &str) {
        self.line(|| format!("the name \"{}\" is {why}", String::from_utf8_lossy(name)));
    }

    /// Adds a warning about the target of a symbolic link.
    pub(super) fn add_link(&mut self, name: &[u8], why: &str) {
        let name = String::from_utf8_lossy(name);
        self.line(|| format!("the target of the symbolic link \"{name}\" is {why}"));
    }

    /// Adds a line.
    pub(super) fn line(&mut self, line: impl FnOnce() -> String) {
        if self.kept.len() == MAX_WARNINGS {
            self.more += 1;
            return;
        }
        self.kept.push(line());
    }

    fn long_names(&mut self, tree: &Tree) {
        for id in tree.all() {
            if tree.name(id).len() > LINUX_NAME {
                self.add(tree.name(id), "truncated to 250 bytes by Linux");
            }
        }
    }

    fn finish(mut self) -> Vec<String> {
        if self.more > 0 {
            self.kept.push(format!("{} more names are changed, truncated or replaced", self.more));
        }
        self.kept
    }
}

fn too_large(path: &str, len: u64) -> Error {
    let message =
        format!("\"{path}\" has {len} bytes; files of 4 GiB and more require interchange level 3");
    Error::invalid(message).with_remedy(Remedy::IsoLevel3)
}

fn check_options(options: &CreateOptions) -> Result<()> {
    descriptors::check(options)?;
    let alignment = options.alignment;
    if !alignment.is_power_of_two() || !(2048..=1 << 20).contains(&alignment) {
        let message =
            format!("the alignment {alignment} is not a power of two from 2048 to 1048576");
        return Err(Error::invalid(message));
    }
    if options.limited_sizes && !options.udf {
        let message = "files can only be limited in ISO 9660 if they are complete in UDF";
        return Err(Error::invalid(message));
    }
    Ok(())
}
