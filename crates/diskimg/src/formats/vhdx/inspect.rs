//! Whether an untrusted VHDX is safe to accept: one file with the whole disk, whose headers and
//! tables mean the same to every reader.

use super::layer::Vhdx;
use super::parent;
use crate::formats::inspect::{Inspect, Subject};
use crate::model::format::Format;
use crate::model::layer::Layer;
use crate::report::check::Finding;
use crate::report::inspection::{Code, Inspection, Role};
use std::sync::Arc;

/// No other program recognizes a VHDX by anything but its first bytes.
pub(super) const INSPECT: Inspect = Inspect { also_matches: |_| false, examine };

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    let image = match Vhdx::open(Arc::clone(subject.source), &subject.context()) {
        Ok(image) => image,
        Err(error) => return found.unreadable(&error),
    };
    found.virtual_size = Some(image.disk_layout().size);
    if image.disk_layout().size == 0 {
        found.add(Code::Empty, None, "the disk is empty");
    }
    for damage in image.damage() {
        // Programs differ in which copy they read.
        found.add(Code::CopiesDiffer, None, damage.clone());
    }
    if image.log_entries() > 0 {
        let message = "the log has changes that are not in their places yet, which programs that do \
                       not read it ignore";
        found.add(Code::Dirty, None, message);
    }
    if let Some(locator) = &image.metadata().parent {
        for name in parent::names(locator) {
            found.add_reference(Role::Parent, &name, Some(Format::Vhdx.openstack_name()));
        }
        found.add(Code::Parent, None, "a differencing disk, which needs its parent");
    }
    let mut first = None;
    let checked = image.check(&mut |finding: Finding| {
        if finding.severity == crate::report::finding::Severity::Error {
            first.get_or_insert(finding.message);
        }
    });
    match (checked, first) {
        (Err(error), _) => found.unreadable(&error),
        (Ok(_), Some(message)) => found.add(Code::Unreadable, None, message),
        (Ok(_), None) => {}
    }
}
