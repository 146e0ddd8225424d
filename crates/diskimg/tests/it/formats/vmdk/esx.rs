//! ESXi snapshots. None of the installed tools writes COWD or seSparse, so the extents are built
//! from their specification (`build`). qemu-img must read the expected bytes from them too.

use crate::verified;
use diskimg::{ErrorKind, Image, OpenOptions};
use diskimg_testkit::esx::{Cowd, Grain, Grains, SeSparse, descriptor, guest};
use diskimg_testkit::tool::{qemu_bytes, run};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A disk of one extent, in a directory with its parent if it has one.
struct Snapshot {
    dir: TempDir,
    expected: Vec<u8>,
}

impl Snapshot {
    fn path(&self) -> PathBuf {
        self.dir.path().join("disk.vmdk")
    }
}

/// Returns the content ID from a sparse VMDK's embedded descriptor.
pub(crate) fn cid(vmdk: &Path) -> String {
    let bytes = std::fs::read(vmdk).unwrap();
    let text = String::from_utf8_lossy(&bytes[512..2048]);
    let (_, after) = text.split_once("\nCID=").unwrap();
    // QEMU omits leading zeros.
    let (cid, _) = after.split_once('\n').unwrap();
    format!("{cid:0>8}")
}

/// Creates a parent with data in every sector, `base.vmdk`. Returns its bytes.
pub(crate) fn create_parent(dir: &Path, sectors: u64) -> Vec<u8> {
    let mut disk = vec![0; sectors as usize * 512];
    for (sector, bytes) in disk.chunks_mut(512).enumerate() {
        bytes.fill((sector % 251) as u8 + 1);
    }
    let (raw, vmdk) = (dir.join("base.raw"), dir.join("base.vmdk"));
    std::fs::write(&raw, &disk).unwrap();
    run(
        "qemu-img",
        ["convert", "-f", "raw", "-O", "vmdk", raw.to_str().unwrap(), vmdk.to_str().unwrap()],
    );
    disk
}

/// Writes extent and descriptor. `kind` is the extent type.
fn snapshot(
    kind: &str,
    sectors: u64,
    grain_sectors: u64,
    grains: &Grains,
    extent: &[u8],
    with_parent: bool,
) -> Snapshot {
    let dir = tempfile::tempdir().unwrap();
    let parent_bytes = if with_parent {
        create_parent(dir.path(), sectors)
    } else {
        vec![0; sectors as usize * 512]
    };
    let base_cid = with_parent.then(|| cid(&dir.path().join("base.vmdk")));
    let (create_type, name) = match kind {
        "SESPARSE" => ("seSparse", "disk-sesparse.vmdk"),
        _ => ("vmfsSparse", "disk-delta.vmdk"),
    };
    let base = base_cid.as_deref().map(|cid| (cid, "base.vmdk"));
    let text = descriptor(create_type, kind, sectors, name, base);
    std::fs::write(dir.path().join("disk.vmdk"), text).unwrap();
    std::fs::write(dir.path().join(name), extent).unwrap();
    Snapshot { dir, expected: guest(parent_bytes, grain_sectors, grains) }
}

/// Two grain tables of one-sector grains and a part of a third.
const COWD_SECTORS: u32 = 2 * 4096 + 1000;

fn cowd_grains() -> Grains {
    [0, 1, 2, 5, 4095, 8192, 9191].map(|n| (n, Grain::Data((n % 250 + 1) as u8))).into()
}

/// Two and a half grain tables, the last grain incomplete.
const SESPARSE_SECTORS: u64 = 2 * 32768 + 16386;

fn sesparse_grains() -> Grains {
    [
        (0, Grain::Data(1)),
        (1, Grain::Data(2)),
        (2, Grain::Zero),
        (3, Grain::Unmapped),
        (4094, Grain::Zero),
        (4095, Grain::Data(3)),
        (8192, Grain::Unmapped),
        (8193, Grain::Data(4)),
        (8192 + 2048, Grain::Data(5)),
    ]
    .into()
}

/// Returns all disks that these tests read, with their names.
fn snapshots() -> Vec<(&'static str, Snapshot)> {
    let grains = cowd_grains();
    let cowd = |params: &Cowd, with_parent| {
        let (sectors, grain) = (params.sectors.into(), params.grain_sectors.into());
        snapshot("VMFSSPARSE", sectors, grain, &grains, &params.build(&grains), with_parent)
    };
    let changes = sesparse_grains();
    let sesparse = |params: &SeSparse, with_parent| {
        let (sectors, grain) = (params.sectors, params.grain_sectors);
        snapshot("SESPARSE", sectors, grain, &changes, &params.build(&changes), with_parent)
    };
    let esx = Cowd::esx(COWD_SECTORS);
    let coarse = Cowd { grain_sectors: 8, ..Cowd::esx(9191 * 8 + 3) };
    // One table only: qemu-img assumes 4096 entries per table, VMware 3 has 512.
    let old = Cowd::hosted(509 * 128 + 63);
    let few = [(0, Grain::Data(1)), (2, Grain::Data(2)), (509, Grain::Data(3))].into();
    let old = snapshot("VMFSSPARSE", old.sectors.into(), 128, &few, &old.build(&few), false);
    let esxi = SeSparse::esxi(SESPARSE_SECTORS);
    let far = SeSparse { first: 4093, ..SeSparse::dense(SESPARSE_SECTORS) };
    vec![
        ("COWD", cowd(&esx, false)),
        ("COWD child", cowd(&esx, true)),
        ("COWD of 4 KiB grains", cowd(&coarse, true)),
        ("COWD not closed", cowd(&Cowd { unclean: 1, ..esx }, true)),
        ("COWD of VMware 3", old),
        ("seSparse", sesparse(&esxi, false)),
        ("seSparse child", sesparse(&esxi, true)),
        ("seSparse, grains beyond 4096", sesparse(&far, true)),
    ]
}

#[test]
fn qemu_img_reads_the_expected_bytes_from_the_snapshots() {
    for (name, snapshot) in snapshots() {
        assert!(qemu_bytes(&snapshot.path(), "vmdk") == snapshot.expected, "{name}");
    }
}

#[test]
fn snapshots_of_esxi_read_as_in_qemu_img() {
    for (name, snapshot) in snapshots() {
        let image = verified::open(&OpenOptions::new(), snapshot.path());
        let mut bytes = vec![1; image.size() as usize];
        image.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == snapshot.expected, "{name}");
        let report = image.check(&mut |finding| panic!("{name}: {}", finding.message));
        assert_eq!(report.unwrap().unwrap().corruptions, 0);
        let unclean = image.info(0).unwrap().notes.iter().any(|note| note.contains("close"));
        assert_eq!(unclean, name.contains("not closed"), "{name}");
    }
}

#[test]
fn a_snapshot_whose_journal_needs_replay_is_refused() {
    let grains = sesparse_grains();
    let params = SeSparse { replay_journal: 1, ..SeSparse::dense(SESPARSE_SECTORS) };
    let file = params.build(&grains);
    let dirty = snapshot("SESPARSE", params.sectors, 8, &grains, &file, false);
    let error = Image::open(dirty.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(text.contains("disk-sesparse.vmdk") && text.contains("journal"), "{text}");
    let output =
        diskimg_testkit::tool::try_run("qemu-img", ["info", dirty.path().to_str().unwrap()]);
    assert!(!output.status.success(), "qemu-img opens it");
}
