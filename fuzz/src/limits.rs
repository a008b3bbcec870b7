use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Memory that an input may take, in bytes: in one allocation, and in all that live at once.
pub const MAX_BYTES: usize = 500_000_000;

/// The system's allocator, which ends the process when an input takes more than [`MAX_BYTES`].
///
/// libFuzzer's own limit (`-malloc_limit_mb`) needs a sanitizer's hooks, which stable Rust does not have.
#[derive(Debug)]
pub struct LimitedAllocator {
    live: AtomicUsize,
}

impl LimitedAllocator {
    /// An allocator for `#[global_allocator]`.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self { live: AtomicUsize::new(0) }
    }

    fn grow(&self, bytes: usize) {
        let live = self.live.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if bytes > MAX_BYTES || live > MAX_BYTES {
            too_much(bytes, live);
        }
    }

    fn shrink(&self, bytes: usize) {
        self.live.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cold]
fn too_much(bytes: usize, live: usize) -> ! {
    // Room for the backtrace, which is allocated here.
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    if TOLD.fetch_add(1, Ordering::SeqCst) == 0 {
        let _ = writeln!(std::io::stderr(), "memory: an allocation of {bytes} bytes makes {live} of {MAX_BYTES} that an input may take");
    }
    std::process::abort()
}

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for LimitedAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.grow(layout.size());
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.grow(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.shrink(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.grow(size);
        self.shrink(layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
