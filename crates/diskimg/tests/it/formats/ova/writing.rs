//! Writing appliances, which GNU tar, coreutils, qemu-img and 7-Zip take apart.

use diskimg::storage::sink::MemorySink;
use diskimg::storage::source::Source;
use diskimg::target::Backing;
use diskimg::{
    Convert, Create, Error, ErrorKind, Format, Image, OpenOptions, Options, Output, Report, Sparse,
};
use diskimg_testkit::appliance::Kit;
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::opened;
use diskimg_testkit::tool::{assert_qemu_check, qemu_bytes, run};
use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// Disks that have what may go wrong at borders: data to the very end, none at
/// all, sizes that are no whole grains or sectors.
fn disks() -> Vec<Disk> {
    let run = |at, len, fill| Run { at, len, fill };
    vec![
        Disk {
            size: (3 << 20) + 512,
            runs: vec![run(0, 100_000, Fill::Words(1)), run(3 << 20, 512, Fill::Noise(2))],
        },
        Disk { size: 5 << 20, runs: vec![] },
        Disk { size: 1000, runs: vec![run(0, 1000, Fill::Noise(3))] },
        Disk { size: 1 << 20, runs: vec![run(900_000, 200_000, Fill::Byte(7))] },
        Disk { size: 70_000, runs: vec![] },
    ]
}

fn images(kit: &Kit, disks: &[Disk]) -> Vec<Image> {
    let image = |(i, disk): (usize, &Disk)| {
        let path = kit.path(&format!("{i}.raw"));
        disk.write(&path);
        OpenOptions::new().format(Format::Raw).open(path).unwrap()
    };
    disks.iter().enumerate().map(image).collect()
}

fn convert<'a>(images: Vec<Image>, options: &str) -> Convert<'a> {
    let mut images = images.into_iter();
    let first = Convert::new(images.next().unwrap());
    images
        .fold(first, Convert::append)
        .format(Format::Ova)
        .options(Options::parse(options).unwrap())
}

/// Names and sizes, as GNU tar tells them.
fn listed(kit: &Kit, archive: &str) -> Vec<(String, u64)> {
    let line = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (fields[5].to_owned(), fields[2].parse().unwrap())
    };
    kit.tool("tar", &["-tvf", archive]).lines().map(line).collect()
}

#[test]
fn every_source_is_a_disk_of_its_own_to_other_tools_and_to_us() {
    let kit = Kit::new();
    let disks = disks();
    let report = convert(images(&kit, &disks), "").run(kit.path("my vm.ova")).unwrap();
    assert!(report.stored_bytes > 0);
    let members = listed(&kit, "my vm.ova");
    let names: Vec<_> = members.iter().map(|(name, _)| name.as_str()).collect();
    let vmdk = |i: usize| format!("my_vm-disk{}.vmdk", i + 1);
    let mut expected = vec!["my_vm.ovf".to_owned(), "my_vm.mf".to_owned()];
    expected.extend((0..disks.len()).map(vmdk));
    assert_eq!(names, expected, "descriptor first, manifest, disks as they came");
    kit.tool("tar", &["-xf", "my vm.ova"]);
    kit.tool("7zz", &["t", "my vm.ova"]);
    let ovf = std::fs::read_to_string(kit.path("my_vm.ovf")).unwrap();
    for (i, disk) in disks.iter().enumerate() {
        let mut bytes = disk.bytes();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        assert!(qemu_bytes(&kit.path(&vmdk(i)), "vmdk") == bytes, "disk {i}");
        assert_qemu_check(&kit.path(&vmdk(i)), "vmdk");
        let name = format!("my vm.ova:{}", i + 1);
        let ours = opened::verified(&OpenOptions::new(), kit.path(&name));
        assert!(diskimg_testkit::appliance::guest_bytes(&ours) == bytes, "disk {i}, read by us");
        let file = format!(
            "ovf:href=\"{}\" ovf:id=\"file{}\" ovf:size=\"{}\"",
            vmdk(i),
            i + 1,
            members[i + 2].1
        );
        assert!(ovf.contains(&file), "{file} in {ovf}");
        let capacity = format!("ovf:capacity=\"{}\"", bytes.len());
        assert!(ovf.contains(&capacity), "{capacity} in {ovf}");
        let grains = bytes.chunks(65536).filter(|grain| grain.iter().any(|&b| b != 0));
        let populated: usize = grains.map(<[u8]>::len).sum();
        let populated = format!("fileRef=\"file{}\" ", i + 1)
            + "ovf:format=\"http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized\" "
            + &format!("ovf:populatedSize=\"{populated}\"");
        assert!(ovf.contains(&populated), "{populated} in {ovf}");
    }
    // The manifest in coreutils' words.
    let text = std::fs::read_to_string(kit.path("my_vm.mf")).unwrap();
    assert_eq!(text.lines().count(), disks.len() + 1);
    kit.write("sums", text.replace(")= ", ") = "));
    kit.tool("sha256sum", &["--strict", "-c", "sums"]);
    let whole = OpenOptions::new().metadata_only(true).open(kit.path("my vm.ova")).unwrap();
    let report = whole.check(&mut |finding| panic!("{}", finding.message)).unwrap().unwrap();
    assert_eq!(report.corruptions, 0);
}

#[test]
fn disks_of_one_size_have_ids_of_their_own() {
    let kit = Kit::new();
    let disk = Disk { size: 1 << 20, runs: vec![] };
    convert(images(&kit, &[disk.clone(), disk]), "name=x").run(kit.path("x.ova")).unwrap();
    kit.tool("tar", &["-xf", "x.ova"]);
    let uuid = |name: &str| {
        let bytes = std::fs::read(kit.path(name)).unwrap();
        let text = String::from_utf8_lossy(&bytes[512..11_264]).into_owned();
        text.lines().find(|line| line.starts_with("ddb.uuid")).unwrap().to_owned()
    };
    assert_ne!(uuid("x-disk1.vmdk"), uuid("x-disk2.vmdk"));
}

#[test]
fn threads_pipes_devices_and_time_change_no_byte() {
    let kit = Kit::new();
    let disks = disks();
    let options = "name=same";
    let to_file = |threads| {
        let path = kit.path("out.ova");
        convert(images(&kit, &disks), options).threads(threads).run(&path).unwrap();
        std::fs::read(path).unwrap()
    };
    let first = to_file(1);
    assert_eq!(first.len() % 10_240, 0);
    for threads in [2, 7] {
        assert!(to_file(threads) == first, "{threads} threads");
    }
    let (mut reader, writer) = std::io::pipe().unwrap();
    let piped = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    });
    convert(images(&kit, &disks), options).run_to(Output::writer(writer)).unwrap();
    assert!(piped.join().unwrap() == first, "through a pipe");
    let sink = Arc::new(MemorySink::new());
    convert(images(&kit, &disks), options).run_to(Output::to_sink(sink.clone())).unwrap();
    assert!(sink.to_source().as_slice() == Some(&first), "into memory");
    // Every byte of zeros is written out: other grains, the same disks.
    convert(images(&kit, &disks), options).sparse(Sparse::Off).run(kit.path("full.ova")).unwrap();
    for (i, disk) in disks.iter().enumerate() {
        let image = Image::open(kit.path(&format!("full.ova:{}", i + 1))).unwrap();
        let bytes = diskimg_testkit::appliance::guest_bytes(&image);
        assert!(bytes[..disk.size as usize] == disk.bytes(), "disk {i}");
    }
}

#[test]
fn options_reach_the_descriptor_and_the_disk() {
    let kit = Kit::new();
    let disk = Disk { size: 1 << 20, runs: vec![] };
    let options = "name=A & <B>,os_type=ubuntu64Guest,cpus=4,memory=2560M,firmware=efi,\
                   adapter_type=ide,hwversion=17,network=off";
    convert(images(&kit, &[disk]), options).run(kit.path("x.ova")).unwrap();
    kit.tool("tar", &["-xf", "x.ova"]);
    let ovf = std::fs::read_to_string(kit.path("A____B_.ovf")).unwrap();
    for text in [
        "<Name>A &amp; &lt;B&gt;</Name>",
        "<OperatingSystemSection ovf:id=\"94\" vmw:osType=\"ubuntu64Guest\">",
        "<rasd:VirtualQuantity>4</rasd:VirtualQuantity>",
        "<rasd:VirtualQuantity>2560</rasd:VirtualQuantity>",
        "vmw:key=\"firmware\" vmw:value=\"efi\"",
        "<rasd:ResourceType>5</rasd:ResourceType>",
        "vmx-17",
    ] {
        assert!(ovf.contains(text), "{text} in {ovf}");
    }
    assert!(!ovf.contains("NetworkSection"), "{ovf}");
    let vmdk = std::fs::read(kit.path("A____B_-disk1.vmdk")).unwrap();
    let descriptor = String::from_utf8_lossy(&vmdk[512..11_264]).into_owned();
    for text in ["ddb.adapterType = \"ide\"", "ddb.virtualHWVersion = \"17\""] {
        assert!(descriptor.contains(text), "{text} in {descriptor}");
    }
}

#[test]
fn what_makes_no_appliance_is_refused_and_leaves_nothing() {
    let kit = Kit::new();
    let disk = |size| Disk { size, runs: vec![] };
    let two = [disk(1 << 20), disk(1 << 20)];
    let out = kit.path("out.ova");
    let refused = |word: &str, outcome: Result<Report, Error>| {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(word), "{error}");
        assert!(!out.exists());
    };
    let backing = Backing { name: "0.raw".into(), format: Some("raw".into()), content_id: None };
    let one = || images(&kit, &two[..1]);
    refused("backing", convert(one(), "").backing(backing).run(&out));
    refused("-C", convert(one(), "").offload(true).run(&out));
    refused("size=", convert(images(&kit, &two), "size=5M").run(&out));
    refused("empty disk", convert(images(&kit, &[disk(512), disk(0)]), "").run(&out));
    let five: Vec<_> = (0..5).map(|_| disk(512)).collect();
    refused("5 disks", convert(images(&kit, &five), "adapter_type=ide").run(&out));
    let existing = convert(one(), "").run_existing(kit.path("1.raw"));
    refused("always written anew", existing);
    // Stopped in the middle.
    let stop = |progress: diskimg::Progress| match progress.done {
        0 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    let error = convert(one(), "").progress(&stop).run(&out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(!out.exists());
}

#[test]
fn an_appliance_is_created_with_one_empty_disk_and_grows_by_size() {
    let kit = Kit::new();
    Create::new(Format::Ova).size(10 << 30).run(kit.path("new.ova")).unwrap();
    assert!(std::fs::metadata(kit.path("new.ova")).unwrap().len() < 200 << 10);
    let image = Image::open(kit.path("new.ova")).unwrap();
    assert_eq!(image.size(), 10 << 30);
    assert!(image.extents(0..10 << 30).unwrap().iter().all(|extent| extent.kind.is_zero()));
    let disk = Disk { size: 1 << 20, runs: vec![] };
    convert(images(&kit, &[disk]), "size=3M").run(kit.path("big.ova")).unwrap();
    kit.tool("tar", &["-xf", "big.ova"]);
    let info = run("qemu-img", ["info", kit.path("big-disk1.vmdk").to_str().unwrap()]);
    assert!(info.contains("3 MiB"), "{info}");
}

#[test]
fn an_appliance_converts_into_any_format_and_back() {
    let kit = Kit::new();
    let (ova, bytes) = kit.simple();
    let there = |from: &Path, to: &str, format| {
        Convert::new(Image::open(from).unwrap()).format(format).run(kit.path(to)).unwrap();
        kit.path(to)
    };
    let qcow2 = there(&ova, "a.qcow2", Format::Qcow2);
    assert!(qemu_bytes(&qcow2, "qcow2") == bytes);
    let again = there(&qcow2, "again.ova", Format::Ova);
    diskimg_testkit::appliance::assert_holds(&again, &bytes);
    // Never onto itself.
    let image = Image::open(&ova).unwrap();
    let error = Convert::new(image).format(Format::Ova).run(&ova).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
}
