//! Runs that are killed at random moments.

use super::world::{Case, State, World};
use super::{full, start, wait};
use std::time::{Duration, Instant};

/// Bytes of the disks here: a run takes longer than starting it.
const SIZE: usize = 6 << 20;

const fn case(line: &'static str, files: &'static [&'static str]) -> Case {
    Case { line, files }
}

const CASES: &[Case] = &[
    case("convert -O qcow2 SRC.raw dst", &["dst"]),
    case("convert -O qcow2 -c SRC.raw dst", &["dst"]),
    case("convert -O vmdk -o subformat=streamOptimized SRC.raw dst", &["dst"]),
    case(
        "convert -O vmdk -o subformat=twoGbMaxExtentSparse SRC.raw dst.vmdk",
        &["dst.vmdk", "dst-s001.vmdk"],
    ),
    case("convert -O vmdk -o subformat=vmfs SRC.raw dst.vmdk", &["dst.vmdk", "dst-flat.vmdk"]),
];

#[test]
fn runs_that_are_killed_at_random_leave_old_or_new_and_names_to_find_them_by() {
    let rounds = if full() { 60 } else { 4 };
    let (mut killed, mut old, mut new, mut aside, mut left) = (0, 0, 0, 0, 0);
    let mut random = std::process::id() | 1;
    for (i, &case) in CASES.iter().enumerate() {
        for replaces in [true, false] {
            if !full() && replaces == (i % 3 == 2) {
                continue;
            }
            let world = World::new(case, replaces, 2, SIZE);
            let begun = Instant::now();
            assert!(wait(start(&world, None), "a whole run").status.success());
            let whole = begun.elapsed();
            for _ in 0..rounds {
                world.reset();
                random ^= random << 13;
                random ^= random >> 17;
                random ^= random << 5;
                let mut child = start(&world, None);
                std::thread::sleep(whole.mul_f64(f64::from(random) / f64::from(u32::MAX) * 1.2));
                let _ = child.kill();
                killed += u32::from(wait(child, "a killed run").status.code().is_none());
                let state =
                    world.state().unwrap_or_else(|wrong| panic!("{}: {wrong}", world.line()));
                match state {
                    State::Old => old += 1,
                    State::New => new += 1,
                    State::Aside => aside += 1,
                }
                for name in world.leftovers() {
                    assert!(world.is_documented(&name), "{}: {name}", world.line());
                    left += 1;
                }
                assert!(wait(start(&world, None), "the next run").status.success());
                assert_eq!(world.state(), Ok(State::New));
                let stays = world.leftovers();
                assert!(stays.iter().all(|n| n.ends_with(".diskimg-old")), "{stays:?}");
            }
            // Nobody waits for a quick machine.
            assert!(whole < Duration::from_secs(60));
        }
    }
    println!("{killed} runs killed: {old} old, {new} new, {aside} put aside; {left} files left");
    assert!(killed > 0);
}
