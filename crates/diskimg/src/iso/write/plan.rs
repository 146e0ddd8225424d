//! Every address of an image, before a byte of it is written.
//!
//! ```text
//!   0    system area
//!   16   primary descriptor [boot record] [Joliet's descriptor] terminator
//!        path tables: primary L, M [, Joliet's L, M]
//!        directories of the primary tree, each with its continuation areas
//!        directories of Joliet's
//!        a sector of zeros, where files without bytes are said to be
//!        contents: boot catalog and boot images, then in the order of the primary tree; each at
//!        a multiple of the alignment
//!        appended partitions, padding, GPT's second copy: see `boot::hybrid`
//! ```

use super::boot::Boot;
use super::builder::Builder;
use super::contents::Contents;
use super::descriptors::{self, Tables, Volume};
use super::directory::Space;
use super::hierarchy::{self, Directory, Hierarchy, Relocation, Role};
use super::host::HostDirs;
use super::joliet::JolietNames;
use super::names::PrimaryNames;
use super::options::{CreateOptions, Level, RockRidge};
use super::path_table;
use super::tree::{Kind, NodeId, ROOT, Times, Tree, TreeNode};
use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::iso::time::Timestamp;
use crate::report::printable::printable;
use crate::storage::number::{to_index, to_u32, to_u64};

/// The first sector behind the system area.
const DESCRIPTORS: u32 = 16;

/// How many warnings are kept.
const WARNINGS: usize = 100;

/// Linux shows no more of a Rock Ridge name (fs/isofs/rock.c, get_rock_ridge_filename).
const LINUX_NAME: usize = 253;

/// A content that no file has.
pub(super) const NOWHERE: u32 = u32::MAX;

/// An image that has all its addresses and no bytes yet: [`emit`](Self::emit) or
/// [`write`](Self::write) it.
#[derive(Debug)]
pub struct Plan {
    pub(super) options: CreateOptions,
    pub(super) tree: Tree,
    pub(super) contents: Contents,
    pub(super) dirs: HostDirs,
    pub(super) primary: Hierarchy,
    pub(super) joliet: Option<Hierarchy>,
    /// First sector of each content; [`NOWHERE`] if no file has it.
    pub(super) content_lba: Vec<u32>,
    /// The contents that are written, in their order.
    pub(super) order: Vec<u32>,
    /// The sector where files without bytes are, and whether there is one.
    pub(super) empty: Option<u32>,
    /// By [`TreeNode::inode`].
    pub(super) files: Vec<FileNumbers>,
    pub(super) volume: Volume,
    pub(super) boot: Boot,
    pub(super) primary_tables: Tables,
    pub(super) joliet_tables: Tables,
    warnings: Vec<String>,
}

/// What Rock Ridge says of a file that may have several names.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FileNumbers {
    pub(super) links: u32,
    pub(super) serial: u32,
}

impl Plan {
    pub(super) fn new(mut builder: Builder) -> Result<Self> {
        check(&builder.options)?;
        let boot = Boot::new(&mut builder)?;
        let Builder { options, mut tree, contents, dirs, mut open, .. } = builder;
        let moved = match options.deep_directories {
            true => Relocation::default(),
            false => Relocation::find(&mut tree)?,
        };
        if !moved.is_empty() && options.rock_ridge.is_none() {
            let message = "directories deeper than eight can only be moved with Rock Ridge";
            return Err(Error::invalid(message).hint("let them stay where they are"));
        }
        let mut warnings = Warnings::default();
        if options.rock_ridge.is_some() {
            warnings.long_names(&tree);
        }
        let naming = PrimaryNames(options.names.clone());
        let plan =
            hierarchy::Plan { naming: &naming, plain: false, moved: &moved, tell: &mut |_| {} };
        let primary = Hierarchy::new(&tree, plan)?;
        let joliet = options.joliet.map(|joliet| {
            let plan = hierarchy::Plan {
                naming: &JolietNames(joliet),
                plain: true,
                moved: &Relocation::default(),
                tell: &mut |node| warnings.add(tree.name(node), "Joliet cannot hold it as it is"),
            };
            Hierarchy::new(&tree, plan)
        });
        let joliet = joliet.transpose()?;
        let patched: Vec<_> = boot.first().collect();
        let stands_for = contents.find_same(&tree, &dirs, &mut open, &patched);
        tree.replace_contents(&stands_for);
        let root_time = Timestamp::default();
        let mut plan = Self {
            content_lba: vec![NOWHERE; contents.len()],
            order: Vec::new(),
            empty: None,
            files: vec![FileNumbers::default(); to_index(tree.last_inode()) + 1],
            volume: Volume { sectors: 0, time: root_time, root_time },
            boot,
            primary_tables: Tables::default(),
            joliet_tables: Tables::default(),
            warnings: warnings.finish().iter().map(|line| printable(line).into_owned()).collect(),
            options,
            tree,
            contents,
            dirs,
            primary,
            joliet,
        };
        plan.order_boot_files();
        plan.number_files()?;
        plan.find_times();
        plan.place()?;
        Ok(plan)
    }

    /// Exactly how many bytes the image will have.
    pub fn size(&self) -> u64 {
        self.boot.total() * SECTOR
    }

    /// What some readers will see otherwise: names that Joliet cannot hold as they are, or that
    /// are too long for Linux.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What starts a machine comes before all other contents.
    fn order_boot_files(&mut self) {
        for content in self.boot.first() {
            let lba = &mut self.content_lba[to_index(content)];
            if *lba == NOWHERE {
                *lba = 0;
                self.order.push(content);
            }
        }
    }

    /// Gives numbers to files, and an order to contents; sees that all can be recorded.
    fn number_files(&mut self) -> Result<()> {
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
                        if len > u64::from(u32::MAX) && self.options.names.level < Level::Three {
                            return Err(self.too_long(dir, entry.node, len));
                        }
                        needs_empty |= len == 0;
                        let lba = &mut self.content_lba[to_index(content)];
                        if len > 0 && *lba == NOWHERE {
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
        // Its address comes with the others.
        self.empty = needs_empty.then_some(0);
        Ok(())
    }

    fn too_long(&self, dir: &Directory, node: NodeId, len: u64) -> Error {
        let path = self.path(dir, node);
        let message =
            format!("\"{path}\" has {len} bytes; files of 4 GiB and more need interchange level 3");
        Error::invalid(message).hint("-iso-level 3")
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
        Error::invalid(message).hint("turn Rock Ridge on, follow links, or exclude it")
    }

    /// A path of the image, for people.
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

    /// The volume's time is that of the youngest file, unless someone said another.
    fn find_times(&mut self) {
        let root = std::iter::once(ROOT);
        let nodes = root.chain(self.primary.entries.iter().map(|entry| entry.node));
        let times = nodes.filter_map(|node| self.tree.node(node).times.modified);
        let youngest = self.options.file_time.or_else(|| times.max());
        let clamped = youngest.map(|time| self.clamp(time));
        let time = clamped.or(self.options.latest).unwrap_or_default();
        // As Rock Ridge will tell it, so that an image of this image is the same.
        let time = Timestamp::from_seconds(time.seconds);
        self.volume.time = self.options.volume_time.unwrap_or(time);
        self.volume.root_time = self.times(self.tree.node(ROOT))[0];
    }

    fn clamp(&self, time: Timestamp) -> Timestamp {
        self.options.latest.map_or(time, |latest| time.min(latest))
    }

    /// Last change, last read, last change of attributes, as they are recorded. Who said
    /// nothing has the volume's time.
    pub(super) fn times(&self, node: &TreeNode) -> [Timestamp; 3] {
        let Times { modified, accessed, changed } = node.times;
        if let Some(time) = self.options.file_time {
            return [self.clamp(time); 3];
        }
        let modified = modified.unwrap_or(self.volume.time);
        let times = [modified, accessed.unwrap_or(modified), changed.unwrap_or(modified)];
        times.map(|time| self.clamp(time))
    }

    /// Owner, group and permissions as they are recorded.
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

    /// Gives everything its address.
    fn place(&mut self) -> Result<()> {
        let descriptors = 2 + u32::from(self.boot.has_catalog()) + u32::from(self.joliet.is_some());
        let mut at = Cursor(DESCRIPTORS + descriptors);
        self.primary_tables = at.path_tables(&self.primary)?;
        if let Some(joliet) = &self.joliet {
            self.joliet_tables = at.path_tables(joliet)?;
        }
        for space in [Space::Primary, Space::Joliet] {
            self.place_directories(space, &mut at)?;
        }
        if self.empty.is_some() {
            self.empty = Some(at.take(SECTOR)?);
        }
        for &content in &self.order {
            at.align(self.options.alignment)?;
            let len = self.contents.get(content).len;
            self.content_lba[to_index(content)] = at.take(len)?;
        }
        self.place_disk(at.0)
    }

    fn place_directories(&mut self, space: Space, at: &mut Cursor) -> Result<()> {
        let count = self.hierarchy(space).map_or(0, |hierarchy| hierarchy.dirs.len());
        let (mut records, mut areas) = (Vec::new(), Vec::new());
        for index in 0..count {
            self.directory(space, index, &mut records, &mut areas);
            let sectors = to_u64(records.len()).div_ceil(SECTOR);
            let continued = to_u64(areas.len()).div_ceil(SECTOR);
            let lba = at.take((sectors + continued) * SECTOR)?;
            let Some(dir) = self.hierarchy_mut(space).map(|hierarchy| &mut hierarchy.dirs[index])
            else {
                continue;
            };
            // Both are below the volume's sectors, which have 32 bits.
            (dir.lba, dir.sectors, dir.continued) = (lba, to_u32(sectors), to_u32(continued));
            if u64::from(dir.sectors) * SECTOR > u64::from(u32::MAX) {
                return Err(Error::limit("the records of a directory take more than 4 GiB"));
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
struct Cursor(u32);

impl Cursor {
    /// Takes whole sectors for so many bytes.
    fn take(&mut self, len: u64) -> Result<u32> {
        let start = self.0;
        let end = u64::from(start).checked_add(len.div_ceil(SECTOR));
        let end = end.and_then(|end| u32::try_from(end).ok());
        let message = "the image would have more than 4 thousand million sectors (8 TiB)";
        self.0 = end.ok_or_else(|| Error::limit(message))?;
        Ok(start)
    }

    fn align(&mut self, alignment: u32) -> Result<()> {
        let unit = u64::from(alignment);
        let offset = u64::from(self.0) * SECTOR;
        self.take(offset.next_multiple_of(unit) - offset).map(|_| ())
    }

    fn path_tables(&mut self, hierarchy: &Hierarchy) -> Result<Tables> {
        // At most 65535 directories, whose names have at most 255 bytes.
        let len = path_table::len(hierarchy);
        let [little, big] = [self.take(len)?, self.take(len)?];
        Ok(Tables { path_table: to_u32(len), little, big, ..Tables::default() })
    }
}

#[derive(Debug, Default)]
struct Warnings {
    kept: Vec<String>,
    more: u64,
}

impl Warnings {
    fn add(&mut self, name: &[u8], why: &str) {
        if self.kept.len() == WARNINGS {
            self.more += 1;
            return;
        }
        self.kept.push(format!("the name \"{}\": {why}", String::from_utf8_lossy(name)));
    }

    fn long_names(&mut self, tree: &Tree) {
        for id in tree.all() {
            if tree.name(id).len() > LINUX_NAME {
                self.add(tree.name(id), "Linux shows its first 250 bytes");
            }
        }
    }

    fn finish(mut self) -> Vec<String> {
        if self.more > 0 {
            self.kept.push(format!("the same of {} more names", self.more));
        }
        self.kept
    }
}

fn check(options: &CreateOptions) -> Result<()> {
    descriptors::check(options)?;
    let alignment = options.alignment;
    if !alignment.is_power_of_two() || !(2048..=1 << 20).contains(&alignment) {
        let message = format!("alignment {alignment}: not a power of two from 2048 to 1048576");
        return Err(Error::invalid(message));
    }
    Ok(())
}
