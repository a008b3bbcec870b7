/// Numbers in a line of the cache.
pub(super) const LINE: usize = 16;

/// Asks for the cache line of a number, so that it is there when it is read.
#[inline(always)]
pub(super) fn prefetch<T>(number: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the instruction reads no memory that the program sees and never faults; SSE, which has it, belongs to every x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(number).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = number;
}
