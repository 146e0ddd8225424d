//! Durability across power cuts: file data is flushed before the file is renamed, and the rename is
//! flushed before the process exits.

use super::scenario::scenarios;
use super::{Call, TracedRun, run_with_fault};
use std::path::Path;

fn changes(call: &Call, file: &Path) -> bool {
    let writes =
        ["write", "pwrite64", "writev", "copy_file_range", "ftruncate", "fallocate", "fchmod"];
    call.path == file && (writes.contains(&call.name.as_str()) || call.name.ends_with("chmod"))
}

fn flushes(call: &Call, file: &Path) -> bool {
    call.path == file && matches!(call.name.as_str(), "fsync" | "fdatasync") && call.result == 0
}

/// Returns the positions of successful renames.
fn renames(run: &TracedRun) -> Vec<usize> {
    let is_rename = |call: &Call| call.name.starts_with("rename") && call.result == 0;
    (0..run.calls.len()).filter(|&at| is_rename(&run.calls[at])).collect()
}

#[test]
fn files_are_flushed_before_they_are_renamed_and_renames_before_the_process_exits() {
    for scenario in scenarios(640 << 10) {
        let run = run_with_fault(&scenario, "none:0");
        let what = format!("{}: {:#?}", scenario.line(), run.calls);
        assert_eq!(run.code(), Some(0), "{}", run.error());
        let renames = renames(&run);
        assert!(!renames.is_empty(), "{what}");
        for &at in &renames {
            let Call { path, second, .. } = &run.calls[at];
            let (before, after) = run.calls.split_at(at);
            let directory = second.parent().expect("has a parent");
            assert!(after.iter().any(|call| flushes(call, directory)), "{second:?} in {what}");
            if !path.to_string_lossy().ends_with(".diskimg-tmp") {
                continue;
            }
            let last = before.iter().rposition(|call| changes(call, path));
            let flushed = before.iter().rposition(|call| flushes(call, path));
            assert!(last.is_none() || last < flushed, "{second:?} in {what}");
            // The main file is renamed after its other files are durable.
            if second.ends_with(scenario.case.files[0]) {
                let others = renames.iter().take_while(|&&other| other < at);
                let directory_flushed = before.iter().rposition(|call| flushes(call, directory));
                assert!(others.max().is_none_or(|&last| Some(last) < directory_flushed), "{what}");
            }
        }
    }
}

#[test]
fn cache_mode_unsafe_flushes_nothing() {
    for mut scenario in
        scenarios(640 << 10).filter(|scenario| scenario.case.line.starts_with("convert"))
    {
        let line = scenario.case.line.replace("convert ", "convert -t unsafe ");
        scenario.case.line = line.leak();
        let run = run_with_fault(&scenario, "none:0");
        assert_eq!(run.code(), Some(0), "{}", run.error());
        let flushed = run.calls.iter().find(|call| call.name.ends_with("sync"));
        assert_eq!(flushed, None, "{}", scenario.line());
    }
}

#[test]
fn an_image_overwritten_in_place_is_flushed_before_the_process_exits() {
    let mut scenario = scenarios(640 << 10).next().expect("there is a scenario");
    scenario.case.line = "convert -n -O raw SRC.raw dst";
    scenario.reset();
    let run = run_with_fault(&scenario, "none:0");
    let target = scenario.lab.path("dst");
    let last = run.calls.iter().rposition(|call| changes(call, &target));
    let flushed = run.calls.iter().rposition(|call| flushes(call, &target));
    assert!(last.is_some() && last < flushed, "{:#?}", run.calls);
    assert!(renames(&run).is_empty());
}
