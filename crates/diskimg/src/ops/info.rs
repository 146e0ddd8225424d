//! What `info` reports about an image.

use crate::error::{Error, Result};
use crate::model::image::Image;
use crate::model::layer::{ParentLocator, ParentReference};
use crate::open::external_files::{ExternalFiles, Resolver};
use crate::report::info::{Child, ChildFile, FormatSpecific, Info};
use crate::report::printable::printable;
use crate::storage::source::Source;

/// Sector size in bytes, to which QEMU rounds the lengths of files.
const SECTOR: u64 = 512;

impl Image {
    /// Returns what `info` reports for the layer at `depth`.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) if the allocated size of a file cannot be determined.
    ///
    /// # Panics
    /// Panics if the chain has no layer at `depth`.
    pub fn info(&self, depth: usize) -> Result<Info> {
        let layer = self.layer(depth);
        let details = layer.details();
        let files = layer.files();
        let mut actual_size = None;
        for file in files {
            if let Some(bytes) = self.allocated_bytes(depth, &**file)? {
                *actual_size.get_or_insert(0) += bytes;
            }
        }
        let children = details
            .children
            .into_iter()
            .map(|(role, index)| {
                Ok(Child { name: role, info: self.child_file(depth, &*files[index])? })
            })
            .collect::<Result<_>>()?;
        let compression = self.compression_at(depth);
        let compression = compression.map(|name| format!("the file is compressed by {name}"));
        let notes = compression.iter().chain(&details.notes);
        let parent = layer.parent();
        let full_name = |parent: &ParentReference| {
            // The name is relative to a URL. The protocol's file, if there is one, is elsewhere.
            if !self.is_local_at(depth) {
                return Some(parent.name.clone());
            }
            if parent.locator == ParentLocator::ByUuid {
                return None;
            }
            let resolver = Resolver::new(files[0].path(), ExternalFiles::Any);
            let path = match parent.locator.path() {
                Some(path) => Ok(path.to_owned()),
                None => resolver.resolve("backing file", &parent.name),
            };
            Some(path.map_or_else(|_| parent.name.clone(), |p| p.display().to_string()))
        };
        Ok(Info {
            children,
            snapshots: details.snapshots,
            backing_filename: parent.map(|p| p.name.clone()),
            full_backing_filename: parent.and_then(full_name),
            backing_filename_format: parent.and_then(|p| p.format.clone()),
            virtual_size: layer.disk_layout().size,
            filename: self.name(depth).to_owned(),
            cluster_size: details.cluster_size,
            format: layer.format().name().to_owned(),
            actual_size,
            encrypted: details.encrypted,
            compressed: details.compressed,
            format_specific: (!details.specific.is_empty()).then(|| FormatSpecific {
                kind: layer.format().name().to_owned(),
                data: details.specific,
            }),
            dirty_flag: details.dirty,
            notes: notes.map(|note| printable(note).into_owned()).collect(),
        })
    }

    fn allocated_bytes(&self, depth: usize, file: &dyn Source) -> Result<Option<u64>> {
        file.allocated_bytes()
            .map_err(|e| self.in_layer(Error::io("cannot get allocated size", e), depth))
    }

    /// Returns what `info` reports for a host file of the layer at `depth`.
    fn child_file(&self, depth: usize, file: &dyn Source) -> Result<ChildFile> {
        let name = || self.name(depth).to_owned();
        let local = if file.is_device() { "host_device" } else { "file" };
        Ok(ChildFile {
            children: Vec::new(),
            virtual_size: file.len().next_multiple_of(SECTOR),
            filename: file.path().map_or_else(name, |p| p.display().to_string()),
            format: file.protocol().unwrap_or(local),
            actual_size: self.allocated_bytes(depth, file)?,
            format_specific: FormatSpecific {
                kind: file.protocol().unwrap_or("file").into(),
                data: Vec::new(),
            },
            dirty_flag: false,
        })
    }
}
