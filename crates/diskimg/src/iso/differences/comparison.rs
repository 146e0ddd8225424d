//! The comparison of the files of all trees.

use super::{Difference, Tree};
use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::iso::content::ExtentSource;
use crate::iso::image::{IsoImage, Namespace};
use crate::iso::node::{Content, FileExtent, FileType, Node};
use crate::iso::walk::Walk;
use crate::open::limits::Limits;
use crate::report::finding::Severity;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::{Source, SourceError};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// Maximum number of bytes that are compared of files of the same path in different places.
const MAX_COMPARED: u64 = 64 << 20;

/// Maximum number of differences of which each is described.
const MAX_DESCRIBED: usize = 8;

/// Maximum length in bytes of the paths that are kept until it is known which are described.
const MAX_PATHS: usize = 1 << 20;

/// Maximum number of files in all trees whose paths differ only in case.
const MAX_ALIKE: usize = 64;

/// Length in bytes of the shortest names that writers shorten in Joliet or UDF.
const LONG_NAME: usize = 60;

/// What a path is in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Directory,
    /// An empty file, a link or a device: trees that do not have links show these as empty files.
    Nothing,
    /// A file with contents, by their key.
    File(u64),
}

/// A file or directory of a tree.
struct Item {
    tree: usize,
    shown: Shown,
    /// Hash of the path.
    path: u64,
    /// Hash of all that distinguishes it from another file of the same path in the same tree.
    identity: u64,
    /// The next one whose path is the same without regard to case.
    next: Option<usize>,
}

/// What is known of contents: where they are, and the trees that have them, as bits.
struct Known {
    extents: Box<[FileExtent]>,
    trees: u8,
    /// The trees in which they have a path that a writer may have to shorten for ISO 9660.
    shortened: u8,
}

/// A path that is different files in two trees, or in one.
struct Conflict {
    /// The path, unless there are too many.
    path: Option<Vec<u8>>,
    is_long: bool,
    trees: [usize; 2],
    shown: [Shown; 2],
}

pub(super) struct Comparison<'a> {
    image: &'a IsoImage,
    trees: Vec<Tree>,
    hasher: RandomState,
    items: Vec<Item>,
    /// Index of the last item by a hash of the path without regard to case.
    paths: HashMap<u64, usize>,
    contents: HashMap<u64, Known>,
    conflicts: Vec<Conflict>,
    /// Offset of the boot catalog.
    catalog: Option<u64>,
    /// Number of bytes of paths that may still be kept.
    kept: usize,
    /// Number of bytes that may still be compared.
    budget: u64,
    /// What cannot be compared: the first of its kind, and how often it occurs.
    failures: Vec<(Difference, usize)>,
}

impl<'a> Comparison<'a> {
    /// Prepares a comparison. Trees with shortened names are last.
    pub(super) fn new(image: &'a IsoImage, trees: Vec<Tree>) -> Self {
        Self {
            image,
            trees,
            hasher: RandomState::new(),
            items: Vec::new(),
            paths: HashMap::new(),
            contents: HashMap::new(),
            conflicts: Vec::new(),
            catalog: boot_catalog(image),
            kept: MAX_PATHS,
            budget: MAX_COMPARED,
            failures: Vec::new(),
        }
    }

    /// Returns the number of trees.
    pub(super) fn len(&self) -> usize {
        self.trees.len()
    }

    fn title(&self, tree: usize) -> &'static str {
        self.trees[tree].0.title()
    }

    /// Records that something cannot be compared.
    fn fail(&mut self, message: String, path: Option<&[u8]>) {
        let known = self.failures.iter_mut().find(|(first, _)| first.message == message);
        match known {
            Some((_, count)) => *count += 1,
            None => {
                let path = path.map(<[u8]>::to_vec);
                self.failures.push((Difference { path, ..Difference::error(message) }, 1));
            }
        }
    }

    pub(super) fn read_tree(&mut self, index: usize, limits: Limits) -> Result<()> {
        let tree = Arc::clone(&self.trees[index].1);
        let mut unreadable = None;
        match tree.root() {
            Ok(root) => {
                for found in Walk::new(tree, root, b"", self.image.source.len(), limits) {
                    match found {
                        Ok(found) => self.add(index, &found.path, &found.node)?,
                        Err(error) if error.is_storage_failure() => return Err(error),
                        Err(error) => _ = unreadable.get_or_insert(error),
                    }
                }
            }
            Err(error) if error.is_storage_failure() => return Err(error),
            Err(error) => unreadable = Some(error),
        }
        if let Some(error) = unreadable {
            let (title, error) = (self.title(index), error.without_remedy());
            self.fail(format!("the {title} tree cannot be compared completely: {error}"), None);
        }
        Ok(())
    }

    /// Adds a file or directory, and compares it with what other trees have under its path.
    fn add(&mut self, tree: usize, path: &[u8], node: &Node) -> Result<()> {
        if let Content::Unsupported(why) = node.content {
            let message =
                format!("files in the {} tree cannot be compared: {why}", self.title(tree));
            self.fail(message, Some(path));
            return Ok(());
        }
        let extents = joined(node.extents());
        let location = node.is_dir().then_some(node.location);
        let identity =
            self.hasher.hash_one((node.file_type, &extents, &node.link_target, location));
        let shown = match node.file_type {
            FileType::Directory => Shown::Directory,
            FileType::Regular if !extents.is_empty() => {
                Shown::File(self.known(tree, path, extents))
            }
            _ => Shown::Nothing,
        };
        let key = self.hasher.hash_one(without_case(path));
        let item = Item {
            tree,
            shown,
            path: self.hasher.hash_one(path),
            identity,
            next: self.paths.get(&key).copied(),
        };
        self.compare(&item, path)?;
        self.paths.insert(key, self.items.len());
        self.items.push(item);
        Ok(())
    }

    /// Records that a tree has a file with these contents, and returns their key.
    fn known(&mut self, tree: usize, path: &[u8], extents: Box<[FileExtent]>) -> u64 {
        let key = self.hasher.hash_one(&extents);
        let known = self.contents.entry(key);
        let known = known.or_insert_with(|| Known { extents, trees: 0, shortened: 0 });
        known.trees |= 1 << tree;
        if !is_short(path) {
            known.shortened |= 1 << tree;
        }
        key
    }

    /// Compares an item with those before it whose paths are the same without regard to case. If a
    /// tree has the same path, others of that tree do not count. A tree agrees if one of those that
    /// count is the same file.
    fn compare(&mut self, item: &Item, path: &[u8]) -> Result<()> {
        let mut alike = Vec::new();
        let mut next = item.next;
        while let Some(index) = next {
            if alike.len() == MAX_ALIKE {
                let message = "too many paths that differ only in case cannot be compared";
                self.fail(message.into(), Some(path));
                return Ok(());
            }
            alike.push(index);
            next = self.items[index].next;
        }
        let items = &self.items;
        let same_path = |index: &usize| items[*index].path == item.path;
        let is_duplicate = alike
            .iter()
            .filter(|index| same_path(index))
            .any(|&index| items[index].tree == item.tree && items[index].identity != item.identity);
        let mut others: Vec<(usize, Vec<Shown>)> = Vec::new();
        for tree in 0..item.tree {
            let of_tree = alike.iter().filter(|&&index| items[index].tree == tree);
            let exact = of_tree.clone().any(same_path) && !self.is_shortened(item.tree);
            let counts = of_tree.filter(|index| !exact || same_path(index));
            let shown: Vec<_> = counts.map(|&index| items[index].shown).collect();
            if !shown.is_empty() {
                others.push((tree, shown));
            }
        }
        if is_duplicate {
            self.conflict(path, [item.tree; 2], [item.shown; 2]);
        }
        // Directories of Rock Ridge at another place are files without contents there.
        if self.is_shortened(item.tree) && item.shown == Shown::Nothing {
            return Ok(());
        }
        for (tree, shown) in others {
            if !self.agrees(item.shown, &shown, path)? {
                self.conflict(path, [tree, item.tree], [shown[0], item.shown]);
            }
        }
        Ok(())
    }

    /// Returns true if `item` is the same as one of `others`, or cannot be compared.
    fn agrees(&mut self, item: Shown, others: &[Shown], path: &[u8]) -> Result<bool> {
        if others.contains(&item) {
            return Ok(true);
        }
        // Not every program shows the contents of the boot catalog in all trees.
        let is_catalog = |shown: &Shown| match shown {
            Shown::File(key) => self.contents.get(key).is_some_and(|known| self.is_catalog(known)),
            _ => false,
        };
        if item == Shown::Nothing && others.iter().any(is_catalog)
            || is_catalog(&item) && others.contains(&Shown::Nothing)
        {
            return Ok(true);
        }
        let Shown::File(key) = item else { return Ok(false) };
        for other in others {
            let Shown::File(other) = other else { continue };
            match self.same_contents([key, *other])? {
                Some(true) => return Ok(true),
                Some(false) => {}
                None => {
                    let message = "files of one path at different places in two trees are too long \
                                   to be compared";
                    self.fail(message.into(), Some(path));
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn is_catalog(&self, known: &Known) -> bool {
        self.catalog.is_some() && known.extents[0].offset == self.catalog
    }

    fn conflict(&mut self, path: &[u8], trees: [usize; 2], shown: [Shown; 2]) {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let left = self.kept.checked_sub(path.len());
        self.kept = left.unwrap_or(self.kept);
        self.conflicts.push(Conflict {
            path: left.map(|_| path.to_vec()),
            is_long: name.len() >= LONG_NAME,
            trees,
            shown,
        });
    }

    /// Returns true for a tree in which all names may be shortened.
    fn is_shortened(&self, tree: usize) -> bool {
        self.trees[tree].0 == Namespace::Iso
    }

    /// Compares the contents of two files. Returns `None` if they are too long for that.
    fn same_contents(&mut self, keys: [u64; 2]) -> Result<Option<bool>> {
        let open = |key| {
            let extents = self.contents.get(&key).map_or(&[][..], |known| &known.extents);
            ExtentSource::new(Arc::clone(&self.image.source), extents)
        };
        let [Ok(first), Ok(second)] = keys.map(open) else { return Ok(Some(false)) };
        if first.len() != second.len() {
            return Ok(Some(false));
        }
        let Some(left) = self.budget.checked_sub(first.len()) else { return Ok(None) };
        self.budget = left;
        let mut buffers = [vec![0; 1 << 16], vec![0; 1 << 16]];
        let mut at = 0;
        while at < first.len() {
            let part = to_usize((first.len() - at).min(to_u64(buffers[0].len())));
            for (source, buffer) in [&first, &second].into_iter().zip(&mut buffers) {
                match source.read_exact_at(&mut buffer[..part], at) {
                    Ok(()) => {}
                    Err(SourceError::OutOfRange { .. }) => return Ok(Some(false)),
                    Err(error) => return Err(Error::io("cannot read a file", error)),
                }
            }
            if buffers[0][..part] != buffers[1][..part] {
                return Ok(Some(false));
            }
            at += to_u64(part);
        }
        Ok(Some(true))
    }

    /// Returns true if writers make the conflict by shortening names: both contents are in both
    /// trees, and in a tree of ISO 9660 the file has a name that is not its own because that does
    /// not fit.
    fn is_usual(&self, conflict: &Conflict) -> bool {
        let [first, second] = conflict.trees;
        if first == second || !(self.is_shortened(second) || conflict.is_long) {
            return false;
        }
        let bits = |shown: Shown, bits: fn(&Known) -> u8| match shown {
            Shown::File(key) => self.contents.get(&key).map_or(0, bits),
            Shown::Directory | Shown::Nothing => u8::MAX,
        };
        let [of_first, of_second] = conflict.shown;
        let is_moved = !self.is_shortened(second)
            || bits(of_second, |known| known.shortened) & 1 << first != 0;
        is_moved
            && bits(of_first, |known| known.trees) & 1 << second != 0
            && bits(of_second, |known| known.trees) & 1 << first != 0
    }

    pub(super) fn result(mut self) -> Vec<Difference> {
        let mut found: Vec<_> = std::mem::take(&mut self.conflicts)
            .into_iter()
            .map(|conflict| (self.is_usual(&conflict), conflict))
            .collect();
        // Errors and those with a path are described first.
        found.sort_by_key(|(is_usual, conflict)| (*is_usual, conflict.path.is_none()));
        let severity = |is_usual| if is_usual { Severity::Warning } else { Severity::Error };
        let others = found.split_off(MAX_DESCRIBED.min(found.len()));
        let mut differences = Vec::new();
        for (is_usual, conflict) in found {
            let [first, second] = conflict.trees.map(|tree| self.title(tree));
            let message = match conflict.trees {
                [tree, other] if tree == other => {
                    format!("several files of this path in the {first} tree")
                }
                _ => format!("another file in the {first} tree than in the {second} tree"),
            };
            let path = conflict.path;
            differences.push(Difference { path, ..Difference::new(severity(is_usual), message) });
        }
        if let Some((is_usual, _)) = others.first() {
            let message = format!("{} other paths are different files", others.len());
            differences.push(Difference::new(severity(*is_usual), message));
        }
        for (failure, count) in std::mem::take(&mut self.failures) {
            let message = match count {
                1 => failure.message,
                _ => format!("{} ({count} of them)", failure.message),
            };
            differences.push(Difference { message, ..failure });
        }
        differences.extend(self.missing());
        differences
    }

    /// Reports how many files each tree does not have.
    fn missing(&self) -> Vec<Difference> {
        let mut found = Vec::new();
        for index in 0..self.trees.len() {
            let known = self.contents.values().filter(|known| !self.is_catalog(known));
            let missing = known.filter(|known| known.trees & 1 << index == 0).count();
            let title = self.title(index);
            let message = match missing {
                0 => continue,
                1 => format!("a file of another tree is not in the {title} tree"),
                _ => format!("{missing} files of other trees are not in the {title} tree"),
            };
            found.push(Difference::new(Severity::Warning, message));
        }
        found
    }
}

/// Returns the offset of the boot catalog if there is one (El Torito, 2.1).
fn boot_catalog(image: &IsoImage) -> Option<u64> {
    let at = image.descriptors.boot_catalog.map(|sector| u64::from(sector) * SECTOR)?;
    let mut validation = [0; 32];
    image.source.read_exact_at(&mut validation, at).ok()?;
    (validation[0] == 1 && validation[30..] == [0x55, 0xaa]).then_some(at)
}

/// Returns the path without regard to case. What is not UTF-8 has other letters only in ASCII.
fn without_case(path: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(path) {
        Ok(path) if !path.is_ascii() => path.to_lowercase().into_bytes(),
        _ => path.to_ascii_lowercase(),
    }
}

/// Returns true for a path that all writers keep in ISO 9660, except for case: names of up to eight
/// characters, and a suffix of up to three for the file (ECMA-119, 10.1).
fn is_short(path: &[u8]) -> bool {
    let is_part = |part: &[u8], max: usize| {
        (1..=max).contains(&part.len())
            && part.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
    };
    let mut names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
    let Some(file) = names.next_back() else { return true };
    let (stem, suffix) = match file.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&file[..dot], Some(&file[dot + 1..])),
        None => (file, None),
    };
    names.all(|name| is_part(name, 8))
        && is_part(stem, 8)
        && suffix.is_none_or(|suffix| is_part(suffix, 3))
}

/// Returns the extents without empty ones, and adjoining ones as one: trees divide a long file at
/// different places.
fn joined(extents: &[FileExtent]) -> Box<[FileExtent]> {
    let mut joined: Vec<FileExtent> = Vec::with_capacity(extents.len());
    for extent in extents.iter().filter(|extent| extent.len > 0) {
        let last = joined.last_mut();
        match (last, extent.offset) {
            (Some(FileExtent { offset: Some(start), len }), Some(offset))
                if start.checked_add(*len) == Some(offset) =>
            {
                *len = len.saturating_add(extent.len);
            }
            (Some(FileExtent { offset: None, len }), None) => {
                *len = len.saturating_add(extent.len);
            }
            _ => joined.push(*extent),
        }
    }
    joined.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_paths_are_those_that_no_writer_changes() {
        for path in [&b"/setup.sh"[..], b"/a/b_c/README", b"/12345678.abc"] {
            assert!(is_short(path), "{path:?}");
        }
        for path in [&b"/a.text"[..], b"/long-name", b"/a.b/c", b"/a.b.c", b"/123456789", b"/.a"] {
            assert!(!is_short(path), "{path:?}");
        }
    }

    #[test]
    fn case_is_ignored_in_utf_8_and_in_ascii() {
        assert_eq!(without_case("/\u{c4}A".as_bytes()), "/\u{e4}a".as_bytes());
        assert_eq!(without_case(b"/\xc4A"), b"/\xc4a");
    }
}
