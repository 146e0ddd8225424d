//! Whether an untrusted VHDX is safe to accept.

use crate::formats::inspect::{Inspect, Subject};
use crate::model::format::Format;
use crate::report::inspection::Inspection;

pub(super) const INSPECT: Inspect = Inspect { also_matches: |_| false, examine };

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    match subject.open(Format::Vhdx) {
        Ok(layer) => found.virtual_size = Some(layer.disk_layout().size),
        Err(error) => found.unreadable(&error),
    }
}
