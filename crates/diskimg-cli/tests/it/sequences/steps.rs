//! The operations, their command lines, and what they change.

use super::Tool;
use super::model::{Chain, Image, SECTOR, Snapshot, disk};
use super::random::Random;
use std::ops::Range;

/// An operation on an image of the chain, `of`, where 0 is the top.
#[derive(Debug)]
pub(super) enum Step {
    /// Commands of qemu-io that write to the top.
    Io { commands: Vec<String>, effect: Effect },
    /// `resize`, or `amend -o size=`, if `by_amending`.
    Resize { of: usize, size: u64, words: String, by_amending: bool },
    /// `amend` of options that do not change the disk.
    Amend { of: usize, options: String },
    /// `snapshot` with this letter.
    Snapshot { of: usize, action: char, name: String },
    /// `bitmap` with actions.
    Bitmap { of: usize, actions: Vec<String>, name: String, granularity: Option<u64> },
    /// `rebase`, after which these images are below the image.
    Rebase { of: usize, words: &'static str, to: Vec<Image> },
    /// `commit` into the image `base`.
    Commit { of: usize, words: &'static str, base: usize },
    /// `check -r`.
    Repair { of: usize, scope: &'static str },
    /// `convert -n` of a raw file into the top.
    Convert { source: String, bytes: Vec<u8>, words: &'static str },
    /// `dd` of the top.
    Dd { block: u64, count: u64, skip: u64 },
}

/// What commands of qemu-io do to the disk.
#[derive(Debug)]
pub(super) enum Effect {
    /// The range has this byte.
    Fill(u64, u64, u8),
    /// Bytes become zeros, or do not change.
    Discard,
    /// Compressed clusters are written where none are allocated, which may not be everywhere.
    Compressed,
    /// As `Fill`, and the program is killed then.
    Killed(u64, u64, u8),
}

impl Step {
    /// Chooses an operation that is likely to be possible.
    pub(super) fn choose(random: &mut Random, chain: &mut Chain) -> Self {
        let qcow2 = chain.images.iter().take_while(|image| image.is_qcow2()).count() as u64;
        // More often the top.
        let of = if random.one_in(3) { random.below(qcow2) as usize } else { 0 };
        match random.below(24) {
            0..=6 => Self::choose_io(random, &chain.images[0]),
            7..=9 => Self::choose_resize(random, chain, of),
            10..=11 => Self::choose_amend(random, of),
            12..=14 => Self::choose_snapshot(random, chain, of),
            15..=16 => Self::choose_bitmap(random, &chain.images[of], of),
            17..=18 => Self::choose_rebase(random, chain, of),
            19..=20 => Self::choose_commit(random, chain, of),
            21 => Self::Repair { of, scope: random.pick(&["leaks", "all"]) },
            22 => Self::choose_convert(random, chain),
            _ => {
                let block = random.pick(&[512, 1000, 4096, 65536]);
                let blocks = chain.images[0].size / block;
                let skip = random.below(blocks / 2 + 1);
                Self::Dd { block, skip, count: 1 + random.below(blocks + 2) }
            }
        }
    }

    fn choose_io(random: &mut Random, top: &Image) -> Self {
        let size = top.size;
        let at = random.below(size);
        let largest = size / random.pick(&[1, 4, 16, 256]);
        let len = (1 + random.below(1 + largest)).min(size - at);
        let byte = random.byte();
        let fill = |command: String, byte| Self::Io {
            commands: vec![command],
            effect: Effect::Fill(at, len, byte),
        };
        match random.below(10) {
            0..=3 => fill(format!("write -P {byte} {at} {len}"), byte),
            4 => fill(format!("write -z {at} {len}"), 0),
            5 => fill(format!("write -z -u {at} {len}"), 0),
            6 => {
                Self::Io { commands: vec![format!("discard {at} {len}")], effect: Effect::Discard }
            }
            7..=8 if !top.has_data_file => {
                let at = at / top.cluster * top.cluster;
                let len = len.next_multiple_of(top.cluster).min(size - at);
                Self::Io {
                    commands: vec![format!("write -c -P {byte} {at} {len}")],
                    effect: Effect::Compressed,
                }
            }
            7..=8 => fill(format!("write -P {byte} {at} {len}"), byte),
            _ => {
                let write = format!("write -P {byte} {at} {len}");
                let commands = vec![write, "flush".into(), "sigraise 9".into()];
                Self::Io { commands, effect: Effect::Killed(at, len, byte) }
            }
        }
    }

    fn choose_resize(random: &mut Random, chain: &Chain, of: usize) -> Self {
        let now = chain.images[of].size;
        // The images below only become larger, which their overlays do not show.
        let may_shrink = of == 0 && random.one_in(2);
        let most = 1 + 8192 / random.pick(&[1, 8, 64]);
        let size = match may_shrink {
            true => SECTOR * (1 + random.below(now / SECTOR)),
            // Not ever larger.
            false if now > 8 << 20 => now,
            false => now + SECTOR * random.below(most),
        };
        let mut words = String::new();
        if size < now && !random.one_in(8) {
            words += " --shrink";
        }
        if random.one_in(3) {
            words += " --preallocation=";
            words += random.pick(&["off", "metadata", "falloc", "full"]);
        }
        let by_amending = random.one_in(6);
        Self::Resize { of, size, words, by_amending }
    }

    fn choose_amend(random: &mut Random, of: usize) -> Self {
        let mut options = vec![match random.below(8) {
            0..=1 => "compat=0.10".to_owned(),
            2..=4 => "compat=1.1".to_owned(),
            5..=6 => format!("refcount_bits={}", 1 << random.below(7)),
            _ => format!("lazy_refcounts={}", random.pick(&["on", "off"])),
        }];
        if random.one_in(4) {
            options.push(format!("refcount_bits={}", 1 << random.below(7)));
        }
        if random.one_in(4) {
            options.push(format!("lazy_refcounts={}", random.pick(&["on", "off"])));
        }
        Self::Amend { of, options: options.join(",") }
    }

    fn choose_snapshot(random: &mut Random, chain: &mut Chain, of: usize) -> Self {
        let names: Vec<_> =
            chain.images[of].snapshots.iter().map(|snapshot| snapshot.name.clone()).collect();
        let action = random.pick(&['c', 'c', 'a', 'd', 'd']);
        // Overlays show what is applied.
        let action = if of > 0 && action == 'a' { 'd' } else { action };
        let name = match action {
            'c' => chain.new_name("snapshot"),
            _ if names.is_empty() => "missing".to_owned(),
            _ => names[random.below(names.len() as u64) as usize].clone(),
        };
        Self::Snapshot { of, action, name }
    }

    fn choose_bitmap(random: &mut Random, image: &Image, of: usize) -> Self {
        let name = format!("b{}", random.below(4));
        let exists = image.bitmaps.contains_key(&name);
        let first = match exists {
            true => random.pick(&["remove", "clear", "enable", "disable", "merge"]),
            false => "add",
        };
        let mut actions = vec![first];
        if random.one_in(3) && first != "remove" {
            actions.push(random.pick(&["clear", "enable", "disable", "merge"]));
        }
        let granularity = (first == "add" && random.one_in(2)).then(|| 512 << random.below(10));
        let other = random.below(4);
        let words = actions.into_iter().map(|action| match action {
            "merge" => format!("--merge b{other}"),
            action => format!("--{action}"),
        });
        Self::Bitmap { of, actions: words.collect(), name, granularity }
    }

    fn choose_rebase(random: &mut Random, chain: &mut Chain, of: usize) -> Self {
        let backing = chain.images.get(of + 1).and_then(|image| image.bytes.clone());
        let format = random.pick(&["qcow2", "qcow2", "raw", "vmdk", "qed"]);
        let words = random.pick(&["", "", "-c"]);
        match (random.below(4), backing) {
            // The backing file of the backing file, or none.
            (0, _) => {
                let to = chain.images.get(of + 2..).unwrap_or_default().to_vec();
                Self::Rebase { of, words, to }
            }
            (1, Some(bytes)) => {
                let to = vec![chain.independent(random, format, bytes)];
                Self::Rebase { of, words: "-u", to }
            }
            (_, backing) => {
                // With some of the same content.
                let mut bytes = backing.unwrap_or_default();
                let size = random.size();
                bytes.resize(size as usize, 0);
                let other = disk(random, size);
                let from = random.below(size) as usize;
                bytes[from..].copy_from_slice(&other[from..]);
                Self::Rebase { of, words, to: vec![chain.independent(random, format, bytes)] }
            }
        }
    }

    fn choose_commit(random: &mut Random, chain: &Chain, of: usize) -> Self {
        let below = (chain.images.len() - of - 1) as u64;
        match below {
            0 => Self::Commit { of, words: "", base: of },
            _ if random.one_in(4) => {
                Self::Commit { of, words: "-b", base: of + 1 + random.below(below) as usize }
            }
            _ => Self::Commit { of, words: random.pick(&["", "", "-d"]), base: of + 1 },
        }
    }

    fn choose_convert(random: &mut Random, chain: &mut Chain) -> Self {
        let size = chain.images[0].size;
        let size = match random.below(8) {
            0 => size + SECTOR,
            1..=4 => size,
            _ => SECTOR * (1 + random.below(size / SECTOR)),
        };
        let bytes = disk(random, size);
        let source = chain.new_name("raw");
        std::fs::write(chain.lab.path(&source), &bytes).expect("writes");
        Self::Convert { source, bytes, words: random.pick(&["", "", "-c", "-S 0", "-m 1 -W"]) }
    }

    /// Returns the index of the image that is modified, or read.
    pub(super) fn of(&self) -> usize {
        match self {
            Self::Resize { of, .. }
            | Self::Amend { of, .. }
            | Self::Snapshot { of, .. }
            | Self::Bitmap { of, .. }
            | Self::Rebase { of, .. }
            | Self::Commit { of, .. }
            | Self::Repair { of, .. } => *of,
            Self::Io { .. } | Self::Convert { .. } | Self::Dd { .. } => 0,
        }
    }

    /// Returns the arguments, for the tools that have them.
    pub(super) fn arguments(&self, chain: &Chain) -> Vec<String> {
        let image = &chain.images[self.of()];
        let (name, format) = (&image.name, image.format);
        let line = match self {
            Self::Io { .. } => String::new(),
            Self::Resize { size, by_amending: true, .. } => {
                format!("amend -f {format} -o size={size} {name}")
            }
            Self::Resize { size, words, .. } => {
                format!("resize -q -f {format}{words} {name} {size}")
            }
            Self::Amend { options, .. } => format!("amend -f {format} -o {options} {name}"),
            Self::Snapshot { action, name: snapshot, .. } => {
                format!("snapshot -f {format} -{action} {snapshot} {name}")
            }
            Self::Bitmap { actions, name: bitmap, granularity, .. } => {
                let granularity = granularity.map_or(String::new(), |bytes| format!("-g {bytes}"));
                format!("bitmap -f {format} {} {granularity} {name} {bitmap}", actions.join(" "))
            }
            Self::Rebase { words, to, .. } => match to.first() {
                Some(to) => {
                    format!("rebase -f {format} {words} -F {} -b {} {name}", to.format, to.name)
                }
                None => format!("rebase -f {format} {words} -b '' {name}"),
            },
            Self::Commit { words: "-b", base, .. } => {
                format!("commit -q -f {format} -b {} {name}", chain.images[*base].name)
            }
            Self::Commit { words, .. } => format!("commit -q -f {format} {words} {name}"),
            Self::Repair { scope, .. } => format!("check -q -f {format} -r {scope} {name}"),
            Self::Convert { source, words, .. } => {
                format!("convert -n -f raw -O {format} {words} {source} {name}")
            }
            Self::Dd { block, count, skip } => {
                format!(
                    "dd -f {format} -O raw bs={block} count={count} skip={skip} if={name} of=dd.raw"
                )
            }
        };
        let words = line.split_whitespace();
        words.map(|word| if word == "''" { String::new() } else { word.to_owned() }).collect()
    }

    /// Returns the bytes of the disk that depend on the tool: qemu-img leaves old data in the rest
    /// of the last cluster of a disk that becomes larger.
    pub(super) fn undefined(&self, chain: &Chain) -> Range<u64> {
        let image = &chain.images[self.of()];
        match self {
            Self::Resize { size, .. } if *size > image.size => {
                image.size..image.size.next_multiple_of(image.cluster)
            }
            _ => 0..0,
        }
    }

    /// Changes what is expected of the chain, after the operation has succeeded with this tool.
    pub(super) fn apply(self, chain: &mut Chain, tool: Tool) {
        let at = self.of();
        let image = &mut chain.images[at];
        match self {
            Self::Io { effect, .. } => effect.apply(image),
            Self::Resize { size, .. } => image.apply_resize(size, tool),
            Self::Amend { options, .. } => {
                if options.contains("compat=0.10") {
                    image.bitmaps.clear();
                }
            }
            Self::Snapshot { action, name, .. } => image.apply_snapshot(action, name),
            Self::Bitmap { actions, name, granularity, .. } => {
                image.apply_bitmap(&actions, name, granularity);
            }
            Self::Rebase { to, .. } => {
                chain.images.truncate(at + 1);
                chain.images.extend(to);
                chain.forget_snapshots(at);
            }
            Self::Commit { base, .. } => {
                let committed = image.bytes.clone().expect("is known");
                for between in &mut chain.images[at + 1..base] {
                    between.bytes = None;
                }
                let into = &mut chain.images[base];
                into.resize(into.size.max(committed.len() as u64));
                if let Some(bytes) = &mut into.bytes {
                    bytes[..committed.len()].copy_from_slice(&committed);
                }
                chain.forget_snapshots(base - 1);
            }
            Self::Repair { .. } => image.may_leak = false,
            Self::Convert { bytes, .. } => {
                image.bytes.as_mut().expect("is known")[..bytes.len()].copy_from_slice(&bytes);
            }
            Self::Dd { .. } => {}
        }
    }
}

impl Effect {
    fn apply(&self, image: &mut Image) {
        let bytes = image.bytes.as_mut().expect("is known");
        match *self {
            Self::Fill(at, len, byte) | Self::Killed(at, len, byte) => {
                bytes[at as usize..(at + len) as usize].fill(byte);
                image.may_leak |= matches!(self, Self::Killed(..));
            }
            Self::Discard | Self::Compressed => image.bytes = None,
        }
    }
}

impl Image {
    fn apply_resize(&mut self, size: u64, tool: Tool) {
        let old = self.size;
        self.resize(size);
        // qemu-img leaves old data in the rest of the last cluster.
        if tool == Tool::Qemu && size > old && !old.is_multiple_of(self.cluster) {
            self.bytes = None;
        }
    }

    fn apply_snapshot(&mut self, action: char, name: String) {
        let at = self.snapshots.iter().position(|snapshot| snapshot.name == name);
        match (action, at) {
            ('c', _) => {
                self.snapshots.push(Snapshot { name, size: self.size, bytes: self.bytes.clone() });
            }
            ('a', Some(at)) => {
                self.size = self.snapshots[at].size;
                self.bytes = self.snapshots[at].bytes.clone();
            }
            ('d', Some(at)) => drop(self.snapshots.remove(at)),
            _ => panic!("-{action} {name} succeeded"),
        }
    }

    fn apply_bitmap(&mut self, actions: &[String], name: String, granularity: Option<u64>) {
        for action in actions {
            match action.as_str() {
                "--add" => {
                    let granularity = granularity.unwrap_or(self.cluster.clamp(4 << 10, 64 << 10));
                    self.bitmaps.insert(name.clone(), (granularity, true));
                }
                "--remove" => drop(self.bitmaps.remove(&name)),
                "--enable" | "--disable" => {
                    let bitmap = self.bitmaps.get_mut(&name).expect("exists");
                    bitmap.1 = action == "--enable";
                }
                _ => {}
            }
        }
    }
}
