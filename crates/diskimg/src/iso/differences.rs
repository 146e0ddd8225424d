//! Whether the directory trees of an image show the same files: each program reads one of them.
//!
//! ```text
//!   Rock Ridge   /setup.sh  ──► extent A
//!   Joliet       /Setup.sh  ──► extent B: another file of the same name
//!   ISO 9660     /SETUP.SH  ──► extent A: the same records as Rock Ridge, with names of their own
//!   UDF          (nothing)      a file that is hidden from readers of UDF
//! ```
//!
//! Writers hide files on request, and on many discs with UDF the other tree has only a README. They
//! shorten names, so that the file `A.TEX` of one tree may be `a.text` of another. They never give a
//! whole name to different contents, nor two files of a directory the same name.

mod comparison;

use crate::error::{Error, Result};
use crate::iso::SECTOR;
use crate::iso::image::{IsoImage, Namespace};
use crate::iso::node::FileTree;
use crate::iso::read::descriptor::{self, Descriptors, VolumeDescriptor, VolumeKind};
use crate::iso::read::tree::RecordTree;
use crate::iso::udf;
use crate::open::limits::Limits;
use crate::report::finding::Severity;
use crate::storage::number::to_usize;
use crate::storage::source::{Source, read_if_inside};
use comparison::Comparison;
use std::sync::Arc;

/// Maximum number of files and directories of a tree that are compared.
const MAX_ENTRIES: u64 = 250_000;

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

    fn error(message: String) -> Self {
        Self::new(Severity::Error, message)
    }
}

impl IsoImage {
    /// Compares the directory trees of the image: paths and extents of all files. Contents are read
    /// only for files of the same path in different places. A tree is examined for several files of
    /// one path even if it is the only one.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if reading fails. What is damaged is a difference.
    pub(crate) fn tree_differences(&self) -> Result<Vec<Difference>> {
        let mut found = several_volumes(&self.descriptors.volumes);
        found.extend(hidden_descriptors(&*self.source, &self.descriptors)?);
        let trees = self.different_trees(&mut found)?;
        let limits = self.limits();
        let tree_entries = limits.tree_entries.min(MAX_ENTRIES);
        let mut comparison = Comparison::new(self, trees);
        for index in 0..comparison.len() {
            comparison.read_tree(index, Limits { tree_entries, ..limits.clone() })?;
        }
        found.append(&mut comparison.result());
        Ok(found)
    }

    /// Returns the trees, of which those with whole names are first. A tree with Rock Ridge is one
    /// with these names and one with those of ISO 9660.
    fn different_trees(&self, found: &mut Vec<Difference>) -> Result<Vec<Tree>> {
        let mut trees: Vec<Tree> = Vec::new();
        let primary = self.record_tree(VolumeKind::Primary, Namespace::Iso, found)?;
        match primary.as_ref().map(RecordTree::with_rock_ridge) {
            Some(Ok(names)) => {
                trees.extend(names.map(|tree| named(Namespace::RockRidge, tree)));
            }
            Some(Err(error)) => found.push(not_compared(Namespace::RockRidge, error)?),
            None => {}
        }
        match udf::open(Arc::clone(&self.source), self.limits()) {
            Ok(Some(volume)) => {
                trees.push((Namespace::Udf, Arc::new(volume)));
                if udf::names_several_volumes(&*self.source)? {
                    let message = "several UDF volumes, of which each program reads another one";
                    found.push(Difference::error(message.into()));
                }
            }
            Ok(None) => {}
            Err(error) => found.push(not_compared(Namespace::Udf, error)?),
        }
        for (kind, namespace) in
            [(VolumeKind::Joliet, Namespace::Joliet), (VolumeKind::Enhanced, Namespace::Iso)]
        {
            let tree = self.record_tree(kind, namespace, found)?;
            trees.extend(tree.map(|tree| named(namespace, tree)));
        }
        trees.extend(primary.map(|tree| named(Namespace::Iso, tree)));
        Ok(trees)
    }

    /// Opens the tree of a descriptor, as programs see it that show all files.
    fn record_tree(
        &self,
        kind: VolumeKind,
        namespace: Namespace,
        found: &mut Vec<Difference>,
    ) -> Result<Option<RecordTree>> {
        let Some(volume) = self.descriptors.of(kind) else { return Ok(None) };
        match RecordTree::open(Arc::clone(&self.source), volume, self.limits(), false) {
            Ok(tree) => Ok(Some(tree.inspected())),
            Err(error) => {
                found.push(not_compared(namespace, error)?);
                Ok(None)
            }
        }
    }
}

type Tree = (Namespace, Arc<dyn FileTree>);

fn named(namespace: Namespace, tree: RecordTree) -> Tree {
    (namespace, Arc::new(tree))
}

/// Returns an error about a tree that cannot be opened: other programs may read it.
fn not_compared(namespace: Namespace, error: Error) -> Result<Difference> {
    if error.is_storage_failure() {
        return Err(error);
    }
    let (title, error) = (namespace.title(), error.without_remedy());
    Ok(Difference::error(format!("the {title} tree cannot be compared: {error}")))
}

/// Reports descriptors of one kind with different directories: programs use the first or the last.
fn several_volumes(volumes: &[VolumeDescriptor]) -> Vec<Difference> {
    let mut found = Vec::new();
    for kind in [VolumeKind::Primary, VolumeKind::Joliet, VolumeKind::Enhanced] {
        let mut roots = volumes.iter().filter(|volume| volume.kind == kind).map(|v| v.root);
        let first = roots.next();
        if roots.any(|root| Some(root) != first) {
            let kind = kind.name();
            let message = format!("several {kind} volume descriptors with different directories");
            found.push(Difference::error(message));
        }
    }
    found
}

/// Reports what programs differ on before the end of the volume descriptors: Linux and isoinfo skip
/// sectors that they do not know, and Linux takes one of High Sierra between them for the volume.
/// isoinfo takes every sector with the escape sequence of Joliet for a descriptor of Joliet.
fn hidden_descriptors(
    source: &dyn Source,
    descriptors: &Descriptors,
) -> Result<Option<Difference>> {
    const ESCAPE_SEQUENCE: usize = 88;
    let volumes = &descriptors.volumes;
    let Some(first) = volumes.first().map(|volume| volume.sector) else { return Ok(None) };
    // A boot record may be before the first volume.
    for sector in first.min(descriptor::FIRST)..first.saturating_add(descriptor::MAX_DESCRIPTORS) {
        let mut bytes = [0; to_usize(SECTOR)];
        let at = sector.saturating_mul(SECTOR);
        let inside = read_if_inside(source, &mut bytes, at);
        if !inside.map_err(|e| Error::io("cannot read a volume descriptor", e).at(at))? {
            break;
        }
        let (id, is_known) = (&bytes[1..6], volumes.iter().any(|volume| volume.sector == sector));
        let is_joliet = bytes[ESCAPE_SEQUENCE..].starts_with(b"%/");
        match bytes[0] {
            255 if id == b"CD001" => return Ok(None),
            _ if is_known => {}
            0 if id == b"CD001" && !is_joliet => {}
            _ if descriptor::is_extended(id) && bytes[9..14] != *b"CDROM" && !is_joliet => {}
            _ => {
                let message = format!("sector {sector} is no valid volume descriptor");
                return Ok(Some(Difference::error(message)));
            }
        }
    }
    let message = "the volume descriptors have no end: programs differ in how many they read";
    Ok(Some(Difference::error(message.into())))
}
