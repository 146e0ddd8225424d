//! The tables of QED and Parallels images, compared with `qemu-img check -r`, and after a crash at
//! any point.

use super::random::Random;
use super::*;

const SIZE: usize = 8 << 20;
const CLUSTER: u64 = 4096;

/// A kind of image: its format, and options with which qemu-img creates it.
struct Kind {
    format: Format,
    options: &'static str,
}

const KINDS: [Kind; 2] = [
    Kind { format: Format::Qed, options: "cluster_size=4096,table_size=2" },
    Kind { format: Format::Parallels, options: "cluster_size=4096" },
];

impl Kind {
    fn make(&self) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let (file, format) = (path.to_str().unwrap(), self.format.name());
        run("qemu-img", ["create", "-q", "-f", format, "-o", self.options, file, "8M"]);
        let write = ["write -P 5 16k 40k", "write -P 7 5M 24k", "write -P 6 100k 20k"];
        for command in write {
            run("qemu-io", ["-f", format, "-c", command, file]);
        }
        std::fs::read(&path).unwrap()
    }

    fn options(&self) -> OpenOptions {
        OpenOptions::new().format(self.format)
    }

    fn open(&self, bytes: &[u8]) -> Option<Image> {
        let source = Arc::new(diskimg::storage::source::MemorySource::new(bytes.to_vec()));
        self.options().open_source(source, "a").ok()
    }

    fn check(&self, bytes: &[u8]) -> Option<CheckReport> {
        self.open(bytes)?.check(&mut |_| {}).ok().flatten()
    }

    /// What the guest reads, by clusters. `None` is what cannot be read.
    fn contents(&self, bytes: &[u8]) -> Vec<Option<Vec<u8>>> {
        let Some(image) = self.open(bytes) else { return Vec::new() };
        let starts = (0..SIZE as u64).step_by(CLUSTER as usize);
        let read = |at| {
            let mut cluster = vec![0; CLUSTER as usize];
            image.read_at(&mut cluster, at).ok().map(|()| cluster)
        };
        starts.map(read).collect()
    }

    fn repair(&self, scope: RepairScope, bytes: &[u8]) -> Vec<u8> {
        let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
        self.repair_in(scope, &storage);
        storage.to_vec()
    }

    fn repair_in<S: diskimg::storage::edit::Storage + 'static>(
        &self,
        scope: RepairScope,
        storage: &Arc<S>,
    ) {
        let repair = Repair::new(scope).open_options(self.options());
        let _ = repair.run_on(Arc::clone(storage) as _, "a", &mut |_, _| {});
    }

    fn qemu_rank(&self, bytes: &[u8]) -> u8 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, bytes).unwrap();
        let file = path.to_str().unwrap();
        let check = try_run("qemu-img", ["check", "-f", self.format.name(), file]);
        match check.status.code() {
            Some(0) => 0,
            Some(3) => 1,
            Some(2) => 2,
            _ => 3,
        }
    }

    fn qemu_repair(&self, scope: RepairScope, bytes: &[u8]) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, bytes).unwrap();
        let file = path.to_str().unwrap();
        let format = self.format.name();
        try_run("qemu-img", ["check", "-f", format, "-r", scope.name(), file]);
        std::fs::read(&path).unwrap()
    }

    /// Host offsets of the entries of tables that matter, and the length of an entry.
    fn entries(&self, bytes: &[u8]) -> (Vec<usize>, usize) {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        match self.format {
            Format::Parallels => ((0..SIZE / 4096).map(|index| 64 + index * 4).collect(), 4),
            _ => {
                let l1 = word(40);
                let mut entries = vec![l1, l1 + 8];
                for table in [word(l1), word(l1 + 8)] {
                    entries.extend((0..48).map(|index| table + index * 8));
                    entries.extend((252..270).map(|index| table + index * 8));
                }
                (entries, 8)
            }
        }
    }

    /// Damages the tables. Returns what it did.
    fn damage(&self, original: &[u8], bytes: &mut Vec<u8>, random: &mut Random) -> String {
        let (entries, len) = self.entries(original);
        let stored = |at: usize, bytes: &[u8]| {
            let mut word = [0; 8];
            word[..len].copy_from_slice(&bytes[at..at + len]);
            u64::from_le_bytes(word)
        };
        let used: Vec<_> = entries.iter().copied().filter(|&at| stored(at, bytes) != 0).collect();
        let mut at = entries[random.below(entries.len() as u64) as usize];
        if random.below(3) > 0 {
            at = used[random.below(used.len() as u64) as usize];
        }
        let old = stored(at, bytes);
        let unit = if self.format == Format::Parallels { 1 } else { CLUSTER };
        let clusters = bytes.len() as u64 / CLUSTER;
        let value = match random.below(8) {
            0 => 0,
            1 => random.next() << 20 ^ random.next(),
            2 => random.below(clusters) * unit,
            3 => (clusters + random.below(9)) * unit,
            4 => stored(used[random.below(used.len() as u64) as usize], bytes),
            _ => old ^ 1 << random.below(len as u64 * 8),
        };
        bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        if random.below(12) == 0 {
            bytes.truncate(bytes.len() - random.below(20_000) as usize);
        }
        if random.below(12) == 0 {
            bytes.extend((0..random.below(20_000)).map(|_| 9));
        }
        if random.below(12) == 0 {
            match self.format {
                Format::Parallels => bytes[44..48].copy_from_slice(b"Ynot"),
                _ => bytes[16] |= 2,
            }
        }
        format!("{at:#x}: {old:#x} -> {value:#x}, {} bytes", bytes.len())
    }

    fn damaged(&self, original: &[u8], seed: u64) -> (Vec<u8>, String) {
        let mut random = Random::new(seed);
        let (mut bytes, mut what) = (original.to_vec(), Vec::new());
        for _ in 0..=random.below(3) {
            if bytes.len() == original.len() {
                what.push(self.damage(original, &mut bytes, &mut random));
            }
        }
        (bytes, what.join("; "))
    }

    /// Repairs an image and asserts what always holds. Returns the repaired image.
    fn assert_repaired(&self, scope: RepairScope, bytes: &[u8], context: &str) -> Vec<u8> {
        let (before, contents) = (self.check(bytes), self.contents(bytes));
        let repaired = self.repair(scope, bytes);
        let after = self.check(&repaired);
        assert!(rank(after.as_ref()) <= rank(before.as_ref()), "{context}: {before:?} {after:?}");
        for (number, (old, new)) in contents.iter().zip(&self.contents(&repaired)).enumerate() {
            assert!(old.is_none() || old == new, "{context}: cluster {number} changed");
        }
        let again = self.repair(scope, &repaired);
        assert!(self.repair(scope, &again) == again, "{context}: repairs do not come to an end");
        assert!(repaired.len() <= 2 * bytes.len() + 8192, "{context}: {}", repaired.len());
        repaired
    }
}

#[test]
#[allow(clippy::print_stdout, reason = "the counts")]
fn random_damage_of_tables_is_repaired_as_well_as_by_qemu_img() {
    for kind in KINDS {
        let original = kind.make();
        let contents = kind.contents(&original);
        let cases = if full() { 2000 } else { 25 };
        let (mut clean, mut better, mut worse, mut restored, mut lost) = (0, 0, 0, 0, 0);
        for seed in 0..cases {
            let (bytes, what) = kind.damaged(&original, seed);
            let context = format!("{}, seed {seed}: {what}", kind.format);
            let ours = kind.assert_repaired(RepairScope::All, &bytes, &context);
            let qemus = kind.qemu_repair(RepairScope::All, &bytes);
            let ranks = [&bytes, &ours, &qemus].map(|bytes| kind.qemu_rank(bytes));
            assert!(ranks[1] <= ranks[0], "{context}: {ranks:?}");
            clean += u64::from(ranks[1] == 0);
            better += u64::from(ranks[1] < ranks[2]);
            if ranks[1] > ranks[2] {
                worse += 1;
                // Unused space may have the data that an invalid entry meant.
                assert_eq!(kind.format, Format::Parallels, "{context}: {ranks:?}");
            }
            let same = |bytes: &[u8]| kind.contents(bytes) == contents;
            restored += u64::from(!same(&bytes) && same(&ours));
            lost += u64::from(!same(&bytes) && same(&qemus));
        }
        println!(
            "{}: {cases} damages, {clean} consistent afterwards, {better} better and {worse} worse \
             than qemu-img, which restores {lost} disks; {restored} are restored",
            kind.format
        );
        assert!(restored >= lost, "{restored} {lost}");
    }
}

#[test]
fn random_damage_of_tables_is_never_made_worse() {
    for kind in KINDS {
        let original = kind.make();
        for seed in 0..if full() { 5000 } else { 60 } {
            let (bytes, what) = kind.damaged(&original, seed + 1_000_000);
            for scope in [RepairScope::Leaks, RepairScope::All] {
                let context = format!("{}, seed {seed}, {scope}: {what}", kind.format);
                let repaired = kind.assert_repaired(scope, &bytes, &context);
                let tables = kind.entries(&original);
                let is_same =
                    |&at: &usize| bytes.get(at..at + tables.1) == repaired.get(at..at + tables.1);
                if scope == RepairScope::Leaks {
                    assert!(tables.0.iter().all(is_same), "{context}: entries changed");
                }
            }
        }
    }
}

#[test]
#[allow(clippy::print_stdout, reason = "the counts")]
fn after_a_crash_tables_are_not_worse_and_can_be_repaired() {
    for kind in KINDS {
        let original = kind.make();
        let mut states = 0;
        for seed in 0..if full() { 200 } else { 12 } {
            let (bytes, what) = kind.damaged(&original, seed + 2_000_000);
            let context = format!("{}, seed {seed}: {what}", kind.format);
            let storage = Arc::new(RecordingStorage::new(bytes.clone(), None));
            kind.repair_in(RepairScope::All, &storage);
            let (before, contents) = (kind.check(&bytes), kind.contents(&bytes));
            let done = kind.check(&storage.to_vec());
            states += storage.crash_states(seed, if full() { 1 } else { 37 }, |state| {
                let now = kind.check(state);
                assert!(rank(now.as_ref()) <= rank(before.as_ref()), "{context}: {now:?}");
                for (old, new) in contents.iter().zip(&kind.contents(state)) {
                    assert!(old.is_none() || old == new, "{context}");
                }
                let again = kind.check(&kind.repair(RepairScope::All, state));
                assert!(rank(again.as_ref()) <= rank(done.as_ref()), "{context}: {again:?}");
            });
        }
        println!("{}: {states} states", kind.format);
        assert!(states > 20, "{states}");
    }
}

/// One bit of an entry is wrong: the entry is restored, as is one of the L1 table.
#[test]
fn an_entry_with_a_wrong_bit_is_restored() {
    for kind in KINDS {
        let original = kind.make();
        let (entries, len) = kind.entries(&original);
        let mut restored = 0;
        for at in entries {
            for bit in 0..len * 8 {
                let mut damaged = original.clone();
                damaged[at + bit / 8] ^= 1 << (bit % 8);
                if original[at..at + len].iter().all(|&byte| byte == 0) {
                    continue;
                }
                let repaired = kind.repair(RepairScope::All, &damaged);
                restored += usize::from(repaired == original);
            }
        }
        // Most bits give a place beyond the end of the file or between clusters.
        assert!(restored > 200, "{}: {restored}", kind.format);
    }
}

/// The data of entries beyond the end of the file is lost; nothing else is.
#[test]
fn entries_of_a_truncated_file_are_removed() {
    for kind in KINDS {
        let original = kind.make();
        let mut damaged = original.clone();
        damaged.truncate(original.len() - 2 * CLUSTER as usize);
        let repaired = kind.repair(RepairScope::All, &damaged);
        let report = kind.check(&repaired).unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{}: {report:?}", kind.format);
        assert_eq!(kind.qemu_rank(&repaired), 0);
        let (before, after) = (kind.contents(&original), kind.contents(&repaired));
        let changed = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        assert_eq!(changed, 2);
        assert!(kind.repair(RepairScope::Leaks, &damaged) == damaged);
    }
}

/// Entries beyond the end of a file that was cut off differ from places within it by one bit, too.
#[test]
fn a_file_that_was_cut_off_gets_no_data_of_leaked_clusters() {
    for kind in KINDS {
        // Clusters in order, one of which is leaked and has other data.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let (file, format) = (path.to_str().unwrap(), kind.format.name());
        run("qemu-img", ["create", "-q", "-f", format, "-o", kind.options, file, "8M"]);
        run("qemu-io", ["-f", format, "-c", "write -P 1 0 1M", file]);
        let original = std::fs::read(&path).unwrap();
        let (entries, len) = kind.entries(&original);
        let is_used = |at: &usize| *at > 64 + 16 && original[*at..at + len].iter().any(|&b| b != 0);
        for skip in [3, 9, 20] {
            for kept in [original.len() / 2, original.len() * 2 / 3, original.len() - 4096] {
                let mut damaged = original.clone();
                let at = entries.iter().copied().filter(is_used).nth(skip).unwrap();
                let place = match len {
                    4 => u64::from(u32::from_le_bytes(original[at..at + 4].try_into().unwrap())),
                    _ => u64::from_le_bytes(original[at..at + 8].try_into().unwrap()) / CLUSTER,
                };
                let place = (place * CLUSTER) as usize;
                damaged[at..at + len].fill(0);
                damaged[place..place + CLUSTER as usize].fill(b'S');
                damaged.truncate(kept / 4096 * 4096);
                let repaired = kind.repair(RepairScope::All, &damaged);
                for cluster in kind.contents(&repaired).into_iter().flatten() {
                    assert!(cluster[0] != b'S', "{format} {skip} {kept}");
                }
            }
        }
    }
}

/// What follows the last cluster that is used is cut off, but not while anything else is wrong.
#[test]
fn space_at_the_end_of_a_parallels_image_is_cut_off() {
    let kind = &KINDS[1];
    let original = kind.make();
    let mut longer = original.clone();
    longer.resize(original.len() + 3 * CLUSTER as usize + 100, 7);
    for scope in [RepairScope::Leaks, RepairScope::All] {
        assert!(kind.repair(scope, &longer) == original);
    }
    longer[64..68].copy_from_slice(&0x4000_0000_u32.to_le_bytes());
    for scope in [RepairScope::Leaks, RepairScope::All] {
        assert!(kind.repair(scope, &longer) == longer);
    }
    longer.truncate(original.len());
    assert!(kind.repair(RepairScope::All, &longer) == original);
}

/// Two entries with one cluster: in a Parallels image each gets its own, with the same bytes.
#[test]
fn clusters_that_are_shared_are_copied_or_left() {
    for kind in KINDS {
        let original = kind.make();
        let (entries, len) = kind.entries(&original);
        let find = |skip: usize| {
            let is_used =
                |at: &usize| *at > 64 + 16 && original[*at..at + len].iter().any(|&byte| byte != 0);
            entries.iter().copied().filter(is_used).nth(skip).unwrap()
        };
        let (from, to) = (find(3), find(5));
        let mut damaged = original.clone();
        damaged.copy_within(from..from + len, to);
        let repaired = kind.repair(RepairScope::All, &damaged);
        match kind.format {
            Format::Parallels => {
                assert_eq!(kind.qemu_rank(&repaired), 0);
                assert_eq!(repaired.len(), original.len() + CLUSTER as usize);
                assert!(kind.contents(&repaired).iter().all(Option::is_some));
            }
            _ => assert!(repaired == damaged),
        }
    }
}

/// What is cut off is in the backup, which restores the image.
#[test]
fn what_a_repair_cuts_off_is_saved() {
    let kind = &KINDS[1];
    let mut damaged = kind.make();
    damaged[44..48].copy_from_slice(b"Ynot");
    damaged.resize(damaged.len() + 9 * CLUSTER as usize, 7);
    let storage = Arc::new(MemoryStorage::new(damaged.clone()));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backup");
    let repair = Repair::new(RepairScope::All)
        .open_options(kind.options())
        .backup(std::fs::File::create_new(&path).unwrap());
    repair.run_on(Arc::clone(&storage) as _, "a", &mut |_, _| {}).unwrap().unwrap();
    let mut image = storage.to_vec();
    assert!(image.len() < damaged.len());
    damages::restore(&mut image, &std::fs::read(&path).unwrap());
    assert!(image == damaged);
}
