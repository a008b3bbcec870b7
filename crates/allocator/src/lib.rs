//! The memory allocator of easyedit's programs.
//!
//! Every step of an edit allocates and frees the same tensors of some hundred kilobytes; the system's allocator returns such blocks to the
//! kernel each time, which clears their pages again (a sixth of an edit's time).
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: easyedit_allocator::MiMalloc = easyedit_allocator::MiMalloc;
//!
//! fn main() {
//!     easyedit_allocator::keep_freed_memory();
//! }
//! ```

pub use mimalloc::MiMalloc;

/// Milliseconds that freed memory stays the program's, to be used again by the next step.
const PURGE_DELAY: i64 = 10_000;

/// Number of the allocator's option for it (`mi_option_purge_delay`, in mimalloc 2 and 3 alike).
const PURGE_DELAY_OPTION: i32 = 15;

/// Lets freed memory stay the program's for ten seconds instead of a hundredth of one. To be called once, when the program starts.
pub fn keep_freed_memory() {
    // SAFETY: the call stores a number in a table of the allocator, which is there from the program's start.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY_OPTION, PURGE_DELAY as _) };
}
