//! Reading QCOW version 1.

use super::header::Header;
use crate::error::{Error, Result};
use crate::formats::two_level::{Tables, check};
use crate::model::extent::Extent;
use crate::model::format::Format;
use crate::model::layer::{DiskLayout, Layer, ParentLocator, ParentReference};
use crate::model::sealed::Sealed;
use crate::open::OpenContext;
use crate::report::check::{CheckReport, Finding};
use crate::report::info::Details;
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::Arc;

/// A QCOW version 1 image.
#[derive(Debug)]
pub(super) struct Qcow {
    files: [Arc<dyn Source>; 1],
    pub(super) header: Header,
    pub(super) tables: Tables,
    parent: Option<ParentReference>,
    /// Memory that a check may use in bytes.
    check_bytes: u64,
}

impl Qcow {
    pub(super) fn open(source: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        let header = Header::read(&*source, context.like_qemu)?;
        let location = header.location.clone();
        let tables = Tables::open(Arc::clone(&source), location, context.limits)?;
        let parent = header.backing.clone().map(|name| ParentReference {
            name,
            locator: ParentLocator::ByName,
            format: None,
        });
        let check_bytes = context.limits.check_bytes;
        Ok(Self { files: [source], header, tables, parent, check_bytes })
    }

    /// Verifies that guest bytes can be read.
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if the image is encrypted.
    pub(super) fn require_readable(&self) -> Result<()> {
        if self.header.is_encrypted {
            let message = "the image is encrypted (aes); decryption is not supported";
            return Err(
                Error::unsupported(message).hint("decrypt it with `qemu-img convert` first")
            );
        }
        Ok(())
    }
}

impl Sealed for Qcow {}

impl Layer for Qcow {
    fn format(&self) -> Format {
        Format::Qcow
    }

    fn disk_layout(&self) -> DiskLayout {
        let location = &self.header.location;
        DiskLayout { size: location.size, cluster_size: location.layout.cluster_size() }
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        self.require_readable()?;
        self.tables.map(range, out)
    }

    fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        self.tables.next_allocated_hint(range)
    }

    fn prefetch_tables(&self, range: Range<u64>) {
        self.tables.prefetch_tables(range);
    }

    fn parent(&self) -> Option<&ParentReference> {
        self.parent.as_ref()
    }

    fn details(&self) -> Details {
        Details {
            cluster_size: Some(self.header.location.layout.cluster_size()),
            encrypted: self.header.is_encrypted,
            children: vec![("file".into(), 0)],
            notes: self.warnings(),
            ..Details::default()
        }
    }

    fn warnings(&self) -> Vec<String> {
        let (stored, size) = (self.header.stored_size, self.header.location.size);
        let warning = || {
            format!(
                "the disk has {stored} bytes, not a multiple of 512: it is read as {size} bytes"
            )
        };
        (stored != size).then(warning).into_iter().collect()
    }

    fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        check::check(&self.tables, self.check_bytes, report).map(Some)
    }
}
