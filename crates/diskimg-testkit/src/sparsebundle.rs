//! Apple's sparse bundles.
//!
//! Written from libmodi's documentation (*Mac OS sparse bundle format*), without code of diskimg.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A bundle.
#[derive(Debug, Clone)]
pub struct SparseBundle {
    /// Size of the disk in bytes.
    pub size: u64,
    /// Size of a band in bytes.
    pub band_bytes: u64,
    /// The files of bands. They may be shorter or longer than a band.
    pub bands: BTreeMap<u64, Vec<u8>>,
    /// Contents of the file `token`, if there is one.
    pub token: Option<Vec<u8>>,
    /// Whether there is a copy of the property list.
    pub with_copy: bool,
}

impl SparseBundle {
    /// An empty disk.
    pub fn new(size: u64, band_bytes: u64) -> Self {
        let token = Some(Vec::new());
        Self { size, band_bytes, bands: BTreeMap::new(), token, with_copy: true }
    }

    /// Stores a band, filled with `byte`.
    pub fn band(self, index: u64, byte: u8) -> Self {
        let len = self.band_bytes as usize;
        self.band_of(index, vec![byte; len])
    }

    /// Stores a band with these bytes.
    pub fn band_of(mut self, index: u64, bytes: Vec<u8>) -> Self {
        self.bands.insert(index, bytes);
        self
    }

    /// Returns the property list as macOS writes it.
    pub fn plist(&self) -> String {
        format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>CFBundleInfoDictionaryVersion</key>
	<string>6.0</string>
	<key>band-size</key>
	<integer>{}</integer>
	<key>bundle-backingstore-version</key>
	<integer>1</integer>
	<key>diskimage-bundle-type</key>
	<string>com.apple.diskimage.sparsebundle</string>
	<key>size</key>
	<integer>{}</integer>
</dict>
</plist>
"#,
            self.band_bytes, self.size
        )
    }

    /// Creates the bundle as the directory `path`.
    pub fn write(&self, path: &Path) {
        fs::create_dir_all(path.join("bands")).unwrap();
        fs::write(path.join("Info.plist"), self.plist()).unwrap();
        if self.with_copy {
            fs::write(path.join("Info.bckup"), self.plist()).unwrap();
        }
        if let Some(token) = &self.token {
            fs::write(path.join("token"), token).unwrap();
        }
        for (index, bytes) in &self.bands {
            fs::write(path.join(format!("bands/{index:x}")), bytes).unwrap();
        }
    }
}
