//! The calls of Windows that the standard library does not offer. All unsafe code of the Windows
//! implementation is here; each function checks nothing but the outcome of its call.

use std::fs::File;
use std::io;
use std::os::windows::ffi::{OsStrExt, OsStringExt};
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE};
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, FILE_ALLOCATION_INFO, FILE_ID_INFO, FILE_STANDARD_INFO,
    FileAllocationInfo, FileIdInfo, FileStandardInfo, GetDiskFreeSpaceExW,
    GetFileInformationByHandle, GetFileInformationByHandleEx, GetFileType,
    GetFinalPathNameByHandleW, LOCKFILE_EXCLUSIVE_LOCK, LOCKFILE_FAIL_IMMEDIATELY, LockFileEx,
    ReOpenFile, SetFileInformationByHandle, UnlockFileEx,
};
use windows_sys::Win32::System::IO::{DeviceIoControl, OVERLAPPED};
use windows_sys::Win32::System::Ioctl::{
    FILE_ALLOCATED_RANGE_BUFFER, FILE_SET_SPARSE_BUFFER, FILE_ZERO_DATA_INFORMATION,
    FSCTL_QUERY_ALLOCATED_RANGES, FSCTL_SET_SPARSE, FSCTL_SET_ZERO_DATA,
};
use windows_sys::Win32::System::SystemInformation::{GlobalMemoryStatusEx, MEMORYSTATUSEX};
use windows_sys::core::BOOL;

fn handle(file: &File) -> HANDLE {
    file.as_raw_handle()
}

fn check(outcome: BOOL) -> io::Result<()> {
    if outcome == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The size of a structure in bytes, which are few.
const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

/// DeviceIoControl with one input structure and an array of output structures. Returns the number of
/// bytes of output.
///
/// # Safety
/// `code` must take an `I` or a prefix of it as input, and write nothing but `O`s.
#[allow(unsafe_code)]
unsafe fn control<I, O>(file: &File, code: u32, input: &I, output: &mut [O]) -> io::Result<u32> {
    let mut returned = 0;
    let output_len = u32::try_from(size_of_val(output)).map_err(io::Error::other)?;
    // SAFETY: both buffers are valid for the lengths that are passed, and the caller guarantees
    // their types. The handle is open, because `file` is borrowed, and not overlapped, so that the
    // call is complete when it returns.
    check(unsafe {
        DeviceIoControl(
            handle(file),
            code,
            std::ptr::from_ref(input).cast(),
            size::<I>(),
            output.as_mut_ptr().cast(),
            output_len,
            &raw mut returned,
            null_mut(),
        )
    })?;
    Ok(returned)
}

/// Sets or clears the sparse attribute.
pub(super) fn set_sparse(file: &File, sparse: bool) -> io::Result<()> {
    let request = FILE_SET_SPARSE_BUFFER { SetSparse: sparse };
    // SAFETY: FSCTL_SET_SPARSE takes a FILE_SET_SPARSE_BUFFER and returns nothing.
    #[allow(unsafe_code)]
    let outcome = unsafe { control::<_, u8>(file, FSCTL_SET_SPARSE, &request, &mut []) };
    outcome.map(drop)
}

/// Makes the range read as zeros. Deallocates it if the file is sparse.
pub(super) fn set_zero_data(file: &File, start: i64, end: i64) -> io::Result<()> {
    let request = FILE_ZERO_DATA_INFORMATION { FileOffset: start, BeyondFinalZero: end };
    // SAFETY: FSCTL_SET_ZERO_DATA takes a FILE_ZERO_DATA_INFORMATION and returns nothing.
    #[allow(unsafe_code)]
    let outcome = unsafe { control::<_, u8>(file, FSCTL_SET_ZERO_DATA, &request, &mut []) };
    outcome.map(drop)
}

/// Returns the start and end of the first allocated part of the range.
pub(super) fn first_allocated(file: &File, start: i64, len: i64) -> io::Result<Option<(i64, i64)>> {
    const MORE_DATA: i32 = 234;
    let range = FILE_ALLOCATED_RANGE_BUFFER { FileOffset: start, Length: len };
    let mut found = [FILE_ALLOCATED_RANGE_BUFFER::default()];
    // SAFETY: FSCTL_QUERY_ALLOCATED_RANGES takes a FILE_ALLOCATED_RANGE_BUFFER and returns an array
    // of them.
    #[allow(unsafe_code)]
    let outcome = unsafe { control(file, FSCTL_QUERY_ALLOCATED_RANGES, &range, &mut found) };
    let [first] = found;
    let whole = (first.FileOffset, first.FileOffset.saturating_add(first.Length));
    match outcome {
        Ok(returned) => Ok((returned >= size::<FILE_ALLOCATED_RANGE_BUFFER>()).then_some(whole)),
        // Further parts follow the first, which is filled in.
        Err(e) if e.raw_os_error() == Some(MORE_DATA) => Ok(Some(whole)),
        Err(e) => Err(e),
    }
}

/// Sets how many bytes are allocated to the file. Truncates it if they are fewer than its length.
pub(super) fn set_allocation(file: &File, bytes: i64) -> io::Result<()> {
    let request = FILE_ALLOCATION_INFO { AllocationSize: bytes };
    // SAFETY: the class FileAllocationInfo takes a FILE_ALLOCATION_INFO, which is valid during the
    // call.
    #[allow(unsafe_code)]
    let outcome = unsafe {
        let request = (&raw const request).cast();
        let len = size::<FILE_ALLOCATION_INFO>();
        SetFileInformationByHandle(handle(file), FileAllocationInfo, request, len)
    };
    check(outcome)
}

/// Returns the number of the volume and of the file in it, which has 128 bits.
pub(super) fn file_id(file: &File) -> io::Result<(u64, u128)> {
    let mut found = FILE_ID_INFO::default();
    // SAFETY: the class FileIdInfo writes a FILE_ID_INFO.
    #[allow(unsafe_code)]
    let outcome = unsafe {
        let buffer = (&raw mut found).cast();
        GetFileInformationByHandleEx(handle(file), FileIdInfo, buffer, size::<FILE_ID_INFO>())
    };
    check(outcome)?;
    Ok((found.VolumeSerialNumber, u128::from_le_bytes(found.FileId.Identifier)))
}

/// Returns the number of the volume and of the file in it, on file systems without [`file_id`].
pub(super) fn file_index(file: &File) -> io::Result<(u64, u64)> {
    let mut found = BY_HANDLE_FILE_INFORMATION::default();
    // SAFETY: the call writes a BY_HANDLE_FILE_INFORMATION.
    #[allow(unsafe_code)]
    check(unsafe { GetFileInformationByHandle(handle(file), &raw mut found) })?;
    let index = u64::from(found.nFileIndexHigh) << 32 | u64::from(found.nFileIndexLow);
    Ok((found.dwVolumeSerialNumber.into(), index))
}

/// Returns the number of allocated bytes and the number of names of a file.
pub(super) fn standard_info(file: &File) -> io::Result<(i64, u32)> {
    let mut found = FILE_STANDARD_INFO::default();
    // SAFETY: the class FileStandardInfo writes a FILE_STANDARD_INFO, whose two `bool`s are 0 or 1.
    #[allow(unsafe_code)]
    let outcome = unsafe {
        let (buffer, len) = ((&raw mut found).cast(), size::<FILE_STANDARD_INFO>());
        GetFileInformationByHandleEx(handle(file), FileStandardInfo, buffer, len)
    };
    check(outcome)?;
    Ok((found.AllocationSize, found.NumberOfLinks))
}

/// Returns the type of an open file: `FILE_TYPE_DISK`, `FILE_TYPE_PIPE` or `FILE_TYPE_CHAR`.
pub(super) fn file_type(file: &File) -> u32 {
    // SAFETY: the call only reads the handle, which is open, because `file` is borrowed.
    #[allow(unsafe_code)]
    unsafe {
        GetFileType(handle(file))
    }
}

/// Returns the path of an open file, with the prefix `\\?\`.
pub(super) fn final_path(file: &File) -> io::Result<PathBuf> {
    let mut buffer = vec![0u16; 512];
    loop {
        let len = u32::try_from(buffer.len()).map_err(io::Error::other)?;
        // SAFETY: the call writes at most `len` UTF-16 units, and `buffer` has as many.
        #[allow(unsafe_code)]
        let found = unsafe { GetFinalPathNameByHandleW(handle(file), buffer.as_mut_ptr(), len, 0) };
        match found as usize {
            0 => return Err(io::Error::last_os_error()),
            found if found < buffer.len() => {
                return Ok(std::ffi::OsString::from_wide(&buffer[..found]).into());
            }
            // The length that is needed.
            needed => buffer.resize(needed + 1, 0),
        }
    }
}

/// Opens an open file again, with another access, share mode and flags.
pub(super) fn reopen(file: &File, access: u32, share: u32, flags: u32) -> io::Result<File> {
    // SAFETY: the handle is open, because `file` is borrowed. The call returns a new handle, of
    // which nobody else knows.
    #[allow(unsafe_code)]
    unsafe {
        let opened = ReOpenFile(handle(file), access, share, flags);
        if opened == INVALID_HANDLE_VALUE {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedHandle::from_raw_handle(opened).into())
    }
}

/// An OVERLAPPED that names an offset in a file.
fn at(offset: u64) -> OVERLAPPED {
    let mut overlapped = OVERLAPPED::default();
    overlapped.Anonymous.Anonymous.Offset = offset as u32;
    overlapped.Anonymous.Anonymous.OffsetHigh = (offset >> 32) as u32;
    overlapped
}

/// Tries to lock one byte exclusively. It need not exist.
pub(super) fn try_lock_byte(file: &File, offset: u64) -> io::Result<()> {
    let flags = LOCKFILE_EXCLUSIVE_LOCK | LOCKFILE_FAIL_IMMEDIATELY;
    let mut place = at(offset);
    // SAFETY: the call reads `place`, which is valid until it returns: the handle is not overlapped.
    #[allow(unsafe_code)]
    check(unsafe { LockFileEx(handle(file), flags, 0, 1, 0, &raw mut place) })
}

/// Removes the lock that [`try_lock_byte`] set.
pub(super) fn unlock_byte(file: &File, offset: u64) -> io::Result<()> {
    let mut place = at(offset);
    // SAFETY: as above.
    #[allow(unsafe_code)]
    check(unsafe { UnlockFileEx(handle(file), 0, 1, 0, &raw mut place) })
}

/// Returns the number of bytes that this user can write to the volume of a directory.
pub(super) fn free_bytes(directory: &Path) -> io::Result<u64> {
    let name: Vec<u16> = directory.as_os_str().encode_wide().chain([0]).collect();
    let mut free = 0;
    // SAFETY: `name` ends with a zero, and the call writes one u64 to `free`.
    #[allow(unsafe_code)]
    check(unsafe { GetDiskFreeSpaceExW(name.as_ptr(), &raw mut free, null_mut(), null_mut()) })?;
    Ok(free)
}

/// Returns the size of the machine's memory in bytes.
pub(super) fn total_memory() -> io::Result<u64> {
    let mut found = MEMORYSTATUSEX { dwLength: size::<MEMORYSTATUSEX>(), ..Default::default() };
    // SAFETY: the call writes a MEMORYSTATUSEX, whose length is set.
    #[allow(unsafe_code)]
    check(unsafe { GlobalMemoryStatusEx(&raw mut found) })?;
    Ok(found.ullTotalPhys)
}
