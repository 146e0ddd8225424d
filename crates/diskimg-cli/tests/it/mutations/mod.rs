//! Tests of the command on images with structure-aware mutations.
//!
//! ```text
//!   seed image ──► structures and their fields           structure.rs, and a file per format
//!        │  name and number
//!        ▼
//!   mutation: sets, splices, flips fields; truncates, extends, copies, swaps    mutation.rs
//!        │
//!        ▼
//!   a child process: info · check · map · convert (· iso ls · iso verify · iso extract)
//!        │           · convert -n onto the image · resize
//!        │            in process, for many numbers                               child.rs
//!        ▼
//!   exit code 0, or a documented one with a message; less than 64 MiB and two seconds;
//!   no panic, no leftover file, no leaked thread or file descriptor
//! ```
//!
//! `DISKIMG_MUTATIONS=10000` sets the number of mutations per image,
//! `DISKIMG_MUTATIONS_IMAGE=overlay` selects images by name, `DISKIMG_MUTATIONS_FIRST=1234` sets
//! the first mutation. Images that fail are kept in `target/tmp/mutations`, as is the image if
//! there is only one mutation.

mod child;
mod iso;
mod mutation;
mod ova;
mod qcow2;
mod seeds;
mod structure;
mod udf;
mod vmdk;

use child::{TASK, Task};
use diskimg_testkit::tool::full;
use mutation::{Rng, mutate};
use seeds::Seed;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use structure::Structure;

/// Default number of mutations per image.
const DEFAULT_COUNT: u64 = 40;
/// Number of mutations per image if the tests run in full.
const FULL_COUNT: u64 = 1000;
/// Number of mutations per child process.
const BATCH: u64 = 500;
/// Maximum resident memory of a run, in KiB.
const MAX_MEMORY: u64 = 64 << 10;
/// Maximum duration of a run, in milliseconds.
const MAX_MS: f64 = 2000.0;
/// Time without a log entry after which a child is considered to hang.
const HANG: Duration = Duration::from_secs(20);
/// Address space limit of a child; a larger allocation fails and aborts it.
const ADDRESS_SPACE: u64 = 2 << 30;

/// Maximum number of failures shown.
const MAX_SHOWN: usize = 200;

#[test]
#[allow(clippy::print_stdout, reason = "--nocapture shows the table")]
fn commands_on_mutated_images_end_quickly_within_little_memory() {
    let count =
        from_env("DISKIMG_MUTATIONS").unwrap_or(if full() { FULL_COUNT } else { DEFAULT_COUNT });
    let first = from_env("DISKIMG_MUTATIONS_FIRST").unwrap_or(0);
    let wanted = std::env::var("DISKIMG_MUTATIONS_IMAGE").unwrap_or_default();
    let seeds: Vec<_> = seeds::all().into_iter().filter(|s| s.name.contains(&wanted)).collect();
    assert!(!seeds.is_empty(), "no image matches {wanted}");
    let mut failures = Vec::new();
    println!(
        "{:27} {:>9} {:>7} {:>10}  {:38} slowest",
        "image", "mutations", "runs", "memory", "exit codes"
    );
    for seed in seeds {
        let mut results = MutationRuns::new(&seed);
        results.run(first, count);
        println!("{}", results.row(count));
        if count == 1 {
            println!("    {}", results.keep(first));
        }
        failures.extend(results.failures);
    }
    let shown = failures.len().min(MAX_SHOWN);
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures[..shown].join("\n"));
}

fn from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: expected a number")))
}

/// One run of the command.
#[derive(Debug, Clone)]
struct Run {
    number: u64,
    command: String,
    code: String,
    ms: f64,
    kib: u64,
}

/// The temporary directory of an image's mutations, and the results.
struct MutationRuns<'a> {
    seed: &'a Seed,
    lab: tempfile::TempDir,
    codes: BTreeMap<String, u64>,
    runs: u64,
    slowest: Option<Run>,
    memory: u64,
    failures: Vec<String>,
}

impl<'a> MutationRuns<'a> {
    fn new(seed: &'a Seed) -> Self {
        // In memory if possible, so that disk speed does not matter.
        let memory = Path::new("/dev/shm");
        let lab = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).expect("creates");
        std::fs::create_dir(lab.path().join("work")).expect("creates");
        std::fs::write(lab.path().join("seed"), &seed.bytes).expect("writes");
        for (name, bytes) in &seed.other_files {
            std::fs::write(lab.path().join("work").join(name), bytes).expect("writes");
        }
        let (codes, failures) = (BTreeMap::new(), Vec::new());
        Self { seed, lab, codes, runs: 0, slowest: None, memory: 0, failures }
    }

    /// Runs `count` mutations in child processes.
    fn run(&mut self, first: u64, count: u64) {
        let mut at = first;
        while at < first + count {
            let batch = BATCH.min(first + count - at);
            let ended = self.child(at, batch);
            self.add_failures(&ended);
            let suspects: Vec<_> = ended.runs.iter().filter(|run| is_too_much(run)).collect();
            for run in suspects {
                self.retry(run.clone());
            }
            for run in ended.runs.iter().filter(|run| !is_too_much(run)) {
                self.count(run);
            }
            // If a child ended early, continue after the mutation that ended it.
            at = ended.stopped_at.map_or(at + batch, |number| number + 1);
        }
    }

    fn add_failures(&mut self, ended: &ChildResult) {
        for (number, message) in &ended.failures {
            self.failure(*number, message);
        }
    }

    fn count(&mut self, run: &Run) {
        *self.codes.entry(format!("{}: {}", run.command, run.code)).or_default() += 1;
        self.runs += 1;
        if self.slowest.as_ref().is_none_or(|slowest| run.ms > slowest.ms) {
            self.slowest = Some(run.clone());
        }
        self.memory = self.memory.max(run.kib);
    }

    /// Repeats a run that exceeded a limit, which can be caused by system load or by earlier runs
    /// in the same process. It is a failure if it exceeds a limit every time, alone in a process.
    fn retry(&mut self, mut run: Run) {
        for _ in 0..3 {
            let ended = self.child(run.number, 1);
            let again = ended.runs.iter().find(|again| again.command == run.command);
            if let Some(again) = again {
                run.ms = run.ms.min(again.ms);
                run.kib = run.kib.min(again.kib);
            }
            if !is_too_much(&run) {
                break;
            }
        }
        if is_too_much(&run) {
            let message = format!("{}: {:.0} ms, {} KiB", run.command, run.ms, run.kib);
            self.failure(run.number, &message);
        }
        self.count(&run);
    }

    /// Records a failure with a description of the mutation and how to repeat it.
    fn failure(&mut self, number: u64, message: &str) {
        let (name, description) = (&self.seed.name, self.keep(number));
        self.failures.push(format!(
            "{name} {number}: {message}\n    {description}\n    DISKIMG_MUTATIONS_IMAGE={name} \
             DISKIMG_MUTATIONS_FIRST={number} DISKIMG_MUTATIONS=1"
        ));
    }

    /// Saves the mutated image and returns a description of the mutation.
    fn keep(&self, number: u64) -> String {
        let Seed { name, bytes, .. } = self.seed;
        let structure = Structure::parse(bytes);
        let (image, description) =
            mutate(bytes, &structure, &structure.classes(), Rng::new(name, number));
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutations");
        std::fs::create_dir_all(&kept).expect("creates");
        std::fs::write(kept.join(format!("{number}-{name}")), image).expect("writes");
        description
    }

    /// Runs a child process.
    fn child(&self, first: u64, count: u64) -> ChildResult {
        let path = |name: &str| self.lab.path().join(name);
        let stream = |name: &str| {
            File::create(path(name)).expect("creates");
            File::options().append(true).open(path(name)).expect("opens")
        };
        std::fs::write(path("log"), "").expect("writes");
        let (name, opened) = (self.seed.name.clone(), self.seed.opened.clone());
        let task = Task { name, opened, first, count };
        let mut child = Command::new("prlimit")
            .arg(format!("--as={ADDRESS_SPACE}"))
            .arg(std::env::current_exe().expect("finds this program"))
            .args(["--exact", "mutations::child::a_child_runs_its_mutations", "--nocapture"])
            .env(TASK, task.to_env())
            .current_dir(path("work"))
            .stdin(Stdio::null())
            .stdout(stream("out"))
            .stderr(stream("err"))
            .spawn()
            .expect("prlimit runs: ./test.sh names what is needed");
        let error = wait(&mut child, &path("log"));
        let log = std::fs::read_to_string(path("log")).expect("reads");
        let err = || String::from_utf8_lossy(&std::fs::read(path("err")).unwrap()).into_owned();
        ChildResult::parse(first, &log, error.map(|error| format!("{error}: {}", err())))
    }

    fn row(&self, count: u64) -> String {
        let mut codes = String::new();
        // The sum over all commands, by exit code.
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for (key, runs) in &self.codes {
            let code = key.rsplit(' ').next().unwrap_or(key);
            *sums.entry(code).or_default() += runs;
        }
        for (code, runs) in sums {
            write!(codes, "{code}:{runs} ").expect("writes to a string");
        }
        let slowest = self.slowest.as_ref().map_or_else(String::new, |run| {
            format!("{:.0} ms ({} {})", run.ms, run.command, run.number)
        });
        let (name, mib) = (&self.seed.name, self.memory as f64 / 1024.0);
        format!("{name:27} {count:9} {:7} {mib:6.1} MiB  {codes:38} {slowest}", self.runs)
    }
}

fn is_too_much(run: &Run) -> bool {
    run.ms >= MAX_MS || run.kib >= MAX_MEMORY
}

/// The log of a child process.
#[derive(Debug)]
struct ChildResult {
    runs: Vec<Run>,
    /// Number of the mutation, and message.
    failures: Vec<(u64, String)>,
    /// The mutation during which the child ended early.
    stopped_at: Option<u64>,
}

impl ChildResult {
    fn parse(first: u64, log: &str, error: Option<String>) -> Self {
        let mut ended = Self { runs: Vec::new(), failures: Vec::new(), stopped_at: None };
        let mut last = (first, String::from("start"));
        for line in log.lines() {
            if let Some((number, message)) =
                line.strip_prefix("! ").and_then(|line| line.split_once(' '))
            {
                ended.failures.push((number.parse().expect("a number"), message.to_owned()));
                continue;
            }
            let parts: Vec<_> = line.split('\t').collect();
            let (number, command) = parts[0].split_once(' ').expect("a number and a command");
            last = (number.parse().expect("a number"), command.to_owned());
            if let [_, code, ms, kib] = parts[..] {
                ended.runs.push(Run {
                    number: last.0,
                    command: last.1.clone(),
                    code: code.to_owned(),
                    ms: ms.parse().expect("a number"),
                    kib: kib.parse().expect("a number"),
                });
            }
        }
        if let Some(error) = error {
            ended.stopped_at = Some(last.0);
            ended.failures.push((last.0, format!("{}: {error}", last.1)));
        }
        ended
    }
}

/// Waits for a child process. Returns an error message if it fails or hangs.
fn wait(child: &mut Child, log: &Path) -> Option<String> {
    let (mut len, mut since) = (0, Instant::now());
    loop {
        if let Some(status) = child.try_wait().expect("waits") {
            return (!status.success()).then(|| format!("the child ended ({status})"));
        }
        let now = std::fs::metadata(log).map_or(0, |meta| meta.len());
        if now != len {
            (len, since) = (now, Instant::now());
        }
        if since.elapsed() > HANG {
            child.kill().expect("kills");
            child.wait().expect("waits");
            return Some("the child hung".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
