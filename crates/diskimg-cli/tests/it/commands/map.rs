//! Compares `map` with that of qemu-img.

use crate::support::Lab;

fn images() -> Lab {
    let lab = Lab::new();
    lab.raw("a.raw");
    lab.qemu("convert -O qcow2 a.raw a.qcow2").ok();
    lab.qemu("create -q -f qcow2 -b a.qcow2 -F qcow2 over.qcow2").ok();
    lab.qemu("convert -O qcow2 -c a.raw packed.qcow2").ok();
    lab.qemu("convert -O vmdk a.raw a.vmdk").ok();
    lab.qemu("convert -O vmdk -o subformat=monolithicFlat a.raw flat.vmdk").ok();
    lab.qemu("convert -O vmdk -o subformat=twoGbMaxExtentSparse a.raw split.vmdk").ok();
    lab
}

#[test]
fn text_and_json_equal_qemu_imgs() {
    let lab = images();
    for name in ["a.raw", "a.qcow2", "over.qcow2", "a.vmdk", "flat.vmdk", "split.vmdk"] {
        lab.same(&format!("map {name}"));
        lab.same(&format!("map --output=json {name}"));
    }
    lab.same("map --output=json packed.qcow2");
}

#[test]
fn a_range_can_be_mapped() {
    let lab = images();
    for range in ["-s 10", "-s 4k -l 256k", "-l 100", "--start-offset=250k --max-length 1G"] {
        for name in ["a.raw", "over.qcow2"] {
            lab.same(&format!("map --output=json {range} {name}"));
            lab.same(&format!("map {range} {name}"));
        }
    }
}

#[test]
fn text_cannot_show_compressed_clusters() {
    let lab = images();
    let error = lab.line("map packed.qcow2").fails(1);
    assert!(error.contains("File contains external, encrypted or compressed clusters."), "{error}");
    lab.qemu("map packed.qcow2").fails(1);
}

#[test]
fn a_range_beyond_the_end_gives_valid_json() {
    let lab = images();
    let json = lab.line("map --output=json -s 2M a.raw").ok();
    serde_json::from_str::<Vec<serde_json::Value>>(&json).expect("JSON");
}

#[test]
fn under_the_name_qemu_img_a_raw_disk_consists_of_whole_sectors() {
    let lab = Lab::new();
    std::fs::write(lab.path("data.raw"), vec![1; 65_537]).expect("written");
    let file = std::fs::File::create(lab.path("hole.raw")).expect("created");
    file.set_len(65_537).expect("set");
    for name in ["data.raw", "hole.raw"] {
        let map = format!("map --output=json -f raw {name}");
        assert_eq!(lab.as_qemu_img(&map).ok(), lab.qemu(&map).ok(), "{name}");
        let size = |ran: crate::support::Ran| {
            let info: serde_json::Value = serde_json::from_str(&ran.ok()).expect("JSON");
            info["virtual-size"].clone()
        };
        let info = format!("info --output=json -f raw {name}");
        assert_eq!(size(lab.as_qemu_img(&info)), size(lab.qemu(&info)), "{name}");
        assert_eq!(size(lab.line(&info)), 65_537, "{name}");
        for format in ["raw", "qcow2"] {
            lab.as_qemu_img(&format!("convert -f raw -O {format} {name} ours")).ok();
            lab.qemu(&format!("convert -f raw -O {format} {name} theirs")).ok();
            lab.qemu(&format!("compare -f {format} -F {format} ours theirs")).ok();
            assert_eq!(size(lab.qemu(&format!("info --output=json -f {format} ours"))), 66_048);
        }
        std::fs::write(lab.path("target"), vec![3; 65_537]).expect("written");
        lab.as_qemu_img(&format!("convert -n -f raw -O raw {name} target")).ok();
        lab.qemu(&format!("compare -f raw -F raw {name} target")).ok();
        lab.line(&format!("convert -f raw -O raw {name} exact")).ok();
        assert!(lab.read("exact") == lab.read(name), "{name}");
    }
}
