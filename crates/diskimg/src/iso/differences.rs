//! Whether the directory trees of an image show the same files: each program reads one of them.
//!
//! ```text
//!   Rock Ridge   /setup.sh  ──► extent A
//!   Joliet       /setup.sh  ──► extent B: another file of the same name
//!   UDF          (nothing)      a file that is hidden from readers of UDF
//! ```
//!
//! Writers hide files on request, and on many discs with UDF the other tree has only a README. They
//! shorten names, so that the file `A.TEX` of one tree may be `a.text` of another. They never give a
//! whole name to different contents.

use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::iso::content::ExtentSource;
use crate::iso::image::{IsoImage, Namespace};
use crate::iso::node::{FileExtent, FileTree, FileType, Node};
use crate::iso::read::descriptor::{VolumeDescriptor, VolumeKind};
use crate::iso::read::tree::RecordTree;
use crate::iso::walk::Walk;
use crate::open::limits::Limits;
use crate::report::finding::Severity;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::{Source, SourceError};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// Maximum number of files and directories of a tree that are compared.
const MAX_ENTRIES: u64 = 250_000;

/// Maximum number of bytes that are compared of files of the same path in different places.
const MAX_COMPARED: u64 = 64 << 20;

/// Maximum number of differences of which each is described.
const MAX_DESCRIBED: usize = 8;

/// Length in bytes of the shortest names that writers shorten in Joliet or UDF.
const LONG_NAME: usize = 60;

/// What distinguishes the keys of paths that are compared without regard to case.
const IGNORING_CASE: u8 = 1;

/// A difference between the trees.
#[derive(Debug)]
pub(crate) struct Difference {
    /// [`Error`](Severity::Error) if no writer makes it.
    pub(crate) severity: Severity,
    pub(crate) message: String,
    /// Path of the file.
    pub(crate) path: Option<Vec<u8>>,
}

impl Difference {
    fn new(severity: Severity, message: String) -> Self {
        Self { severity, message, path: None }
    }
}

impl IsoImage {
    /// Compares the directory trees of the image: paths and extents of all files that are not empty.
    /// Contents are read only for files of the same path in different places.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if reading fails. What is damaged is a difference.
    pub(crate) fn tree_differences(&self) -> Result<Vec<Difference>> {
        let mut found = several_volumes(&self.descriptors.volumes);
        let trees = self.different_trees(&mut found)?;
        if trees.len() < 2 {
            return Ok(found);
        }
        let limits = self.limits();
        let tree_entries = limits.tree_entries.min(MAX_ENTRIES);
        let mut comparison = Comparison::new(self, trees);
        for index in 0..comparison.trees.len() {
            comparison.read_tree(index, Limits { tree_entries, ..limits.clone() })?;
        }
        found.append(&mut comparison.result());
        Ok(found)
    }

    /// Returns the trees with records of their own. Rock Ridge names are in the primary one.
    fn different_trees(&self, found: &mut Vec<Difference>) -> Result<Vec<Tree>> {
        let mut trees: Vec<Tree> = Vec::new();
        for (kind, namespace) in [
            (VolumeKind::Primary, Namespace::Iso),
            (VolumeKind::Joliet, Namespace::Joliet),
            (VolumeKind::Enhanced, Namespace::Iso),
        ] {
            let Some(volume) = self.descriptors.of(kind) else { continue };
            let source = Arc::clone(&self.source);
            let opened = RecordTree::open(source, volume, self.limits(), false).and_then(|tree| {
                let tree = tree.showing_associated();
                let is_primary = kind == VolumeKind::Primary;
                let names = is_primary.then(|| tree.with_rock_ridge()).transpose()?.flatten();
                Ok(names.map_or((namespace, tree), |tree| (Namespace::RockRidge, tree)))
            });
            match opened {
                Ok((namespace, tree)) => trees.push((namespace, Arc::new(tree))),
                Err(error) if error.is_storage_failure() => return Err(error),
                Err(error) => {
                    let (title, error) = (namespace.title(), error.without_remedy());
                    let message = format!("the {title} tree is not compared: {error}");
                    found.push(Difference::new(Severity::Warning, message));
                }
            }
        }
        let udf = self.trees.iter().find(|(namespace, _)| *namespace == Namespace::Udf);
        trees.extend(udf.cloned());
        Ok(trees)
    }
}

type Tree = (Namespace, Arc<dyn FileTree>);

/// Reports descriptors of one kind with different directories: programs use the first or the last.
fn several_volumes(volumes: &[VolumeDescriptor]) -> Vec<Difference> {
    let mut found = Vec::new();
    for kind in [VolumeKind::Primary, VolumeKind::Joliet, VolumeKind::Enhanced] {
        let mut roots = volumes.iter().filter(|volume| volume.kind == kind).map(|v| v.root);
        let first = roots.next();
        if roots.any(|root| Some(root) != first) {
            let kind = kind.name();
            let message = format!("several {kind} volume descriptors with different directories");
            found.push(Difference::new(Severity::Error, message));
        }
    }
    found
}

/// What a path is in the first tree that has it.
struct Known {
    /// Index of the tree.
    tree: usize,
    /// The extents of a file; `None` for a directory.
    extents: Option<Box<[FileExtent]>>,
}

/// A path that is different files in two trees.
struct Conflict {
    path: Vec<u8>,
    trees: [usize; 2],
    /// Keys of the contents; `None` for a directory.
    contents: [Option<u64>; 2],
}

struct Comparison<'a> {
    image: &'a IsoImage,
    trees: Vec<Tree>,
    /// Whether names in upper case are compared with others, without regard to case.
    ignores_case: bool,
    hasher: RandomState,
    /// By a hash of the path.
    paths: HashMap<u64, Known>,
    /// The trees that have a file with certain extents, as bits, by a hash of the extents.
    contents: HashMap<u64, u8>,
    conflicts: Vec<Conflict>,
    /// Number of bytes that may still be compared.
    budget: u64,
    found: Vec<Difference>,
}

impl<'a> Comparison<'a> {
    fn new(image: &'a IsoImage, trees: Vec<Tree>) -> Self {
        let has_full_names = trees.iter().any(|(namespace, _)| *namespace == Namespace::RockRidge);
        Self {
            image,
            ignores_case: !has_full_names
                && trees.iter().any(|(namespace, _)| *namespace == Namespace::Iso),
            trees,
            hasher: RandomState::new(),
            paths: HashMap::new(),
            contents: HashMap::new(),
            conflicts: Vec::new(),
            budget: MAX_COMPARED,
            found: Vec::new(),
        }
    }

    fn title(&self, tree: usize) -> &'static str {
        self.trees[tree].0.title()
    }

    fn warn(&mut self, message: String) {
        if self.found.len() < 2 * MAX_DESCRIBED {
            self.found.push(Difference::new(Severity::Warning, message));
        }
    }

    fn read_tree(&mut self, index: usize, limits: Limits) -> Result<()> {
        let tree = Arc::clone(&self.trees[index].1);
        let mut unreadable = None;
        match tree.root() {
            Ok(root) => {
                for found in Walk::new(tree, root, b"", self.image.source.len(), limits) {
                    match found {
                        Ok(found) => self.add(index, found.path, &found.node)?,
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
            self.warn(format!("the {title} tree is not compared completely: {error}"));
        }
        Ok(())
    }

    /// Adds a file or directory. Files without contents do not count: links and devices are shown
    /// like this by trees that do not have these.
    fn add(&mut self, tree: usize, path: Vec<u8>, node: &Node) -> Result<()> {
        let extents = (!node.is_dir()).then(|| joined(node.extents()));
        if node.file_type != FileType::Regular && !node.is_dir()
            || extents.as_ref().is_some_and(|extents| extents.is_empty())
        {
            return Ok(());
        }
        // Not every program shows the boot catalog as a file in all trees.
        let catalog = self.image.descriptors.boot_catalog.map(|sector| u64::from(sector) * SECTOR);
        let is_catalog = |extents: &[FileExtent]| catalog.is_some() && extents[0].offset == catalog;
        if let Some(extents) = extents.as_ref().filter(|extents| !is_catalog(extents)) {
            let content = self.hasher.hash_one(extents);
            *self.contents.entry(content).or_default() |= 1 << tree;
        }
        if !self.is_shortened(tree) || !self.ignores_case {
            self.compare(tree, self.hasher.hash_one(&path), &path, extents.clone())?;
        }
        if self.ignores_case {
            let key = self.hasher.hash_one((path.to_ascii_lowercase(), IGNORING_CASE));
            self.compare(tree, key, &path, extents)?;
        }
        Ok(())
    }

    /// Compares a path with the same path in the trees before it. With case ignored, names that are
    /// not shortened are compared only with those that are.
    fn compare(
        &mut self,
        tree: usize,
        key: u64,
        path: &[u8],
        extents: Option<Box<[FileExtent]>>,
    ) -> Result<()> {
        let Some(known) = self.paths.get(&key) else {
            self.paths.insert(key, Known { tree, extents });
            return Ok(());
        };
        let trees = [known.tree, tree];
        let is_folded = key != self.hasher.hash_one(path);
        let is_compared = !is_folded || trees.map(|tree| self.is_shortened(tree)).contains(&true);
        if known.extents == extents || is_folded && known.tree == tree || !is_compared {
            return Ok(());
        }
        let contents = [&known.extents, &extents]
            .map(|extents| extents.as_ref().map(|extents| self.hasher.hash_one(extents)));
        if let (Some(first), Some(second)) = (known.extents.clone(), extents) {
            match self.same_contents(&first, &second)? {
                Some(true) => return Ok(()),
                Some(false) => {}
                None => {
                    let path = String::from_utf8_lossy(path).into_owned();
                    self.warn(format!("the contents of '{path}' in two trees are not compared"));
                    return Ok(());
                }
            }
        }
        if self.conflicts.len() < MAX_DESCRIBED {
            self.conflicts.push(Conflict { path: path.to_vec(), trees, contents });
        }
        Ok(())
    }

    /// Returns true for a tree in which all names may be shortened.
    fn is_shortened(&self, tree: usize) -> bool {
        self.trees[tree].0 == Namespace::Iso
    }

    /// Compares the contents of two files. Returns `None` if they are too long for that.
    fn same_contents(
        &mut self,
        first: &[FileExtent],
        second: &[FileExtent],
    ) -> Result<Option<bool>> {
        let open = |extents| ExtentSource::new(Arc::clone(&self.image.source), extents);
        let (Ok(first), Ok(second)) = (open(first), open(second)) else { return Ok(Some(false)) };
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

    /// Returns whether names of a tree may be those of other files, because writers shorten them.
    fn may_be_shortened(&self, conflict: &Conflict) -> bool {
        let name = conflict.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        conflict.trees.into_iter().any(|tree| self.is_shortened(tree)) || name.len() >= LONG_NAME
    }

    /// Returns true if one of the contents is not in the other tree, under any name.
    fn is_missing(&self, conflict: &Conflict) -> bool {
        let [first, second] = conflict.trees;
        let [Some(of_first), Some(of_second)] = conflict.contents else { return false };
        let has = |content: u64, tree: usize| {
            self.contents.get(&content).is_some_and(|trees| trees & 1 << tree != 0)
        };
        !has(of_first, second) || !has(of_second, first)
    }

    fn result(mut self) -> Vec<Difference> {
        for conflict in std::mem::take(&mut self.conflicts) {
            let is_usual = self.may_be_shortened(&conflict) && !self.is_missing(&conflict);
            let [first, second] = conflict.trees.map(|tree| self.title(tree));
            self.found.push(Difference {
                severity: if is_usual { Severity::Warning } else { Severity::Error },
                message: format!("another file in the {first} tree than in the {second} tree"),
                path: Some(conflict.path),
            });
        }
        for index in 0..self.trees.len() {
            let missing = self.contents.values().filter(|trees| *trees & 1 << index == 0).count();
            if missing > 0 {
                let title = self.title(index);
                self.warn(match missing {
                    1 => format!("a file of another tree is not in the {title} tree"),
                    _ => format!("{missing} files of other trees are not in the {title} tree"),
                });
            }
        }
        self.found
    }
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
