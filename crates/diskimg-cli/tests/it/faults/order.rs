//! What survives a power cut: data are on the disk before they have a name, and the name is
//! before the run ends.

use super::world::worlds;
use super::{Call, Met, meet};
use std::path::Path;

fn changes(call: &Call, file: &Path) -> bool {
    let writes =
        ["write", "pwrite64", "writev", "copy_file_range", "ftruncate", "fallocate", "fchmod"];
    call.path == file && (writes.contains(&call.name.as_str()) || call.name.ends_with("chmod"))
}

fn flushes(call: &Call, file: &Path) -> bool {
    call.path == file && matches!(call.name.as_str(), "fsync" | "fdatasync") && call.result == 0
}

/// Positions of those calls that give a name.
fn renames(met: &Met) -> Vec<usize> {
    let is_rename = |call: &Call| call.name.starts_with("rename") && call.result == 0;
    (0..met.calls.len()).filter(|&at| is_rename(&met.calls[at])).collect()
}

#[test]
fn every_file_is_flushed_before_it_has_its_name_and_every_name_before_the_end() {
    for world in worlds(640 << 10) {
        let met = meet(&world, "none:0");
        let what = format!("{}: {:#?}", world.line(), met.calls);
        assert_eq!(met.code(), Some(0), "{}", met.error());
        let renames = renames(&met);
        assert!(!renames.is_empty(), "{what}");
        for &at in &renames {
            let Call { path, second, .. } = &met.calls[at];
            let (before, after) = met.calls.split_at(at);
            let directory = second.parent().expect("has one");
            assert!(after.iter().any(|call| flushes(call, directory)), "{second:?} in {what}");
            if !path.to_string_lossy().ends_with(".diskimg-tmp") {
                continue;
            }
            let last = before.iter().rposition(|call| changes(call, path));
            let flushed = before.iter().rposition(|call| flushes(call, path));
            assert!(last.is_none() || last < flushed, "{second:?} in {what}");
            // A main file never stands without its other files, nor an old one beside new ones.
            if second.ends_with(world.case.files[0]) {
                let others = renames.iter().take_while(|&&other| other < at);
                let directory_flushed = before.iter().rposition(|call| flushes(call, directory));
                assert!(others.max().is_none_or(|&last| Some(last) < directory_flushed), "{what}");
            }
        }
    }
}

#[test]
fn nothing_is_flushed_if_nobody_wants_to_wait() {
    for mut world in worlds(640 << 10).filter(|world| world.case.line.starts_with("convert")) {
        let line = world.case.line.replace("convert ", "convert -t unsafe ");
        world.case.line = line.leak();
        let met = meet(&world, "none:0");
        assert_eq!(met.code(), Some(0), "{}", met.error());
        let flushed = met.calls.iter().find(|call| call.name.ends_with("sync"));
        assert_eq!(flushed, None, "{}", world.line());
    }
}

#[test]
fn what_is_overwritten_in_place_is_flushed_before_the_end() {
    let mut world = worlds(640 << 10).next().expect("is one");
    world.case.line = "convert -n -O raw SRC.raw dst";
    world.reset();
    let met = meet(&world, "none:0");
    let target = world.lab.path("dst");
    let last = met.calls.iter().rposition(|call| changes(call, &target));
    let flushed = met.calls.iter().rposition(|call| flushes(call, &target));
    assert!(last.is_some() && last < flushed, "{:#?}", met.calls);
    assert!(renames(&met).is_empty());
}
