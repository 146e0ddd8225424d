//! Where nothing is known to confine with.

use super::Rules;

pub(super) fn deny_calls() -> Result<(), String> {
    Err("it can be done on Linux only (x86-64, AArch64 and RISC-V)".to_owned())
}

pub(super) fn bound_files(_rules: &Rules) -> Result<(), String> {
    deny_calls()
}
