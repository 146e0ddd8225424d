//! The child process, which runs commands on many mutations and logs the result of each run.

use super::mutation::{Rng, mutate};
use super::structure::Structure;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Environment variable with the task of a child process.
pub(super) const TASK: &str = "DISKIMG_MUTATIONS_TASK";

/// The task of a child process. It runs in a temporary directory with these files:
///
/// ```text
///   seed         the original image
///   work/        the working directory: the mutated image and its other files
///   out, err     standard output and standard error of the child
///   log          a line for each run:      NUMBER COMMAND  CODE MS KIB
///                a line for each failure:  ! NUMBER COMMAND MESSAGE
/// ```
#[derive(Debug, Clone)]
pub(super) struct Task {
    /// File name of the mutated image.
    pub(super) name: String,
    /// File name that commands open.
    pub(super) opened: String,
    /// Number of the first mutation.
    pub(super) first: u64,
    /// Number of mutations.
    pub(super) count: u64,
}

impl Task {
    pub(super) fn to_env(&self) -> String {
        format!("{} {} {} {}", self.name, self.opened, self.first, self.count)
    }

    fn from_env(text: &str) -> Self {
        let fields: Vec<_> = text.split(' ').collect();
        let number = |at: usize| fields[at].parse().expect("a number");
        let text = |at: usize| fields[at].to_owned();
        Self { name: text(0), opened: text(1), first: number(2), count: number(3) }
    }
}

/// A command line, and the exit codes it may have besides 0 and 1.
struct CommandLine {
    name: &'static str,
    line: String,
    codes: &'static [u8],
}

/// Returns the commands to run on an image; `number` varies their options.
fn commands(number: u64, opened: &str, structure: &Structure) -> Vec<CommandLine> {
    let command = |name, line: String, codes| CommandLine { name, line, codes };
    let output = ["", "--output=json "][number as usize % 2];
    // Only formats whose output size does not grow with the virtual size.
    let target = [
        "-O raw",
        "-O qcow2",
        "-O qcow2 -c",
        "-O vmdk",
        "-O vmdk -o subformat=streamOptimized",
        "-O ova",
    ][number as usize % 6];
    let has_snapshots = structure.parts.iter().any(|part| part.class == "snapshot");
    let snapshot = if has_snapshots && number % 8 > 5 { "-l 1 " } else { "" };
    let mut commands = vec![
        command("info", format!("info {output}{opened}"), &[][..]),
        // 2: corruptions, 3: leaks, 63: no checks for this format.
        command("check", format!("check {output}{opened}"), &[2, 3, 63]),
        command("map", format!("map {output}{opened}"), &[]),
        command("convert", format!("convert {target} {snapshot}{opened} output"), &[]),
    ];
    if structure.has_files {
        let extract = format!("iso extract --no-preserve --max-bytes 64M -C tree {opened}");
        commands.extend([
            command("iso ls", format!("iso ls -lR {output}{opened}"), &[]),
            // 2: errors, 3: warnings.
            command("iso verify", format!("iso verify {opened}"), &[2, 3]),
            command("iso extract", extract, &[]),
        ]);
    }
    commands
}

/// Returns the command that changes the image's size, so it is the last one that is run on it. Not
/// every original image can be resized.
fn resize(number: u64, opened: &str) -> CommandLine {
    let size = 1u64 << (number % 24);
    CommandLine { name: "resize", line: format!("resize -q {opened} +{size}k"), codes: &[] }
}

/// Returns the command that writes into the image, if its format is one of which images are modified
/// in place.
fn overwrite(opened: &str) -> Option<CommandLine> {
    let format = ["qcow2", "vmdk"]
        .into_iter()
        .find(|&format| Path::new(opened).extension().is_some_and(|ending| ending == format))?;
    let line = format!("convert -n -f raw -O {format} ../source {opened}");
    Some(CommandLine { name: "convert -n", line, codes: &[] })
}

/// Returns what is written: data, zeros, and data that ends within a cluster.
fn source() -> Vec<u8> {
    [vec![5; 70_000], vec![0; 300_000], vec![6; 1500]].concat()
}

/// The message of the last panic of any thread.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// The entry point of the child process; passes at once in other processes.
#[test]
fn a_child_runs_its_mutations() {
    let Ok(task) = std::env::var(TASK) else { return };
    let task = Task::from_env(&task);
    std::panic::set_hook(Box::new(|panic| {
        *PANIC.lock().expect("is not poisoned") = Some(panic.to_string());
    }));
    let seed = std::fs::read("../seed").expect("reads");
    let structure = Structure::parse(&seed);
    let classes = structure.classes();
    std::fs::write("../source", source()).expect("writes");
    let mut run = Runs { log: append("../log"), number: 0 };
    // The original image must pass. This also starts the signal handler's thread, so that it does
    // not count as a leak later.
    std::fs::write(&task.name, &seed).expect("writes");
    // Number 1 selects JSON, because `map` cannot show compressed clusters as text.
    run.original(&commands(1, &task.opened, &structure));
    let mut before = resources();
    for number in task.first..task.first + task.count {
        let (image, _) = mutate(&seed, &structure, &classes, Rng::new(&task.name, number));
        std::fs::write(&task.name, image).expect("writes");
        run.number = number;
        let mut check = None;
        for command in commands(number, &task.opened, &structure) {
            let code = run.command(&command);
            if command.name == "check" {
                check = code.map(|code| (code, command));
            }
        }
        if let Some(overwrite) = overwrite(&task.opened)
            && run.command(&overwrite) == Some(0)
            && let Some((0, check)) = check
            && run.command(&check) != Some(0)
        {
            run.failure("convert -n", "a clean image is not clean afterwards");
        }
        run.command(&resize(number, &task.opened));
        if let Some(now) = leaked(before) {
            run.failure("all", &format!("threads, files: {before:?} became {now:?}"));
            before = now;
        }
    }
}

fn append(path: &str) -> File {
    File::options().append(true).create(true).open(path).expect("opens")
}

/// Returns the number of threads and open files of this process.
fn resources() -> (usize, usize) {
    let count = |path: &str| std::fs::read_dir(path).map_or(0, Iterator::count);
    (count("/proc/self/task"), count("/proc/self/fd"))
}

/// Returns the current [`resources`] if there are more than before. Waits up to two seconds,
/// because a joined thread may still be listed for a moment.
fn leaked(before: (usize, usize)) -> Option<(usize, usize)> {
    let is_more = |now: (usize, usize)| now.0 > before.0 || now.1 > before.1;
    let tries = (0..200).map(|_| {
        let now = resources();
        if is_more(now) {
            std::thread::sleep(Duration::from_millis(10));
        }
        now
    });
    let mut last = before;
    for now in tries {
        if !is_more(now) {
            return None;
        }
        last = now;
    }
    Some(last)
}

struct Runs {
    log: File,
    number: u64,
}

impl Runs {
    fn write_log(&mut self, text: &str) {
        self.log.write_all(text.as_bytes()).expect("writes");
    }

    fn failure(&mut self, command: &str, message: &str) {
        let mut line = format!("! {} {command} ", self.number);
        line.extend(message.chars().map(|c| if c == '\n' { '|' } else { c }));
        self.write_log(&format!("{line}\n"));
    }

    /// Runs the commands on the original image, which must succeed.
    fn original(&mut self, commands: &[CommandLine]) {
        for command in commands {
            let code = diskimg_cli::run(argv(&command.line));
            let err = take_output("../err");
            take_output("../out");
            // Raw images do not support checks, and some discs have known defects.
            let is_known = matches!((command.name, code), ("check", 63) | ("iso verify", 2 | 3));
            if code != 0 && !is_known {
                self.failure(
                    command.name,
                    &format!("the original image fails with exit code {code}: {err}"),
                );
            }
            clear(command);
        }
    }

    /// Runs a command and logs the result. Returns the exit code, unless it panicked.
    fn command(&mut self, command: &CommandLine) -> Option<u8> {
        let mut line = format!("{} {}\t", self.number, command.name);
        self.write_log(&line);
        line.clear();
        reset_peak_memory();
        let argv = argv(&command.line);
        let start = Instant::now();
        let code = std::panic::catch_unwind(|| diskimg_cli::run(argv));
        let ms = start.elapsed().as_secs_f64() * 1e3;
        let code = code.ok();
        let shown = code.map_or_else(|| "panic".into(), |code| code.to_string());
        writeln!(line, "{shown}\t{ms:.1}\t{}", peak_memory()).expect("writes to a string");
        self.write_log(&line);
        self.check(command, code);
        code
    }

    fn check(&mut self, command: &CommandLine, code: Option<u8>) {
        let (out, err) = (take_output("../out"), take_output("../err"));
        if let Some(message) = PANIC.lock().expect("is not poisoned").take() {
            self.failure(command.name, &format!("panicked: {message}"));
        }
        match code {
            None => {}
            Some(0) if out.is_empty() && matches!(command.name, "info" | "map") => {
                self.failure(command.name, "success without output");
            }
            Some(code @ 1..) if !(code == 1 || command.codes.contains(&code)) => {
                self.failure(command.name, &format!("exit code {code}: {err}"));
            }
            // `iso verify` prints findings to standard output.
            Some(1..)
                if err.trim().len() < 12 && (command.name != "iso verify" || out.is_empty()) =>
            {
                self.failure(command.name, &format!("no message: {err:?}"));
            }
            Some(_) => {}
        }
        if err.contains('\u{1b}') || command.name == "info" && out.contains('\u{1b}') {
            self.failure(command.name, "the output contains an unescaped control character");
        }
        let exists = Path::new("output").exists();
        if command.name == "convert" && exists != (code == Some(0)) {
            self.failure(command.name, &format!("exit code {code:?}, output exists: {exists}"));
        }
        clear(command);
        self.leftovers(command);
    }

    /// Reports temporary files that were left behind.
    fn leftovers(&mut self, command: &CommandLine) {
        let entries = std::fs::read_dir(".").expect("reads").map(|entry| entry.expect("reads"));
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                self.failure(command.name, &format!("{name} was left behind"));
                std::fs::remove_file(name).expect("removes");
            }
        }
    }
}

fn argv(line: &str) -> Vec<OsString> {
    std::iter::once("diskimg").chain(line.split(' ')).map(Into::into).collect()
}

/// Removes the output of a command.
fn clear(command: &CommandLine) {
    match command.name {
        "convert" => drop(std::fs::remove_file("output")),
        "iso extract" => drop(std::fs::remove_dir_all("tree")),
        _ => {}
    }
}

/// Returns what was written to a stream since the last call.
fn take_output(path: &str) -> String {
    let bytes = std::fs::read(path).expect("reads");
    File::options().write(true).open(path).and_then(|file| file.set_len(0)).expect("truncates");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Resets the peak memory of this process; see proc(5).
fn reset_peak_memory() {
    std::fs::write("/proc/self/clear_refs", "5").expect("Linux since 4.0 has it");
}

/// Returns the peak memory since [`reset_peak_memory`], in KiB.
fn peak_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("reads");
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("has VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
