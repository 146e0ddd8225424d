//! Fuzz targets and their seeds.
//!
//! A target is a function that takes bytes and panics if the library violates a guarantee:
//! inconsistent results, too much memory, an error without information. Each target embeds its
//! input in an otherwise valid image, so that mutations reach one particular parser.
//!
//! ```text
//!   fuzz_targets/NAME.rs   calls the target from libFuzzer (nightly compiler)
//!   tests/smoke.rs         runs seeds and mutations of them in every test run
//!   bin/seeds.rs           writes the seeds to a directory for libFuzzer
//! ```
//!
//! The seeds are built with diskimg-testkit, like the images in the library's tests.

mod apple;
mod bochs;
mod cloop;
mod compressed;
mod detect;
mod dmg;
mod ewf;
mod exercise;
mod files;
mod http;
mod iso;
mod judges;
mod memory;
mod nbd;
mod nbd_server;
mod openstack;
mod ova;
mod parallels;
mod qcow;
mod qcow2;
mod qed;
mod round_trip;
mod s3;
mod samples;
mod scatter;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;

/// A fuzz target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name of the target and of the fuzzer's binary.
    pub name: &'static str,
    function: fn(&[u8]),
    /// Inputs that reach most of the parser's code, from which the fuzzer starts.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "qcow2_header", function: qcow2::header, seeds: qcow2::header_seeds },
    Target { name: "qcow2_tables", function: qcow2::tables, seeds: qcow2::tables_seeds },
    Target { name: "qcow2_snapshots", function: qcow2::snapshots, seeds: qcow2::snapshots_seeds },
    Target { name: "qcow2_bitmaps", function: qcow2::bitmaps, seeds: qcow2::bitmaps_seeds },
    Target { name: "vmdk_descriptor", function: vmdk::descriptor, seeds: vmdk::descriptor_seeds },
    Target { name: "vmdk_sparse", function: vmdk::sparse, seeds: vmdk::sparse_seeds },
    Target { name: "vmdk_stream", function: vmdk::stream, seeds: vmdk::stream_seeds },
    Target { name: "vmdk_cowd", function: vmdk::cowd, seeds: vmdk::cowd_seeds },
    Target { name: "vmdk_sesparse", function: vmdk::sesparse, seeds: vmdk::sesparse_seeds },
    Target { name: "vhd", function: vhd::vhd, seeds: vhd::vhd_seeds },
    Target { name: "vhdx", function: vhdx::vhdx, seeds: vhdx::vhdx_seeds },
    Target {
        name: "compressed",
        function: compressed::compressed,
        seeds: compressed::compressed_seeds,
    },
    Target { name: "vdi", function: vdi::vdi, seeds: vdi::vdi_seeds },
    Target { name: "qed", function: qed::qed, seeds: qed::qed_seeds },
    Target { name: "qcow", function: qcow::qcow, seeds: qcow::qcow_seeds },
    Target { name: "parallels", function: parallels::parallels, seeds: parallels::parallels_seeds },
    Target { name: "sparseimage", function: apple::sparseimage, seeds: apple::sparseimage_seeds },
    Target {
        name: "sparsebundle",
        function: apple::sparsebundle,
        seeds: apple::sparsebundle_seeds,
    },
    Target { name: "asif", function: apple::asif, seeds: apple::asif_seeds },
    Target { name: "ewf", function: ewf::ewf, seeds: ewf::ewf_seeds },
    Target { name: "cloop", function: cloop::cloop, seeds: cloop::cloop_seeds },
    Target { name: "bochs", function: bochs::bochs, seeds: bochs::bochs_seeds },
    Target { name: "dmg", function: dmg::dmg, seeds: dmg::dmg_seeds },
    Target { name: "dmg_codecs", function: dmg::dmg_codecs, seeds: dmg::dmg_codecs_seeds },
    Target { name: "ovf_envelope", function: ova::envelope, seeds: ova::envelope_seeds },
    Target { name: "ova_archive", function: ova::archive, seeds: ova::archive_seeds },
    Target { name: "ova_packed", function: ova::packed, seeds: ova::packed_seeds },
    Target { name: "iso_volume", function: iso::volume, seeds: iso::volume_seeds },
    Target { name: "iso_disc", function: iso::disc, seeds: iso::disc_seeds },
    Target { name: "iso_remaster", function: iso::remaster, seeds: iso::remaster_seeds },
    Target { name: "iso_rock_ridge", function: iso::rock_ridge, seeds: iso::rock_ridge_seeds },
    Target { name: "iso_boot", function: iso::boot, seeds: iso::boot_seeds },
    Target { name: "iso_udf", function: iso::udf, seeds: iso::udf_seeds },
    Target { name: "iso_zisofs", function: iso::zisofs, seeds: iso::zisofs_seeds },
    Target { name: "iso_cue", function: iso::cue, seeds: iso::cue_seeds },
    Target {
        name: "file_systems",
        function: files::file_systems,
        seeds: files::file_systems_seeds,
    },
    Target { name: "detect", function: detect::detect, seeds: detect::detect_seeds },
    Target { name: "open_anything", function: detect::open_anything, seeds: detect::image_seeds },
    Target {
        name: "inspect_descriptor",
        function: judges::descriptor,
        seeds: judges::descriptor_seeds,
    },
    Target { name: "inspect_archive", function: judges::archive, seeds: ova::archive_seeds },
    Target { name: "inspect_probes", function: judges::probes, seeds: judges::probes_seeds },
    Target { name: "nbd_replies", function: nbd::replies, seeds: nbd::replies_seeds },
    Target { name: "http_answers", function: http::answers, seeds: http::answers_seeds },
    Target {
        name: "openstack_replies",
        function: openstack::replies,
        seeds: openstack::replies_seeds,
    },
    Target { name: "s3_replies", function: s3::replies, seeds: s3::replies_seeds },
    Target { name: "nbd_server", function: nbd_server::server, seeds: nbd_server::server_seeds },
    Target { name: "round_trip", function: round_trip::round_trip, seeds: round_trip::seeds },
];

impl Target {
    /// Returns the target called `name`.
    ///
    /// # Panics
    /// If there is no such target.
    pub fn named(name: &str) -> Self {
        let found = TARGETS.iter().find(|target| target.name == name);
        *found.unwrap_or_else(|| panic!("no target is called {name}"))
    }

    /// Runs the target and checks its memory use.
    ///
    /// # Panics
    /// If the library violates a guarantee.
    pub fn run(&self, input: &[u8]) {
        memory::bounded(|| (self.function)(input));
    }
}
