//! A memory allocator that lets the command end with an error when memory is short.
//!
//! Most allocations cannot fail in Rust: the process aborts instead, and leaves its temporary
//! files. So some memory is reserved at the start and released when an allocation fails for the
//! first time. The allocation then succeeds, and the operation stops as if a signal had asked it to.

use std::alloc::{GlobalAlloc, Layout, System};
use std::any::Any;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// Size of the reserve in bytes: enough for what the tasks in flight may still allocate. It takes no
/// memory, but address space.
const RESERVE: usize = 4 << 20;

const LAYOUT: Layout = match Layout::from_size_align(RESERVE, 16) {
    Ok(layout) => layout,
    Err(_) => panic!("a valid layout"),
};

static RESERVED: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
static SHORT: AtomicBool = AtomicBool::new(false);

/// The system's allocator, with a reserve. A program that calls [`main`](crate::main()) should use it
/// as its `#[global_allocator]`.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReservingAllocator;

/// Reserves memory, if the global allocator is a [`ReservingAllocator`]; otherwise the reserve is
/// never used. Returns false if there is not enough memory for the reserve.
#[allow(unsafe_code)]
pub(crate) fn reserve() -> bool {
    // SAFETY: the layout's size is not zero.
    let reserved = unsafe { System.alloc(LAYOUT) };
    release_to_system(RESERVED.swap(reserved, Ordering::AcqRel));
    !reserved.is_null()
}

/// Returns whether an allocation has failed since the start.
pub(crate) fn is_short() -> bool {
    SHORT.load(Ordering::Relaxed)
}

/// Notes that memory is short if the message of a panic says so: that of a library that allocates in
/// C, or of a large buffer, which would not fit into the reserve.
pub(crate) fn note_panic(payload: &(dyn Any + Send)) {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let message = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or_default();
    const LACK: [&str; 3] = ["not enough memory", "out of memory", "null pointer when creating"];
    if LACK.iter().any(|text| message.contains(text)) {
        SHORT.store(true, Ordering::Relaxed);
    }
}

/// Frees the reserve. Returns whether another attempt to allocate makes sense.
fn release(wanted: usize) -> bool {
    // Larger allocations would not fit into the reserve. Tables have such sizes, and for these,
    // the error is handled where it occurs.
    if wanted > RESERVE {
        return false;
    }
    SHORT.store(true, Ordering::Relaxed);
    let reserved = RESERVED.swap(ptr::null_mut(), Ordering::AcqRel);
    release_to_system(reserved);
    // Another thread may have released it just now.
    true
}

#[allow(unsafe_code)]
fn release_to_system(reserved: *mut u8) {
    if !reserved.is_null() {
        // SAFETY: allocated by `reserve` with the same allocator and layout; the pointer was taken
        // out of `RESERVED`, so that it is freed once.
        unsafe { System.dealloc(reserved, LAYOUT) };
    }
}

// SAFETY: every method forwards to the system's allocator with the caller's arguments, so its
// contract is fulfilled if the caller fulfills its own. A failed call has no effect and may be
// repeated. Nothing here allocates or panics.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for ReservingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's guarantees are those of `System`.
        let allocate = || unsafe { System.alloc(layout) };
        retry(allocate, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let allocate = || unsafe { System.alloc_zeroed(layout) };
        retry(allocate, layout.size())
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as above; `ptr` stays valid if reallocating fails.
        let allocate = || unsafe { System.realloc(ptr, layout, new_size) };
        retry(allocate, new_size)
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

fn retry(allocate: impl Fn() -> *mut u8, size: usize) -> *mut u8 {
    let allocated = allocate();
    if allocated.is_null() && release(size) { allocate() } else { allocated }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_for_lack_of_memory_are_recognized() {
        note_panic(&"index out of bounds");
        assert!(!is_short());
        note_panic(&"libdeflate_alloc_compressor returned NULL: out of memory");
        assert!(SHORT.swap(false, Ordering::Relaxed));
        note_panic(&"there is not enough memory: too large".to_owned());
        assert!(SHORT.swap(false, Ordering::Relaxed));
    }
}
