//! What `check -r` prints of findings to standard error.
//!
//! qemu-img repairs while it checks: it lists what the first check finds, then what it repairs
//! (`Repairing …`), and checks again only if it has repaired something. The copied flags, which
//! depend on the refcounts, are only checked after these have been repaired.

use crate::output::{Console, Program};
use diskimg::Repaired;
use diskimg::check::{RepairScope, RepairStage};

/// A part of the findings that qemu-img repairs, with `-r all`, when it finds them.
const REPAIRED_AT_ONCE: [&str; 3] =
    ["Preallocated cluster is not properly aligned", " is outside image", "snapshot table entry"];

/// Prints findings, as the program that this process was run as.
pub(super) struct RepairLines<'a> {
    scope: RepairScope,
    console: &'a Console,
    /// The stage of the last finding that was printed.
    last: RepairStage,
    /// Findings of the first check that qemu-img does not print if it repairs something.
    flags: Vec<String>,
    /// What is left.
    left: Vec<String>,
    /// Number of copied flags that were repaired.
    repaired_flags: u64,
}

impl<'a> RepairLines<'a> {
    /// Creates lines for a repair of this scope.
    pub(super) fn new(scope: RepairScope, console: &'a Console) -> Self {
        let last = RepairStage::Found;
        Self { scope, console, last, flags: Vec::new(), left: Vec::new(), repaired_flags: 0 }
    }

    /// Prints a finding, or keeps it for [`finish`](Self::finish).
    pub(super) fn report(&mut self, stage: RepairStage, message: String) {
        if self.console.program() == Program::QemuImg {
            return self.report_as_qemu_img(stage, message);
        }
        // What is repaired was found before.
        if stage == RepairStage::Repaired {
            return;
        }
        if std::mem::replace(&mut self.last, stage) != stage {
            self.console.stderr("After the repair:");
        }
        self.console.stderr(&message);
    }

    fn report_as_qemu_img(&mut self, stage: RepairStage, message: String) {
        match stage {
            RepairStage::Found if is_of_flag(&message) => self.flags.push(message),
            RepairStage::Found => self.console.stderr(&self.reworded(message)),
            RepairStage::Left => self.left.push(message),
            _ => {
                self.repaired_flags += u64::from(is_of_flag(&message));
                self.console.stderr(&message);
            }
        }
    }

    /// Returns the number of corruptions that qemu-img says it has repaired: it counts the copied
    /// flags that are wrong after the refcounts have been repaired, not before.
    pub(super) fn corruptions_fixed(&self, repaired: &Repaired) -> u64 {
        let (before, after) = (&repaired.before, &repaired.after);
        let is_complete = before.omitted_findings == 0 && after.omitted_findings == 0;
        if self.console.program() != Program::QemuImg || !is_complete {
            return after.corruptions_fixed;
        }
        let flags_left = self.left.iter().filter(|message| is_of_flag(message)).count();
        let others = before.corruptions.saturating_sub(self.flags.len() as u64);
        let others_left = after.corruptions.saturating_sub(flags_left as u64);
        others.saturating_sub(others_left) + self.repaired_flags
    }

    /// Replaces the first word of findings that are repaired at once.
    fn reworded(&self, message: String) -> String {
        let is_repaired = REPAIRED_AT_ONCE.iter().any(|part| message.contains(part));
        match message.strip_prefix("ERROR ") {
            Some(rest) if is_repaired && self.scope == RepairScope::All => {
                format!("Repairing {rest}")
            }
            _ => message,
        }
    }

    /// Prints what qemu-img prints at the end: of the second check if something was `repaired`, of
    /// the first one otherwise.
    pub(super) fn finish(self, repaired: bool) {
        let lines = if repaired { self.left } else { self.flags };
        lines.iter().for_each(|line| self.console.stderr(line));
    }
}

/// Returns true for findings about copied flags.
fn is_of_flag(message: &str) -> bool {
    message.contains("OFLAG_COPIED")
}
