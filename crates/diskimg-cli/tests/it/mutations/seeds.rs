//! The images that are mutated: those in `testdata/`, and other kinds created with qemu-img,
//! genisoimage, diskimg and the testkit.

use crate::support::Lab;
use diskimg_testkit::esx::{Cowd, Grain, Grains, SeSparse, descriptor};
use std::path::{Path, PathBuf};

/// An image, and other files that it needs.
pub(super) struct Seed {
    /// Name of the file that is mutated.
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    /// Name of the file that commands open: the same file, or a descriptor that refers to it.
    pub(super) opened: String,
    /// Names and contents of other files.
    pub(super) other_files: Vec<(String, Vec<u8>)>,
}

impl Seed {
    fn new(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        let name = name.into();
        Self { opened: name.clone(), name, bytes, other_files: Vec::new() }
    }

    fn with_file(mut self, name: &str, bytes: Vec<u8>) -> Self {
        self.other_files.push((name.to_owned(), bytes));
        self
    }

    fn with_descriptor(self, name: &str, text: String) -> Self {
        Self { opened: name.to_owned(), ..self.with_file(name, text.into_bytes()) }
    }
}

/// Returns all images.
pub(super) fn all() -> Vec<Seed> {
    let lab = Lab::new();
    let mut seeds = testdata();
    seeds.extend(qcow2(&lab));
    seeds.extend(vmdk(&lab));
    seeds.extend(esx());
    seeds.extend(appliances(&lab));
    seeds.extend(discs(&lab));
    seeds
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
}

fn testdata() -> Vec<Seed> {
    let (folder, discs) = (folder(), folder().join("iso"));
    let files = [folder.as_path(), &discs].map(|folder| {
        let entries = std::fs::read_dir(folder).expect("testdata exists");
        entries.map(|entry| entry.expect("reads").path())
    });
    let mut paths: Vec<_> = files.into_iter().flatten().collect();
    let is_image = |path: &PathBuf| {
        let ending = path.extension().and_then(|ending| ending.to_str());
        matches!(ending, Some("qcow2" | "vmdk" | "iso"))
    };
    paths.retain(is_image);
    paths.sort();
    let seeds = paths.into_iter().map(|path| {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let seed = Seed::new(name, std::fs::read(&path).expect("reads"));
        match seed.name.as_str() {
            "overlay.qcow2" => {
                let base = std::fs::read(folder.join("base-v2.qcow2")).expect("reads");
                seed.with_file("base-v2.qcow2", base)
            }
            _ => seed,
        }
    });
    seeds.collect()
}

fn testdata_path(name: &str) -> String {
    folder().join(name).to_str().expect("UTF-8").to_owned()
}

fn qcow2(lab: &Lab) -> Vec<Seed> {
    for options in [
        "-o extended_l2=on,cluster_size=16k rich.qcow2",
        "-o data_file=data.raw,data_file_raw=on data-file.qcow2",
    ] {
        lab.qemu(&format!("create -q -f qcow2 {options} 8M")).ok();
    }
    lab.qemu("bitmap --add -g 32k rich.qcow2 first").ok();
    let io = |image: &str, command: &str| {
        let ran = lab.command("qemu-io").args(["-f", "qcow2", "-c", command, image]).output();
        assert!(ran.expect("qemu-io runs").status.success(), "{command}");
    };
    io("rich.qcow2", "write -P 1 10k 100k");
    lab.qemu("snapshot -c one rich.qcow2").ok();
    lab.qemu("bitmap --add rich.qcow2 second").ok();
    io("rich.qcow2", "write -P 2 1M 20k");
    io("rich.qcow2", "write -z 3M 200k");
    io("rich.qcow2", "write -c -P 3 5M 16k");
    lab.qemu("bitmap --disable rich.qcow2 second").ok();
    lab.qemu("snapshot -c two rich.qcow2").ok();
    io("data-file.qcow2", "write -P 5 1M 300k");
    let mut seeds = vec![
        Seed::new("rich.qcow2", lab.read("rich.qcow2")),
        Seed::new("data-file.qcow2", lab.read("data-file.qcow2"))
            .with_file("data.raw", lab.read("data.raw")),
    ];
    // Uncompressed, so that the structures of the file systems can be mutated.
    for name in ["udf-512", "udf-sparable"] {
        let (from, to) = (testdata_path(&format!("{name}.qcow2")), format!("{name}-stored.qcow2"));
        lab.qemu(&format!("convert -O qcow2 -o cluster_size=4k {from} {to}")).ok();
        seeds.push(Seed::new(to.as_str(), lab.read(&to)));
    }
    seeds
}

fn vmdk(lab: &Lab) -> Vec<Seed> {
    let from = testdata_path("base-v2.qcow2");
    let ours = |options: &str, name: &str| {
        lab.line(&format!("convert -O vmdk -o {options} {from} {name}")).ok();
        Seed::new(name, lab.read(name))
    };
    let stream = ours("subformat=streamOptimized", "stream-footer.vmdk");
    let split = ours("subformat=twoGbMaxExtentSparse", "split.vmdk");
    let extent = lab.read("split-s001.vmdk");
    let text = String::from_utf8(split.bytes.clone()).expect("text");
    let flat = ours("subformat=monolithicFlat", "flat.vmdk");
    vec![
        stream,
        split.with_file("split-s001.vmdk", extent.clone()),
        Seed::new("split-s001.vmdk", extent).with_descriptor("split.vmdk", text),
        flat.with_file("flat-flat.vmdk", lab.read("flat-flat.vmdk")),
    ]
}

/// VMDK variants that only ESX creates.
fn esx() -> Vec<Seed> {
    let grains: Grains =
        [(0, Grain::Data(1)), (3, Grain::Data(2)), (4, Grain::Data(3)), (7, Grain::Data(9))].into();
    let with_zeros = [(1, Grain::Zero), (2, Grain::Unmapped)].into_iter().chain(grains.clone());
    let descriptor = |kind: &str, word, file: &str| descriptor(kind, word, 4803, file, None);
    vec![
        Seed::new("cowd-delta.vmdk", Cowd::esx(4803).build(&grains)).with_descriptor(
            "cowd.vmdk",
            descriptor("vmfsSparse", "VMFSSPARSE", "cowd-delta.vmdk"),
        ),
        Seed::new("cowd-hosted.vmdk", Cowd::hosted(128 * 9 + 3).build(&grains)),
        Seed::new("se-sesparse.vmdk", SeSparse::dense(4803).build(&with_zeros.collect()))
            .with_descriptor("se.vmdk", descriptor("seSparse", "SESPARSE", "se-sesparse.vmdk")),
    ]
}

fn appliances(lab: &Lab) -> Vec<Seed> {
    let from = testdata_path("base-v2.qcow2");
    lab.line(&format!("convert -O ova {from} appliance.ova")).ok();
    let run = |program: &str, args: &[&str]| {
        let ran = lab.command(program).args(args).output();
        let ran = ran.unwrap_or_else(|e| panic!("these tests need {program}: {e}"));
        assert!(ran.status.success(), "{program} {args:?}");
    };
    std::fs::create_dir(lab.path("parts")).expect("creates");
    run("tar", &["-xf", "appliance.ova", "-C", "parts"]);
    run("7zz", &["a", "-tzip", "appliance.ova.zip", "./parts/*"]);
    run("tar", &["-czf", "appliance.tar.gz", "--format=ustar", "-C", "parts", "."]);
    ["appliance.ova", "appliance.ova.zip", "appliance.tar.gz"]
        .map(|name| Seed::new(name, lab.read(name)))
        .into()
}

fn discs(lab: &Lab) -> Vec<Seed> {
    std::fs::create_dir_all(lab.path("tree/sub/deeper")).expect("creates");
    for (name, size) in [("boot", 2048), ("a", 1), ("sub/b", 5000), ("sub/deeper/c", 100)] {
        std::fs::write(lab.path("tree").join(name), vec![b'x'; size]).expect("writes");
    }
    std::fs::write(lab.path("efi.img"), vec![0xfa; 65536]).expect("writes");
    let bridge = "-quiet -J -R -udf -no-pad -b boot -no-emul-boot -o bridge.iso tree";
    let made = lab.command("genisoimage").args(bridge.split(' ')).output();
    assert!(made.expect("genisoimage runs").status.success());
    let hybrid = "iso create --bios-boot boot --append-efi efi.img -o hybrid.iso tree";
    lab.line(hybrid).ok();
    ["bridge.iso", "hybrid.iso"].map(|name| Seed::new(name, lab.read(name))).into()
}
