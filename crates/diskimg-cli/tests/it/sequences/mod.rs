//! Sequences of random operations on chains of images, in which diskimg and qemu-img take turns.
//!
//! ```text
//!   seed ──► chain of 1 to 3 images ──► step ──► step ──► … 100 steps
//!                 │                      │ by diskimg or qemu-img, on the chain
//!                 ▼                      │ by the other one, on a copy (refusals, and a sample)
//!   model: bytes of each disk, its size, ▼
//!          snapshots and bitmaps    ──► both tools agree with the model and with each other
//! ```
//!
//! `DISKIMG_FULL=1` runs many sequences; `DISKIMG_SEED` runs the one with this seed, and prints its
//! steps.

// Prints statistics, and the steps of a sequence that fails.
#![allow(clippy::print_stdout)]

mod differences;
mod formats;
mod model;
mod random;
mod steps;
mod verify;

use crate::support::{Lab, Ran, diskimg};
use diskimg_testkit::tool::full;
use model::{Chain, io};
use random::Random;
use steps::{Effect, Step};
use verify::Verifier;

/// The program that performs a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Diskimg,
    Qemu,
}

impl Tool {
    fn other(self) -> Self {
        match self {
            Self::Diskimg => Self::Qemu,
            Self::Qemu => Self::Diskimg,
        }
    }

    fn run(self, lab: &Lab, arguments: &[String]) -> Ran {
        let program = match self {
            Self::Diskimg => diskimg(),
            Self::Qemu => "qemu-img",
        };
        let output = lab.command(program).args(arguments).output().expect("runs");
        Ran::new(output)
    }
}

/// What has been done in sequences.
#[derive(Debug, Default)]
struct Counts {
    sequences: u64,
    steps: u64,
    /// Steps that both tools have performed.
    both: u64,
    /// Steps that both tools have refused.
    refused: u64,
    /// Steps that only one of them has refused, for a documented reason.
    differences: u64,
}

/// The steps of a sequence, printed if it fails.
struct Log {
    seed: u64,
    lines: Vec<String>,
}

impl Log {
    fn add(&mut self, line: String) {
        if std::env::var_os("DISKIMG_SEED").is_some() {
            println!("{line}");
        }
        self.lines.push(line);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("DISKIMG_SEED={}, after\n{}", self.seed, self.lines.join("\n"));
        }
    }
}

/// Runs a sequence.
fn sequence(seed: u64, steps: u64, counts: &mut Counts) {
    let mut random = Random::new(seed);
    let mut log = Log { seed, lines: Vec::new() };
    let mut chain = Chain::generate(&mut random);
    for image in &chain.images {
        log.add(format!("# {} {} {} bytes", image.name, image.format, image.size));
    }
    Verifier::new(&chain.lab).all(&mut chain.images);
    for number in 0..steps {
        let step = Step::choose(&mut random, &mut chain);
        let tool = random.pick(&[Tool::Diskimg, Tool::Qemu]);
        let tool = differences::only_tool(&step, &chain).unwrap_or(tool);
        // Rarely, because it takes the time of another step.
        let both = random.one_in(if full() { 3 } else { 6 });
        let both = both && differences::only_tool(&step, &chain).is_none();
        counts.steps += 1;
        let at = step.of();
        let is_of_chain = matches!(step, Step::Rebase { .. } | Step::Commit { .. });
        match step {
            Step::Io { ref commands, ref effect } => {
                log.add(format!("{number}: qemu-io {commands:?} {}", chain.images[0].name));
                let code = io(&chain.lab, &chain.images[0], commands);
                let is_expected = match effect {
                    Effect::Killed(..) => code.is_none(),
                    Effect::Compressed => matches!(code, Some(0 | 1)),
                    Effect::Fill(..) | Effect::Discard => code == Some(0),
                };
                assert!(is_expected, "{commands:?}: {code:?}");
                step.apply(&mut chain, Tool::Qemu);
            }
            step => {
                let arguments = step.arguments(&chain);
                log.add(format!("{number}: {tool:?} {}", arguments.join(" ")));
                run(step, &arguments, tool, both, &mut chain, counts);
            }
        }
        let verifier = Verifier::new(&chain.lab);
        match is_of_chain || number % 8 == 7 {
            true => verifier.all(&mut chain.images),
            false => verifier.changed(&mut chain.images, at),
        }
    }
    counts.sequences += 1;
}

/// Performs a step with a tool, and, on a copy, with the other one.
fn run(
    step: Step,
    arguments: &[String],
    tool: Tool,
    both: bool,
    chain: &mut Chain,
    counts: &mut Counts,
) {
    let copy = chain.copy();
    let at = step.of();
    let ran = tool.run(&chain.lab, arguments);
    if ran.code == Some(0) && !both {
        return succeeded(step, chain, tool);
    }
    if differences::only_tool(&step, chain).is_some() {
        counts.refused += 1;
        return;
    }
    let other = tool.other().run(&copy, arguments);
    let (ours, theirs) = match tool {
        Tool::Diskimg => (&ran, &other),
        Tool::Qemu => (&other, &ran),
    };
    if ours.code != theirs.code {
        let reason = differences::reason(&step, chain, ours, theirs);
        assert!(reason.is_some(), "diskimg: {ours:?}\nqemu-img: {theirs:?}");
        counts.differences += 1;
        if theirs.code.is_none() {
            // qemu-img has not closed the image: continue with that of diskimg.
            if tool == Tool::Qemu {
                chain.lab = copy;
            }
            return succeeded(step, chain, Tool::Diskimg);
        }
    } else if ran.code == Some(0) {
        counts.both += 1;
        Verifier::new(&chain.lab).same_as(&copy, &chain.images[at], &step.undefined(chain));
    } else {
        counts.refused += 1;
        // What was done before the action that fails is stored.
        if matches!(step, Step::Bitmap { .. }) {
            Verifier::new(&chain.lab).same_as(&copy, &chain.images[at], &(0..0));
            Verifier::new(&chain.lab).learn_bitmaps(&mut chain.images[at]);
        }
    }
    if ran.code == Some(0) {
        succeeded(step, chain, tool);
    } else if matches!(step, Step::Convert { .. }) && tool == Tool::Qemu {
        // Unlike diskimg, it finds out while it writes.
        chain.images[at].bytes = None;
    }
}

fn succeeded(step: Step, chain: &mut Chain, tool: Tool) {
    if let Step::Dd { block, count, skip } = step {
        let (start, blocks) = ((block * skip) as usize, (block * count) as usize);
        let bytes = chain.images[0].bytes.as_ref().expect("is known");
        // qemu-img counts from the beginning.
        let end = if tool == Tool::Qemu { blocks } else { start + blocks }.min(bytes.len());
        let expected = bytes.get(start..end).unwrap_or_default();
        let mut copied = chain.lab.read("dd.raw");
        // The files of qemu-img have whole sectors.
        copied.truncate(expected.len());
        assert!(copied == expected, "dd: {} bytes, not {}", copied.len(), expected.len());
        std::fs::remove_file(chain.lab.path("dd.raw")).expect("removes");
    }
    step.apply(chain, tool);
}

#[test]
fn both_tools_take_turns_on_the_same_images() {
    let mut counts = Counts::default();
    if let Some(seed) = std::env::var("DISKIMG_SEED").ok().and_then(|seed| seed.parse().ok()) {
        sequence(seed, 100, &mut counts);
    } else {
        let (sequences, steps) = if full() { (40, 100) } else { (2, 25) };
        (1..=sequences).for_each(|seed| sequence(seed, steps, &mut counts));
    }
    println!("{counts:?}");
    assert!(counts.steps > 0);
}
