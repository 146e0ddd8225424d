//! Files compressed by xorriso (zisofs).

use diskimg::iso::{IsoImage, IsoOptions};
use diskimg::storage::source::FileSource;
use diskimg_testkit::tool::run;
use std::sync::Arc;

#[test]
fn compressed_files_are_decompressed() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    let text: String = (0..100_000).map(|n| format!("{n}\n")).collect();
    let mixed = [text.as_bytes(), &[0; 200_000], b"the end"].concat();
    let files = [("text", text.into_bytes()), ("zeros", vec![0; 300_001]), ("mixed", mixed)];
    for (name, bytes) in &files {
        std::fs::write(tree.join(name), bytes).unwrap();
    }
    for form in
        ["block_size=32k", "block_size=64k", "block_size=128k", "version_2=on:block_size_v2=256k"]
    {
        let path = dir.path().join("image.iso");
        let _ = std::fs::remove_file(&path);
        let output = format!("stdio:{}", path.display());
        let settings = format!("level=9:{form}");
        let mut args = vec!["-outdev", &output, "-map", tree.to_str().unwrap(), "/"];
        args.extend(["-zisofs", &settings, "-set_filter_r", "--zisofs", "/", "--", "-commit"]);
        run("xorriso", args);
        let source = Arc::new(FileSource::open(&path).unwrap());
        let image = IsoImage::open(source, &IsoOptions::default()).unwrap();
        for (name, bytes) in &files {
            let node = image.lookup(name.as_bytes()).unwrap();
            assert_eq!(node.size, bytes.len() as u64, "{name}, {form}");
            let stored: u64 = node.extents().iter().map(|extent| extent.len).sum();
            assert!(stored < node.size, "{name} is not compressed, {form}");
            let contents = image.contents(&node).unwrap();
            let mut read = vec![1; bytes.len()];
            contents.read_exact_at(&mut read, 0).unwrap();
            assert!(read == *bytes, "{name}, {form}");
            contents.read_exact_at(&mut read[..9], bytes.len() as u64 - 9).unwrap();
            assert_eq!(read[..9], bytes[bytes.len() - 9..], "{name}, {form}");
        }
    }
}
