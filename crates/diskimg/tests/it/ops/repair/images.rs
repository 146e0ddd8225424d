//! The images that are damaged, and access to their structures.

use super::{Damaged, run};

/// An image of 1 MiB.
pub(super) struct Base {
    pub(super) name: &'static str,
    /// Options of `qemu-img create`; `DIR` is the directory of the image.
    options: &'static str,
    /// Commands of qemu-io or, if they begin with "img", of qemu-img.
    commands: &'static [&'static str],
    pub(super) snapshots: &'static [&'static str],
}

pub(super) const BASES: &[Base] = &[
    Base {
        name: "snapshot",
        options: "cluster_size=4k",
        commands: &[
            "write -P 1 0 64k",
            "write -P 2 100k 30k",
            "write -z 200k 16k",
            "write -c -P 7 256k 8k",
            "img snapshot -c s",
            "write -P 3 8k 16k",
        ],
        snapshots: &["s"],
    },
    Base {
        name: "small clusters",
        options: "cluster_size=512,refcount_bits=64",
        commands: &["write -P 1 0 600k", "write -P 2 900k 3k"],
        snapshots: &[],
    },
    Base {
        name: "version 2",
        options: "cluster_size=1k,compat=0.10",
        commands: &["write -P 1 0 200k", "img snapshot -c s", "write -P 2 0 100k"],
        snapshots: &["s"],
    },
    Base {
        name: "refcounts of one bit",
        options: "cluster_size=512,refcount_bits=1",
        commands: &["write -P 1 0 100k", "write -P 2 900k 3k"],
        snapshots: &[],
    },
    Base {
        name: "extended L2 entries",
        options: "cluster_size=16k,extended_l2=on",
        commands: &[
            "write -P 1 0 70k",
            "write -P 2 500k 1k",
            "img snapshot -c s",
            "write -P 3 1k 2k",
        ],
        snapshots: &["s"],
    },
    Base {
        name: "bitmaps",
        options: "cluster_size=4k",
        commands: &["write -P 1 0 64k", "img bitmap --add -g 512 b", "write -P 2 128k 64k"],
        snapshots: &[],
    },
    Base {
        name: "external data file",
        options: "cluster_size=4k,data_file=DIR/a.data",
        commands: &["write -P 1 0 64k", "write -P 2 128k 64k"],
        snapshots: &[],
    },
    Base {
        name: "default clusters",
        options: "cluster_size=64k,lazy_refcounts=on",
        commands: &[
            "write -P 1 0 200k",
            "img snapshot -c s",
            "write -P 2 0 100k",
            "img snapshot -c t",
        ],
        snapshots: &["s", "t"],
    },
];

impl Base {
    pub(super) fn make(&self) -> Damaged {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.qcow2");
        let file = path.to_str().unwrap();
        let options = self.options.replace("DIR", dir.path().to_str().unwrap());
        run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", &options, file, "1M"]);
        for command in self.commands {
            match command.strip_prefix("img ") {
                // The name is the last argument.
                Some(command) => {
                    let mut args: Vec<_> = command.split(' ').collect();
                    let at = if args[0] == "bitmap" { args.len() - 1 } else { args.len() };
                    args.insert(at, file);
                    run("qemu-img", args);
                }
                None => drop(run("qemu-io", ["-f", "qcow2", "-c", command, file])),
            }
        }
        let bytes = std::fs::read(&path).unwrap();
        Damaged { dir, bytes }
    }
}

/// The structures of an image.
pub(super) struct Bytes<'a>(pub(super) &'a mut Vec<u8>);

impl Bytes<'_> {
    pub(super) fn get(&self, at: u64) -> u64 {
        let bytes = self.0.get(at as usize..at as usize + 8);
        bytes.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()))
    }

    pub(super) fn set(&mut self, at: u64, value: u64) {
        if let Some(bytes) = self.0.get_mut(at as usize..at as usize + 8) {
            bytes.copy_from_slice(&value.to_be_bytes());
        }
    }

    pub(super) fn change(&mut self, at: u64, change: impl FnOnce(u64) -> u64) {
        self.set(at, change(self.get(at)));
    }

    pub(super) fn set_u32(&mut self, at: u64, value: u32) {
        self.0[at as usize..at as usize + 4].copy_from_slice(&value.to_be_bytes());
    }

    pub(super) fn cluster_size(&self) -> u64 {
        1 << (self.get(20) >> 32)
    }

    pub(super) fn version(&self) -> u64 {
        self.get(0) & 0xffff_ffff
    }

    pub(super) fn is_extended(&self) -> bool {
        self.version() == 3 && self.get(72) & 16 != 0
    }

    pub(super) fn has_data_file(&self) -> bool {
        self.version() == 3 && self.get(72) & 4 != 0
    }

    pub(super) fn refcount_bits(&self) -> u64 {
        if self.version() == 3 { 1 << (self.get(96) >> 32) } else { 16 }
    }

    pub(super) fn l1(&self) -> u64 {
        self.get(40)
    }

    pub(super) fn l2(&self, index: u64) -> u64 {
        self.get(self.l1() + 8 * index) & 0x00ff_ffff_ffff_fe00
    }

    /// Host offset of an entry of the first L2 table.
    pub(super) fn l2_entry(&self, index: u64) -> u64 {
        self.l2(0) + index * if self.is_extended() { 16 } else { 8 }
    }

    pub(super) fn refcount_table(&self) -> u64 {
        self.get(48)
    }

    pub(super) fn refcount_block(&self) -> u64 {
        self.get(self.refcount_table())
    }

    pub(super) fn snapshots(&self) -> Option<u64> {
        Some(self.get(64)).filter(|&offset| offset != 0)
    }

    /// Sets the refcount of a cluster in the first block.
    pub(super) fn set_refcount(&mut self, cluster: u64, count: u64) {
        let (block, bits) = (self.refcount_block(), self.refcount_bits());
        if bits < 8 {
            let at = (block + cluster * bits / 8) as usize;
            let shift = cluster * bits % 8;
            let mask = ((1u16 << bits) - 1) as u8;
            self.0[at] = self.0[at] & !(mask << shift) | (count as u8 & mask) << shift;
        } else {
            let len = (bits / 8) as usize;
            let at = block as usize + cluster as usize * len;
            self.0[at..at + len].copy_from_slice(&count.to_be_bytes()[8 - len..]);
        }
    }
}
