//! The entry points, from `argv` to the exit code.

use crate::args::{self, Invocation};
use crate::commands;
use crate::confine::{self, Sandbox};
use crate::failure::Failure;
use crate::interrupt;
use crate::memory;
use crate::output::color::{self, Colors};
use crate::output::{Console, Program};
use crate::settings::Settings;
use crate::streams::ClosedStreams;
use diskimg::storage::locking::take_modified_without_locks;
use std::collections::hash_map::RandomState;
use std::ffi::OsString;

/// Exit code of a failed run.
const FAILURE: u8 = 1;

/// Exit code after a panic, as from Rust's runtime.
const PANICKED: u8 = 101;

/// Runs the command line `argv` and returns the exit code.
///
/// `argv[0]` is the name of the program, with or without directories: `qemu-img` makes messages use
/// that name. Uses the standard streams of the process, raises the soft limit on open files to the
/// hard limit, handles SIGXFSZ, and handles SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGXCPU and SIGUSR1
/// once an operation that can be interrupted begins. A signal that is ignored at the start remains
/// ignored.
pub fn run(argv: Vec<OsString>) -> u8 {
    ClosedStreams::open().remember();
    run_in(Process::Shared, argv)
}

/// Like [`run`], in a process that does nothing else: on Linux, the process irrevocably restricts
/// its system calls and file access (`--sandbox`). `closed` says which standard streams were closed
/// at the start: writing to standard output is an error then.
///
/// The global allocator should be [`ReservingAllocator`](crate::ReservingAllocator).
pub fn main(argv: Vec<OsString>, closed: ClosedStreams) -> u8 {
    closed.remember();
    let console = Console::new(Program::from_argv0(argv.first()));
    if !memory::reserve() {
        console.message(interrupt::NO_MEMORY);
        return FAILURE;
    }
    interrupt::clean_up_on_abort();
    stop_before_cpu_limit();
    // Some libraries panic if memory is short.
    let report_panic = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    // The first one gets random numbers from the system.
    if std::panic::catch_unwind(RandomState::new).is_err() {
        console.message("the system provides no random numbers (getrandom(2), /dev/urandom)");
        return FAILURE;
    }
    std::panic::set_hook(Box::new(move |panic| {
        memory::note_panic(panic.payload());
        if !memory::is_short() {
            report_panic(panic);
        }
    }));
    match std::panic::catch_unwind(|| run_in(Process::Own, argv)) {
        Ok(code) => code,
        Err(_) if memory::is_short() => {
            console.message(interrupt::NO_MEMORY);
            FAILURE
        }
        Err(_) => PANICKED,
    }
}

/// The process that the command runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Process {
    /// A process of the command's own, which may be sandboxed.
    Own,
    /// The process of another program, which continues after the command.
    Shared,
}

fn run_in(process: Process, argv: Vec<OsString>) -> u8 {
    raise_open_files();
    let console = Console::new(Program::from_argv0(argv.first()));
    if console.program() != Program::Diskimg {
        return finish(execute(process, argv, &console, Settings::default()), &console);
    }
    let when = color::of_command_line(&argv);
    let console = console.with_colors(Colors::choose(when.unwrap_or_default()));
    match Settings::load(&argv) {
        Ok(settings) => {
            let when = when.or(settings.color()).unwrap_or_default();
            let console = console.with_colors(Colors::choose(when));
            finish(execute(process, argv, &console, settings), &console)
        }
        Err(failure) => report(failure.with_code(args::usage_code(&argv)), &console),
    }
}

/// Reports a failure and returns the exit code.
fn finish(outcome: Result<u8, Failure>, console: &Console) -> u8 {
    outcome.unwrap_or_else(|failure| report(failure, console))
}

/// Raises the soft limit on open files to the hard limit, because a split VMDK can have hundreds of
/// files that are open at once. Errors are ignored.
#[cfg(unix)]
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

#[cfg(not(unix))]
fn raise_open_files() {}

/// Lowers the soft limit on processor time to one second below the hard limit: a process that has
/// reached the soft limit can clean up, one that has reached the hard limit is killed. Errors are
/// ignored.
#[cfg(unix)]
fn stop_before_cpu_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Cpu);
    if let Some(seconds @ 2..) = maximum
        && current == maximum
    {
        let _ = setrlimit(Resource::Cpu, Rlimit { current: Some(seconds - 1), maximum });
    }
}

#[cfg(not(unix))]
fn stop_before_cpu_limit() {}

fn execute(
    process: Process,
    argv: Vec<OsString>,
    console: &Console,
    settings: Settings,
) -> Result<u8, Failure> {
    match args::parse(argv, console.program(), settings)? {
        Invocation::Show(text) => console.print(&text).map(|()| 0),
        Invocation::Help(text) => console.print_help(&text).map(|()| 0),
        Invocation::Run(mut command, sandbox) => {
            interrupt::prepare();
            commands::prepare(&mut command)?;
            match process {
                Process::Own => confine::begin(sandbox, &commands::calls(&command))?,
                Process::Shared if sandbox == Sandbox::Require => {
                    return Err(Failure::error(
                        "--sandbox=require: this process is shared with another program",
                    ));
                }
                Process::Shared => {}
            }
            let outcome = commands::run(*command, console);
            confine::end();
            warn_of_missing_locks(console);
            outcome
        }
    }
}

/// Programs that run qemu-img take any message for a failure, and qemu-img prints none of this.
fn warn_of_missing_locks(console: &Console) {
    if take_modified_without_locks() && console.program() != Program::QemuImg {
        console.warn([
            "the file system has no locks: other programs that use the image at the same time are \
             not noticed",
        ]);
    }
}

fn report(failure: Failure, console: &Console) -> u8 {
    match failure {
        Failure::Usage { command, message } => {
            let program = console.program().name();
            let command = command.map(|name| format!(" {name}")).unwrap_or_default();
            let mut lines = message.lines();
            console.usage_error(&command, lines.next().unwrap_or_default());
            lines.for_each(|line| console.stderr(line));
            console.stderr(&format!("Try '{program}{command} --help' for more info"));
            FAILURE
        }
        Failure::Error { message, code } => {
            console.error(&message);
            code
        }
        Failure::Show(text) => match console.print(&text) {
            Ok(()) => 0,
            Err(failure) => report(failure, console),
        },
        Failure::Interrupted(lost) => {
            let (reason, code) = interrupt::reason();
            reason.iter().for_each(|reason| console.message(reason));
            lost.iter().for_each(|lost| console.message(lost));
            code
        }
        // The reader of standard output has closed it; as usual, this prints no message.
        Failure::Hangup => FAILURE,
    }
}
