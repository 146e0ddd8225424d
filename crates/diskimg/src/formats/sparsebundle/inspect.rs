//! Whether an untrusted sparse bundle is safe to accept: its property list is not the whole disk.

use super::BANDS;
use super::info_plist::InfoPlist;
use crate::formats::inspect::{Inspect, Subject};
use crate::report::inspection::{Code, Inspection, Role};

pub(super) const INSPECT: Inspect = Inspect { also_matches: |_| false, examine };

fn examine(subject: &Subject<'_>, found: &mut Inspection) {
    found.add(Code::Extents, None, "the bands of the disk are other files");
    found.add_reference(Role::Extent, BANDS, None);
    match InfoPlist::read(&**subject.source, subject.limits) {
        Ok(plist) => {
            found.virtual_size = Some(plist.size);
            if plist.size == 0 {
                found.add(Code::Empty, None, "the disk is empty");
            }
        }
        Err(error) => found.unreadable(&error),
    }
}
