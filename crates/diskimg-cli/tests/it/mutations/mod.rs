//! The command over images that were damaged with knowledge of their structures.
//!
//! ```text
//!   seed image ──► its structures, their fields          structure.rs, and a file a format
//!        │  name and number
//!        ▼
//!   mutation: fields set, spliced, flipped; cut, extended, copied, swapped      mutation.rs
//!        │
//!        ▼
//!   a child process: info · check · map · convert (· iso ls · iso verify · iso extract)
//!        │            all of the command but its `main`, for many numbers        child.rs
//!        ▼
//!   exit code 0, or 1 and what else is documented, with a message; below 64 MiB, below
//!   two seconds; no panic, no file left, no thread, no descriptor
//! ```
//!
//! `DISKIMG_MUTATIONS=10000` is the long form, `DISKIMG_MUTATIONS_IMAGE=overlay` says of which
//! image, `DISKIMG_MUTATIONS_FIRST=1234` where to begin. The images of faults are kept in
//! `target/tmp/mutations`; so is a single one that was asked for.

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
use mutation::{Rng, mutate};
use seeds::Seed;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use structure::Structure;

/// Mutations of an image, unless the environment says how many.
const SHORT: u64 = 40;
/// That a child does.
const BATCH: u64 = 500;
/// Resident memory that a run may have at most, in KiB.
const MOST_MEMORY: u64 = 64 << 10;
/// Milliseconds that a run may take.
const MOST_MS: f64 = 2000.0;
/// A run that has said nothing by then never ends.
const HANG: Duration = Duration::from_secs(20);
/// Address space of a child: what asks for more is refused, and ends it.
const ADDRESS_SPACE: u64 = 2 << 30;

/// Faults that are told.
const SHOWN: usize = 200;

#[test]
#[allow(clippy::print_stdout, reason = "--nocapture shows the table")]
fn every_mutation_of_an_image_gives_an_answer_soon_and_in_little_memory() {
    let count = from_env("DISKIMG_MUTATIONS").unwrap_or(SHORT);
    let first = from_env("DISKIMG_MUTATIONS_FIRST").unwrap_or(0);
    let wanted = std::env::var("DISKIMG_MUTATIONS_IMAGE").unwrap_or_default();
    let seeds: Vec<_> = seeds::all().into_iter().filter(|s| s.name.contains(&wanted)).collect();
    assert!(!seeds.is_empty(), "no image is called {wanted}");
    let mut faults = Vec::new();
    println!(
        "{:27} {:>9} {:>7} {:>10}  {:38} slowest",
        "image", "mutations", "runs", "memory", "exit codes"
    );
    for seed in seeds {
        let mut bench = Bench::new(&seed);
        bench.run(first, count);
        println!("{}", bench.row(count));
        if count == 1 {
            println!("    {}", bench.keep(first));
        }
        faults.extend(bench.faults);
    }
    let shown = faults.len().min(SHOWN);
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults[..shown].join("\n"));
}

fn from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// One run of the command.
#[derive(Debug, Clone)]
struct Run {
    number: u64,
    verb: String,
    code: String,
    ms: f64,
    kib: u64,
}

/// Where an image's mutations run, and what came of them.
struct Bench<'a> {
    seed: &'a Seed,
    lab: tempfile::TempDir,
    codes: BTreeMap<String, u64>,
    runs: u64,
    slowest: Option<Run>,
    memory: u64,
    faults: Vec<String>,
}

impl<'a> Bench<'a> {
    fn new(seed: &'a Seed) -> Self {
        // In memory, where there is room: it is about the command, not about disks.
        let memory = Path::new("/dev/shm");
        let lab = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).expect("creates");
        std::fs::create_dir(lab.path().join("work")).expect("creates");
        std::fs::write(lab.path().join("seed"), &seed.bytes).expect("writes");
        for (name, bytes) in &seed.beside {
            std::fs::write(lab.path().join("work").join(name), bytes).expect("writes");
        }
        let (codes, faults) = (BTreeMap::new(), Vec::new());
        Self { seed, lab, codes, runs: 0, slowest: None, memory: 0, faults }
    }

    /// Runs so many mutations, in as many children as it takes.
    fn run(&mut self, first: u64, count: u64) {
        let mut at = first;
        while at < first + count {
            let batch = BATCH.min(first + count - at);
            let ended = self.child(at, batch);
            self.faults_of(&ended);
            let suspects: Vec<_> = ended.runs.iter().filter(|run| is_too_much(run)).collect();
            for run in suspects {
                self.once_more(run.clone());
            }
            for run in ended.runs.iter().filter(|run| !is_too_much(run)) {
                self.count(run);
            }
            // A child that ended early did not come to the rest.
            at = ended.stopped_at.map_or(at + batch, |number| number + 1);
        }
    }

    fn faults_of(&mut self, ended: &Ended) {
        for (number, words) in &ended.faults {
            self.fault(*number, words);
        }
    }

    fn count(&mut self, run: &Run) {
        *self.codes.entry(format!("{}: {}", run.verb, run.code)).or_default() += 1;
        self.runs += 1;
        if self.slowest.as_ref().is_none_or(|slowest| run.ms > slowest.ms) {
            self.slowest = Some(run.clone());
        }
        self.memory = self.memory.max(run.kib);
    }

    /// What took too long or too much may have had to wait for others, and a heap has what came
    /// before in it: it is a fault if it does so alone, too, whenever it is tried.
    fn once_more(&mut self, mut run: Run) {
        for _ in 0..3 {
            let ended = self.child(run.number, 1);
            let again = ended.runs.iter().find(|again| again.verb == run.verb);
            if let Some(again) = again {
                run.ms = run.ms.min(again.ms);
                run.kib = run.kib.min(again.kib);
            }
            if !is_too_much(&run) {
                break;
            }
        }
        if is_too_much(&run) {
            let words = format!("{}: {:.0} ms, {} KiB", run.verb, run.ms, run.kib);
            self.fault(run.number, &words);
        }
        self.count(&run);
    }

    /// Notes what went wrong, what was done to the image, and how to see it again.
    fn fault(&mut self, number: u64, words: &str) {
        let (name, done) = (&self.seed.name, self.keep(number));
        self.faults.push(format!(
            "{name} {number}: {words}\n    {done}\n    DISKIMG_MUTATIONS_IMAGE={name} \
             DISKIMG_MUTATIONS_FIRST={number} DISKIMG_MUTATIONS=1"
        ));
    }

    /// Writes the image to where it can be looked at; says what was done to it.
    fn keep(&self, number: u64) -> String {
        let Seed { name, bytes, .. } = self.seed;
        let structure = Structure::of(bytes);
        let (image, done) = mutate(bytes, &structure, &structure.classes(), Rng::of(name, number));
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutations");
        std::fs::create_dir_all(&kept).expect("creates");
        std::fs::write(kept.join(format!("{number}-{name}")), image).expect("writes");
        done
    }

    /// Runs a child.
    fn child(&self, first: u64, count: u64) -> Ended {
        let path = |name: &str| self.lab.path().join(name);
        let stream = |name: &str| {
            File::create(path(name)).expect("creates");
            File::options().append(true).open(path(name)).expect("opens")
        };
        std::fs::write(path("says"), "").expect("writes");
        let (name, opened) = (self.seed.name.clone(), self.seed.opened.clone());
        let task = Task { name, opened, first, count };
        let mut child = Command::new("prlimit")
            .arg(format!("--as={ADDRESS_SPACE}"))
            .arg(std::env::current_exe().expect("is known"))
            .args(["--exact", "mutations::child::a_child_runs_its_mutations", "--nocapture"])
            .env(TASK, task.to_env())
            .current_dir(path("work"))
            .stdin(Stdio::null())
            .stdout(stream("out"))
            .stderr(stream("err"))
            .spawn()
            .expect("prlimit runs: ./test.sh names what is needed");
        let how = wait(&mut child, &path("says"));
        let said = std::fs::read_to_string(path("says")).expect("reads");
        let err = || String::from_utf8_lossy(&std::fs::read(path("err")).unwrap()).into_owned();
        Ended::of(first, &said, how.map(|how| format!("{how}: {}", err())))
    }

    fn row(&self, count: u64) -> String {
        let mut codes = String::new();
        // All verbs together; what is not 0 or 1 is told by itself.
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for (key, runs) in &self.codes {
            let code = key.rsplit(' ').next().unwrap_or(key);
            *sums.entry(code).or_default() += runs;
        }
        for (code, runs) in sums {
            write!(codes, "{code}:{runs} ").expect("a string takes all");
        }
        let slowest = self.slowest.as_ref().map_or_else(String::new, |run| {
            format!("{:.0} ms ({} {})", run.ms, run.verb, run.number)
        });
        let (name, mib) = (&self.seed.name, self.memory as f64 / 1024.0);
        format!("{name:27} {count:9} {:7} {mib:6.1} MiB  {codes:38} {slowest}", self.runs)
    }
}

fn is_too_much(run: &Run) -> bool {
    run.ms >= MOST_MS || run.kib >= MOST_MEMORY
}

/// What a child said until it ended.
#[derive(Debug)]
struct Ended {
    runs: Vec<Run>,
    /// Number of the mutation, and what was wrong.
    faults: Vec<(u64, String)>,
    /// Where it ended before its time.
    stopped_at: Option<u64>,
}

impl Ended {
    fn of(first: u64, said: &str, how: Option<String>) -> Self {
        let mut ended = Self { runs: Vec::new(), faults: Vec::new(), stopped_at: None };
        let mut last = (first, String::from("start"));
        for line in said.lines() {
            if let Some((number, words)) =
                line.strip_prefix("! ").and_then(|line| line.split_once(' '))
            {
                ended.faults.push((number.parse().expect("a number"), words.to_owned()));
                continue;
            }
            let parts: Vec<_> = line.split('\t').collect();
            let (number, verb) = parts[0].split_once(' ').expect("a number and a verb");
            last = (number.parse().expect("a number"), verb.to_owned());
            if let [_, code, ms, kib] = parts[..] {
                ended.runs.push(Run {
                    number: last.0,
                    verb: last.1.clone(),
                    code: code.to_owned(),
                    ms: ms.parse().expect("a number"),
                    kib: kib.parse().expect("a number"),
                });
            }
        }
        if let Some(how) = how {
            ended.stopped_at = Some(last.0);
            ended.faults.push((last.0, format!("{}: {how}", last.1)));
        }
        ended
    }
}

/// How it went wrong; `None` if the child was content.
fn wait(child: &mut Child, says: &Path) -> Option<String> {
    let (mut len, mut since) = (0, Instant::now());
    loop {
        if let Some(status) = child.try_wait().expect("waits") {
            return (!status.success()).then(|| format!("the child ended ({status})"));
        }
        let now = std::fs::metadata(says).map_or(0, |meta| meta.len());
        if now != len {
            (len, since) = (now, Instant::now());
        }
        if since.elapsed() > HANG {
            child.kill().expect("is ended");
            child.wait().expect("ends");
            return Some("it hung".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
