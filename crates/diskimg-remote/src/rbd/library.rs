//! The C libraries `librados` and `librbd`, which are loaded when the first image is opened.
//!
//! All of this crate's unsafe code about them is here: each function has a safe wrapper that holds the
//! pointers for which it is valid. Signatures are those of `rados/librados.h` and `rbd/librbd.h`,
//! which have not changed since Ceph 16.

#![allow(unsafe_code)]

use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::io;
use std::ops::Range;
use std::ptr;
use std::sync::Arc;

/// Names of the libraries.
const RADOS: &str = "librados.so.2";
const RBD: &str = "librbd.so.1";

type Handle = *mut c_void;

/// What is called for each extent: offset, length, whether it exists, and the argument.
type DiffCallback = extern "C" fn(u64, usize, c_int, *mut c_void) -> c_int;

/// Defines a structure of functions that are loaded by their names.
macro_rules! functions {
    ($(#[$doc:meta])* $structure:ident { $($name:ident: fn($($arg:ty),*) $(-> $result:ty)?;)* }) => {
        $(#[$doc])*
        #[allow(clippy::type_complexity)]
        struct $structure {
            $($name: unsafe extern "C" fn($($arg),*) $(-> $result)?,)*
        }

        impl $structure {
            /// # Safety
            /// The library must have functions with these names and signatures.
            unsafe fn load(library: &Library) -> Result<Self, libloading::Error> {
                // SAFETY: The caller ensures the signatures. The library stays loaded.
                unsafe { Ok(Self { $($name: *library.get(stringify!($name))?,)* }) }
            }
        }
    };
}

functions! {
    /// Functions of librados.
    Rados {
        rados_create2: fn(*mut Handle, *const c_char, *const c_char, u64) -> c_int;
        rados_conf_read_file: fn(Handle, *const c_char) -> c_int;
        rados_conf_parse_env: fn(Handle, *const c_char) -> c_int;
        rados_conf_set: fn(Handle, *const c_char, *const c_char) -> c_int;
        rados_connect: fn(Handle) -> c_int;
        rados_shutdown: fn(Handle);
        rados_cluster_fsid: fn(Handle, *mut c_char, usize) -> c_int;
        rados_ioctx_create: fn(Handle, *const c_char, *mut Handle) -> c_int;
        rados_ioctx_set_namespace: fn(Handle, *const c_char);
        rados_ioctx_destroy: fn(Handle);
    }
}

functions! {
    /// Functions of librbd.
    Rbd {
        rbd_open: fn(Handle, *const c_char, *mut Handle, *const c_char) -> c_int;
        rbd_open_read_only: fn(Handle, *const c_char, *mut Handle, *const c_char) -> c_int;
        rbd_close: fn(Handle) -> c_int;
        rbd_create: fn(Handle, *const c_char, u64, *mut c_int) -> c_int;
        rbd_remove: fn(Handle, *const c_char) -> c_int;
        rbd_rename: fn(Handle, *const c_char, *const c_char) -> c_int;
        rbd_resize: fn(Handle, u64) -> c_int;
        rbd_get_size: fn(Handle, *mut u64) -> c_int;
        rbd_read: fn(Handle, u64, usize, *mut c_char) -> isize;
        rbd_write: fn(Handle, u64, usize, *const c_char) -> isize;
        rbd_discard: fn(Handle, u64, u64) -> c_int;
        rbd_write_zeroes: fn(Handle, u64, usize, c_int, c_int) -> isize;
        rbd_flush: fn(Handle) -> c_int;
        rbd_diff_iterate2: fn(
            Handle, *const c_char, u64, u64, u8, u8, DiffCallback, *mut c_void
        ) -> c_int;
        rbd_snap_create: fn(Handle, *const c_char) -> c_int;
        rbd_snap_protect: fn(Handle, *const c_char) -> c_int;
        rbd_snap_remove: fn(Handle, *const c_char) -> c_int;
    }
}

/// The loaded libraries. They are never unloaded: their threads may still run.
pub(super) struct Libraries {
    rados: Rados,
    rbd: Rbd,
}

impl fmt::Debug for Libraries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Libraries").finish_non_exhaustive()
    }
}

impl Libraries {
    /// Loads the libraries.
    ///
    /// # Errors
    /// Returns the loader's message if they are not installed, or too old.
    pub(super) fn load() -> Result<Self, libloading::Error> {
        // SAFETY: These names are those of Ceph's libraries, whose initialization has no
        // preconditions, and whose functions have these signatures.
        unsafe {
            let (rados, rbd) = (Library::new(RADOS)?, Library::new(RBD)?);
            let loaded = Self { rados: Rados::load(&rados)?, rbd: Rbd::load(&rbd)? };
            std::mem::forget((rados, rbd));
            Ok(loaded)
        }
    }
}

/// Converts the result of a function: a negative error number, or a value.
fn check(result: impl Into<i64>) -> io::Result<u64> {
    let result = result.into();
    u64::try_from(result)
        .map_err(|_| io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(i32::MAX)))
}

/// Returns text for a C function.
///
/// # Errors
/// Returns [`io::ErrorKind::InvalidInput`] if it contains a NUL byte.
fn text(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// A cluster: `rados_t`.
pub(super) struct Cluster {
    libraries: Arc<Libraries>,
    handle: Handle,
}

// SAFETY: librados locks its own state: handles may be used by any thread.
unsafe impl Send for Cluster {}
// SAFETY: As above.
unsafe impl Sync for Cluster {}

impl Cluster {
    /// Creates a client of the user `client.USER`. Connects to nothing.
    pub(super) fn new(libraries: Arc<Libraries>, user: &str) -> io::Result<Self> {
        let name = text(&format!("client.{user}"))?;
        let mut handle = ptr::null_mut();
        // SAFETY: All pointers are valid during the call.
        check(unsafe {
            (libraries.rados.rados_create2)(&mut handle, c"ceph".as_ptr(), name.as_ptr(), 0)
        })?;
        Ok(Self { libraries, handle })
    }

    /// Reads the configuration from `file`, or from the default places.
    pub(super) fn read_file(&self, file: Option<&str>) -> io::Result<()> {
        let file = file.map(text).transpose()?;
        let file = file.as_deref().map_or(ptr::null(), CStr::as_ptr);
        // SAFETY: The handle is valid, and `file` is NULL or valid during the call.
        check(unsafe { (self.libraries.rados.rados_conf_read_file)(self.handle, file) }).map(drop)
    }

    /// Reads the configuration from the environment variable `CEPH_ARGS`.
    pub(super) fn read_environment(&self) -> io::Result<()> {
        let parse = self.libraries.rados.rados_conf_parse_env;
        // SAFETY: The handle is valid; NULL means the default variable.
        check(unsafe { parse(self.handle, ptr::null()) }).map(drop)
    }

    /// Sets an option.
    pub(super) fn set(&self, key: &str, value: &str) -> io::Result<()> {
        let (key, value) = (text(key)?, text(value)?);
        let set = self.libraries.rados.rados_conf_set;
        // SAFETY: All pointers are valid during the call.
        check(unsafe { set(self.handle, key.as_ptr(), value.as_ptr()) }).map(drop)
    }

    pub(super) fn connect(&self) -> io::Result<()> {
        // SAFETY: The handle is valid.
        check(unsafe { (self.libraries.rados.rados_connect)(self.handle) }).map(drop)
    }

    /// Returns the identifier of the cluster, a UUID.
    pub(super) fn fsid(&self) -> io::Result<String> {
        let mut buf = [0_u8; 64];
        let fsid = self.libraries.rados.rados_cluster_fsid;
        // SAFETY: `buf` has the length that is passed.
        check(unsafe { fsid(self.handle, buf.as_mut_ptr().cast(), buf.len()) })?;
        let text = CStr::from_bytes_until_nul(&buf).map_err(io::Error::other)?;
        Ok(text.to_string_lossy().into_owned())
    }

    /// Opens a pool, and a namespace in it.
    pub(super) fn pool(self: &Arc<Self>, name: &str, namespace: Option<&str>) -> io::Result<Pool> {
        let (name, namespace) = (text(name)?, namespace.map(text).transpose()?);
        let rados = &self.libraries.rados;
        let mut handle = ptr::null_mut();
        // SAFETY: All pointers are valid during the call.
        check(unsafe { (rados.rados_ioctx_create)(self.handle, name.as_ptr(), &mut handle) })?;
        if let Some(namespace) = namespace {
            // SAFETY: All pointers are valid during the call.
            unsafe { (rados.rados_ioctx_set_namespace)(handle, namespace.as_ptr()) };
        }
        Ok(Pool { cluster: Arc::clone(self), handle })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // SAFETY: The handle is valid. Pools and images hold the cluster, so none is left.
        unsafe { (self.libraries.rados.rados_shutdown)(self.handle) };
    }
}

/// A pool: `rados_ioctx_t`.
pub(super) struct Pool {
    cluster: Arc<Cluster>,
    handle: Handle,
}

// SAFETY: librados locks its own state: handles may be used by any thread.
unsafe impl Send for Pool {}
// SAFETY: As above.
unsafe impl Sync for Pool {}

impl Pool {
    fn rbd(&self) -> &Rbd {
        &self.cluster.libraries.rbd
    }

    /// Opens an image or a snapshot of it.
    pub(super) fn open(
        self: &Arc<Self>,
        name: &str,
        snapshot: Option<&str>,
        writable: bool,
    ) -> io::Result<Image> {
        let (name, snapshot) = (text(name)?, snapshot.map(text).transpose()?);
        let snapshot = snapshot.as_deref().map_or(ptr::null(), CStr::as_ptr);
        let open = if writable { self.rbd().rbd_open } else { self.rbd().rbd_open_read_only };
        let mut handle = ptr::null_mut();
        // SAFETY: All pointers are valid during the call; a NULL snapshot means the image itself.
        check(unsafe { open(self.handle, name.as_ptr(), &mut handle, snapshot) })?;
        Ok(Image { pool: Arc::clone(self), handle })
    }

    /// Creates an image of `size` bytes, with the features and the object size that are configured.
    pub(super) fn create(&self, name: &str, size: u64) -> io::Result<()> {
        let name = text(name)?;
        let mut order = 0;
        // SAFETY: All pointers are valid during the call; an order of 0 means the default.
        check(unsafe { (self.rbd().rbd_create)(self.handle, name.as_ptr(), size, &mut order) })
            .map(drop)
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        let name = text(name)?;
        // SAFETY: All pointers are valid during the call.
        check(unsafe { (self.rbd().rbd_remove)(self.handle, name.as_ptr()) }).map(drop)
    }

    /// Renames an image. Fails if there is one with the new name.
    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (text(from)?, text(to)?);
        // SAFETY: All pointers are valid during the call.
        check(unsafe { (self.rbd().rbd_rename)(self.handle, from.as_ptr(), to.as_ptr()) }).map(drop)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: The handle is valid. Images hold the pool, so none is left.
        unsafe { (self.cluster.libraries.rados.rados_ioctx_destroy)(self.handle) };
    }
}

/// An open image: `rbd_image_t`.
pub(super) struct Image {
    pool: Arc<Pool>,
    handle: Handle,
}

// SAFETY: librbd locks its own state: handles may be used by any thread.
unsafe impl Send for Image {}
// SAFETY: As above.
unsafe impl Sync for Image {}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image").finish_non_exhaustive()
    }
}

impl Image {
    fn rbd(&self) -> &Rbd {
        self.pool.rbd()
    }

    pub(super) fn size(&self) -> io::Result<u64> {
        let mut size = 0;
        // SAFETY: All pointers are valid during the call.
        check(unsafe { (self.rbd().rbd_get_size)(self.handle, &mut size) })?;
        Ok(size)
    }

    pub(super) fn resize(&self, size: u64) -> io::Result<()> {
        // SAFETY: The handle is valid.
        check(unsafe { (self.rbd().rbd_resize)(self.handle, size) }).map(drop)
    }

    /// Reads bytes, and returns how many. Fewer than asked for only at the end.
    pub(super) fn read(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let read = self.rbd().rbd_read;
        // SAFETY: `buf` has the length that is passed.
        let n = check(unsafe { read(self.handle, at, buf.len(), buf.as_mut_ptr().cast()) } as i64)?;
        Ok(n as usize)
    }

    pub(super) fn write(&self, buf: &[u8], at: u64) -> io::Result<()> {
        let write = self.rbd().rbd_write;
        // SAFETY: `buf` has the length that is passed.
        let n = check(unsafe { write(self.handle, at, buf.len(), buf.as_ptr().cast()) } as i64)?;
        if n < buf.len() as u64 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
    }

    pub(super) fn write_zeroes(&self, at: u64, len: u64) -> io::Result<()> {
        let write = self.rbd().rbd_write_zeroes;
        // SAFETY: The handle is valid.
        check(unsafe { write(self.handle, at, len as usize, 0, 0) } as i64).map(drop)
    }

    pub(super) fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        // SAFETY: The handle is valid.
        check(unsafe { (self.rbd().rbd_discard)(self.handle, at, len) }).map(drop)
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        // SAFETY: The handle is valid.
        check(unsafe { (self.rbd().rbd_flush)(self.handle) }).map(drop)
    }

    /// Returns the parts of a range that are stored, in the image or its parents, in order.
    pub(super) fn stored(&self, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        extern "C" fn add(at: u64, len: usize, exists: c_int, found: *mut c_void) -> c_int {
            // SAFETY: `found` is the vector that is passed below; calls are not concurrent.
            let found = unsafe { &mut *found.cast::<Vec<Range<u64>>>() };
            if exists != 0 {
                // `extern "C"` aborts rather than unwinds; only running out of memory could panic.
                found.push(at..at.saturating_add(len as u64));
            }
            0
        }
        let mut found: Vec<Range<u64>> = Vec::new();
        let iterate = self.rbd().rbd_diff_iterate2;
        let len = range.end - range.start;
        // SAFETY: `add` uses `found` as what it is, and only during the call. A NULL snapshot means
        // everything since the creation of the image.
        check(unsafe {
            iterate(
                self.handle,
                ptr::null(),
                range.start,
                len,
                1,
                0,
                add,
                ptr::from_mut(&mut found).cast(),
            )
        })?;
        found.sort_unstable_by_key(|range| range.start);
        Ok(found)
    }

    pub(super) fn create_snapshot(&self, name: &str) -> io::Result<()> {
        let name = text(name)?;
        // SAFETY: All pointers are valid during the call.
        check(unsafe { (self.rbd().rbd_snap_create)(self.handle, name.as_ptr()) }).map(drop)
    }

    /// Protects a snapshot, so that images can be cloned from it.
    pub(super) fn protect_snapshot(&self, name: &str) -> io::Result<()> {
        let name = text(name)?;
        // SAFETY: All pointers are valid during the call.
        check(unsafe { (self.rbd().rbd_snap_protect)(self.handle, name.as_ptr()) }).map(drop)
    }

    /// Removes a snapshot that is not protected.
    pub(super) fn remove_snapshot(&self, name: &str) -> io::Result<()> {
        let name = text(name)?;
        // SAFETY: All pointers are valid during the call.
        check(unsafe { (self.rbd().rbd_snap_remove)(self.handle, name.as_ptr()) }).map(drop)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: The handle is valid. What it was written is flushed before, or is not wanted.
        unsafe { (self.rbd().rbd_close)(self.handle) };
    }
}
