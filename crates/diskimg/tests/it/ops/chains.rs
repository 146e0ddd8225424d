//! Generated backing chains, made with qemu-img and qemu-io.

use diskimg::{Format, OpenOptions};
use diskimg_testkit::tool::{run, try_run};
use std::path::{Path, PathBuf};

/// Numbers from a seed (Marsaglia's xorshift64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }

    pub fn one_of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}

/// An image of a chain.
#[derive(Debug, Clone)]
pub struct Member {
    pub path: PathBuf,
    pub format: &'static str,
    pub size: u64,
    pub options: String,
}

impl Member {
    pub fn file(&self) -> &str {
        self.path.to_str().unwrap()
    }

    pub fn name(&self) -> &str {
        self.path.file_name().unwrap().to_str().unwrap()
    }

    pub fn format(&self) -> Format {
        self.format.parse().unwrap()
    }

    pub fn options(&self) -> OpenOptions {
        OpenOptions::new().format(self.format())
    }

    /// The same image in a copy of its directory.
    pub fn in_directory(&self, dir: &Path) -> Self {
        Self { path: dir.join(self.name()), ..self.clone() }
    }
}

/// Create options of overlays.
pub const OVERLAYS: &[&str] = &[
    "cluster_size=64k",
    "cluster_size=4k",
    "cluster_size=512,refcount_bits=1",
    "cluster_size=64k,compat=0.10",
    "cluster_size=1k,compat=0.10",
    "cluster_size=64k,extended_l2=on",
    "cluster_size=16k,extended_l2=on",
    "cluster_size=4k,refcount_bits=64,compression_type=zstd",
    "cluster_size=2M",
    "cluster_size=64k,data_file=NAME.data",
];

/// Formats and create options of images without a backing file.
pub const BASES: &[(&str, &str)] = &[
    ("raw", ""),
    ("qcow2", "cluster_size=64k"),
    ("qcow2", "cluster_size=512"),
    ("qcow2", "cluster_size=2M"),
    ("qcow2", "cluster_size=64k,data_file=NAME.data,data_file_raw=on"),
    ("qcow2", "cluster_size=64k,preallocation=metadata"),
    ("qcow2", "cluster_size=32k,extended_l2=on"),
    ("vmdk", "subformat=monolithicSparse"),
    ("vmdk", "subformat=monolithicFlat"),
    ("vmdk", "subformat=twoGbMaxExtentSparse"),
    ("vpc", "subformat=dynamic,force_size=on"),
    ("vpc", "subformat=fixed,force_size=on"),
    ("vdi", ""),
    ("vdi", "static=on"),
    ("vhdx", "block_size=1M"),
    ("qed", "cluster_size=64k"),
    ("qcow", ""),
    ("parallels", ""),
];

/// Creates a chain of `count` images in a directory, the base first.
pub fn chain(dir: &Path, prefix: &str, count: usize, random: &mut Random) -> Vec<Member> {
    let mut chain: Vec<Member> = Vec::new();
    for depth in 0..count {
        let (format, options) = match depth {
            0 => random.one_of(BASES),
            _ => ("qcow2", random.one_of(OVERLAYS)),
        };
        let name = format!("{prefix}{depth}.{format}");
        let options = options.replace("NAME", dir.join(&name).to_str().unwrap());
        let size = random.one_of(&[1 << 20, (1 << 20) + 512, 1_500_160, 2 << 20, 3_000_320]);
        let member = Member { path: dir.join(&name), format, size, options };
        create(&member, chain.last());
        for _ in 0..random.below(5) {
            write(&member, random);
        }
        chain.push(member);
    }
    chain
}

/// Creates an image.
pub fn create(member: &Member, backing: Option<&Member>) {
    let size = member.size.to_string();
    let mut args = vec!["create", "-q", "-f", member.format];
    if !member.options.is_empty() {
        args.extend(["-o", &member.options]);
    }
    if let Some(backing) = backing {
        args.extend(["-F", backing.format, "-b", backing.name()]);
    }
    args.extend([member.file(), &size]);
    run("qemu-img", args);
}

/// Writes something into an image.
fn write(member: &Member, random: &mut Random) {
    let start = random.below(member.size / 512) * 512;
    let len = (random.below(700) + 1) * 512;
    let len = len.min(member.size - start);
    let pattern = random.below(255) + 1;
    let mut command = format!("write -q -P {pattern} {start} {len}");
    if member.format == "qcow2" {
        match random.below(6) {
            0 => command = format!("write -q -z {start} {len}"),
            1 => command = format!("write -q -z -u {start} {len}"),
            2 if !member.options.contains("data_file") && !member.options.contains("2M") => {
                let start = start / 65536 * 65536;
                command = format!("write -q -c -P {pattern} {start} 65536");
                // It fails where data is stored already.
                try_run("qemu-io", ["-f", member.format, "-c", &command, member.file()]);
                return;
            }
            _ => {}
        }
    }
    run("qemu-io", ["-f", member.format, "-c", &command, member.file()]);
}

/// Copies the files of a directory.
pub fn copy_directory(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}
