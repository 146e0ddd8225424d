//! Reading images of Bochs.

use super::catalog::Catalog;
use super::check;
use super::header::Header;
use crate::error::Result;
use crate::model::extent::Extent;
use crate::model::format::Format;
use crate::model::layer::{DiskLayout, Layer};
use crate::model::sealed::Sealed;
use crate::open::OpenContext;
use crate::report::check::{CheckReport, Finding};
use crate::report::info::{Details, Value};
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::Arc;

/// A growing image of Bochs.
#[derive(Debug)]
pub(crate) struct Bochs {
    files: [Arc<dyn Source>; 1],
    pub(super) catalog: Catalog,
}

impl Bochs {
    pub(super) fn open(source: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        let header = Header::read(&*source, context.limits)?;
        let catalog = Catalog::open(&*source, header, context)?;
        Ok(Self { files: [source], catalog })
    }
}

impl Sealed for Bochs {}

impl Layer for Bochs {
    fn format(&self) -> Format {
        Format::Bochs
    }

    fn disk_layout(&self) -> DiskLayout {
        let header = &self.catalog.header;
        DiskLayout { size: header.size(), cluster_size: header.extent_bytes }
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        self.catalog.next_allocated_hint(range)
    }

    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        self.catalog.map(&*self.files[0], range, out)
    }

    fn details(&self) -> Details {
        let header = &self.catalog.header;
        let specific = vec![
            ("subformat", Value::from("growing")),
            ("version", Value::from(u64::from(header.version))),
            ("extent-size", Value::from(header.extent_bytes)),
        ];
        Details {
            specific,
            children: vec![("file".into(), 0)],
            notes: self.warnings(),
            ..Details::default()
        }
    }

    fn warnings(&self) -> Vec<String> {
        let header = &self.catalog.header;
        let rounded = |rest| {
            let recorded = header.size() + rest;
            format!("the size of the disk is {recorded} bytes: the last {rest} bytes are ignored")
        };
        Some(header.rest()).filter(|&rest| rest > 0).map(rounded).into_iter().collect()
    }

    fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        check::check(self, report).map(Some)
    }
}
