//! Runs in which one system call fails, is cut short, or kills or stops the process.

use super::scenario::{Scenario, State, scenarios};
use super::{fault_points, run_with_fault, start, wait};

/// Size of the disks in bytes.
const SIZE: usize = 640 << 10;

/// Returns the number of calls that a fault of this kind applies to.
fn count(scenario: &Scenario, kind: &str) -> u64 {
    scenario.reset();
    let run = run_with_fault(scenario, &format!("{kind}:-1"));
    assert_eq!(run.code(), Some(0), "{}", run.error());
    run.calls.iter().filter(|call| call.number.is_some()).count() as u64
}

#[derive(Debug, Default)]
struct Tally {
    scenarios: u64,
    runs: u64,
    old: u64,
    new: u64,
    set_aside: u64,
    left: u64,
    errors: Vec<String>,
}

impl Tally {
    fn end(self, what: &str) {
        let Self { scenarios, runs, old, new, set_aside, left, errors } = self;
        println!(
            "{what}: {scenarios} commands, {runs} runs: {old} old, {new} new, {set_aside} set aside, \
             {left} files left; {} errors",
            errors.len()
        );
        let first = errors[..errors.len().min(40)].join("\n");
        assert!(errors.is_empty() && runs > 0, "{runs} runs, {} errors:\n{first}", errors.len());
    }

    fn count(&mut self, state: State) {
        self.runs += 1;
        match state {
            State::Old => self.old += 1,
            State::New => self.new += 1,
            State::SetAside => self.set_aside += 1,
        }
    }
}

/// Checks the result of a run with a fault.
fn check_run(scenario: &Scenario, kind: &str, tally: &mut Tally, at: u64) -> Result<(), String> {
    scenario.reset();
    let run = run_with_fault(scenario, &format!("{kind}:{at}"));
    let error = run.error();
    let state = scenario.state().map_err(|reason| format!("{reason}; {error}"))?;
    tally.count(state);
    match (run.code(), state) {
        (Some(0), State::New) if error.is_empty() => {}
        // If all later calls fail, the old files cannot be renamed back.
        (Some(1), State::SetAside) if kind == "dies" && error.contains(".diskimg-old") => {
            return Ok(());
        }
        (Some(1), State::Old | State::New) => {
            if matches!(kind, "eintr" | "short") {
                return Err(format!("failed: {error}"));
            }
            let message = if kind == "enospc" { "No space left" } else { "Input/output error" };
            if error.lines().count() != 1
                || !error.contains(message)
                || !scenario.names_a_file(&error)
            {
                return Err(format!("unexpected message: {error}"));
            }
        }
        (code, state) => return Err(format!("{state:?} with exit code {code:?}: {error}")),
    }
    let left = scenario.leftovers();
    if !left.is_empty() {
        return Err(format!("left {left:?}"));
    }
    Ok(())
}

#[test]
fn a_failing_system_call_leaves_the_old_or_the_new_output_and_no_other_files() {
    let mut tally = Tally::default();
    for scenario in scenarios(SIZE) {
        tally.scenarios += 1;
        for kind in ["eio", "dies", "enospc", "eintr", "short"] {
            for at in fault_points(count(&scenario, kind), tally.runs) {
                if let Err(reason) = check_run(&scenario, kind, &mut tally, at) {
                    tally.errors.push(format!("{} with {kind}:{at}: {reason}", scenario.line()));
                }
            }
        }
    }
    tally.end("faults");
}

/// Checks the result of a run that is killed, and of the next run.
fn check_killed_run(scenario: &Scenario, tally: &mut Tally, at: u64) -> Result<(), String> {
    scenario.reset();
    let run = run_with_fault(scenario, &format!("kill:{at}"));
    tally.count(scenario.state()?);
    let left = scenario.leftovers();
    tally.left += left.len() as u64;
    if let Some(other) = left.iter().find(|name| !scenario.is_documented(name)) {
        return Err(format!("left {other}"));
    }
    // With several threads, the number of calls varies between runs.
    if run.code() == Some(0) && scenario.threads == 1 {
        return Err("was not killed".into());
    }
    let again = run_with_fault(scenario, "none:0");
    if (again.code(), scenario.state()?) != (Some(0), State::New) {
        return Err(format!("the next run: {}", again.error()));
    }
    match scenario.leftovers().into_iter().find(|name| !name.ends_with(".diskimg-old")) {
        Some(name) => Err(format!("the next run left {name}")),
        None => Ok(()),
    }
}

#[test]
fn a_killed_run_leaves_the_old_or_the_new_output_and_the_next_run_cleans_up() {
    let mut tally = Tally::default();
    for scenario in scenarios(SIZE) {
        tally.scenarios += 1;
        for at in fault_points(count(&scenario, "kill"), tally.runs) {
            if let Err(reason) = check_killed_run(&scenario, &mut tally, at) {
                tally.errors.push(format!("{} killed at {at}: {reason}", scenario.line()));
            }
        }
    }
    tally.end("kills at calls");
}

/// Returns true if a process holds the lock of the directory in which the output is.
fn is_directory_locked(scenario: &Scenario) -> bool {
    use rustix::fs::{FlockOperation, flock};
    let directory = std::fs::File::open(scenario.lab.path(".")).expect("opens");
    flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err()
}

#[test]
fn a_stopped_run_keeps_its_temporary_files_while_another_run_writes_the_same_output() {
    for case in [
        "convert -O qcow2 SRC.raw dst",
        "convert -O vmdk -o subformat=monolithicFlat SRC.raw dst.vmdk",
    ] {
        let case = *super::scenario::CASES.iter().find(|c| c.line == case).expect("is in CASES");
        let scenario = Scenario::new(case, false, 1, SIZE);
        let calls = count(&scenario, "stop");
        for at in fault_points(calls, 0).into_iter().filter(|&at| at < calls) {
            scenario.reset();
            let stopped = start(&scenario, Some(&format!("stop:{at}")));
            let pid = rustix::process::Pid::from_child(&stopped);
            let options = rustix::process::WaitOptions::UNTRACED;
            let _ = rustix::process::waitpid(Some(pid), options).expect("waits");
            let before = scenario.leftovers();
            // While the stopped run renames files, the other one would wait for it.
            if is_directory_locked(&scenario) {
                rustix::process::kill_process(pid, rustix::process::Signal::CONT)
                    .expect("continues");
                assert!(wait(stopped, "the stopped run").status.success());
                continue;
            }
            assert!(wait(start(&scenario, None), "the other run").status.success());
            // A file that is not locked yet may be removed; the stopped run then creates it again.
            let log = std::fs::read_to_string(scenario.log()).unwrap_or_default();
            let locked = log.lines().filter(|call| call.contains("\tflock\t")).count();
            let temporary = before.iter().filter(|name| name.ends_with("-tmp"));
            for name in temporary.filter(|_| locked == before.len()) {
                assert!(scenario.leftovers().contains(name), "{name} is gone, stopped at {at}");
            }
            rustix::process::kill_process(pid, rustix::process::Signal::CONT).expect("continues");
            let output = wait(stopped, "the stopped run");
            let error = String::from_utf8_lossy(&output.stderr);
            let has_lost = error.contains("another process has created it");
            assert!(output.status.success() || has_lost, "stopped at {at}: {error}");
            assert_eq!(scenario.state(), Ok(State::New), "stopped at {at}");
            assert_eq!(scenario.leftovers(), [""; 0], "stopped at {at}");
        }
    }
}

#[test]
fn an_image_overwritten_in_place_is_complete_or_the_run_fails() {
    let mut scenario = Scenario::new(super::scenario::CASES[0], true, 1, SIZE);
    scenario.case.line = "convert -n -O raw SRC.raw dst";
    let mut tally = Tally::default();
    for kind in ["eio", "dies", "enospc", "eintr", "short"] {
        for at in fault_points(count(&scenario, kind), tally.runs) {
            scenario.reset();
            let run = run_with_fault(&scenario, &format!("{kind}:{at}"));
            let complete = scenario.state() == Ok(State::New);
            tally.runs += 1;
            let passed = match run.code() {
                Some(0) => complete,
                Some(1) => !run.error().is_empty() && !matches!(kind, "eintr" | "short"),
                _ => false,
            };
            if !passed || !scenario.leftovers().is_empty() {
                tally.errors.push(format!("{kind}:{at}: complete: {complete}; {}", run.error()));
            }
        }
    }
    tally.end("in place");
}

#[test]
fn an_extracted_file_is_complete_or_absent_if_a_call_fails() {
    let mut scenario = Scenario::new(super::scenario::CASES[0], false, 1, SIZE);
    scenario.case.line = "iso extract -C out SRC.iso";
    let mut tally = Tally::default();
    for kind in ["eio", "dies", "enospc", "eintr", "short"] {
        let clear = || drop(std::fs::remove_dir_all(scenario.lab.path("out")));
        clear();
        for at in fault_points(count(&scenario, kind), tally.runs) {
            clear();
            let run = run_with_fault(&scenario, &format!("{kind}:{at}"));
            tally.runs += 1;
            let file =
                |dir: &str, name: &str| std::fs::read(scenario.lab.path(dir).join(name)).ok();
            let names = ["one", "two"];
            let all = names.iter().all(|name| file("out", name) == file("new-tree", name));
            let some = names.iter().all(|name| {
                file("out", name).is_none_or(|found| Some(found) == file("new-tree", name))
            });
            let passed = match run.code() {
                Some(0) => all,
                Some(1) => some && !run.error().is_empty() && !matches!(kind, "eintr" | "short"),
                _ => false,
            };
            if !passed {
                tally.errors.push(format!("{kind}:{at}: all: {all}; {}", run.error()));
            }
        }
        clear();
    }
    tally.end("extraction");
}
