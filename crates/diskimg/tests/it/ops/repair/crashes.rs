//! Repairs that a crash interrupts.

use super::damages::DAMAGES;
use super::images::BASES;
use super::*;

/// In every state in which a crash can leave the image, it is not worse than before the repair, has
/// the same contents, and another repair gives the same result as one that is not interrupted.
#[test]
#[allow(clippy::print_stdout, reason = "the table of states")]
fn after_a_crash_the_image_is_not_worse_and_can_be_repaired() {
    let (mut states, mut repairs) = (0, 0);
    for base in BASES {
        let original = base.make();
        for damage in DAMAGES {
            let mut bytes = original.bytes.clone();
            if !(damage.make)(&mut Bytes(&mut bytes)) {
                continue;
            }
            for scope in [RepairScope::Leaks, RepairScope::All] {
                let context = format!("{}, {}, {scope}", base.name, damage.name);
                let count = assert_crash_safe(&bytes, &original, base, scope, &context);
                repairs += usize::from(count > 1);
                states += count;
            }
        }
    }
    println!("{states} states of {repairs} repairs");
    assert!(repairs > 100, "{repairs}");
}

/// Returns the number of states.
fn assert_crash_safe(
    bytes: &[u8],
    original: &Damaged,
    base: &Base,
    scope: RepairScope,
    context: &str,
) -> usize {
    let storage = Arc::new(RecordingStorage::new(bytes.to_vec(), None));
    let repair_it = Repair::new(scope).open_options(options());
    if repair_it.run_on(Arc::clone(&storage) as _, "a.qcow2", &mut |_, _| {}).is_err() {
        assert!(storage.to_vec() == bytes, "{context}: changed in spite of an error");
        return 0;
    }
    let (before, done) = (check(bytes), check(&storage.to_vec()));
    let contents = Contents::of(&original.write(bytes), base.snapshots);
    let step = if full() { 1 } else { 97 };
    let mut number = 0;
    storage.crash_states(3, step, |state| {
        number += 1;
        let context = || format!("{context}, state {number}");
        let now = check(state);
        assert!(rank(now.as_ref()) <= rank(before.as_ref()), "{}: {now:?}", context());
        let (again, _) = repair(scope, state);
        let again = check(&again);
        let counts = |report: &Option<CheckReport>| {
            report.map(|report| (report.corruptions, report.leaks, report.check_errors))
        };
        assert!(counts(&again) <= counts(&done), "{}: {again:?} {done:?}", context());
        if full() || number % 13 == 1 {
            let path = original.write(state);
            contents.assert_kept(&Contents::of(&path, base.snapshots), &context);
        }
    })
}
