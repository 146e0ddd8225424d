//! Any call fails, or stops half-way, or is the last one.

use super::world::{State, World, worlds};
use super::{meet, points, start, wait};

/// Bytes of the disks here.
const SIZE: usize = 640 << 10;

/// How many calls a fault of this kind can meet.
fn count(world: &World, kind: &str) -> u64 {
    world.reset();
    let met = meet(world, &format!("{kind}:-1"));
    assert_eq!(met.code(), Some(0), "{}", met.error());
    met.calls.iter().filter(|call| call.met.is_some()).count() as u64
}

#[derive(Debug, Default)]
struct Tally {
    worlds: u64,
    runs: u64,
    old: u64,
    new: u64,
    aside: u64,
    left: u64,
    wrong: Vec<String>,
}

impl Tally {
    fn end(self, what: &str) {
        let Self { worlds, runs, old, new, aside, left, wrong } = self;
        println!(
            "{what}: {worlds} commands, {runs} runs: {old} old, {new} new, {aside} put aside, \
             {left} files left; {} wrong",
            wrong.len()
        );
        let some = wrong[..wrong.len().min(40)].join("\n");
        assert!(wrong.is_empty() && runs > 0, "{} wrong, as\n{some}", wrong.len());
    }

    fn count(&mut self, state: State) {
        self.runs += 1;
        match state {
            State::Old => self.old += 1,
            State::New => self.new += 1,
            State::Aside => self.aside += 1,
        }
    }
}

/// What is wrong after a run whose calls failed.
fn judge(world: &World, kind: &str, tally: &mut Tally, at: u64) -> Result<(), String> {
    world.reset();
    let met = meet(world, &format!("{kind}:{at}"));
    let error = met.error();
    let state = world.state().map_err(|wrong| format!("{wrong}; {error}"))?;
    tally.count(state);
    match (met.code(), state) {
        (Some(0), State::New) if error.is_empty() => {}
        // Where nothing can be renamed any more, nothing can be put back.
        (Some(1), State::Aside) if kind == "dies" && error.contains(".diskimg-old") => {
            return Ok(());
        }
        (Some(1), State::Old | State::New) => {
            if matches!(kind, "eintr" | "short") {
                return Err(format!("fails: {error}"));
            }
            let says = if kind == "enospc" { "No space left" } else { "Input/output error" };
            if error.lines().count() != 1 || !error.contains(says) || !world.names_a_file(&error) {
                return Err(format!("says: {error}"));
            }
        }
        (code, state) => return Err(format!("{state:?} with exit code {code:?}: {error}")),
    }
    let left = world.leftovers();
    if !left.is_empty() {
        return Err(format!("leaves {left:?}"));
    }
    Ok(())
}

#[test]
fn a_system_call_that_fails_leaves_the_old_output_or_a_whole_new_one_and_nothing_else() {
    let mut tally = Tally::default();
    for world in worlds(SIZE) {
        tally.worlds += 1;
        for kind in ["eio", "dies", "enospc", "eintr", "short"] {
            for at in points(count(&world, kind), tally.runs) {
                if let Err(wrong) = judge(&world, kind, &mut tally, at) {
                    tally.wrong.push(format!("{} with {kind}:{at}: {wrong}", world.line()));
                }
            }
        }
    }
    tally.end("faults");
}

/// What is wrong after a run that was killed, and after the next one.
fn judge_killed(world: &World, tally: &mut Tally, at: u64) -> Result<(), String> {
    world.reset();
    let met = meet(world, &format!("kill:{at}"));
    tally.count(world.state()?);
    let left = world.leftovers();
    tally.left += left.len() as u64;
    if let Some(other) = left.iter().find(|name| !world.is_documented(name)) {
        return Err(format!("leaves {other}"));
    }
    // With threads, some calls come and go.
    if met.code() == Some(0) && world.threads == 1 {
        return Err("not killed".into());
    }
    let again = meet(world, "none:0");
    if (again.code(), world.state()?) != (Some(0), State::New) {
        return Err(format!("the next run: {}", again.error()));
    }
    match world.leftovers().into_iter().find(|name| !name.ends_with(".diskimg-old")) {
        Some(name) => Err(format!("the next run leaves {name}")),
        None => Ok(()),
    }
}

#[test]
fn a_run_that_is_killed_at_any_call_leaves_old_or_new_and_the_next_one_tidies_up() {
    let mut tally = Tally::default();
    for world in worlds(SIZE) {
        tally.worlds += 1;
        for at in points(count(&world, "kill"), tally.runs) {
            if let Err(wrong) = judge_killed(&world, &mut tally, at) {
                tally.wrong.push(format!("{} killed at {at}: {wrong}", world.line()));
            }
        }
    }
    tally.end("kills at calls");
}

#[test]
fn a_run_that_is_stopped_keeps_its_files_while_another_writes_the_same_name() {
    for case in [
        "convert -O qcow2 SRC.raw dst",
        "convert -O vmdk -o subformat=monolithicFlat SRC.raw dst.vmdk",
    ] {
        let case = *super::world::CASES.iter().find(|c| c.line == case).expect("is one");
        let world = World::new(case, false, 1, SIZE);
        let calls = count(&world, "stop");
        for at in points(calls, 0).into_iter().filter(|&at| at < calls) {
            world.reset();
            let stopped = start(&world, Some(&format!("stop:{at}")));
            let pid = rustix::process::Pid::from_child(&stopped);
            let options = rustix::process::WaitOptions::UNTRACED;
            let _ = rustix::process::waitpid(Some(pid), options).expect("waits");
            let before = world.leftovers();
            assert!(wait(start(&world, None), "the other").status.success());
            // What is made and not locked yet may go: the other one is made anew then.
            let made = std::fs::read_to_string(world.log()).unwrap_or_default();
            let locked = made.lines().filter(|call| call.contains("\tflock\t")).count();
            let temporary = before.iter().filter(|name| name.ends_with("-tmp"));
            for name in temporary.filter(|_| locked == before.len()) {
                assert!(world.leftovers().contains(name), "{name} is gone, stopped at {at}");
            }
            rustix::process::kill_process(pid, rustix::process::Signal::CONT).expect("goes on");
            let output = wait(stopped, "the stopped one");
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "stopped at {at}: {error}");
            assert_eq!(world.state(), Ok(State::New), "stopped at {at}");
            assert_eq!(world.leftovers(), [""; 0], "stopped at {at}");
        }
    }
}

#[test]
fn what_is_overwritten_in_place_is_right_or_the_run_fails() {
    let mut world = World::new(super::world::CASES[0], true, 1, SIZE);
    world.case.line = "convert -n -O raw SRC.raw dst";
    let mut tally = Tally::default();
    for kind in ["eio", "dies", "enospc", "eintr", "short"] {
        for at in points(count(&world, kind), tally.runs) {
            world.reset();
            let met = meet(&world, &format!("{kind}:{at}"));
            let right = world.state() == Ok(State::New);
            tally.runs += 1;
            let fine = match met.code() {
                Some(0) => right,
                Some(1) => !met.error().is_empty() && !matches!(kind, "eintr" | "short"),
                _ => false,
            };
            if !fine || !world.leftovers().is_empty() {
                tally.wrong.push(format!("{kind}:{at}: right: {right}; {}", met.error()));
            }
        }
    }
    tally.end("in place");
}

#[test]
fn an_extracted_file_is_right_or_not_there_whatever_call_fails() {
    let mut world = World::new(super::world::CASES[0], false, 1, SIZE);
    world.case.line = "iso extract -C out SRC.iso";
    let mut tally = Tally::default();
    for kind in ["eio", "dies", "enospc", "eintr", "short"] {
        let clear = || drop(std::fs::remove_dir_all(world.lab.path("out")));
        clear();
        for at in points(count(&world, kind), tally.runs) {
            clear();
            let met = meet(&world, &format!("{kind}:{at}"));
            tally.runs += 1;
            let file = |dir: &str, name: &str| std::fs::read(world.lab.path(dir).join(name)).ok();
            let names = ["one", "two"];
            let all = names.iter().all(|name| file("out", name) == file("new-tree", name));
            let some = names.iter().all(|name| {
                file("out", name).is_none_or(|found| Some(found) == file("new-tree", name))
            });
            let fine = match met.code() {
                Some(0) => all,
                Some(1) => some && !met.error().is_empty() && !matches!(kind, "eintr" | "short"),
                _ => false,
            };
            if !fine {
                tally.wrong.push(format!("{kind}:{at}: all: {all}; {}", met.error()));
            }
        }
        clear();
    }
    tally.end("extraction");
}
