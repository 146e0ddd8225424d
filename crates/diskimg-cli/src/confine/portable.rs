//! Systems without a supported sandbox.

use super::Rules;

pub(super) fn deny_syscalls() -> Result<(), String> {
    Err("the sandbox is supported only on Linux (x86-64, AArch64 and RISC-V)".to_owned())
}

pub(super) fn restrict_files(_rules: &Rules) -> Result<(), String> {
    deny_syscalls()
}
