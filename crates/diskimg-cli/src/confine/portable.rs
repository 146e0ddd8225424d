//! Systems without a supported sandbox.

use super::{Calls, Rules};

pub(super) fn restrict_calls(_calls: &Calls) -> Result<(), String> {
    unsupported()
}

pub(super) fn restrict_files(_rules: &Rules) -> Result<(), String> {
    unsupported()
}

fn unsupported() -> Result<(), String> {
    Err("the sandbox is supported only on Linux (x86-64, AArch64 and RISC-V)".to_owned())
}
