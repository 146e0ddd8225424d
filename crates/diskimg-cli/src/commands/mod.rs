//! The verbs: each carries out one kind of job and gives the exit code.

mod check;
mod compare;
mod convert;
mod create;
mod info;
mod manual;
mod map;
mod measure;

use crate::args::Command;
use crate::failure::Failure;
use crate::output::Console;

/// Does what was asked.
pub(crate) fn run(command: Command, console: &Console) -> Result<u8, Failure> {
    match command {
        Command::Convert(job) => convert::run(job, console),
        Command::Info(job) => info::run(&job, console),
        Command::Map(job) => map::run(&job, console),
        Command::Create(job) => create::run(job, console),
        Command::Compare(job) => compare::run(&job, console),
        Command::Check(job) => check::run(&job, console),
        Command::Measure(job) => measure::run(&job, console),
        Command::Completions(shell) => manual::completions(shell, console),
        Command::Man(dir) => manual::man(dir.as_deref(), console),
    }
}
