//! Systems without a supported sandbox.

use super::{Calls, Problem, Rules};

pub(super) fn restrict_calls(_calls: &Calls) -> Result<(), Problem> {
    unsupported()
}

pub(super) fn restrict_files(_rules: &Rules) -> Result<(), Problem> {
    unsupported()
}

fn unsupported() -> Result<(), Problem> {
    let reason = "the sandbox is supported only on Linux (x86-64, AArch64 and RISC-V)";
    Err(Problem::Unsupported(reason.to_owned()))
}
