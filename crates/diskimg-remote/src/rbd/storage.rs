//! An image in a cluster that is written: an existing one in place, or a new one.

use super::library::{Image, Pool};
use super::source::read;
use diskimg::storage::edit::Storage;
use diskimg::storage::output::{Durability, OutputError, Publish};
use diskimg::storage::sink::Sink;
use diskimg::storage::source::{HostFileId, IoHints, Source, SourceError};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes by which a new image becomes longer at least: that takes no space in the cluster.
const GROWTH: u64 = 64 << 20;

/// Maximum number of bytes that one request zeroes or discards.
const MAX_ZEROES: u64 = 1 << 30;

/// An open image that is written.
#[derive(Debug)]
pub(super) struct RbdStorage {
    image: Image,
    identity: Option<HostFileId>,
    /// Length when it was opened.
    len: u64,
    /// Length as far as the writer is concerned.
    current_len: AtomicU64,
    /// Length in the cluster, which is more while a new image grows. `None` if it cannot change.
    allocated: Option<Mutex<u64>>,
    /// The name of a new image. Dropped after `image`, because an open image cannot be removed.
    temporary: Mutex<Option<Temporary>>,
}

impl RbdStorage {
    /// An existing image, whose length does not change.
    pub(super) fn existing(image: Image, identity: HostFileId) -> io::Result<Self> {
        let len = image.size()?;
        let current_len = AtomicU64::new(len);
        Ok(Self {
            image,
            identity: Some(identity),
            len,
            current_len,
            allocated: None,
            temporary: Mutex::default(),
        })
    }

    /// A new image of length 0.
    fn new(image: Image, temporary: Temporary) -> Self {
        Self {
            image,
            identity: None,
            len: 0,
            current_len: AtomicU64::new(0),
            allocated: Some(Mutex::new(0)),
            temporary: Mutex::new(Some(temporary)),
        }
    }

    /// Makes the image at least `end` bytes long.
    fn reach(&self, end: u64) -> io::Result<()> {
        self.current_len.fetch_max(end, Ordering::Relaxed);
        let Some(allocated) = &self.allocated else { return Ok(()) };
        let mut allocated = allocated.lock().unwrap_or_else(PoisonError::into_inner);
        if *allocated < end {
            let more = (end / 4).max(GROWTH);
            let len = end.saturating_add(more);
            self.image.resize(len)?;
            *allocated = len;
        }
        Ok(())
    }

    /// Makes the image exactly as long as what was written.
    fn trim(&self) -> io::Result<()> {
        let Some(allocated) = &self.allocated else { return Ok(()) };
        let mut allocated = allocated.lock().unwrap_or_else(PoisonError::into_inner);
        let len = self.current_len();
        if *allocated != len {
            self.image.resize(len)?;
            *allocated = len;
        }
        Ok(())
    }

    /// Calls `request` for parts of a range of `len` bytes.
    fn in_parts(
        offset: u64,
        len: u64,
        request: impl Fn(u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let part = (len - done).min(MAX_ZEROES);
            request(offset + done, part)?;
            done += part;
        }
        Ok(())
    }
}

impl Source for RbdStorage {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        read(&self.image, buf, offset, self.current_len())
    }

    fn identity(&self) -> Option<HostFileId> {
        self.identity
    }

    fn protocol(&self) -> Option<&'static str> {
        Some("rbd")
    }

    fn io(&self) -> IoHints {
        IoHints::remote()
    }
}

impl Sink for RbdStorage {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.reach(offset + buf.len() as u64)?;
        self.image.write(buf, offset)
    }

    fn is_zeroed(&self) -> bool {
        self.allocated.is_some()
    }

    fn has_fixed_len(&self) -> bool {
        self.allocated.is_none()
    }

    fn write_zeros_at(&self, offset: u64, len: u64) -> io::Result<()> {
        self.reach(offset + len)?;
        Self::in_parts(offset, len, |at, len| self.image.write_zeroes(at, len))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        match &self.allocated {
            None if len > self.len => {
                let message = format!("the image has {} bytes, but {len} are needed", self.len);
                Err(io::Error::new(io::ErrorKind::StorageFull, message))
            }
            None => Ok(()),
            Some(allocated) => {
                self.image.resize(len)?;
                *allocated.lock().unwrap_or_else(PoisonError::into_inner) = len;
                self.current_len.store(len, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.image.flush()
    }
}

impl Storage for RbdStorage {
    fn current_len(&self) -> u64 {
        self.current_len.load(Ordering::Relaxed)
    }

    fn discard_at(&self, offset: u64, len: u64) -> io::Result<()> {
        Self::in_parts(offset, len, |at, len| self.image.discard(at, len))
    }
}

/// A new image. It has a temporary name until it is complete, and is removed if it is not.
#[derive(Debug)]
pub(super) struct NewImage {
    storage: Arc<RbdStorage>,
    name: String,
    /// A snapshot that is created and protected when the image is complete.
    snapshot: Option<String>,
}

/// An image with a temporary name, which is removed when this is dropped.
struct Temporary {
    pool: Arc<Pool>,
    name: String,
    is_renamed: bool,
}

impl std::fmt::Debug for Temporary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Temporary").field(&self.name).finish()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_renamed {
            let _ = self.pool.remove(&self.name);
        }
    }
}

impl NewImage {
    pub(super) fn create(pool: &Arc<Pool>, name: &str, snapshot: Option<&str>) -> io::Result<Self> {
        match pool.open(name, None, false) {
            Ok(_) => {
                let message = "there is an image with this name already";
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let unique = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let unique = unique.map_or(0, |time| time.as_nanos());
        let temporary = format!("{name}.diskimg-tmp-{:x}-{unique:x}", std::process::id());
        pool.create(&temporary, 0)?;
        let temporary = Temporary { pool: Arc::clone(pool), name: temporary, is_renamed: false };
        let image = pool.open(&temporary.name, None, true)?;
        Ok(Self {
            storage: Arc::new(RbdStorage::new(image, temporary)),
            name: name.to_owned(),
            snapshot: snapshot.map(str::to_owned),
        })
    }

    /// Gives the image its name.
    fn finish(&self) -> io::Result<()> {
        let storage = &self.storage;
        storage.trim()?;
        storage.flush()?;
        let image = &storage.image;
        if let Some(snapshot) = &self.snapshot {
            image.create_snapshot(snapshot)?;
        }
        let renamed = self.rename();
        match &self.snapshot {
            Some(snapshot) if renamed.is_err() => {
                // An image with a snapshot cannot be removed.
                let _ = image.remove_snapshot(snapshot);
            }
            // Now, because a protected snapshot is removed only after a search in all pools.
            Some(snapshot) => image.protect_snapshot(snapshot)?,
            None => {}
        }
        renamed
    }

    fn rename(&self) -> io::Result<()> {
        let mut temporary = self.storage.temporary.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(named) = &mut *temporary {
            named.pool.rename(&named.name, &self.name)?;
            named.is_renamed = true;
        }
        Ok(())
    }
}

impl Publish for NewImage {
    fn sink(&self) -> Arc<dyn Sink> {
        Arc::clone(&self.storage) as Arc<dyn Sink>
    }

    fn flush(&self, durability: Durability) -> Result<(), OutputError> {
        match durability {
            Durability::Flushed => self.storage.flush().map_err(|e| OutputError::new(None, e)),
            _ => Ok(()),
        }
    }

    fn publish(self: Box<Self>, _: Durability) -> Result<(), OutputError> {
        self.finish().map_err(|e| OutputError::new(None, e))
    }
}
