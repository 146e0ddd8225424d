//! From argv to the exit code.

use crate::args::{self, Invocation};
use crate::commands;
use crate::confine::{self, Sandbox};
use crate::failure::Failure;
use crate::output::{Console, Program};
use std::ffi::OsString;

/// Exit code of a run that failed.
const FAILURE: u8 = 1;

/// Exit code of a run that a signal ended: what a shell reports for SIGINT.
const INTERRUPTED: u8 = 130;

/// Runs the command, as a process of its own would, and gives the exit code.
///
/// `argv[0]` is the name it is called by: `qemu-img`, with or without folders
/// before it, makes it speak in qemu-img's name. It reads and writes the
/// process's standard streams, handles SIGINT, SIGTERM and SIGHUP from when
/// long work starts, and raises the limit on open files as far as it may.
pub fn run(argv: Vec<OsString>) -> u8 {
    run_in(Process::Shared, argv)
}

/// [`run`] in a process that does nothing else: on Linux it gives up, for good, most of
/// what the system lets it do (`--sandbox`).
pub fn main(argv: Vec<OsString>) -> u8 {
    run_in(Process::Own, argv)
}

/// Whose process this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Process {
    /// The command's, to be confined.
    Own,
    /// A program's that carries the command, and goes on after it.
    Shared,
}

fn run_in(process: Process, argv: Vec<OsString>) -> u8 {
    raise_open_files();
    let console = Console::new(Program::called(argv.first()));
    match carry_out(process, argv, &console) {
        Ok(code) => code,
        Err(failure) => report(failure, &console),
    }
}

/// Lets this process open as many files as the system grants it: a split disk
/// has hundreds, all open while they are written. Where that is refused, the
/// limit stays what it was.
#[cfg(unix)]
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

#[cfg(not(unix))]
fn raise_open_files() {}

fn carry_out(process: Process, argv: Vec<OsString>, console: &Console) -> Result<u8, Failure> {
    match args::parse(argv, console.program())? {
        Invocation::Show(text) => console.print(&text).map(|()| 0),
        Invocation::Run(command, sandbox) => {
            match process {
                Process::Own => confine::begin(sandbox)?,
                Process::Shared if sandbox == Sandbox::Require => {
                    return Err(Failure::error(
                        "--sandbox=require: this process does not belong to the command alone",
                    ));
                }
                Process::Shared => {}
            }
            commands::run(*command, console)
        }
    }
}

fn report(failure: Failure, console: &Console) -> u8 {
    match failure {
        Failure::Usage { command, message } => {
            let program = console.program().name();
            let command = command.map(|name| format!(" {name}")).unwrap_or_default();
            for line in format!("{program}{command}: {message}").lines() {
                console.stderr(line);
            }
            console.stderr(&format!("Try '{program}{command} --help' for more info"));
            FAILURE
        }
        Failure::Error { message, code } => {
            console.complain(&message);
            code
        }
        Failure::Show(text) => match console.print(&text) {
            Ok(()) => 0,
            Err(failure) => report(failure, console),
        },
        Failure::Interrupted => INTERRUPTED,
        // Who reads our output has seen enough: nobody is left to be told.
        Failure::Hangup => FAILURE,
    }
}
