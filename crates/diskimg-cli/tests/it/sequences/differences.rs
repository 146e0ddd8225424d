//! Steps that one of the tools refuses, on purpose.

use super::Tool;
use super::model::Chain;
use super::steps::Step;
use crate::support::Ran;

/// Returns why the exit codes may differ, where the documentation says so.
pub(super) fn reason(step: &Step, chain: &Chain, ours: &Ran, theirs: &Ran) -> Option<&'static str> {
    let image = &chain.images[step.of()];
    match (ours.code, theirs.code) {
        (Some(1), Some(0)) => match step {
            _ if ours.err.contains("not closed properly") => {
                Some("qemu-img repairs an image that was not closed properly")
            }
            Step::Resize { .. } if ours.err.contains("cannot be resized yet") => {
                Some("a longer backing file, and an external data file")
            }
            Step::Rebase { words: "-c", .. } if image.has_data_file => {
                Some("qemu-img only fails if a cluster is written")
            }
            _ => None,
        },
        // Killed by a signal.
        (Some(0), None) => match step {
            Step::Rebase { words: "-c", .. } if theirs.err.contains("Assertion") => {
                Some("qemu-img fails an assertion if the image has extended L2 entries")
            }
            _ => None,
        },
        (Some(0), Some(1)) => match step {
            Step::Commit { base, .. } => {
                let base = &chain.images[*base];
                let grows = base.size < image.size && base.format == "vmdk";
                grows.then_some("qemu-img cannot make the backing file larger")
            }
            Step::Resize { size, .. } if *size == image.size => {
                Some("qemu-img refuses what there is nothing to change in")
            }
            Step::Resize { .. } if theirs.err.contains("Failed to zero out new clusters") => {
                Some("qemu-img cannot hide a longer backing file in version 2")
            }
            Step::Convert { words: "-c", .. } => {
                Some("qemu-img compresses only clusters that are not allocated")
            }
            _ => None,
        },
        _ => None,
    }
}

/// Returns the tool that must perform a step, if the other one does damage.
pub(super) fn only_tool(step: &Step, chain: &Chain) -> Option<Tool> {
    let image = &chain.images[step.of()];
    let damages = match step {
        // `qemu-img check -r` marks the bitmaps as in use in the header, of which it has not read
        // the number of snapshots: all snapshots are lost.
        Step::Repair { .. } => !image.snapshots.is_empty() && !image.bitmaps.is_empty(),
        // `qemu-img rebase` does not store zeros in an image without a backing file and without
        // zero clusters: the new backing file shows through.
        Step::Rebase { words, .. } => {
            image.is_old && step.of() + 1 == chain.images.len() && *words != "-u"
        }
        // `qemu-img amend` leaks the clusters of bitmaps, and the image refers to them still, which
        // qemu-img warns of from then on.
        Step::Amend { options, .. } => options.contains("compat=0.10") && !image.bitmaps.is_empty(),
        _ => false,
    };
    damages.then_some(Tool::Diskimg)
}
