//! A process that runs the command over many mutations, and says how each run went.

use super::mutation::{Rng, mutate};
use super::structure::Structure;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The task of a child: where the environment has it.
pub(super) const TASK: &str = "DISKIMG_MUTATIONS_TASK";

/// What a child is to do, in a directory of its own.
///
/// ```text
///   seed         the image as it was
///   work/        the child's own directory: the image, mutated, and the files beside it
///   out, err     what the command says: the child's standard output and error
///   says         what the child says, a line a run:  NUMBER VERB  CODE MS KIB
///                                and of any fault:  ! NUMBER VERB WORDS
/// ```
#[derive(Debug, Clone)]
pub(super) struct Task {
    /// The image's name.
    pub(super) name: String,
    /// The file that is opened.
    pub(super) opened: String,
    pub(super) first: u64,
    pub(super) count: u64,
}

impl Task {
    pub(super) fn to_env(&self) -> String {
        format!("{} {} {} {}", self.name, self.opened, self.first, self.count)
    }

    fn of_env(text: &str) -> Self {
        let words: Vec<_> = text.split(' ').collect();
        let number = |at: usize| words[at].parse().expect("a number");
        let word = |at: usize| words[at].to_owned();
        Self { name: word(0), opened: word(1), first: number(2), count: number(3) }
    }
}

/// A verb, and the exit codes it may have but 0 and 1.
struct Verb {
    name: &'static str,
    line: String,
    codes: &'static [u8],
}

/// All that an image goes through; `number` chooses among forms.
fn verbs(number: u64, opened: &str, structure: &Structure) -> Vec<Verb> {
    let verb = |name, line: String, codes| Verb { name, line, codes };
    let form = ["", "--output=json "][number as usize % 2];
    // None whose output takes all that the disk claims to hold.
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
    let mut verbs = vec![
        verb("info", format!("info {form}{opened}"), &[][..]),
        // qemu-img's: corruptions, leaks, nothing to check.
        verb("check", format!("check {form}{opened}"), &[2, 3, 63]),
        verb("map", format!("map {form}{opened}"), &[]),
        verb("convert", format!("convert {target} {snapshot}{opened} output"), &[]),
    ];
    if structure.has_files {
        let extract = format!("iso extract --no-preserve --max-bytes 64M -C tree {opened}");
        verbs.extend([
            verb("iso ls", format!("iso ls -lR {form}{opened}"), &[]),
            // Errors, warnings.
            verb("iso verify", format!("iso verify {opened}"), &[2, 3]),
            verb("iso extract", extract, &[]),
        ]);
    }
    verbs
}

/// The last panic of any thread, in words.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Not a test of its own: what a child runs.
#[test]
fn a_child_runs_its_mutations() {
    let Ok(task) = std::env::var(TASK) else { return };
    let task = Task::of_env(&task);
    std::panic::set_hook(Box::new(|panic| {
        *PANIC.lock().expect("no panic in here") = Some(panic.to_string());
    }));
    let seed = std::fs::read("../seed").expect("reads");
    let structure = Structure::of(&seed);
    let classes = structure.classes();
    let mut run = Runs { says: append("../says"), number: 0 };
    // What is sound is taken; and what stays from then on is there: a thread that waits for
    // signals.
    std::fs::write(&task.name, &seed).expect("writes");
    // In qemu-img's plain form, a map of compressed clusters is an error.
    run.sound(&verbs(1, &task.opened, &structure));
    let mut before = resources();
    for number in task.first..task.first + task.count {
        let (image, _) = mutate(&seed, &structure, &classes, Rng::of(&task.name, number));
        std::fs::write(&task.name, image).expect("writes");
        run.number = number;
        for verb in verbs(number, &task.opened, &structure) {
            run.verb(&verb);
        }
        if let Some(now) = grown(before) {
            run.fault("all", &format!("threads, files: {before:?} became {now:?}"));
            before = now;
        }
    }
}

fn append(path: &str) -> File {
    File::options().append(true).create(true).open(path).expect("opens")
}

/// Threads and open files of this process.
fn resources() -> (usize, usize) {
    let count = |path: &str| std::fs::read_dir(path).map_or(0, Iterator::count);
    (count("/proc/self/task"), count("/proc/self/fd"))
}

/// What they are if they are more than before; those of a thread that was waited for are there for
/// a moment yet.
fn grown(before: (usize, usize)) -> Option<(usize, usize)> {
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
    says: File,
    number: u64,
}

impl Runs {
    fn say(&mut self, text: &str) {
        self.says.write_all(text.as_bytes()).expect("writes");
    }

    fn fault(&mut self, verb: &str, what: &str) {
        let mut line = format!("! {} {verb} ", self.number);
        line.extend(what.chars().map(|c| if c == '\n' { '|' } else { c }));
        self.say(&format!("{line}\n"));
    }

    /// Runs the command over the image as it was: all are errors otherwise, and soon.
    fn sound(&mut self, verbs: &[Verb]) {
        for verb in verbs {
            let code = diskimg_cli::run(argv(&verb.line));
            let err = taken("../err");
            taken("../out");
            // There is nothing to check in raw images, and the discs of others have their flaws.
            let is_known = matches!((verb.name, code), ("check", 63) | ("iso verify", 2 | 3));
            if code != 0 && !is_known {
                self.fault(verb.name, &format!("the seed is refused, exit code {code}: {err}"));
            }
            clear(verb);
        }
    }

    /// Runs the command; says how it went.
    fn verb(&mut self, verb: &Verb) {
        let mut line = format!("{} {}\t", self.number, verb.name);
        self.say(&line);
        line.clear();
        reset_peak_memory();
        let argv = argv(&verb.line);
        let start = Instant::now();
        let code = std::panic::catch_unwind(|| diskimg_cli::run(argv));
        let ms = start.elapsed().as_secs_f64() * 1e3;
        let code = code.ok();
        let shown = code.map_or_else(|| "panic".into(), |code| code.to_string());
        writeln!(line, "{shown}\t{ms:.1}\t{}", peak_memory()).expect("a string takes all");
        self.say(&line);
        self.judge(verb, code);
    }

    fn judge(&mut self, verb: &Verb, code: Option<u8>) {
        let (out, err) = (taken("../out"), taken("../err"));
        if let Some(words) = PANIC.lock().expect("no panic in here").take() {
            self.fault(verb.name, &format!("panicked: {words}"));
        }
        match code {
            None => {}
            Some(0) if out.is_empty() && matches!(verb.name, "info" | "map") => {
                self.fault(verb.name, "success, and nothing is said");
            }
            Some(code @ 1..) if !(code == 1 || verb.codes.contains(&code)) => {
                self.fault(verb.name, &format!("exit code {code}: {err}"));
            }
            // Findings are what `iso verify` prints.
            Some(1..) if err.trim().len() < 12 && (verb.name != "iso verify" || out.is_empty()) => {
                self.fault(verb.name, &format!("no message: {err:?}"));
            }
            Some(_) => {}
        }
        if err.contains('\u{1b}') || verb.name == "info" && out.contains('\u{1b}') {
            self.fault(verb.name, "what the image has commands the terminal");
        }
        let there = Path::new("output").exists();
        if verb.name == "convert" && there != (code == Some(0)) {
            self.fault(verb.name, &format!("exit code {code:?}, output there: {there}"));
        }
        clear(verb);
        self.leftovers(verb);
    }

    /// Nothing is left that was not there.
    fn leftovers(&mut self, verb: &Verb) {
        let entries = std::fs::read_dir(".").expect("reads").map(|entry| entry.expect("reads"));
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                self.fault(verb.name, &format!("{name} was left"));
                std::fs::remove_file(name).expect("removes");
            }
        }
    }
}

fn argv(line: &str) -> Vec<OsString> {
    std::iter::once("diskimg").chain(line.split(' ')).map(Into::into).collect()
}

/// Takes away what a verb wrote.
fn clear(verb: &Verb) {
    match verb.name {
        "convert" => drop(std::fs::remove_file("output")),
        "iso extract" => drop(std::fs::remove_dir_all("tree")),
        _ => {}
    }
}

/// What a stream got since the last time.
fn taken(path: &str) -> String {
    let bytes = std::fs::read(path).expect("reads");
    File::options().write(true).open(path).and_then(|file| file.set_len(0)).expect("empties");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// From now on the peak is counted anew.
fn reset_peak_memory() {
    std::fs::write("/proc/self/clear_refs", "5").expect("Linux since 4.0 has it");
}

/// The most memory that this process had since then, in KiB.
fn peak_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("reads");
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("is told");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
