//! Writing appliances, which are read with GNU tar, coreutils, qemu-img and 7-Zip.

use crate::verified;
use diskimg::storage::sink::MemorySink;
use diskimg::storage::source::Source;
use diskimg::{
    Backing, Convert, Create, Error, ErrorKind, Format, Image, OpenOptions, Options, Output,
    Report, Sparse,
};
use diskimg_testkit::appliance::PackageBuilder;
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::tool::{assert_qemu_check, qemu_bytes, run};
use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// Disks with boundary cases: data up to the end, no data, sizes that are not a multiple of the
/// grain or sector size.
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

fn images(package: &PackageBuilder, disks: &[Disk]) -> Vec<Image> {
    let image = |(i, disk): (usize, &Disk)| {
        let path = package.path(&format!("{i}.raw"));
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

/// Returns names and sizes of the members, as listed by GNU tar.
fn listed(package: &PackageBuilder, archive: &str) -> Vec<(String, u64)> {
    let line = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (fields[5].to_owned(), fields[2].parse().unwrap())
    };
    package.tool("tar", &["-tvf", archive]).lines().map(line).collect()
}

#[test]
fn every_source_becomes_a_disk_that_diskimg_and_other_tools_read() {
    let package = PackageBuilder::new();
    let disks = disks();
    let report = convert(images(&package, &disks), "").run(package.path("my vm.ova")).unwrap();
    assert!(report.stored_bytes > 0);
    let members = listed(&package, "my vm.ova");
    let names: Vec<_> = members.iter().map(|(name, _)| name.as_str()).collect();
    let vmdk = |i: usize| format!("my_vm-disk{}.vmdk", i + 1);
    let mut expected = vec!["my_vm.ovf".to_owned(), "my_vm.mf".to_owned()];
    expected.extend((0..disks.len()).map(vmdk));
    assert_eq!(names, expected, "members in the wrong order");
    package.tool("tar", &["-xf", "my vm.ova"]);
    package.tool("7zz", &["t", "my vm.ova"]);
    let ovf = std::fs::read_to_string(package.path("my_vm.ovf")).unwrap();
    for (i, disk) in disks.iter().enumerate() {
        let mut bytes = disk.bytes();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        assert!(qemu_bytes(&package.path(&vmdk(i)), "vmdk") == bytes, "disk {i}");
        assert_qemu_check(&package.path(&vmdk(i)), "vmdk");
        let name = format!("my vm.ova:{}", i + 1);
        let ours = verified::open(&OpenOptions::new(), package.path(&name));
        assert!(
            diskimg_testkit::appliance::guest_bytes(&ours) == bytes,
            "disk {i}, read with diskimg"
        );
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
    // The manifest in coreutils' format.
    let text = std::fs::read_to_string(package.path("my_vm.mf")).unwrap();
    assert_eq!(text.lines().count(), disks.len() + 1);
    package.write("sums", text.replace(")= ", ") = "));
    package.tool("sha256sum", &["--strict", "-c", "sums"]);
    let whole = OpenOptions::new().metadata_only(true).open(package.path("my vm.ova")).unwrap();
    let report = whole.check(&mut |finding| panic!("{}", finding.message)).unwrap().unwrap();
    assert_eq!(report.corruptions, 0);
}

#[test]
fn disks_of_the_same_size_have_different_ids() {
    let package = PackageBuilder::new();
    let disk = Disk { size: 1 << 20, runs: vec![] };
    convert(images(&package, &[disk.clone(), disk]), "name=x").run(package.path("x.ova")).unwrap();
    package.tool("tar", &["-xf", "x.ova"]);
    let uuid = |name: &str| {
        let bytes = std::fs::read(package.path(name)).unwrap();
        let text = String::from_utf8_lossy(&bytes[512..11_264]).into_owned();
        text.lines().find(|line| line.starts_with("ddb.uuid")).unwrap().to_owned()
    };
    assert_ne!(uuid("x-disk1.vmdk"), uuid("x-disk2.vmdk"));
}

#[test]
fn the_output_does_not_depend_on_threads_or_where_it_goes() {
    let package = PackageBuilder::new();
    let disks = disks();
    let options = "name=same";
    let to_file = |threads| {
        let path = package.path("out.ova");
        convert(images(&package, &disks), options).threads(threads).run(&path).unwrap();
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
    convert(images(&package, &disks), options).run_to(Output::writer(writer)).unwrap();
    assert!(piped.join().unwrap() == first, "through a pipe");
    let sink = Arc::new(MemorySink::new());
    convert(images(&package, &disks), options).run_to(Output::to_sink(sink.clone())).unwrap();
    assert!(sink.to_source().as_slice() == Some(&first), "into memory");
    // With zeros stored, the grains differ, but the disks are the same.
    convert(images(&package, &disks), options)
        .sparse(Sparse::Off)
        .run(package.path("full.ova"))
        .unwrap();
    for (i, disk) in disks.iter().enumerate() {
        let image = Image::open(package.path(&format!("full.ova:{}", i + 1))).unwrap();
        let bytes = diskimg_testkit::appliance::guest_bytes(&image);
        assert!(bytes[..disk.size as usize] == disk.bytes(), "disk {i}");
    }
}

#[test]
fn options_are_written_to_the_descriptor_and_the_disk() {
    let package = PackageBuilder::new();
    let disk = Disk { size: 1 << 20, runs: vec![] };
    let options = "name=A & <B>,os_type=ubuntu64Guest,cpus=4,memory=2560M,firmware=efi,\
                   adapter_type=ide,hwversion=17,network=off";
    convert(images(&package, &[disk]), options).run(package.path("x.ova")).unwrap();
    package.tool("tar", &["-xf", "x.ova"]);
    let ovf = std::fs::read_to_string(package.path("A____B_.ovf")).unwrap();
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
    let vmdk = std::fs::read(package.path("A____B_-disk1.vmdk")).unwrap();
    let descriptor = String::from_utf8_lossy(&vmdk[512..11_264]).into_owned();
    for text in ["ddb.adapterType = \"ide\"", "ddb.virtualHWVersion = \"17\""] {
        assert!(descriptor.contains(text), "{text} in {descriptor}");
    }
}

#[test]
fn conversions_that_cannot_produce_an_appliance_are_refused_without_output() {
    let package = PackageBuilder::new();
    let disk = |size| Disk { size, runs: vec![] };
    let two = [disk(1 << 20), disk(1 << 20)];
    let out = package.path("out.ova");
    let refused = |fragment: &str, outcome: Result<Report, Error>| {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(fragment), "{error}");
        assert!(!out.exists());
    };
    let backing = Backing::new("0.raw").with_format("raw");
    let one = || images(&package, &two[..1]);
    refused("backing", convert(one(), "").backing(backing).run(&out));
    refused("leave out Convert::offload", convert(one(), "").offload(true).run(&out));
    refused("size=", convert(images(&package, &two), "size=5M").run(&out));
    refused("empty disk", convert(images(&package, &[disk(512), disk(0)]), "").run(&out));
    let five: Vec<_> = (0..5).map(|_| disk(512)).collect();
    refused("5 disks", convert(images(&package, &five), "adapter_type=ide").run(&out));
    let existing = convert(one(), "").run_existing(package.path("1.raw"));
    refused("cannot be rewritten", existing);
    // Cancelled while data is written.
    let stop = |progress: diskimg::Progress| match progress.done {
        0 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    let error = convert(one(), "").progress(&stop).run(&out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(!out.exists());
}

#[test]
fn an_appliance_is_created_with_one_empty_disk_and_resized_with_size() {
    let package = PackageBuilder::new();
    Create::new(Format::Ova).size(10 << 30).run(package.path("new.ova")).unwrap();
    assert!(std::fs::metadata(package.path("new.ova")).unwrap().len() < 200 << 10);
    let image = Image::open(package.path("new.ova")).unwrap();
    assert_eq!(image.size(), 10 << 30);
    assert!(image.extents(0..10 << 30).unwrap().all(|extent| extent.unwrap().kind.is_zero()));
    let disk = Disk { size: 1 << 20, runs: vec![] };
    convert(images(&package, &[disk]), "size=3M").run(package.path("big.ova")).unwrap();
    package.tool("tar", &["-xf", "big.ova"]);
    let info = run("qemu-img", ["info", package.path("big-disk1.vmdk").to_str().unwrap()]);
    assert!(info.contains("3 MiB"), "{info}");
}

#[test]
fn an_appliance_converts_to_another_format_and_back() {
    let package = PackageBuilder::new();
    let (ova, bytes) = package.single_disk_ova();
    let to = |from: &Path, to: &str, format| {
        Convert::new(Image::open(from).unwrap()).format(format).run(package.path(to)).unwrap();
        package.path(to)
    };
    let qcow2 = to(&ova, "a.qcow2", Format::Qcow2);
    assert!(qemu_bytes(&qcow2, "qcow2") == bytes);
    let again = to(&qcow2, "again.ova", Format::Ova);
    crate::formats::ova::assert_guest_bytes(&again, &bytes);
    // An appliance cannot replace itself.
    let image = Image::open(&ova).unwrap();
    let error = Convert::new(image).format(Format::Ova).run(&ova).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
}
